"""The claims of `batchnorm` (problem 3, questions 3 and 4): a statistic of the record for each.

Each arm and seed has the learning rate that the tuning split prefers, with running statistics, as
a network would be used; the floor of the training loss is the lowest at any rate. Rates at which a
step's loss was not finite, or above ten times the loss before training, have diverged; a rate is
stable if it did not and the training loss ends below half of its start. Thresholds are the
smallest effects worth having, fixed with their reasons before the first run.
"""

import numpy as np

from dlstudy.claims import Claim, combine
from dlstudy.stats import rank_correlation
from experiments.batchnorm_theory import LIMIT

LEARNED = 0.5  # of the loss before training: a run that ends below has learned
DIVERGED = 10.0  # times that loss

# -- parts of statistics


def values_of(record, name: str, *order, **selection) -> np.ndarray:
    """A variable with its dimensions in this order, the rest behind."""
    return record[name].sel(selection).transpose(*order, ...).values.astype(float)


def _lowest(loss) -> np.ndarray:
    """Index of the lowest finite loss [rates, S] of each seed; -1: there is none."""
    good = np.isfinite(loss)
    return np.where(good.any(0), np.where(good, loss, np.inf).argmin(0), -1)


def _pick(values, chosen) -> np.ndarray:
    """values[rates, S, ...] at each seed's own index, [S, ...]; NaN where that is -1."""
    found = values[np.maximum(chosen, 0), np.arange(len(chosen))]
    return np.where((chosen < 0).reshape(-1, *[1] * (found.ndim - 1)), np.nan, found)


def diverged(record, run: str) -> np.ndarray:
    """bool[rates, S]."""
    worst = values_of(record, "worst_loss", "rate", "seed", run=run)
    start = values_of(record, "start_loss", "rate", "seed", run=run)
    end = values_of(record, "curve", "rate", "seed", run=run)[..., -1]
    return ~(worst <= DIVERGED * start) | ~np.isfinite(end)


def chosen(record, run: str) -> np.ndarray:
    """Index of the rate [S] with the lowest tuning loss; -1 where every rate diverged."""
    loss = values_of(record, "loss", "rate", "seed", run=run, split="tune", mode="running")
    return _lowest(np.where(diverged(record, run), np.nan, loss))


def at_best(record, name: str, run: str, **selection) -> np.ndarray:
    """A variable at the run's best rate, [S, ...]."""
    values = values_of(record, name, "rate", "seed", run=run, **selection)
    return _pick(values, chosen(record, run))


def at_common(record, name: str, run: str, **selection) -> np.ndarray:
    """The same at the rate that is best without batch normalisation."""
    values = values_of(record, name, "rate", "seed", run=run, **selection)
    return _pick(values, chosen(record, "none"))


def final(record, run: str, at=at_best) -> np.ndarray:
    """Training loss at the end [S], batch statistics of all images."""
    return at(record, "curve", run)[:, -1]


def stable(record, run: str, learned: float = LEARNED) -> np.ndarray:
    """bool[rates, S]."""
    start = values_of(record, "start_loss", "rate", "seed", run=run)
    end = values_of(record, "curve", "rate", "seed", run=run)[..., -1]
    with np.errstate(invalid="ignore"):
        return ~diverged(record, run) & (end < learned * start)


def largest_stable(record, run: str, learned: float = LEARNED) -> np.ndarray:
    """log2 of the largest stable rate [S]; NaN: none was."""
    found = stable(record, run, learned)
    logs = np.log2(record.rate.values.astype(float))[:, None]
    return np.where(found.any(0), np.where(found, logs, -np.inf).max(0), np.nan)


def best_rate(record, run: str) -> np.ndarray:
    """log2 of the best rate [S]."""
    index = chosen(record, run)
    return np.where(index < 0, np.nan, np.log2(record.rate.values.astype(float))[index])


