"""The claims of `saddles` (problem 2, questions 1 and 2): a statistic of the record for each.

Octaves are log2 of a ratio of step counts. A network with small weights has left its saddle once
its loss is below nine tenths of ln 10, that of guessing; one with equal units once these differ by
a tenth. Thresholds are the smallest effects worth having, fixed with their reasons before the
first run.
"""

import numpy as np

from dlstudy.claims import Claim, combine

LEFT = 0.9 * np.log(10)  # nat
APART = 0.1  # relative distance between units that were equal

# -- parts of statistics


def saddle_means(record):
    """Mean steps to leave the saddle [sigmas, S], without sigma 0; nan where a walker stays."""
    return record["saddle_left"].transpose("sigma", "walker", "seed").values[1:].mean(1)


def first_where(good, steps) -> np.ndarray:
    """The first of `steps` at which good[..., T]; nan: there is none."""
    return np.where(good.any(-1), np.asarray(steps, float)[good.argmax(-1)], np.nan)


def small_left(record, size: str, start: str = "small", noisy: int = 0) -> np.ndarray:
    """Steps until a network with small or zero weights has left, [S]; nan: it has not."""
    loss = record["small_loss"].sel(size=size, start=start, noisy=noisy)
    loss = loss.transpose("seed", "small_step").values
    with np.errstate(invalid="ignore"):
        return first_where(loss < LEFT, record["small_step"].values)


def zero_left(record, size: str, noisy: int) -> np.ndarray:
    return np.isfinite(small_left(record, size, "zero", noisy)).astype(float)


def spreads(record, size: str) -> np.ndarray:
    """Relative distances between the units that were equal, [noises, S, T]."""
    found = record["symmetric_spread"].sel(size=size)
    return found.transpose("noise", "seed", "symmetric_step").values


def units_left(record, size: str) -> np.ndarray:
    """Steps until the units that were equal differ, [noises, S]; nan: never."""
    return first_where(spreads(record, size) > APART, record["symmetric_step"].values)


def valley(record, way: str, name: str = "sigmoid") -> np.ndarray:
    return record["valley_steps"].sel(valley=name, way=way).values


def gain(record, fast: str, slow: str = "gd", name: str = "sigmoid") -> np.ndarray:
    """Octaves of steps that one way across the valley saves on another, [S]."""
    return np.log2(valley(record, slow, name) / valley(record, fast, name))


def off_speed(record, form: str) -> np.ndarray:
    """Relative distance of step sizes from (1 - alpha^t) x the terminal one, largest over t."""
    alpha, steps = float(record.attrs["alpha"]), record["speed_step"].values
    theory = (1 - alpha**steps) / (1 - alpha if form == "book" else 1)
    speed = record["speed"].sel(form=form).transpose("seed", "speed_step").values
    return np.abs(speed / theory[None] - 1).max(1)


# -- 2.1e, the saddle


def ridge_share(record, axes: str) -> np.ndarray:
    return np.isfinite(record["ridge_left"].sel(axes=axes).values).astype(float)


def ridge_along(record):
    """whether descent without noise leaves the ridge, axes along the eigenvectors"""
    return ridge_share(record, "along")


def ridge_turned(record):
    """whether descent without noise leaves the ridge, axes turned"""
    return ridge_share(record, "turned")


def saddle_share(record):
    """share of walkers that leave the saddle, at the least noise"""
    left = record["saddle_left"].transpose("sigma", "walker", "seed").values
    return np.isfinite(left[1]).mean(0)


def saddle_slope(record):
    """slope of mean steps over ln 1 / sigma, times ln(1 + rate x curvature), minus 1"""
    means, sigma = saddle_means(record), record["sigma"].values[1:]
    kept = np.isfinite(means).all(1)
    if kept.sum() < 2:
        return np.full(record.sizes["seed"], np.nan)
    slope = np.polyfit(-np.log(sigma[kept]), means[kept], 1)[0]
    return slope * np.log1p(float(record.attrs["saddle_rate"]) * record["falling"].values) - 1


# -- 2.1e, the well


def well_without(record):
    """share of walkers that leave the well without noise"""
    return record["well_ever"].transpose("well_noise", "seed").values[0]


def well_with(record):
    """share of walkers that leave the well in the steps given, with the most noise"""
    return record["well_share"].transpose("well_noise", "seed").values[1]


def well_with_little(record):
    """share of walkers that leave the well in the steps given, with the least noise"""
    return record["well_share"].transpose("well_noise", "seed").values[-1]


def well_off(record):
    """ln(mean steps of all seeds' walkers / exact mean steps) at the barrier where it is largest"""
    steps = record["well_mean"].transpose("barrier", "seed").values.mean(1)
    exact = record["well_exact"].values
    off = np.log(steps / (exact if exact.ndim == 1 else exact.mean(1)))
    worst = off[np.abs(off).argmax()] if np.isfinite(off).all() else np.nan
    return np.full(record.sizes["seed"], worst)


