"""Does regularisation make ill-posed problems converge, and to what?

Source: problem 1, question 3, on the book's section 7.3. Three problems without a unique or finite
solution, with and without an L2 term: logistic regression on separable points (gradient flow,
integrated in ln t to t = e^100), least squares with more columns than rows, and PCA whitening with
a covariance of deficient rank. Then the limit of the stabilised inverse as its ridge goes to zero,
in both algebraic forms, and what gradient descent and Adam converge to. Everything is float64;
every seed draws its own problems.

    python -m experiments.ill_posed --flagfile=experiments/flags/ill_posed.txt

The default takes a quarter of a minute, most of it compilation; `ill_posed_full.txt` has
more seeds and larger problems.
"""

import dataclasses
import math
import sys

import numpy as np

from dlstudy.errors import UserError
from experiments import cli
from experiments.cli import Plan, seeds_setting, setting
from experiments.ill_posed_claims import CLAIMS
from experiments.ill_posed_figures import figures

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "ill_posed"
BLOCKS = 10  # of the flow, with a checkpoint after each


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/ill_posed.txt."""

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)

    points: int = setting(20, "of the logistic regression", low=2)
    features: int = setting(2, "of each point, beside a bias", low=1)
    gap: float = setting(
        0.25, "how far each point is pushed away from the boundary", low=0, low_open=True
    )
    penalties: tuple[float, ...] = setting(
        (1e-6, 1e-4, 1e-2), "of the squared norm, halved, beside none at all; the bias's too",
        low=0, low_open=True,
    )  # fmt: skip
    log_time: float = setting(
        100.0, "ln t at which the flow ends; t is rate x steps", low=20, high=300
    )
    steps_per_unit: int = setting(10, "steps of the integrator in a unit of ln t", low=4)
    descent_steps: int = setting(
        10_000, "of plain gradient descent, to compare with the flow", "steps", low=1
    )
    learning_rate: float = setting(0.5, "of that", low=0, low_open=True)

    rows: int = setting(20, "samples of least squares, of the inverse and of whitening", low=2)
    columns: int = setting(50, "features of these; more than --rows", low=3)
    ridge: float = setting(1.0, "the L2 term of least squares, added to X'X", low=0, low_open=True)
    steps: int = setting(4000, "of gradient descent and Adam on least squares", "steps", low=10)
    adam_rate: float = setting(
        0.05, "first rate of Adam; it falls to 0 along a cosine", low=0, low_open=True
    )

    lowest_ridge: float = setting(1e-16, "of the stabilised inverse", low=0, low_open=True)
    highest_ridge: float = setting(100.0, "of the same", low=0, low_open=True)
    ridges_per_decade: int = setting(2, "between them", low=1)
    stabiliser: float = setting(
        0.1, "of whitening, in mean variances of a feature", low=0, low_open=True
    )
    new_samples: int = setting(200, "whitened with a matrix they had no part in", low=1)

    @property
    def log_times(self) -> np.ndarray:
        """Ends of the integrator's steps, float64[BLOCKS, K], at even distances."""
        from experiments.ill_posed_flow import FIRST

        span = self.log_time - FIRST
        count = math.ceil(span * self.steps_per_unit / BLOCKS)
        return np.linspace(FIRST, self.log_time, BLOCKS * count + 1)[1:].reshape(BLOCKS, count)

    @property
    def ridges(self) -> np.ndarray:
        """Ridges of the stabilised inverse, float64[A], rising."""
        low, high = math.log10(self.lowest_ridge), math.log10(self.highest_ridge)
        return np.logspace(low, high, 1 + round((high - low) * self.ridges_per_decade))

    def check(self):
        if self.rows >= self.columns:
            raise UserError(
                f"--rows={self.rows}: must be less than {self.columns}, the --columns: the "
                "problem would not be singular"
            )
        if not self.penalties:
            raise UserError("--penalties=: must name at least one")
        given = ",".join(map(str, self.penalties))
        if len(set(self.penalties)) != len(self.penalties):
            raise UserError(f"--penalties={given}: must not repeat a value")
        # A penalty acts from t = 1/penalty on. The last tenth of the log time must be well after.
        needed = (5 - math.log(min(self.penalties))) / 0.9
        if self.log_time < needed:
            raise UserError(
                f"--log_time={self.log_time}: must be at least {math.ceil(needed)} for the "
                f"smallest of --penalties={given} to have acted"
            )
        if self.highest_ridge < 10 * self.lowest_ridge:
            raise UserError(
                f"--highest_ridge={self.highest_ridge}: must be at least ten times "
                f"{self.lowest_ridge}, the --lowest_ridge"
            )


def load(config: Config):
    """Nothing: every seed draws its own problems."""


def stages(config: Config) -> dict[str, int]:
    """Units of progress of each stage."""
    return {"flow": BLOCKS, "descent": 1, "solutions": 1, "algebra": 1}


def run(config: Config, data, host):
    """Solves every problem in every way; see `ill_posed_runs`. Returns the record."""
    from experiments import ill_posed_runs

    return ill_posed_runs.run(config, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory."""
    arms = 1 + len(config.penalties)
    steps, ridges = config.log_times.size, len(config.ridges)
    # Measured on a 2.6 GHz AMD EPYC (Zen 4), in microseconds.
    flow = seeds * steps * (120 + 20 * arms) / devices
    descent = seeds * config.descent_steps * (2 + 0.002 * config.points * config.features) / devices
    solutions = seeds * config.steps * (10 + 0.005 * config.rows * config.columns) / devices
    algebra = seeds * ridges * 0.02 * config.columns**2 * (1 + config.columns / 200)
    seconds = 14 + (flow + descent + solutions + algebra) / 1e6
    lines = [
        f"{seeds} seeds; logistic regression on {config.points} points, {arms} flows of {steps} "
        f"steps to ln t = {config.log_time:g}, {config.descent_steps} steps of gradient descent",
        f"least squares with {config.rows} rows and {config.columns} columns: 5 ways of "
        f"{config.steps} steps; {ridges} ridges in 2 forms; {ridges + 2} stabilisers of whitening",
        f"in all about {round(seconds)} s, compilation included (a rough prediction); memory about "
        f"{0.5 + ridges * config.columns**2 * 24 / 2**30:.1f} GiB",
    ]
    return Plan(lines, seconds)


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