def at_sizes(record, name: str, order: str = "iid", by="running", **selection) -> np.ndarray:
    """A variable of training with BN at every batch size, each at its best rate, [sizes, S, ...].

    The best rate has the lowest tuning loss with the statistics named by `by`: "running", or
    "batch", of batches like those of training. What is lost on the way from these to running
    statistics must not be judged at rates chosen for the latter.
    """
    axes = ("size", "size_rate", "seed")
    if by == "batch":
        loss = values_of(record, "own_tune_loss", *axes, order=order)
    else:
        loss = values_of(record, "size_loss", *axes, order=order, split="tune", mode="running")
    values = values_of(record, name, *axes, order=order, **selection)
    return np.stack([_pick(v, _lowest(of)) for v, of in zip(values, loss, strict=True)])


def without(record, name: str) -> np.ndarray:
    """A variable of training without BN in the smallest and largest i.i.d. batches, at its best
    rate, [2, S]."""
    axes = ("plain_size", "size_rate", "seed")
    loss = values_of(record, "plain_size_loss", *axes, order="iid", split="tune")
    values = values_of(record, name, *axes, order="iid")
    return np.stack([_pick(v, _lowest(of)) for v, of in zip(values, loss, strict=True)])


def ghosts(record, name: str, split: str) -> np.ndarray:
    """Without and with a ghost batch, each at its best rate, recalibrated, [2, S].

    `name` is "loss" or "error".
    """
    how = {"mode": "recalibrated"}
    dims = "size_rate", "seed"
    batch = {"size": record.attrs["ghost_batch"], "order": "iid"} | how
    found = []
    for kind, own in (("size", batch), ("ghost", how)):
        loss = values_of(record, f"{kind}_loss", *dims, split="tune", **own)
        values = values_of(record, f"{kind}_{name}", *dims, split=split, **own)
        found.append(_pick(values, _lowest(loss)))
    return np.stack(found)


def floors(record, arm: str) -> np.ndarray:
    """Lowest training loss at any rate, [S]."""
    return record["floor"].sel(floor_arm=arm).min("floor_rate").transpose("seed").values


def _median_step(record, name: str, run: str, at=at_best) -> np.ndarray:
    """Median over looks (and layers) of what was measured at steps, [S]."""
    values = at(record, name, run)
    return np.median(values.reshape(len(values), -1), 1)


# -- 3.3a


def scale_distance(record):
    """largest |BN_eps(c z) - BN_(eps/c^2)(z)| over the largest value, batch statistics, float64"""
    return record["scale_batch"].values


def floor_fixed(record):
    """log10 of the floor of the training loss: BN with gamma 1 and beta 0 over no BN"""
    return np.log10(floors(record, "bn_fixed") / floors(record, "none"))


def floor_affine(record):
    """log10 of the floor of the training loss: BN over no BN"""
    return np.log10(floors(record, "bn") / floors(record, "none"))


def floor_regained(record):
    """log10 of the floor of the training loss: gamma 1 and beta 0 over both learned"""
    return np.log10(floors(record, "bn_fixed") / floors(record, "bn"))


def floor_falls(record):
    """largest log10, of the three networks, of the lowest loss of half the steps over all"""
    half, whole = (record[name].min("floor_rate") for name in ("half_floor", "floor"))
    return np.log10(half / whole).max("floor_arm").values


def digits_fixed(record):
    """log10 of the training loss on true labels, own rates: gamma 1 and beta 0 over both learned"""
    return np.log10(final(record, "bn_fixed") / final(record, "bn"))


# -- 3.3b


def spread_slope(record, order="iid"):
    """slope of log spread of the batch means, all layers, on log batch size: i.i.d. batches"""
    spread = at_sizes(record, "mean_spread", order).mean(-1)
    x = np.log(record["size"].values)
    x = x - x.mean()
    return (x[:, None] * np.log(spread)).sum(0) / (x**2).sum()


def spread_slope_by_class(record):
    """slope of log spread of the batch means, all layers, on log batch size: batches by class"""
    return spread_slope(record, "class")


def gaps(record, order: str, by="batch") -> np.ndarray:
    """|loss with running statistics - loss in batches like those of training|, [sizes, S]."""
    running = at_sizes(record, "size_loss", order, by, split="train", mode="running")
    return np.abs(running - at_sizes(record, "own_train_loss", order, by))


def small_gap(record, by="batch"):
    """train/eval gap of the training loss, i.i.d.: smallest batches minus largest"""
    found = gaps(record, "iid", by)
    return found[0] - found[-1]


