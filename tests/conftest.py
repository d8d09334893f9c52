"""Settings for all tests: strict JAX, one device kind, no network, repeatable examples."""

import os
import socket

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis
import jax
import pytest

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