def kramers_slope(record):
    """slope of ln mean steps over the barrier in units of rate x variance / 2, minus 1"""
    logs = np.log(record["well_mean"].transpose("barrier", "seed").values)
    kept = np.isfinite(logs).all(1)
    if kept.sum() < 2:
        return np.full(record.sizes["seed"], np.nan)
    return np.polyfit(record["barrier"].values[kept], logs[kept], 1)[0] - 1


# -- 2.1e, networks


def units_by_batches(record):
    """relative distance at the end between units that start equal, minibatches"""
    return spreads(record, "batches")[0, :, -1].astype(float)


def units_by_noise(record):
    """the same with the most noise on every weight, whole set"""
    return spreads(record, "whole")[-1, :, -1].astype(float)


def batches_sooner(record):
    """octaves of steps by which minibatches leave small weights sooner than the whole set"""
    return np.log2(small_left(record, "whole") / small_left(record, "batches"))


def noise_sooner(record):
    """octaves of steps by which noise on every weight leaves them sooner than none, whole set"""
    return np.log2(small_left(record, "whole") / small_left(record, "whole", noisy=1))


def zero_by_batches(record):
    """whether minibatches leave weights of zero"""
    return zero_left(record, "batches", 0)


def zero_by_noise(record):
    """whether noise on every weight leaves weights of zero, whole set"""
    return zero_left(record, "whole", 1)


# -- 2.2b


def book_speed(record):
    """largest relative difference of the book's step over descent's from (1 - a^t) / (1 - a)"""
    return off_speed(record, "book")


def source_speed(record):
    """largest relative difference of the source's step over descent's from 1 - b^t"""
    return off_speed(record, "source")


def averaged_gain(record):
    """octaves of steps that the exponential average saves on gradient descent at its rate"""
    return gain(record, "averaged")


def momentum_gain(record):
    """octaves of steps that the book's momentum saves on gradient descent at its rate"""
    return gain(record, "momentum")


def gain_with_walls(record):
    """octaves of steps that momentum saves on gradient descent at the highest rate of the walls"""
    return gain(record, "momentum", "gd_at_walls")


def gain_without_walls(record):
    """octaves of steps that momentum saves on gradient descent at rate / (1 - alpha), no walls"""
    return gain(record, "momentum", "gd_without_walls")


def part_of_speed(record):
    """descent's steps on a constant slope, but the last, over momentum's, times 1 - alpha"""
    ratio = (valley(record, "gd", "constant") - 1) / valley(record, "momentum", "constant")
    return ratio * (1 - float(record.attrs["alpha"]))


# -- the claims

_HALF = "half the steps"
_MOST = "most of them"
_NEVER = "a single walker would refute it"
_MOMENTUM = "Momentum needs fewer steps across a plateau than gradient descent at its rate"
_BEST = "It needs fewer than gradient descent at the best rate for it"
_RIDGE = "Without noise descent never leaves a saddle's ridge"
_WELL = "With noise it leaves in the time given"
_UNITS = "Hidden units that start equal part"
_ZERO = "Weights of zero are left"
_SMALL = "Small weights are left sooner"


def _claim(id, sentence, statistic, direction, threshold, reason, **more):
    more = {"kind": "paired", "unit": "", "section": "2 (1)"} | more
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, **more,
    )  # fmt: skip