def small_gap_by_running(record):
    """the same, rates chosen with running statistics"""
    return small_gap(record, "running")


def class_gap(record, by="batch"):
    """train/eval gap of the training loss, largest batches: of about four classes minus i.i.d."""
    return gaps(record, "few", by)[-1] - gaps(record, "iid", by)[-1]


def class_gap_by_running(record):
    """the same, rates chosen with running statistics"""
    return class_gap(record, "running")


def class_loss(record):
    """training loss with running statistics, largest batches: by class minus i.i.d."""
    found = [
        at_sizes(record, "size_loss", order, split="train", mode="running")[-1]
        for order in ("class", "iid")
    ]
    return found[0] - found[1]


def probe_fluctuation(record):
    """log10 of the sd of a fixed set's loss over batches' statistics: smallest over largest"""
    found = at_sizes(record, "probe_sd")
    return np.log10(found[0] / found[-1])


def small_fluctuation(record):
    """log10 of the sd of the last epoch's batch losses, smallest batches: BN over no BN"""
    return np.log10(at_sizes(record, "last_sd")[0] / without(record, "plain_last_sd")[0])


def large_fluctuation(record):
    """log10 of the sd of the last epoch's batch losses, largest batches: BN over no BN"""
    return np.log10(at_sizes(record, "last_sd")[-1] / without(record, "plain_last_sd")[-1])


def relative_fluctuation(record):
    """log10 of that sd over the mean of the losses, smallest batches: BN over no BN"""
    mean = at_sizes(record, "last_mean")[0] / without(record, "plain_last_mean")[0]
    return small_fluctuation(record) - np.log10(mean)


# -- 3.3c


def alike(record):
    """linear CKA of the last hidden layers: two starts without BN minus with BN and without"""
    found = record["similarity"]
    return (found.sel(pair="none_again") - found.sel(pair="bn")).transpose("seed").values


def rate_gain(record, learned=LEARNED):
    """log2 of the largest stable rate: BN over no BN"""
    return largest_stable(record, "bn", learned) - largest_stable(record, "none", learned)


def rate_gain_weak(record):
    """the same ratio, where it is enough that a run ends below its start"""
    return rate_gain(record, 1.0)


def untuned_cost(record):
    """log10 of the test loss with BN: at the best rate without BN, over that at its own"""
    # Not the tuning loss, which chose the rate: at its lowest no other can be lower.
    how = {"split": "test", "mode": "running"}
    return np.log10(at_common(record, "loss", "bn", **how) / at_best(record, "loss", "bn", **how))


def _range(record, at, relative):
    def of(run):
        found = at(record, "loss_range", run)
        return np.median(found / at(record, "step_loss", run) if relative else found, 1)

    return np.log10(of("bn") / of("none"))


def range_ratio(record):
    """log10 of the range of the loss along a step, own rates: BN over no BN"""
    return _range(record, at_best, False)


def range_ratio_common(record):
    """log10 of the range of the loss along a step, one rate: BN over no BN"""
    return _range(record, at_common, False)


def relative_range_ratio(record):
    """log10 of that range over the loss itself, own rates: BN over no BN"""
    return _range(record, at_best, True)


def gradient_ratio(record):
    """log10 of the relative change of the gradient along a step, own rates: BN over no BN"""
    found = [_median_step(record, "gradient_change", run) for run in ("bn", "none")]
    return np.log10(found[0] / found[1])


def growth_above_limit(record):
    """growth a layer of the squared gradient, largest batch, minus pi / (pi - 1)"""
    return values_of(record, "growth", "growth_batch", "seed")[-1] - LIMIT


def growth_off_theory(record):
    """largest distance over batch sizes of the growth a layer from theory, relative"""
    found = values_of(record, "growth", "growth_batch", "seed")
    return np.abs(found / record["growth_theory"].values[:, None] - 1).max(0)


def growth_excess(record):
    """growth a layer of the squared gradient, largest batch: BN over no BN"""
    grown = values_of(record, "growth", "growth_batch", "seed")[-1]
    return grown / record["plain_growth"].transpose("seed").values


# -- 3.3d


