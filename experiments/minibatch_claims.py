"""The claims of `minibatch`: a statistic of the record, and a threshold, for each.

"Small" and "large" are the two batch sizes that the settings name, 16 and 256 by default; where
noise itself is the matter (2.1c, 2.1g), the smallest and the largest of all are compared. A run
has *diverged* once the full loss is not finite or above ten times its start. Descent on
cross-entropy rarely does that, since its gradients are bounded: at too high a rate the units die
and the loss stays near its start. A rate is therefore *stable* if the run did not diverge and its
loss ended below 0.95 of its start; the plain rule stands beside it as a control. Thresholds
are the smallest effects worth having, fixed with their reasons before the first run.
"""

import numpy as np

from dlstudy import curvature, noise
from dlstudy.claims import Claim, combine

LEARNED = 0.95  # of the loss before training: a run that ends below has learned
DIVERGED = 10.0  # times the loss before training

# -- parts of statistics


def values_of(record, name: str, **where) -> np.ndarray:
    """A variable as float64, seeds last."""
    found = record[name].sel(**where) if where else record[name]
    return found.transpose(..., "seed").values.astype(float)


def log2(values) -> np.ndarray:
    """NaN where there is no logarithm."""
    values = np.asarray(values, float)
    return np.log2(np.where(values > 0, values, np.nan))


def pair(record) -> tuple[int, int]:
    """The small and the large batch size."""
    return int(record.attrs["small_batch"]), int(record.attrs["large_batch"])


