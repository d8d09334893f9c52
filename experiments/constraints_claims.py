"""The claims of `constraints`: a statistic of the record, and a threshold, for each.

A run has *diverged* once a batch's loss is not finite or above ten times the loss before training.
Gradient descent on cross-entropy at too high a rate rarely does that: its gradients are bounded,
and what is lost first are the units, which end up off at every input. Such a network reads log 10
for ever, within a hundredth of where it started, on either side. A run is therefore *stable* if it
did not diverge and its training loss ends below half of its start; the weaker rule, below the
start, stands beside it as a control. "Best" is each seed's own choice of rate by the tuning loss.
Thresholds are the smallest effects worth having, fixed with their reasons before the first run.
"""

import numpy as np

from dlstudy.claims import Claim, combine

LEARNED = 0.5  # of the loss before training: a run that ends below has learned

# -- parts of statistics


def arms_of(record, kind: str) -> list[str]:
    """Names of the arms of a kind: "column", "penalty", "row", "frobenius"."""
    return [str(arm) for arm in record.arm.values if str(arm).startswith(f"{kind}_")]


def strength_of(arm: str) -> float:
    return float(arm.split("_")[1])


def middle(record, kind: str = "column") -> str:
    """The arm of a kind whose strength is the middle one of the grid."""
    found = arms_of(record, kind)
    return found[len(found) // 2]


def best(record, arm: str) -> np.ndarray:
    """Index of the rate [S] with the lowest tuning loss; -1 where every rate diverged."""
    own = record.sel(arm=arm)
    loss = own["tune_loss"].transpose("multiplier", "seed").values.astype(float)
    good = np.isfinite(loss) & (own["diverged_at"].transpose("multiplier", "seed").values < 0)
    return np.where(good.any(0), np.where(good, loss, np.inf).argmin(0), -1)


def at_best(record, name: str, arm: str, otherwise=np.nan) -> np.ndarray:
    """A variable at the arm's best rate, [S, ...]; where every rate diverged, `otherwise`.

    An integer `otherwise` is the index of the rate to take there.
    """
    values = record[name].sel(arm=arm).transpose("seed", "multiplier", ...).values
    chosen = best(record, arm)
    found = values[np.arange(len(chosen)), np.maximum(chosen, 0)]
    if otherwise is np.nan:
        lost = (chosen < 0).reshape(-1, *[1] * (found.ndim - 1))
        return np.where(lost, np.nan, found.astype(float))
    fallback = values[np.arange(len(chosen)), otherwise]
    return np.where((chosen < 0).reshape(-1, *[1] * (found.ndim - 1)), fallback, found)


def diverged(record, arm: str) -> np.ndarray:
    """bool[rates, S]."""
    return record["diverged_at"].sel(arm=arm).transpose("multiplier", "seed").values >= 0


def stable(record, arm: str, learned: float = LEARNED) -> np.ndarray:
    """bool[rates, S]: neither diverged, nor ended above this part of the loss before training."""
    own = record.sel(arm=arm)
    end, start = (
        own[name].transpose("multiplier", "seed").values for name in ("train_loss", "start_loss")
    )
    return ~diverged(record, arm) & (end < learned * start)


def largest_stable(record, arm: str, learned: float = LEARNED) -> np.ndarray:
    """log2 of the largest multiple of the lowest rate [S] that was stable; NaN: none was."""
    found = stable(record, arm, learned)
    logs = np.log2(record.multiplier.values.astype(float))[:, None]
    return np.where(found.any(0), np.where(found, logs, -np.inf).max(0), np.nan)


# -- 1.3a


def _overshoot(record, name):
    """Largest over rates, steps and bounds of (column norm / bound - 1), [S]."""
    own = record.sel(arm=arms_of(record, "column"))
    worst = own[name].max(("multiplier", "step"), skipna=False).astype(float)
    return (worst / own["column_bound"] - 1).max("arm", skipna=False).transpose("seed").values


def overshoot(record):
    """largest column norm over its bound, less 1: all radii, rates and steps"""
    return _overshoot(record, "column_norm")


def overshoot_before(record):
    """largest column norm over its bound, less 1, when the step comes after the projection"""
    return _overshoot(record, "free_column_norm")


def fewer_diverge(record):
    """rates of the grid that diverge: no constraint minus the middle radius"""
    free, bounded = diverged(record, "none"), diverged(record, middle(record))
    return free.sum(0) - bounded.sum(0)


def rate_gain(record, learned=LEARNED):
    """log2 of the largest stable rate: the middle radius over no constraint"""
    bounded = largest_stable(record, middle(record), learned)
    return bounded - largest_stable(record, "none", learned)


def rate_gain_weak(record):
    """the same ratio, where it is enough that a run ends below its start"""
    return rate_gain(record, 1.0)


def rate_gain_on_penalty(record):
    """log2 of the largest stable rate: the middle radius over the best of the penalties"""
    penalties = [largest_stable(record, arm) for arm in arms_of(record, "penalty")]
    most = np.fmax.reduce(penalties)  # ignores NaN, unless all are
    return largest_stable(record, middle(record)) - most


def optimisation_cost(record):
    """log10 of the training loss at the best rates: the middle radius over no constraint"""
    bounded, free = (at_best(record, "train_loss", arm) for arm in (middle(record), "none"))
    return np.log10(bounded / free)


def one_large_unit(record):
    """largest column norm at any step, at the best rates: Frobenius ball over balls by column"""
    most = [
        at_best(record, "column_norm", middle(record, kind)).max(1)
        for kind in ("frobenius", "column")
    ]
    return most[0] / most[1]


# -- 1.3b


def crossing(record, path: str) -> np.ndarray:
    """Where each seed's training error passes the matched one: place along the path, [S].

    Between neighbours by linear interpolation; the first such place where there are several. NaN
    where there is none, or where the two neighbours' errors are further apart than the margin.
    """
    errors = record[f"{path}_train_error"].transpose(..., "seed").values.astype(float)
    target, margin = float(record.attrs["match_error"]), float(record.attrs["match_margin"])
    below, above = errors[:-1], errors[1:]
    with np.errstate(invalid="ignore"):
        crosses = (below <= target) & (target < above)
    first = crosses.argmax(0)
    seeds = np.arange(errors.shape[1])
    step = np.where(crosses.any(0), above[first, seeds] - below[first, seeds], np.inf)
    part = (target - below[first, seeds]) / step
    return np.where(step <= margin, first + part, np.nan)


def at_match(record, path: str, name: str) -> np.ndarray:
    """A variable of a path at the matched training error, [S]."""
    values = record[f"{path}_{name}"].transpose(..., "seed").values.astype(float)
    place = crossing(record, path)
    known = np.isfinite(place)
    low = np.where(known, np.floor(np.where(known, place, 0)), 0).astype(int)
    part, seeds = place - low, np.arange(len(place))
    return (1 - part) * values[low, seeds] + part * values[low + 1, seeds]


def dead_by_penalty(record):
    """share of units without weight: penalty at the matched error minus no penalty"""
    return at_match(record, "penalty", "dead") - record["penalty_dead"].values[0]


def dead_spared(record):
    """share of units without weight at the matched error: penalty minus projection"""
    return at_match(record, "penalty", "dead") - at_match(record, "projection", "dead")


def inactive_spared(record):
    """share of units off at every input, at the matched error: penalty minus projection"""
    return at_match(record, "penalty", "inactive") - at_match(record, "projection", "inactive")


def still_dead(record):
    """share of the units that a penalty left without weight that have none once it is lifted"""
    dead = at_match(record, "penalty", "dead")
    return np.where(dead > 0, at_match(record, "penalty", "still_dead") / dead, np.nan)


# -- the claims

_ROUNDING = "6e-7: rounding of float32 in a norm and in adding the step"
_RATE = "more than half a rate: at least one of the grid, for most seeds"
_OCTAVE = "half an octave: at least one rate of the grid, which is in octaves"
_UNITS = "one unit in twenty"


def _claim(id, sentence, statistic, direction, threshold, reason, **more):
    # Runs that diverge are what these claims are about.
    more = {"kind": "paired", "unit": "", "section": "1 (3)", "keep_diverged": True} | more
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, **more,
    )  # fmt: skip


