"""Starts jax with one layout: how many devices share the seeds, and how."""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

from dlstudy.errors import UserError
from dlstudy.host import Layout, available_cpus


def default_devices(available: int, seeds: int | None) -> int:
    """How many of the available devices share the seeds: as few as are as fast as all.

    A device has two places at least, and fills those without a seed with a repetition (see
    `Layout.slots`): 20 seeds take as long on 10 devices as on 64.
    """
    if seeds is None:
        return available
    each = max(2, -(-seeds // available))
    return -(-seeds // each)


def start_jax(
    asked: dict[str, Any], stored: dict[str, Any], allow_change: bool, seeds: int | None = None
) -> dict[str, Any]:
    """Starts jax and settles the layout; call it before anything else uses jax.

    Args:
        asked: what the user gave of "devices", "strategy" and "seeds_per_program".
        stored: what this function returned when the run was begun; {} for a new run.
        allow_change: take a new layout if it differs from the stored one.
        seeds: of the whole experiment, even when one of them is run alone: it must meet the
            layout it has among the others. None: not known, then all devices are used.

    Returns:
        The fields of a `Layout`, "platform" (cpu, gpu, tpu) and "device" (its model).

    Raises:
        UserError: there are fewer devices than asked for, or the layout differs from the stored
            one.
    """
    if stored and not allow_change:
        for name, value in asked.items():
            if stored[name] != value:
                raise UserError(_refused(f"--{name}={value}", name, stored[name]))
    base = {} if allow_change else stored
    wanted = asked.get("devices") or base.get("devices") or 0
    _configure_cpu(wanted or default_devices(available_cpus(), seeds))

    import jax

    devices = jax.local_devices()
    platform, device = devices[0].platform, devices[0].device_kind
    for name, value in (("platform", platform), ("device", device)):
        if base and base[name] != value:
            raise UserError(_refused(f"this machine ({value})", name, base[name]))
    if wanted > len(devices):
        message = f"--devices={wanted}: must be at most {len(devices)}, the {platform} devices here"
        raise UserError(_refused(message, "devices", wanted) if base else message)
    number = wanted or default_devices(len(devices), seeds)
    default = Layout(number, "map" if platform == "cpu" else "vmap", 0)
    known = {name: base[name] for name in ("strategy", "seeds_per_program") if base}
    layout = {**dataclasses.asdict(default), **known, **asked}
    return {**layout, "platform": platform, "device": device}


def _refused(what: str, name: str, stored: Any) -> str:
    return (
        f"{what}: this run was begun with {name} {stored}, and another layout may change its last "
        "bits; --allow_layout_change goes on all the same"
    )


def _configure_cpu(devices: int) -> None:
    if devices > 1:
        # Read when LAPACK is loaded. Its threads wait by spinning, in the way of the devices.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import jax

    given = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" in given:
        return  # the user's own choice, and jax refuses both at once
    try:
        jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError:
        return  # jax runs already in this process: its devices are what there is
    if devices > 1 and "xla_cpu_multi_thread_eigen" not in given:
        # One thread per device: they would get in each other's way, and the order of sums would
        # depend on the number of threads.
        os.environ["XLA_FLAGS"] = f"{given} --xla_cpu_multi_thread_eigen=false".strip()


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs on the disk; "" does not, nor does a folder that is not writable."""
    import jax

    if not folder:
        return
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(path, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def cache_folder() -> str:
    """Where compiled programs are kept by default."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return f"{base}/dlstudy/jax"


@contextlib.contextmanager
def without_compilation_cache():
    """Compiles here and now, whatever the disk holds: for what times compilation."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_enable_compilation_cache
    try:
        # The cache looks at its setting only when it begins.
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
