"""What a run says while it works: a progress bar on a terminal, plain lines elsewhere.

And how it hears Ctrl-C.
"""

import contextlib
import json
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any


def format_row(row: Mapping[str, float]) -> str:
    """Live numbers on one line; the number of diverged seeds comes last."""
    rest = {name: value for name, value in row.items() if name != "diverged"}
    parts = [f"{name.replace('_', ' ')} {_number(value)}" for name, value in rest.items()]
    if "diverged" in row:
        parts.append(f"diverged {_number(row['diverged'])}")
    return "  ".join(parts)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_seconds(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


class PlainConsole:
    """Counts units over all stages and prints one line each, without control characters.

    Args:
        stages: units of each stage by name, as far as known; stages that come as a surprise
            are added when they begin. A number, or the epochs that the units are: range(6) for
            a measurement before training (epoch 0) and five epochs.
    """

    def __init__(self, stages: Mapping[str, int | range]):
        self.epochs = {name: units for name, units in stages.items() if isinstance(units, range)}
        self.stages = {n: u if isinstance(u, int) else len(u) for n, u in stages.items()}
        self.done: dict[str, int] = {}
        self.current = ""
        self.seconds: dict[str, list[float]] = {}  # of each unit by stage, in this process
        self.later = 0  # batches of seeds that may follow
        self.clock = time.monotonic()

    def log(self, line: str) -> None:
        print(line, flush=True)

    def show(self, table: Any) -> None:
        """Prints a rich table (or text) as wide as it needs to be."""
        if isinstance(table, str):
            return self.log(table)
        from rich.console import Console

        console = Console(width=int(os.environ.get("COLUMNS", 120)))
        with console.capture() as capture:
            console.print(table)
        for line in capture.get().splitlines():
            self.log(line.rstrip())

    def batch(self, later: int) -> None:
        """All stages begin anew with other seeds; so many such batches may follow."""
        self.done, self.later = {}, later

    def stage(self, name: str, epochs: int) -> None:
        self.current, self.seconds[name] = name, []
        self.stages[name], self.done[name] = epochs, 0
        if len(self.epochs.get(name, ())) != epochs:
            self.epochs.pop(name, None)
        self.clock = time.monotonic()

    def restored(self, epoch: int) -> None:
        self.done[self.current] = epoch

    def report(self, row: Mapping[str, float]) -> None:
        now = time.monotonic()
        self.seconds[self.current].append(now - self.clock)
        self.clock = now
        self.done[self.current] += 1
        self.draw(format_row(row))

    def left(self) -> float:
        """Seconds until all stages are done, of this batch of seeds.

        The current stage goes on at its own pace, the others take what a unit took on average so
        far. The first unit of a stage, which compiles, counts only as long as there is no other.
        """
        own, average = self.seconds[self.current][1:], self.average()
        pace = statistics.median(own) if own else average
        here = self.stages[self.current] - self.done[self.current]
        later = sum(self.stages.values()) - sum(self.done.values()) - here
        return here * pace + later * average

    def average(self) -> float:
        """Seconds of a unit; nan before the first."""
        settled = [s for seconds in self.seconds.values() for s in seconds[1:]]
        first = [s for seconds in self.seconds.values() for s in seconds[:1]]
        return statistics.fmean(settled or first) if first else math.nan

    def most(self) -> float:
        """Seconds until the end if every batch is needed."""
        return self.left() + self.later * sum(self.stages.values()) * self.average()

    def left_text(self) -> str:
        left, most = self.left(), self.most()
        text = f"{format_seconds(left)} left" if left > 0 else ""
        if self.later and left > 0:
            text += f" of this batch, at most {format_seconds(most)} in all"
        return text

    def place(self) -> str:
        """The last unit done of the current stage and the number of them; "" before the first."""
        done, units = self.done[self.current], self.stages[self.current]
        if not done:
            return ""
        epochs = self.epochs.get(self.current)
        return f"epoch {epochs[done - 1]}/{epochs[-1]}" if epochs else f"{done}/{units}"

    def draw(self, text: str) -> None:
        line = f"{self.current} {self.place()}  {text}  {self.left_text()}"
        print(line.rstrip(), flush=True)

    def stopping(self) -> None:
        """Says that the wish to stop was heard; called from a signal handler."""
        # os.write: print may be in the middle of a line when the signal comes.
        os.write(2, b"stopping after this epoch; once more stops at once\n")

    def close(self) -> None:
        pass


class RichConsole(PlainConsole):
    """The same with a progress bar."""

    def __init__(self, stages: Mapping[str, int | range]):
        from rich import progress, table

        super().__init__(stages)
        text = progress.TextColumn(
            "{task.fields[row]}", markup=False, table_column=table.Column(no_wrap=True, ratio=1)
        )
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=20),
            text,
            progress.TextColumn("{task.fields[left]}"),
            refresh_per_second=2,
            expand=True,
        )
        self.task = self.bar.add_task("", total=None, row="", left="", visible=False)
        self.bar.start()

    def log(self, line: str) -> None:
        self.bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show(self, table: Any) -> None:
        self.bar.console.print(table)

    def stage(self, name: str, epochs: int) -> None:
        super().stage(name, epochs)
        self.draw("compiling")

    def restored(self, epoch: int) -> None:
        super().restored(epoch)
        self.draw("")

    def draw(self, text: str) -> None:
        self.bar.update(
            self.task,
            description=f"{self.current} {self.place()}".rstrip(),
            total=sum(self.stages.values()),
            completed=sum(self.done.values()),
            row=text,
            left=self.left_text(),
            visible=True,
        )

    def stopping(self) -> None:
        self.bar.update(self.task, row="stopping after this epoch; once more stops at once")

    def close(self) -> None:
        self.bar.stop()