def rate_spread(record):
    """sd over rates of the final training loss, at most that of the start: BN minus no BN"""
    spreads = []
    for run in ("bn", "none"):
        end = values_of(record, "curve", "rate", "seed", run=run)[..., -1]
        start = values_of(record, "start_loss", "rate", "seed", run=run)
        spreads.append(np.where(diverged(record, run), start, np.fmin(end, start)).std(0))
    return spreads[0] - spreads[1]


def seed_spread(record):
    """distance of log10 training loss from its median over seeds, own rates: BN minus no BN"""
    apart = []
    for run in ("bn", "none"):
        loss = np.log10(final(record, run))
        apart.append(np.abs(loss - np.nanmedian(loss)))
    return apart[0] - apart[1]


def _shift(record, of, over, at=at_best):
    found = [_median_step(record, "shift", run, at) for run in (of, over)]
    return np.log10(found[0] / found[1])


def shift_ratio(record):
    """log10 of internal covariate shift (l2), own rates: BN over no BN"""
    return _shift(record, "bn", "none")


def shift_ratio_common(record):
    """log10 of internal covariate shift (l2), one rate: BN over no BN"""
    return _shift(record, "bn", "none", at_common)


def cosine_gain(record):
    """cosine of a layer's gradients before and after the step below, own rates: BN minus no BN"""
    found = [_median_step(record, "shift_cosine", run) for run in ("bn", "none")]
    return found[0] - found[1]


def noisy_shift(record):
    """log10 of internal covariate shift (l2), own rates: BN with noise over BN"""
    return _shift(record, "bn_noisy", "bn")


def noisy_loss(record):
    """log10 of the training loss, own rates: BN with noise over no BN"""
    return np.log10(final(record, "bn_noisy") / final(record, "none"))


def ghost_gap(record):
    """test minus training loss: steady statistics (ghost batch) minus noisy ones"""
    gap = ghosts(record, "loss", "test") - ghosts(record, "loss", "train")
    return gap[1] - gap[0]


def ghost_test(record):
    """test error: steady statistics (ghost batch) minus noisy ones"""
    error = ghosts(record, "error", "test")
    return error[1] - error[0]


# -- 3.4


def _test_error(record, mode):
    return at_best(record, "error", "bn", split="test", mode=mode)


def running_against_all(record):
    """test error: running statistics minus those of all test images"""
    return _test_error(record, "running") - _test_error(record, "batch")


def _short(record, running):
    """Test error after a short run: running statistics minus those of all test images."""
    found = at_best(record, "epoch_error", "bn", look=record.attrs["short_epochs"])
    return found[:, 1 + running] - found[:, 0]


def short_fast(record):
    """test error after a short run: fast running statistics minus those of all test images"""
    return _short(record, 0)


def short_slow(record):
    """test error after a short run: slow running statistics minus those of all test images"""
    return _short(record, 1)


def in_test_batches(record, order: str = "iid") -> np.ndarray:
    """Test error with the statistics of test batches, [S, sizes], at the best rate of BN."""
    values = values_of(
        record, "test_batch_error", "rate", "seed", "test_size", bn_run="bn", test_order=order
    )
    return _pick(values, chosen(record, "bn"))


def smallest_test(record):
    """test error: statistics of the smallest test batches minus running"""
    return in_test_batches(record)[:, 0] - _test_error(record, "running")


def class_test(record):
    """test error: statistics of test batches by class minus running, in batches as in training"""
    sizes = record["test_size"].values
    place = int(np.abs(np.log(sizes / record.attrs["batch_size"])).argmin())
    return in_test_batches(record, "class")[:, place] - _test_error(record, "running")


def lost(record, order: str, mode: str = "running", by="batch") -> np.ndarray:
    """Accuracy lost on the test split, from batches like those of training to `mode`, [sizes, S].

    A network that learned nothing has nothing to lose; its difference is about 0.
    """
    other = at_sizes(record, "size_error", order, by, split="test", mode=mode)
    return other - at_sizes(record, "own_test_error", order, by)


def spreads(record, order: str, by="batch") -> np.ndarray:
    """Spread of the batch means of training, mean over layers, [sizes, S]."""
    return at_sizes(record, "mean_spread", order, by).mean(-1)