def at_sizes(record, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A variable at the small and at the large batch size, [S] each."""
    small, large = (values_of(record, name, batch=size) for size in pair(record))
    return small, large


def examples_to_target(record, race: str = "race") -> np.ndarray:
    """[batch, S]."""
    return values_of(record, f"{race}_steps") * record.batch.values[:, None]


# -- 2.1a


def sigma(record) -> np.ndarray:
    """Standard deviation of one example's gradient, [checkpoint, S]."""
    return np.sqrt(values_of(record, "noise_trace"))


def correction(record) -> np.ndarray:
    """What drawing without replacement does to the standard deviation, [batch]."""
    size, examples = record.batch.values.astype(float), float(record.attrs["examples"])
    return np.sqrt((examples - size) / (examples - 1))


def off_the_law(record, sampling: str, factor=1.0) -> np.ndarray:
    """log2 of measured over predicted standard deviation, mean over checkpoints, [batch, S].

    NaN at the full set, which has no noise when drawn without replacement.
    """
    size = record.batch.values.astype(float)
    found = values_of(record, "noise_sd", sampling=sampling)
    law = sigma(record)[:, None] * (factor / np.sqrt(size))[:, None]
    whole = (size == float(record.attrs["examples"]))[:, None]
    return np.where(whole, np.nan, log2(found / np.where(law > 0, law, np.nan)).mean(0))


def distance_with(record):
    """largest distance of log2 sd from that of sigma / sqrt(B), drawn with replacement"""
    return np.nanmax(np.abs(off_the_law(record, "with")), 0)


def distance_without(record):
    """the same, drawn without replacement"""
    return np.nanmax(np.abs(off_the_law(record, "without")), 0)


def distance_corrected(record):
    """the same, drawn without replacement, from sigma / sqrt(B) times sqrt((N - B) / (N - 1))"""
    return np.nanmax(np.abs(off_the_law(record, "without", correction(record))), 0)


def noise_slope(record):
    """slope of log sd against log B, with replacement, mean over checkpoints, plus 1/2"""
    logs = log2(values_of(record, "noise_sd", sampling="with")).mean(0)
    return np.polyfit(np.log2(record.batch.values.astype(float)), logs, 1)[0] + 0.5


def exact_scale(record) -> np.ndarray:
    """tr Sigma / |g|^2 from all per-example gradients, [checkpoint, S]."""
    return values_of(record, "noise_trace") / values_of(record, "noise_square")


def scale_error(record):
    """|estimate / noise scale - 1|, median over checkpoints: the ratio of the means"""
    return np.median(np.abs(values_of(record, "noise_scale") / exact_scale(record) - 1), 0)


def mean_ratio_error(record):
    """|estimate / noise scale - 1|, median over checkpoints: the mean of the draws' ratios"""
    return np.median(np.abs(values_of(record, "noise_mean_of_ratios") / exact_scale(record) - 1), 0)


# -- 2.1b


def example_gain(record):
    """log2 of the examples to the target: the large batch over the small one"""
    small, large = pair(record)
    steps = at_sizes(record, "race_steps")
    return log2(steps[1] * large / (steps[0] * small))


def step_gain(record):
    """log2 of the steps to the target: the small batch over the large one"""
    small, large = at_sizes(record, "race_steps")
    return log2(small / large)


def step_gain_shared(record):
    """the same with one rate for all batch sizes"""
    small, large = at_sizes(record, "shared_steps")
    return log2(small / large)


def fits(record, race: str = "race") -> list[noise.CriticalBatch]:
    """The hyperbola of each seed."""
    steps, examples = values_of(record, f"{race}_steps"), examples_to_target(record, race)
    return [noise.fit_critical_batch(s, e) for s, e in zip(steps.T, examples.T, strict=True)]


def hyperbola_residual(record):
    """root mean square of ln(steps / steps of the fitted hyperbola) over batch sizes"""
    return np.array([fit.residual for fit in fits(record)])


def scale_on_the_way(record) -> np.ndarray:
    """Mean of the noise scale over the steps from the start to the target loss, [S].

    With S the integral of 1 + B(s) / B over the steps s of a run without noise, the critical size
    Emin / Smin is the mean of B over s, not over its logarithm or over checkpoints, which lie
    closer to the start (McCandlish et al. 2018, appendix D). Scale and loss are taken as straight
    between checkpoints. NaN where the run does not come down to the target.
    """
    scale, loss = exact_scale(record), values_of(record, "noise_loss")
    return np.array([
        mean_until(record.checkpoint.values.astype(float), *of_seed, float(record.attrs["target"]))
        for of_seed in zip(scale.T, loss.T, strict=True)
    ])  # fmt: skip


def mean_until(step, values, loss, target: float) -> float:
    """Mean over steps of a broken line through `values`, up to where `loss` first is `target`."""
    below = np.flatnonzero(loss <= target)
    if not len(below) or below[0] == 0:
        return np.nan
    last = below[0]
    part = (loss[last - 1] - target) / (loss[last - 1] - loss[last])
    end = step[last - 1] + part * (step[last] - step[last - 1])
    at = np.append(step[:last], end)
    return np.trapezoid(np.interp(at, step, values), at) / (end - step[0])


def critical_against_noise(record):
    """log2 of the fitted critical batch size over the mean noise scale on the way to the target"""
    return log2(np.array([fit.size for fit in fits(record)]) / scale_on_the_way(record))


# -- 2.1c


def stable(record, arm: str, learned: float = LEARNED) -> np.ndarray:
    """bool[size, rate, S]: did not diverge, and ended below this part of the start's loss."""
    start = values_of(record, "start_loss")[None, None]
    end, worst = values_of(record, f"{arm}_end"), values_of(record, f"{arm}_worst")
    return (worst <= DIVERGED * start) & (end < learned * start)


def largest_stable(record, arm: str) -> np.ndarray:
    """log2 of the largest stable rate, [size, S]; NaN: none was."""
    return _largest(stable(record, arm), record.rate.values)


def largest_undiverged(record) -> np.ndarray:
    """log2 of the largest rate of both grids that did not diverge, [batch, S]; NaN: none."""
    found = np.concatenate([stable(record, arm, np.inf) for arm in ("stable", "beyond")], 1)
    return _largest(found, np.concatenate([record.rate.values, record.rate_beyond.values]))


def _largest(found: np.ndarray, rates) -> np.ndarray:
    logs = np.log2(np.asarray(rates, float))[:, None]
    return np.where(found.any(1), np.where(found, logs, -np.inf).max(1), np.nan)


def rate_gain(record):
    """log2 of the largest stable rate: the largest batch over the smallest"""
    found = largest_stable(record, "stable")
    return found[-1] - found[0]


def rate_gain_plain(record):
    """the same where a run must only not diverge"""
    found = largest_undiverged(record)
    return found[-1] - found[0]


def rate_gain_by_noise(record):
    """log2 of the full gradient's largest stable rate: least artificial noise over most"""
    found = largest_stable(record, "noisy")
    return found[-1] - found[0]


def noise_for_size(record):
    """log2 of the largest stable rate: full gradient with noise over batch, mean over sizes"""
    levels = np.isin(record.batch.values, record.level.values)
    return (largest_stable(record, "noisy") - largest_stable(record, "stable")[levels]).mean(0)


# -- 2.1g


def at_ends(record, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A variable at the smallest and at the largest batch size of all, [S] each."""
    found = values_of(record, name)
    return found[0], found[-1]


def more_rises(record):
    """share of steps that raise the full loss: smallest batch minus largest, rates tuned"""
    small, large = at_ends(record, "race_rise_share")
    return small - large


def more_rises_shared(record):
    """the same with one rate for all batch sizes"""
    small, large = at_ends(record, "shared_rise_share")
    return small - large


def rougher(record):
    """what the loss climbs back, over what it falls: smallest batch minus largest, rates tuned"""
    small, large = at_ends(record, "race_roughness")
    return small - large


def rougher_shared(record):
    """the same with one rate for all batch sizes"""
    small, large = at_ends(record, "shared_roughness")
    return small - large


# -- 2.1d


def against_small(record, name: str, arm: str) -> tuple[np.ndarray, np.ndarray]:
    return values_of(record, f"end_{name}", arm=arm), values_of(record, f"end_{name}", arm="small")


def eigenvalue(record, arm: str, prefix: str = "") -> np.ndarray:
    """Largest eigenvalue [S]; NaN where its residual is large."""
    value = values_of(record, f"end_{prefix}lambda_max", arm=arm)
    residual = values_of(record, f"end_{prefix}lambda_residual", arm=arm)
    size = np.where(value != 0, np.abs(value), np.nan)
    return curvature.converged(value, residual / size, "eigenvalue", np.isfinite(value))


def sharper(record, arm="equal_epochs"):
    """log2 of the largest eigenvalue: the large batch over the small, after as many epochs"""
    return log2(eigenvalue(record, arm) / eigenvalue(record, "small"))


def sharper_by_steps(record):
    """the same after as many steps"""
    return sharper(record, "equal_steps")


def rises_faster(record, arm="equal_epochs"):
    """log2 of filter-normalised sharpness: large over small batch, after as many epochs"""
    large, small = against_small(record, "filter_sharpness", arm)
    return log2(large) - log2(small)


def rises_faster_by_steps(record):
    """the same after as many steps"""
    return rises_faster(record, "equal_steps")


def generalises_worse(record, arm="equal_epochs"):
    """test error: large batch minus small, after as many epochs"""
    large, small = against_small(record, "test_error", arm)
    return large - small


def generalises_worse_by_steps(record):
    """the same after as many steps"""
    return generalises_worse(record, "equal_steps")


def gap(record, arm: str) -> np.ndarray:
    """Test minus training error, [S]."""
    return values_of(record, "end_test_error", arm=arm) - values_of(
        record, "end_train_error", arm=arm
    )


def wider_gap(record):
    """test minus training error: large batch minus small, after as many epochs"""
    return gap(record, "equal_epochs") - gap(record, "small")


def wider_gap_by_steps(record):
    """the same after as many steps"""
    return gap(record, "equal_steps") - gap(record, "small")


# -- 2.1h: the trap of 2.1d


def copy_differs(record):
    """largest difference of a logit between a network and its rescaled copy"""
    return values_of(record, "end_rescaled_difference").max(0)


def copy_is_sharper(record):
    """log2 of the largest eigenvalue: the rescaled copy over the network (small batch)"""
    return log2(eigenvalue(record, "small", "rescaled_") / eigenvalue(record, "small"))


def copy_rises_alike(record):
    """|rise of the rescaled copy / rise of the network - 1|, along filter directions"""
    copy, own = (
        values_of(record, f"end_{name}") for name in ("rescaled_filter_sharpness",
                                                      "filter_sharpness")
    )  # fmt: skip
    return np.abs((copy - own) / np.where(own != 0, own, np.nan)).max(0)


# -- 2.1f


def memory_growth(record):
    """log2 of a compiled step's memory: the largest batch over the smallest"""
    memory = record["memory"].values.astype(float)
    return np.full(record.sizes["seed"], np.log2(memory[-1] / memory[0]))


def speed_growth(record, name: str = "speed"):
    """log2 of examples a second: the largest batch over the smallest"""
    speed = values_of(record, name)
    return log2(speed[-1] / speed[0])


def speed_growth_called(record):
    """the same where each step is a call from Python"""
    return speed_growth(record, "called_speed")


def last_slope(record):
    """slope of log examples a second against log B, between the two largest batches"""
    speed, size = log2(values_of(record, "speed")), np.log2(record.cost_batch.values.astype(float))
    return (speed[-1] - speed[-2]) / (size[-1] - size[-2])


def last_slope_first_call(record):
    """the same of the first call, which compiles"""
    speed, size = log2(record["first_speed"].values), np.log2(
        record.cost_batch.values.astype(float)
    )  # fmt: skip
    slope = (speed[-1] - speed[-2]) / (size[-1] - size[-2])
    return np.full(record.sizes["seed"], slope)


# -- the claims


def _claim(id, sentence, statistic, direction, threshold, reason, **more):
    # Runs that diverge are what some of these claims are about.
    more = {"kind": "paired", "unit": "", "section": "2 (1)", "keep_diverged": True} | more
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, **more,
    )  # fmt: skip


def _beside(id, sentence, pair, conditions, direction, threshold, reason, **more):
    """A claim in one arm, and the same in its control."""
    main, control = (
        {"statistic": s, "condition": c, "direction": direction, "threshold": threshold}
        | {"reason": reason}
        for s, c in zip(pair, conditions, strict=True)
    )
    trap = {"trap": more.pop("trap", ""), "oracle": more.pop("oracle", "")}
    return _claim(id, sentence, **main, **more, **trap,
                  control=_claim(id, sentence, **control, **more))  # fmt: skip


_TENTH = "0.15 octaves: a tenth; the law is exact, and what is off is the scatter of the draws"
_OCTAVE = "a factor of two"
_HALF = "half an octave: a factor of 1.4"
_TUNED = ("with the rate tuned for each size", "with one rate for all sizes")
_CLOCKED = (
    "on this machine, steps chained in one program",
    "on this machine, each step a call from Python",
)
_EQUAL = ("after as many epochs", "after as many steps")
_TRAP_RATE = "the rate not retuned for each size: at one rate a larger batch takes the same steps"
_TRAP_EPOCHS = "equal epochs mean fewer steps for the large batch: both are shown"

CLAIMS = (
    combine(
        "2.1a",
        "Small batches give noisier gradients",
        (
            _beside(
                "2.1a1", "The gradient's standard deviation is sigma / sqrt(B)",
                (distance_with, distance_without),
                ("drawn with replacement", "drawn without"), "below", 0.15, _TENTH,
                unit="octaves", figure="noise", oracle="sigma / sqrt(B), by counting all batches",
            ),
            _claim("2.1a2", "Its logarithm falls with slope -1/2 in log B", noise_slope, "within",
                   0.025, "a twentieth of the slope", figure="noise", oracle="-1/2"),
            _claim(
                "2.1a3", "Without replacement it has the factor sqrt((N - B) / (N - 1))",
                distance_corrected, "below", 0.15, _TENTH, unit="octaves", figure="noise",
                oracle="by counting all batches",
            ),
            _beside(
                "2.1a4", "Batches of two sizes give the noise scale",
                (scale_error, mean_ratio_error),
                ("as the ratio of means", "as the mean of ratios"), "below", 0.5,
                "half of it: it is a scale", figure="noise",
                trap="|g|^2 estimated from one pair of batches may be near 0 or negative",
            ),
        ),
        section="2 (1)",
    ),
    combine(
        "2.1b",
        "Small batches learn faster per example, large ones per step",
        (
            _claim("2.1b1", "To one loss, the large batch takes more examples", example_gain,
                   "above", 0.5, _HALF, unit="octaves", figure="hyperbola"),
            _beside("2.1b2", "To one loss, the small batch takes more steps",
                    (step_gain, step_gain_shared), _TUNED, "above", 0.5, _HALF, unit="octaves",
                    figure="hyperbola", trap=_TRAP_RATE),
            _claim(
                "2.1b3", "(S / Smin - 1)(E / Emin - 1) = 1 describes steps and examples",
                hyperbola_residual, "below", 0.22, "ln 1.25: to a quarter, over all sizes",
                figure="hyperbola", oracle="a fit that assumes a constant noise scale",
            ),
            _claim(
                "2.1b4", "The critical batch size Emin / Smin is the noise scale on the way",
                critical_against_noise, "within", 1.0, _OCTAVE, unit="octaves",
                figure="hyperbola", trap="the noise scale grows in training: its mean over the "
                "steps to the target, on the way of one batch size and rate",
            ),
        ),
        section="2 (1)",
    ),
    combine(
        "2.1c",
        "Large batches allow larger learning rates, because the gradient varies less",
        (
            _beside(
                "2.1c1", "The largest stable rate grows with the batch",
                (rate_gain, rate_gain_plain),
                ("where a run must learn", "where it must only not diverge"), "above", 1.0,
                _OCTAVE, unit="octaves", figure="stable_rate",
                trap="gradients of cross-entropy are bounded: units die where a loss would diverge",
            ),
            _claim(
                "2.1c2", "So it does for the full gradient as its artificial noise falls",
                rate_gain_by_noise, "above", 1.0, _OCTAVE, unit="octaves", figure="stable_rate",
            ),
            _claim(
                "2.1c3", "Batch and full gradient with noise of the same covariance agree",
                noise_for_size, "within", 0.5, f"{_HALF}; the grid is in octaves",
                unit="octaves", figure="stable_rate",
                trap="noise of another shape: this one has the covariance of the batch's",
            ),
        ),
        section="2 (1)",
    ),
    combine(
        "2.1d",
        "Large batches reach sharp minima and generalise worse",
        (
            _beside("2.1d1", "The Hessian's largest eigenvalue is larger",
                    (sharper, sharper_by_steps), _EQUAL, "above", 1.0, _OCTAVE, unit="octaves",
                    figure="minima", oracle="Keskar et al. 2017: sharper",
                    trap=f"{_TRAP_EPOCHS}; the eigenvalue is not invariant to rescaling (2.1h)"),
            _beside("2.1d2", "The loss rises faster along filter-normalised directions",
                    (rises_faster, rises_faster_by_steps), _EQUAL, "above", 0.5, _HALF,
                    unit="octaves", figure="minima", trap=_TRAP_EPOCHS),
            _beside("2.1d3", "The test error is larger",
                    (generalises_worse, generalises_worse_by_steps), _EQUAL, "above", 0.01,
                    "one percentage point", figure="minima", trap=_TRAP_EPOCHS),
            _beside("2.1d4", "The gap between test and training error is wider",
                    (wider_gap, wider_gap_by_steps), _EQUAL, "above", 0.01,
                    "one percentage point", figure="minima", trap=_TRAP_EPOCHS),
        ),
        section="2 (1)",
    ),
    combine(
        "2.1h",
        "(added) The Hessian's largest eigenvalue can differ between copies of one function",
        (
            _claim("2.1h1", "A network rescaled by 4 is the same function", copy_differs, "below",
                   0.0, "exact: 4 is a power of two", kind="exact", figure="minima"),
            _claim("2.1h2", "Its largest eigenvalue is larger", copy_is_sharper, "above", 1.0,
                   _OCTAVE, unit="octaves", figure="minima"),
            _claim("2.1h3", "Filter-normalised sharpness is the same", copy_rises_alike, "below",
                   1e-5, "rounding of float32 in the loss", kind="exact", figure="minima"),
        ),
        section="Dinh et al. 2017",
    ),
    combine(
        "2.1f",
        "Memory and parallel efficiency grow with batch size",
        (
            _claim("2.1f1", "A compiled step takes more memory", memory_growth, "above", 1.0,
                   _OCTAVE, kind="exact", unit="octaves", figure="cost"),
            _beside("2.1f2", "More examples a second are processed",
                    (speed_growth, speed_growth_called), _CLOCKED, "above", 1.0, _OCTAVE,
                    unit="octaves", figure="cost",
                    trap="a small batch's step is shorter than the call that starts it"),
            _beside(
                "2.1f3", "(added) The gain levels off: less than the square root between the "
                "largest batches", (last_slope, last_slope_first_call),
                (_CLOCKED[0], "with the call that compiles"), "below", 0.5,
                "the square root of the batch's growth", figure="cost",
                trap="timing the call that compiles: the time is constant, the gain seems endless",
            ),
        ),
        section="2 (1)",
    ),
    combine(
        "2.1g",
        "Small batches update unstably, large ones converge more smoothly",
        (
            _beside("2.1g1", "More steps raise the full loss", (more_rises, more_rises_shared),
                    _TUNED, "above", 0.1, "one step in ten", figure="roughness"),
            _beside("2.1g2", "The loss climbs back further on its way to the target",
                    (rougher, rougher_shared), _TUNED, "above", 0.05, "a twentieth of the fall",
                    figure="roughness", trap="unequal progress: all runs end at the target, and "
                    "are looked at in as many equal parts"),
        ),
        section="2 (1)",
    ),
)  # fmt: skip