class JsonConsole(PlainConsole):
    """One JSON object a line, for a program that starts experiments.

    {"log": line} for what is said; {"stage", "done", "units", "text", "left"} after each unit,
    counted over all stages, with the seconds left (null: not known). With --num_seeds=auto that
    is of this batch of seeds; "most" has the seconds left if every batch is needed.
    """

    def log(self, line: str) -> None:
        print(json.dumps({"log": line}), flush=True)

    def show(self, table: Any) -> None:
        """Nothing: a program reads claims.json."""

    def draw(self, text: str) -> None:
        left = self.left()
        row = {
            "stage": f"{self.current} {self.place()}".rstrip(),
            "done": sum(self.done.values()),
            "units": sum(self.stages.values()),
            "text": text,
            "left": left if math.isfinite(left) else None,
        }
        if self.later:
            most = self.most()
            row["most"] = most if math.isfinite(most) else None
        print(json.dumps(row), flush=True)


def make(progress: str, stages: Mapping[str, int | range]) -> PlainConsole:
    """The console for `--progress`."""
    if progress == "auto":
        progress = "bar" if sys.stdout.isatty() else "lines"
    return {"bar": RichConsole, "lines": PlainConsole, "json": JsonConsole}[progress](stages)


class StopSignal:
    """Turns Ctrl-C and SIGTERM into a wish to stop while training; the second one insists.

    Attributes:
        requested: whether there was a signal.
        console: the console while training, when a run can stop at the next epoch; else None.
        advice: what to say at the second signal.
    """

    def __init__(self):
        self.requested = False
        self.console: PlainConsole | None = None
        self.advice = "nothing was written"

    def __call__(self, number, frame):
        if self.requested:
            # An exception could be lost in a destructor or a callback; and a run folder survives
            # worse than this. The escape sequence brings the cursor back.
            cursor = b"\x1b[?25h\n" if sys.stderr.isatty() else b""
            os.write(2, cursor + f"stopped; {self.advice}\n".encode())
            os._exit(130)
        self.requested = True
        if self.console is None:
            raise KeyboardInterrupt
        self.console.stopping()

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            before = {number: signal.signal(number, self) for number in numbers}
        except ValueError:  # not in the main thread: then signals are the caller's business
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
