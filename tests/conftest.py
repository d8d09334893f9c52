"""Settings for all tests: strict JAX, one device kind, no network, repeatable examples."""

import os
import socket

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis
import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile(
    "dlstudy", deadline=None, derandomize=True, max_examples=50, database=None
)
hypothesis.settings.load_profile("dlstudy")


@pytest.fixture(scope="session", autouse=True)
def _no_network():
    """Lets this process connect to itself only."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    socket.socket.connect = guarded
    yield
    socket.socket.connect = connect


@pytest.fixture(scope="module")
def quick_compilation(tmp_path_factory):
    """Compiling takes most of the time of a toy run: it is done in haste, once for each program."""
    quick = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    before = {
        "jax_disable_most_optimizations": False,
        "jax_compilation_cache_dir": jax.config.jax_compilation_cache_dir,
        "jax_persistent_cache_min_compile_time_secs":
            jax.config.jax_persistent_cache_min_compile_time_secs,
    }  # fmt: skip
    for settings in (quick, before):
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if settings is quick:
            yield


@pytest.fixture
def without_figures(monkeypatch):
    """Runs leave no pictures: once it is compiled, drawing takes most of the time of a toy run."""
    from experiments import conclusion

    def nothing(module, folder, record):
        folder.write("figures/figures.json", "{}", "\n")

    monkeypatch.setattr(conclusion, "draw", nothing)
