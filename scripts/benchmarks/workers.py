"""Each part runs in a process of its own, so that thread pools and memory are its own.

The process builds its part and runs it once, to compile and to warm up. It then runs it once for
each line it reads, and answers with a line of JSON: what the part measured and the peak memory so
far. The parent takes the parts in turn; the others wait for their next line and use no CPU.

    python -m scripts.benchmarks.workers '{"part": "ours", "network": "one_conv", ...}'
"""

import contextlib
import dataclasses
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ("ours", "pytorch", "plain_flax", "matmul")
EXAMPLES = ("mean_gradient", "own_factored", "own_written", "own_flax", "own_pytorch")
# the rest are instruments


@dataclasses.dataclass(frozen=True)
class Task:
    """What one process does."""

    part: str  # a function of `contenders`, `gradients` or `instruments`
    network: str  # one_conv or two_conv
    images: int  # training images
    seeds: int
    batch: int = 64


class Worker:
    """The parent's end of one process. Use it in a `with` statement.

    Attributes:
      about: what the process said when it was ready: platform, device, startup seconds.
      skipped: why the part cannot run here; empty if it can.
      replies: what each run measured.
    """

    def __init__(self, task: Task, cores: int):
        self.task, self.about, self.skipped, self.replies = task, {}, "", []
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        # Several processes share an accelerator, one at a time: none may take all its memory.
        settings = {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "OMP_NUM_THREADS": str(cores),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        settings |= {} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_VISIBLE_DEVICES": "0"}
        command = [sys.executable, "-m", "scripts.benchmarks.workers"]
        self._process = subprocess.Popen(
            [*command, json.dumps(dataclasses.asdict(task))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            text=True, cwd=ROOT, env=os.environ | settings,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def wait_until_ready(self) -> None:
        self.about = self._read()
        self.skipped = self.about.get("skipped", "")

    def run(self) -> None:
        """Runs the part once and keeps what it measured.

        Raises:
          RuntimeError: the process has failed.
        """
        with contextlib.suppress(BrokenPipeError):  # it has ended: _read says why
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        self.replies.append(self._read())

    def values(self, name: str) -> list[float]:
        return [reply[name] for reply in self.replies]

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._errors.seek(0)
        raise RuntimeError(f"{self.task.part} of {self.task.network}:\n{self._errors.read()}")


def peak_mib() -> int:
    """Most memory this process ever had resident, in MiB."""
    try:
        # getrusage would count what the parent had when it started this process.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def device_peak_mib() -> int:
    """Most memory jax ever had on the accelerator, in MiB; 0 on a CPU and for PyTorch."""
    if "jax" not in sys.modules:
        return 0
    statistics = sys.modules["jax"].local_devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use", 0) // 2**20


def main(task: Task) -> None:
    # Whatever a library prints must not get between the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(**content):
        print(json.dumps(content), file=replies, flush=True)

    began = time.perf_counter()
    module = "contenders" if task.part in PEERS else "instruments"
    module = "gradients" if task.part in EXAMPLES else module
    try:
        parts = importlib.import_module(f"scripts.benchmarks.{module}")
        repeat = getattr(parts, task.part)(task)
    except ModuleNotFoundError as error:
        return reply(skipped=f"the package {error.name} is not installed")
    repeat()
    reply(startup_seconds=time.perf_counter() - began, **_device())
    for _ in sys.stdin:
        reply(**repeat(), peak_mib=peak_mib(), device_peak_mib=device_peak_mib())


def _device() -> dict:
    if "jax" not in sys.modules:
        return {}
    jax = sys.modules["jax"]
    device = jax.local_devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.local_device_count(),
    }


if __name__ == "__main__":
    try:
        main(Task(**json.loads(sys.argv[1])))
    except Exception:
        traceback.print_exc()
        sys.exit(1)