_BOUNDED = "Every column norm is at most its bound after every step"
_FASTER = "The largest stable rate grows"

CLAIMS = (
    combine(
        "1.3a",
        "Projection onto a norm ball bounds the weights and keeps training stable",
        (
            _claim(
                "1.3a1", _BOUNDED, overshoot, "below", 6e-7, _ROUNDING, kind="exact",
                figure="column_norms", condition="when projected after the update",
                control=_claim(
                    "1.3a1", _BOUNDED, overshoot_before, "below", 6e-7, _ROUNDING, kind="exact",
                    condition="when projected before the update", figure="column_norms",
                ),
                oracle="projection is idempotent and non-expansive, and equals brute force",
                trap="Flax keeps incoming weights along axis 0: rows bound something else; a step "
                "taken after the projection leaves the ball",
            ),
            _claim(
                "1.3a2", "Fewer rates diverge", fewer_diverge, "above", 0.5, _RATE, unit="rates",
                trap="bounded gradients: cross-entropy seldom diverges, the units die instead; "
                "diverged is a loss not finite or above ten times the start's",
                figure="diverged",
            ),
            _claim(
                "1.3a3", _FASTER, rate_gain, "above", 0.5, _OCTAVE, unit="octaves",
                condition="where a run must end below half of its starting loss",
                control=_claim(
                    "1.3a3", _FASTER, rate_gain_weak, "above", 0.5, _OCTAVE, unit="octaves",
                    condition="where it must end below its starting loss", figure="stable_rate",
                ),
                trap="a network whose units have all died reads log 10, below or above its start "
                "by chance; at the end of the grid the largest rate is a lower bound",
                figure="stable_rate",
            ),
            _claim(
                "1.3a4", "It is larger than under any of the L2 penalties", rate_gain_on_penalty,
                "above", 0.5, _OCTAVE, unit="octaves", figure="stable_rate",
                trap="one penalty alone may be badly chosen: the most stable of the grid is taken",
            ),
            _claim(
                "1.3a5", "Optimisation stays effective", optimisation_cost, "below",
                float(np.log10(2)), "a factor of two in the training loss after the same steps",
                unit="decades", figure="training",
                trap="one rate for all arms: each has the one that the tuning split prefers",
            ),
        ),
        section="1 (3)",
    ),
    _claim(
        "1.3h", "Bounding columns rather than the Frobenius norm keeps any one unit from having "
        "very large weights", one_large_unit, "above", 1.5,
        "half as large again, with the same sum of squares allowed in all",
        section="book 7.2", figure="column_norms",
        trap="bounds of different size: the Frobenius ball has room for what all columns may have",
    ),
    combine(
        "1.3b",
        "Projection avoids dead units that a penalty causes",
        (
            _claim("1.3b1", "A penalty leaves units without weight", dead_by_penalty, "above", 0.05,
                   _UNITS, figure="dead"),
            _claim(
                "1.3b2", "Projection leaves fewer without weight, at the same training error",
                dead_spared, "above", 0.05, _UNITS, figure="dead",
                trap="comparing at different training errors",
            ),
            _claim(
                "1.3b3", "Projection leaves fewer that never fire, at the same training error",
                inactive_spared, "above", 0.05, _UNITS, figure="dead",
                trap="units that never fire have lost no weight: two statistics",
            ),
        ),
        section="1 (3)",
    ),
    _claim(
        "1.3i", "A penalty's dead units are trapped: they stay dead once it is lifted", still_dead,
        "above", 0.5, "most of them", section="book 7.2", figure="lifted",
        trap="too short a wait: as many epochs without the penalty as with it",
    ),
)  # fmt: skip
