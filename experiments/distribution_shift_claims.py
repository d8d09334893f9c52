"""The claims of `distribution_shift`: a statistic of the record, and a threshold, for each.

Errors under shift are means over all kinds of corruption and severities 1 to 5. A network that errs
more on clean images errs more on any: what is compared is the error above a network's own on clean
images, and the network without batch normalisation is picked, among learning rates and epochs, to
have the same clean tuning error. Thresholds are the smallest effects worth having, fixed with their
reasons before the first run.
"""

import numpy as np

from dlstudy.claims import Claim, combine

# -- parts of statistics


def errors(record, arm: str, pick: str = "best") -> np.ndarray:
    """[corruption, severity, S]."""
    own = record["error"].sel(arm=arm, pick=pick).transpose("corruption", "severity", "seed")
    return own.values.astype(float)


def clean(record, arm: str, pick: str = "best") -> np.ndarray:
    """Error without corruption, [S]."""
    return errors(record, arm, pick)[0, 0]


def shifted(record, arm: str, pick: str = "best") -> np.ndarray:
    """Error by kind of corruption, mean over its severities, [corruption, S]."""
    return errors(record, arm, pick)[:, 1:].mean(1)


def degradation(record, arm: str, pick: str = "best") -> np.ndarray:
    """Mean error under shift less the error without, [S]."""
    return shifted(record, arm, pick).mean(0) - clean(record, arm, pick)


# -- the statistics


def degrades(record):
    """error under shift less the clean error: batch normalisation with running statistics"""
    return degradation(record, "running")


def degrades_more(record):
    """what shift adds to the error: batch normalisation minus none, at the same clean error"""
    return degradation(record, "running", "matched") - degradation(record, "none", "matched")


def degrades_more_at_best(record):
    """what shift adds to the error: batch normalisation minus none, each tuned to its best"""
    return degradation(record, "running") - degradation(record, "none")


def mean_shift(record):
    """distance of the first layer's means from the running ones: shifted minus clean

    In running standard deviations, root mean square over units.
    """
    values = record["shift"].sel(pick="best").transpose("corruption", "severity", "seed").values
    return values[:, 1:].mean((0, 1)) - values[0, 0]


def batch_gain(record):
    """error under shift: running minus the test batch's statistics, batches at random"""
    return (shifted(record, "running") - shifted(record, "batch")).mean(0)


def ordered_gain(record):
    """the same with test batches in the order of their classes"""
    return (shifted(record, "running") - shifted(record, "ordered")).mean(0)


def least_gain(record):
    """error under shift, running minus batch statistics: the least over kinds of corruption"""
    return (shifted(record, "running") - shifted(record, "batch")).min(0)


def batch_loss(record):
    """error on clean images: the test batch's statistics minus running ones"""
    return clean(record, "batch") - clean(record, "running")


def ordered_loss(record):
    """the same with test batches in the order of their classes"""
    return clean(record, "ordered") - clean(record, "running")


def recalibrated_gain(record):
    """error under shift: running minus statistics of corrupted tuning images, without labels"""
    return (shifted(record, "running") - shifted(record, "recalibrated")).mean(0)


def recalibrated_cost(record):
    """error under shift: statistics of corrupted tuning images minus those of the test batch"""
    return (shifted(record, "recalibrated") - shifted(record, "batch")).mean(0)


def batch_robust(record):
    """what shift adds to the error: no batch normalisation minus batch statistics, same clean error

    Both are above the clean error with the statistics under which the two were matched.
    """
    none = degradation(record, "none", "matched")
    own = shifted(record, "batch", "matched").mean(0) - clean(record, "running", "matched")
    return none - own


# -- the claims

_POINTS = "two percentage points"
_SLIGHT = "two percentage points: more is not slight"


def _claim(id, sentence, statistic, direction, threshold, reason, **more):
    more = {
        "kind": "paired", "unit": "", "section": "added (Nado et al. 2020)",
        "figure": "error_by_severity", "arms": ("running",),
    } | more  # fmt: skip
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, **more,
    )  # fmt: skip


_BOTH = ("running", "none")
_MORE = "It degrades more than a network without batch normalisation"
_WINS = "Prediction-time statistics win under shift"
_SLIGHTLY = "They lose slightly without shift"

CLAIMS = (
    combine(
        "3.4b",
        "A test distribution that differs from training degrades batch normalisation",
        (
            _claim(
                "3.4b1", "The error rises under shift with running statistics", degrades, "above",
                0.05, "five percentage points: the clean error at least doubles", section="3 (4)",
            ),
            _claim(
                "3.4b2", _MORE, degrades_more, "above", 0.02, _POINTS, section="3 (4)",
                figure="degradation", arms=_BOTH, condition="at the same clean error",
                control=_claim(
                    "3.4b2", _MORE, degrades_more_at_best, "above", 0.02, _POINTS, section="3 (4)",
                    figure="degradation", arms=_BOTH, condition="each tuned to its best",
                ),
                trap="networks with different clean errors; errors instead of what shift adds",
            ),
            _claim(
                "3.4b3", "Running estimates are those of another distribution", mean_shift, "above",
                0.25, "a quarter of a standard deviation", section="3 (4)", figure="mean_shift",
                unit="standard deviations",
            ),
        ),
        section="3 (4)",
    ),
    _claim(
        "3.4d", _WINS, batch_gain, "above", 0.02, _POINTS, arms=("running", "batch"),
        condition="with test batches at random", figure="gains",
        control=_claim(
            "3.4d", _WINS, ordered_gain, "above", 0.02, _POINTS, arms=("running", "ordered"),
            condition="with test batches in the order of classes", figure="gains",
        ),
        trap="class-ordered batches: a batch of one class has the class's statistics",
    ),
    _claim(
        "3.4e", "They win under every kind of corruption", least_gain, "above", 0.0,
        "any gain: the sentence says every", arms=("running", "batch"), figure="gains",
    ),
    combine(
        "3.4f",
        "Prediction-time statistics lose slightly without shift",
        (
            _claim(
                "3.4f1", "They lose without shift", batch_loss, "above", 0.0, "any loss",
                arms=("running", "batch"),
            ),
            _claim(
                "3.4f2", _SLIGHTLY, batch_loss, "below", 0.02, _SLIGHT, arms=("running", "batch"),
                condition="with test batches at random",
                control=_claim(
                    "3.4f2", _SLIGHTLY, ordered_loss, "below", 0.02, _SLIGHT,
                    arms=("running", "ordered"),
                    condition="with test batches in the order of classes",
                ),
                trap="class-ordered batches",
            ),
        ),
        section="added (Nado et al. 2020)",
    ),
    _claim(
        "3.4g", "Statistics of unlabelled corrupted images win under shift", recalibrated_gain,
        "above", 0.02, _POINTS, arms=("running", "recalibrated"), section="added", figure="gains",
    ),
    _claim(
        "3.4h", "They do as well as the test batch's own", recalibrated_cost, "below", 0.005,
        "half a percentage point", arms=("batch", "recalibrated"), section="added", figure="gains",
    ),
    _claim(
        "3.4i", "With prediction-time statistics, shift adds less to the error than without batch "
        "normalisation", batch_robust, "above", 0.02, _POINTS, arms=("batch", "none"),
        section="added", figure="degradation",
        trap="networks with different clean errors: picked at the same tuning error",
    ),
)  # fmt: skip