def _with_spread(record, of, by="batch") -> np.ndarray:
    """Of of(order) [sizes, S] and the spread of the statistics, over sizes and orders, [S]."""
    orders = [str(order) for order in record.order.values]
    both = ([of(order) for order in orders], [spreads(record, order, by) for order in orders])
    return rank_correlation(*(np.concatenate(values) for values in both))


def degradation_correlation(record):
    """rank correlation over sizes and orders of accuracy lost and spread of the statistics"""
    return _with_spread(record, lambda order: lost(record, order))


def degradation_correlation_by_running(record):
    """the same, rates chosen with running statistics"""
    return _with_spread(record, lambda order: lost(record, order, by="running"), "running")


def error_correlation(record):
    """rank correlation over sizes and orders of the test error, running, and that spread"""
    how = {"split": "test", "mode": "running"}
    return _with_spread(
        record, lambda order: at_sizes(record, "size_error", order, "batch", **how)
    )  # fmt: skip


def lost_by_class(record):
    """accuracy lost to running statistics, largest batches of about four classes"""
    return lost(record, "few")[-1]


def lost_iid(record):
    """accuracy lost to running statistics, largest i.i.d. batches"""
    return lost(record, "iid")[-1]


def recalibration_gain(record):
    """test error, largest batches of about four classes: running minus recalibrated statistics"""
    return lost(record, "few")[-1] - lost(record, "few", "recalibrated")[-1]


def recalibration_gain_by_running(record):
    """the same, rates chosen with running statistics"""
    return (
        lost(record, "few", by="running")[-1] - lost(record, "few", "recalibrated", "running")[-1]
    )


def lost_by_running(record):
    """accuracy lost to running statistics, largest batches of about four classes, rates by them"""
    return lost(record, "few", by="running")[-1]


# -- the claims

_TENTH = float(np.log10(1.1))
_QUARTER = float(np.log10(1.25))
_HALVED = -float(np.log10(2))
_RATES = ("none", "bn")
_BY_BATCH = "at rates chosen with batch statistics"
_BY_RUNNING = "at rates chosen with running statistics"
_RANKS = "a tenth of the variance of ranks is in common: 0.3 squared"
_GAP = "The gap between batch and running statistics is larger with small batches"
_CLASS_GAP = "Large batches of few classes have a large gap, too"
_GROWS = (
    "Accuracy lost by switching to running statistics grows with how far those of training batches "
    "spread"
)
_WON_BACK = "Recalibrated statistics win accuracy back"


def _claim(id, sentence, statistic, direction, threshold, reason, **more):
    more = {"kind": "paired", "unit": "", "section": "3 (3)", "arms": _RATES} | more
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, **more,
    )  # fmt: skip


def _decades(id, sentence, statistic, direction, threshold, reason, **more):
    return _claim(id, sentence, statistic, direction, threshold, reason, unit="decades", **more)


_LIMITS = "Normalising limits expressiveness: the training loss has a higher floor than without BN"
_FLUCTUATES = "Training fluctuates more than without BN"
_RELIABLE = "Statistics of larger batches are more reliable"
_WIDER = "BN changes usable learning rates: the largest stable one is larger"
_SMOOTHER = "The loss varies less along a step"
_SHIFTS = "BN reduces internal covariate shift"
_STAND_IN = "Running estimates stand in for the statistics of large test batches after a short run"
_DEGRADES = "Switching to running statistics costs accuracy"