CLAIMS = (
    combine(
        "2.1e",
        "Noise helps leave saddle points and poor local minima",
        (
            _claim(
                "2.1e1", _RIDGE, ridge_along, "below", 0.0, _NEVER, kind="exact", arms=("ridge",),
                figure="saddle", oracle="the gradient across it is exactly 0 (exact)",
                condition="with axes along the eigenvectors",
                control=_claim(
                    "2.1e1", _RIDGE, ridge_turned, "below", 0.0, _NEVER, kind="exact",
                    arms=("ridge",), figure="saddle", condition="with turned axes",
                    trap="rounding is noise, 16 decades down",
                ),
            ),
            _claim(
                "2.1e2", "With noise it leaves, however little", saddle_share, "above", 0.5, _MOST,
                arms=("saddle",), figure="saddle",
            ),
            _claim(
                "2.1e3", "The time falls with the logarithm of the noise only", saddle_slope,
                "within", 0.05, "a twentieth of the slope: whole steps and large noise bend it",
                arms=("saddle",), figure="saddle",
                oracle="steps against ln(1 / sigma): slope 1 / ln(1 + rate x curvature)",
                trap="noise at the scale of the saddle itself",
            ),
            _claim(
                "2.1e4", "Without noise descent never leaves a well", well_without, "below", 0.0,
                _NEVER, kind="exact", arms=("well",), figure="well",
            ),
            _claim(
                "2.1e5", _WELL, well_with, "above", 0.5, _MOST, arms=("well",), figure="well",
                condition="with the most noise",
                trap="the time given: any noise leaves in the end",
                control=_claim(
                    "2.1e5", _WELL, well_with_little, "above", 0.5, _MOST, arms=("well",),
                    figure="well", condition="with the least noise",
                ),
            ),
            _claim(
                "2.1e6", "The mean time is that of the exact equation", well_off, "within", 0.1,
                "a tenth: some thousand walkers scatter by a third of it", unit="ln",
                kind="exact", arms=("well",), figure="well",
                oracle="the integral equation of the mean first passage time",
                trap="walkers that have not left yet: they count with the steps that they made",
            ),
            _claim(
                "2.1e7", "It grows exponentially with the barrier over the variance",
                kramers_slope, "within", 0.1, "a tenth of Kramers' exponent, a limit",
                figure="well", arms=("well",), oracle="Kramers: slope 1, for high barriers",
            ),
            _claim(
                "2.1e8", _UNITS, units_by_batches, "above", APART, "a tenth of their size",
                arms=("symmetric_batches",), figure="symmetric",
                condition="with the noise of minibatches",
                oracle="exactly 0: equal units have equal gradients on any batch (exact)",
                trap="rounding in another order for some of the units",
                control=_claim(
                    "2.1e8", _UNITS, units_by_noise, "above", APART, "a tenth of their size",
                    arms=("symmetric_whole",), figure="symmetric",
                    condition="with noise on every weight",
                ),
            ),
            _claim(
                "2.1e9", _SMALL, batches_sooner, "above", -float(np.log2(0.9)),
                "a tenth of the steps", unit="octaves", figure="small",
                arms=("small_whole", "small_batches"), condition="with the noise of minibatches",
                control=_claim(
                    "2.1e9", _SMALL, noise_sooner, "above", -float(np.log2(0.9)),
                    "a tenth of the steps", unit="octaves", figure="small",
                    arms=("small_whole",), condition="with noise on every weight",
                ),
            ),
            _claim(
                "2.1e10", _ZERO, zero_by_batches, "above", 0.5, _MOST, kind="proportion",
                arms=("small_batches",), figure="small", condition="with the noise of minibatches",
                oracle="never: every example's gradient is 0 there but for the last bias (exact)",
                control=_claim(
                    "2.1e10", _ZERO, zero_by_noise, "above", 0.5, _MOST, kind="proportion",
                    arms=("small_whole",), figure="small", condition="with noise on every weight",
                ),
            ),
        ),
        section="2 (1)",
    ),
    combine(
        "2.2b",
        "Momentum crosses plateaus faster",
        (
            _claim(
                "2.2b1", "On a constant slope the book's speed is (1 - alpha^t)/(1 - alpha) times "
                "gradient descent's", book_speed, "below", 1e-12, "rounding of float64",
                kind="exact", section="2 (2)", figure="plateau", arms=("momentum",),
                oracle="(1 - alpha^t) / (1 - alpha) (exact)",
            ),
            _claim(
                "2.2b2", "The source's is 1 - beta^t times it, never faster", source_speed, "below",
                1e-12, "rounding of float64", kind="exact", section="2 (2)", figure="plateau",
                arms=("averaged",), oracle="1 - beta^t, which tends to 1 (exact)",
            ),
            _claim(
                "2.2b3", _MOMENTUM, averaged_gain, "above", 1.0, _HALF, unit="octaves",
                section="2 (2)", arms=("gd", "averaged"), figure="plateau", reading="source",
                other_reading=_claim(
                    "2.2b3", _MOMENTUM, momentum_gain, "above", 1.0, _HALF, unit="octaves",
                    section="2 (2)", arms=("gd", "momentum"), figure="plateau", reading="book",
                ),
            ),
            _claim(
                "2.2b4", _BEST, gain_with_walls, "above", 1.0, _HALF, unit="octaves",
                section="2 (2)", arms=("gd_at_walls", "momentum"), figure="plateau",
                reading="book",
                condition="where steep walls bound the rate",
                trap="gradient descent at a rate that is far below the best",
                control=_claim(
                    "2.2b4", _BEST, gain_without_walls, "above", 1.0, _HALF, unit="octaves",
                    section="2 (2)", arms=("gd_without_walls", "momentum"), figure="plateau",
                    reading="book", condition="where nothing bounds it",
                ),
            ),
            _claim(
                "2.2b5", "Steps to leave gain less than the speed's 1/(1 - alpha)", part_of_speed,
                "below", 1.0, "the run-up costs steps", kind="exact", section="2 (2)",
                reading="book", figure="plateau", arms=("gd", "momentum"),
                oracle="less than 1 (exact)",
            ),
        ),
        section="2 (2)",
    ),
)  # fmt: skip