CLAIMS = (
    combine(
        "3.3a",
        "Batch normalisation limits expressiveness",
        (
            _claim(
                "3.3a1", "BN_eps(c z) = BN_(eps / c^2)(z) for c > 0, so the scale of what enters "
                "is lost but for epsilon", scale_distance, "below", 1e-12,
                "rounding of float64 in a mean, a variance and a division", kind="exact",
                oracle="0; with statistics that are not scaled along it fails altogether",
                trap="epsilon left as it is", figure="floor", arms=("bn",),
            ),
            _decades(
                "3.3a2", _LIMITS, floor_fixed, "above", _TENTH, "a tenth more loss",
                condition="with gamma 1 and beta 0",
                control=_decades(
                    "3.3a2", _LIMITS, floor_affine, "above", _TENTH, "a tenth more loss",
                    condition="with gamma and beta learned", figure="floor", arms=("floor",),
                ),
                trap="a loss kept up by noise or by its rate is no floor: all images are one "
                "batch, and each network has its own rate; whether it still falls is 3.3f",
                figure="floor", arms=("floor",),
            ),
            _decades(
                "3.3a3", "gamma and beta lower that floor", floor_regained, "above", _TENTH,
                "a tenth more loss without them", figure="floor", arms=("floor",),
            ),
            _decades(
                "3.3a4", "On true labels, too, the training loss ends higher without gamma and "
                "beta", digits_fixed, "above", _TENTH, "a tenth more loss", figure="rates",
                trap="comparing at one rate: each has its own", arms=("bn", "bn_fixed"),
            ),
        ),
    ),
    combine(
        "3.3b",
        "Small batches make BN's statistics unreliable, which makes training fluctuate",
        (
            _claim(
                "3.3b1", _RELIABLE, spread_slope, "below", -0.4,
                "between no dependence and -1/2; the finite set lowers it a little further",
                condition="with i.i.d. batches",
                control=_claim(
                    "3.3b1", _RELIABLE, spread_slope_by_class, "below", -0.4,
                    "as with i.i.d. batches", condition="with batches by class",
                    figure="statistics", arms=("sizes",),
                ),
                oracle="i.i.d., first layer: sqrt((n - B) / (B (n - 1))), n images in batches",
                trap="an axis name on the seeds' axis would mix their statistics",
                figure="statistics", arms=("sizes",),
            ),
            _claim(
                "3.3b2", _GAP, small_gap, "above", 0.05, "a twentieth of a nat", unit="nat",
                figure="gap", arms=("sizes",), condition=_BY_BATCH,
                control=_claim(
                    "3.3b2", _GAP, small_gap_by_running, "above", 0.05, "a twentieth of a nat",
                    unit="nat", figure="gap", arms=("sizes",), condition=_BY_RUNNING,
                ),
                trap="a rate chosen with running statistics is one that does not need the batch's",
            ),
            _claim(
                "3.3b3", _CLASS_GAP, class_gap, "above", 0.05, "a twentieth of a nat", unit="nat",
                figure="gap", arms=("sizes",), condition=_BY_BATCH,
                control=_claim(
                    "3.3b3", _CLASS_GAP, class_gap_by_running, "above", 0.05,
                    "a twentieth of a nat", unit="nat", figure="gap", arms=("sizes",),
                    condition=_BY_RUNNING,
                ),
            ),
            _claim(
                "3.3b4", "With large batches of one class BN does not learn: normalising takes "
                "away what tells the class", class_loss, "above", 1.0,
                "a nat, of 2.3 before training", unit="nat", figure="gap", arms=("sizes",),
                trap="batches by class, one class after another, forget: here they are shuffled",
            ),
            _decades(
                "3.3b5", "The statistics of small batches make the loss of the same images "
                "fluctuate more", probe_fluctuation, "above", -_HALVED, "a factor of two",
                figure="statistics", arms=("sizes",),
            ),
            _decades(
                "3.3b6", _FLUCTUATES, small_fluctuation, "above", _QUARTER, "a quarter more",
                condition="in the smallest batches",
                control=_decades(
                    "3.3b6", _FLUCTUATES, large_fluctuation, "above", _QUARTER, "a quarter more",
                    condition="in the largest batches", figure="statistics", arms=("sizes",),
                ),
                trap="the losses of small batches fluctuate without BN, too: over those",
                figure="statistics", arms=("sizes",),
            ),
        ),
    ),
    _decades(
        "3.3f", "(added) That loss has stopped falling: half the steps reach it", floor_falls,
        "below", _TENTH, "a tenth, as in 3.3a2 and 3.3a3", figure="floor", arms=("floor",),
        trap="BN trains faster: a network that is not done has a high loss and no floor",
    ),
    _decades(
        "3.3e", "(added) In the smallest batches training fluctuates more also for the size of the "
        "loss", relative_fluctuation, "above", _QUARTER, "a quarter more", figure="statistics",
        arms=("sizes",), trap="a network that does not learn has a large loss",
    ),
    combine(
        "3.3c",
        "Batch normalisation shifts representations and changes usable learning rates",
        (
            _claim(
                "3.3c1", "Hidden layers are further from those without BN than another start is",
                alike, "above", 0.05, "a twentieth of the whole scale",
                trap="two networks differ without BN, too: another start is the measure",
                figure="rates", arms=("none", "none_again", "bn"),
            ),
            _claim(
                "3.3c2", _WIDER, rate_gain, "above", 0.5, "half an octave: at least one rate",
                unit="octaves", condition="where a run must end below half of its start",
                control=_claim(
                    "3.3c2", _WIDER, rate_gain_weak, "above", 0.5, "as above", unit="octaves",
                    condition="where it must end below its start", figure="rates",
                    keep_diverged=True,
                ),
                trap="networks whose units have died read log 10, by chance below their start",
                figure="rates", keep_diverged=True,
            ),
            _decades(
                "3.3c3", "A rate tuned without BN costs a network with BN", untuned_cost, "above",
                _TENTH, "a tenth more loss", figure="rates",
            ),
            _decades(
                "3.3c4", _SMOOTHER, range_ratio, "below", _HALVED, "half the range",
                condition="at rates of their own",
                control=_decades(
                    "3.3c4", _SMOOTHER, range_ratio_common, "below", _HALVED, "half the range",
                    condition="at the best rate without BN", figure="smoothness",
                ),
                oracle="Santurkar et al. 2018: BN smooths", trap="comparing at one rate",
                figure="smoothness",
            ),
            _decades(
                "3.3c5", "It varies less also for its size", relative_range_ratio, "below",
                _HALVED, "half the range over the loss",
                trap="a loss that is small has a small range", figure="smoothness",
            ),
            _decades(
                "3.3c6", "The gradient changes less along a step", gradient_ratio, "below",
                _HALVED, "half the change", figure="smoothness",
            ),
            _claim(
                "3.3c7", "Before training, gradients grow by pi / (pi - 1) a layer on the way "
                "down, in large batches", growth_above_limit, "within", 0.03,
                "2% of 1.467: finite width and batch", kind="paired", arms=("bn",),
                oracle="pi / (pi - 1) = 1.467 (Yang et al. 2019)", figure="growth",
                trap="the first layer's input and the output are not part of it",
            ),
            _claim(
                "3.3c8", "They grow as theory says in batches of every size", growth_off_theory,
                "below", 0.05, "5%: single wide networks scatter", arms=("bn",), figure="growth",
                oracle="((B - 1 + J0) / (1 - J1) - 1) / (B - 3) of a batch of B, 1.493 at 64",
            ),
            _claim(
                "3.3c9", "They grow faster than without BN", growth_excess, "above", 1.25,
                "a quarter a layer", arms=("bn",), figure="growth",
                oracle="1.467; without BN, with these weights, they keep their size",
            ),
        ),
    ),
    combine(
        "3.3d",
        "Batch normalisation improves stability, reduces internal covariate shift and regularises",
        (
            _claim(
                "3.3d1", "The training loss depends less on the rate", rate_spread, "below", -0.1,
                "a tenth of a nat in the spread", unit="nat", figure="rates", keep_diverged=True,
                trap="comparing at one rate",
            ),
            _decades(
                "3.3d2", "It depends less on the seed", seed_spread, "below", 0.0,
                "any: a spread has no smallest one worth having", figure="rates",
            ),
            _decades(
                "3.3d3", _SHIFTS, shift_ratio, "below", _HALVED, "half the distance",
                condition="at rates of their own",
                control=_decades(
                    "3.3d3", _SHIFTS, shift_ratio_common, "below", _HALVED, "half the distance",
                    condition="at the best rate without BN", figure="shift",
                ),
                oracle="Santurkar et al. 2018: no less shift, in networks with tuned rates",
                trap="comparing at one rate", figure="shift",
            ),
            _claim(
                "3.3d4", "A layer's gradient keeps its direction when the layers below move",
                cosine_gain, "above", 0.05, "a twentieth of the whole scale", figure="shift",
            ),
            _decades(
                "3.3d5", "Noise after BN brings the shift back", noisy_shift, "above", -_HALVED,
                "twice the distance", figure="shift", arms=("bn", "bn_noisy"),
            ),
            _decades(
                "3.3d6", "Yet it trains better than without BN: the benefit is not less shift",
                noisy_loss, "below", -_TENTH, "a tenth less loss", figure="shift",
                oracle="Santurkar et al. 2018", arms=("none", "bn_noisy"),
            ),
            _claim(
                "3.3d7", "The noise of batch statistics regularises: without it the gap between "
                "training and test loss is larger", ghost_gap, "above", 0.01,
                "a hundredth of a nat", unit="nat", figure="regularisation", arms=("ghost",),
                trap="larger batches take other steps: here only the statistics have more images",
            ),
            _claim(
                "3.3d8", "Without it the test error is larger", ghost_test, "above", 0.002,
                "a fifth of a percent", figure="regularisation", arms=("ghost",),
            ),
        ),
    ),
    combine(
        "3.4a",
        "At test time running estimates replace batch statistics",
        (
            _claim(
                "3.4a1", "They err as often as the statistics of one large test batch",
                running_against_all, "within", 0.01, "one percent", section="3 (4)",
                oracle="equal in the limit of large i.i.d. batches", figure="test_batches",
                arms=("bn",),
            ),
            _claim(
                "3.4a2", _STAND_IN, short_fast, "within", 0.02, "two percent", section="3 (4)",
                condition="with the lower momentum",
                control=_claim(
                    "3.4a2", _STAND_IN, short_slow, "within", 0.02, "two percent",
                    section="3 (4)", condition="with the higher momentum", figure="convergence",
                    arms=("bn",),
                ),
                trap="running averages that have not converged", figure="convergence",
                arms=("bn",),
            ),
            _claim(
                "3.4a3", "They must: the statistics of small test batches err more often",
                smallest_test, "above", 0.02, "two percent", section="3 (4)",
                figure="test_batches", arms=("bn",),
            ),
            _claim(
                "3.4a4", "So do those of test batches by class", class_test, "above", 0.02,
                "two percent", section="3 (4)", figure="test_batches", arms=("bn",),
            ),
        ),
    ),
    combine(
        "3.4c",
        "A model that relied on batch statistics degrades at test time",
        (
            _claim(
                "3.4c1", _GROWS, degradation_correlation, "above", 0.3, _RANKS, section="3 (4)",
                figure="degradation", arms=("sizes",), condition=_BY_BATCH,
                control=_claim(
                    "3.4c1", _GROWS, degradation_correlation_by_running, "above", 0.3, _RANKS,
                    section="3 (4)", figure="degradation", arms=("sizes",), condition=_BY_RUNNING,
                ),
                trap="a network that learned nothing has nothing to lose; a rate chosen with "
                "running statistics is one that does not need the batch's",
            ),
            _claim(
                "3.4c2", _DEGRADES, lost_by_class, "above", 0.02, "two percent", section="3 (4)",
                condition="after batches of about four classes",
                control=_claim(
                    "3.4c2", _DEGRADES, lost_iid, "above", 0.02, "two percent", section="3 (4)",
                    condition="after i.i.d. batches", figure="degradation", arms=("sizes",),
                ),
                figure="degradation", arms=("sizes",),
            ),
            _claim(
                "3.4c3", _WON_BACK, recalibration_gain, "above", 0.01, "one percent",
                section="3 (4)", figure="degradation", arms=("sizes",), condition=_BY_BATCH,
                control=_claim(
                    "3.4c3", _WON_BACK, recalibration_gain_by_running, "above", 0.01, "one percent",
                    section="3 (4)", figure="degradation", arms=("sizes",), condition=_BY_RUNNING,
                ),
            ),
            _claim(
                "3.4c4", "The test error with running statistics itself grows with that spread",
                error_correlation, "above", 0.3, _RANKS, section="3 (4)",
                figure="degradation", arms=("sizes",),
                trap="training that goes worse is no loss on switching",
            ),
        ),
    ),
    _claim(
        "3.4j", "(added) At a rate chosen with running statistics the switch costs nothing",
        lost_by_running, "below", 0.02, "two percent", section="3 (4)", figure="degradation",
        arms=("sizes",), condition="after batches of about four classes",
    ),
)  # fmt: skip
