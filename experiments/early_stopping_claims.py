"""The claims of `early_stopping` (1.1c, 1.3e to 1.3g): statistics of the record, and thresholds.

All are about the main patience, unless a control says otherwise. Errors are shares of the test
images with true labels; the gap between test and training error is taken with labels that are as
wrong on both sides. Thresholds are the smallest effects worth having, fixed with their reasons
before the first run.
"""

import math

import numpy as np

from dlstudy.claims import Claim, combine

# -- parts of statistics


def of_arm(record, name, arm, patience=None):
    """Values [S] of an arm, for the main patience or another one."""
    patience = record.attrs["main_patience"] if patience is None else patience
    return record[name].sel(arm=arm, patience=patience).values.astype(float)


def least(record) -> int:
    """The least patience."""
    return int(record.patience.values[0])


def curve(record, name, trajectory="stopped"):
    """Values [S, evaluations from 0] of a training that goes on to the cap."""
    return record[f"curve_{name}"].sel(trajectory=trajectory).values.astype(float)


def gap(record, arm):
    """Test error minus training error [S], labels as wrong in both."""
    return of_arm(record, "noisy_test_error", arm) - of_arm(record, "train_error", arm)


def by_book(errors, steps, patience) -> int:
    """i* of algorithm 7.1, written out as the book has it."""
    i = j = best_step = 0
    v = math.inf
    for error in errors:
        if not j < patience:
            break
        i += steps
        if error < v:
            j, best_step, v = 0, i, error
        else:
            j += 1
    return best_step


# -- 1.1c


def norm_stopped(record):
    """norm of the parameters, stopped / neither"""
    return of_arm(record, "norm", "stopped") / of_arm(record, "norm", "neither")


def norm_decayed(record):
    """norm of the parameters, decayed / neither"""
    return of_arm(record, "norm", "decayed") / of_arm(record, "norm", "neither")


def gap_stopped(record):
    """test minus training error, neither - stopped"""
    return gap(record, "neither") - gap(record, "stopped")


def gap_decayed(record):
    """test minus training error, neither - decayed"""
    return gap(record, "neither") - gap(record, "decayed")


def gain_stopped(record):
    """test error, neither - stopped"""
    return of_arm(record, "test_error", "neither") - of_arm(record, "test_error", "stopped")


def gain_decayed(record):
    """test error, neither - decayed"""
    return of_arm(record, "test_error", "neither") - of_arm(record, "test_error", "decayed")


def peeked(record, name, patience=None):
    """Values [S] where 7.1 stops with test images for validation."""
    patience = record.attrs["main_patience"] if patience is None else patience
    at = record["peeked_step"].sel(patience=patience).values // record.attrs["every"]
    return np.take_along_axis(curve(record, name), at[:, None], 1)[:, 0]


def gain_peeked(record):
    """error on the images that chose the stop, neither - stopped, test images for validation"""
    return curve(record, "peek_error", "neither")[:, -1] - peeked(record, "peek_error")


# -- 1.3e


def regret(record, patience=None):
    """test error at the stop - the least along the whole training"""
    lowest = np.nanmin(curve(record, "test_error"), 1)
    return of_arm(record, "test_error", "stopped", patience) - lowest


def regret_least(record):
    """test error at the stop - the least along the whole training, least patience"""
    return regret(record, least(record))


def saved(record, patience=None):
    """test error at the end of the training - at the stop"""
    end = curve(record, "test_error")[:, -1]
    return end - of_arm(record, "test_error", "stopped", patience)


def saved_least(record):
    """test error at the end of the training - at the stop, least patience"""
    return saved(record, least(record))


def misplaced_stops(record):
    """steps between i* and that of the book's loop on the same errors, summed over patiences"""
    every, errors = record.attrs["every"], record["watched"].values
    found = record["best_step"].transpose("seed", "patience").values
    expected = [[by_book(row, every, p) for p in record.patience.values] for row in errors]
    return np.abs(found - np.array(expected)).sum(1)


# -- 1.3f


def retraining_gain(record):
    """test error of 7.1 - of 7.2 with i* in steps"""
    return of_arm(record, "test_error", "stopped") - of_arm(record, "test_error", "retrain_steps")


def retraining_gain_epochs(record):
    """test error of 7.1 - of 7.2 with i* in passes"""
    return of_arm(record, "test_error", "stopped") - of_arm(record, "test_error", "retrain_epochs")


# -- 1.3g


def cost(record, arm="continue_last"):
    """steps after 7.1: of 7.3, over those of 7.2 with i* in steps"""
    retraining = of_arm(record, "further_steps", "retrain_steps")
    ratio = of_arm(record, "further_steps", arm) / np.where(retraining > 0, retraining, 1)
    return np.where(retraining > 0, ratio, np.nan)


def cost_from_best(record):
    """steps after 7.1: of 7.3 from the best parameters, over those of 7.2 with i* in steps"""
    return cost(record, "continue_best")


def capped(record, start="last"):
    """1 if 7.3 hit the cap"""
    patience = record.attrs["main_patience"]
    return record["capped"].sel(start=start, patience=patience).values


def capped_from_best(record):
    """1 if 7.3 from the best parameters hit the cap"""
    return capped(record, "best")


def harm(record, arm="continue_last"):
    """test error of 7.3 - of 7.2 with i* in steps"""
    return of_arm(record, "test_error", arm) - of_arm(record, "test_error", "retrain_steps")


def harm_from_best(record):
    """test error of 7.3 from the best parameters - of 7.2 with i* in steps"""
    return harm(record, "continue_best")


# -- the claims

_NORM = "a tenth: what a plot of both norms from zero shows at a glance"
_GAP = "two in a hundred: a tenth of the share of wrong labels, which is what there is to overfit"
_ERROR = "one image in a hundred: about the spread of the test error between seeds"
_MORE_DATA = (
    "a quarter of a percent: at an error of some percent, which falls as one over the root of the "
    "data, a quarter more of them saves about twice that"
)
_COST = "a fifth of the steps: less does not repay watching another objective"
_CAPPED = "one run in ten that does not end by itself is enough to need a cap"
_OF_IMAGES = "of the images"


def _claim(id, sentence, statistic, direction, threshold, reason, arms, **more):
    more = {"kind": "paired", "unit": "", "section": "1 (3)"} | more
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, arms=arms, **more,
    )  # fmt: skip


def _of_1_1c(id, sentence, statistic, direction, threshold, reason, arm, **more):
    more = {"section": "1 (1)", "figure": "arms"} | more
    return _claim(id, sentence, statistic, direction, threshold, reason, ("neither", arm), **more)


_STARTS = {"condition": "from where 7.1 stopped"}
_BESTS = {"condition": "from the best parameters of 7.1"}
_FROM_LAST = ("stopped", "retrain_steps", "continue_last")
_FROM_BEST = ("stopped", "retrain_steps", "continue_best")
_OWN_LOSS = "dropout left on would make the objective random: there is none, here"

CLAIMS = (
    combine(
        "1.1c",
        "Early stopping and L2 keep weights small, reduce overfitting and improve generalisation",
        (
            _of_1_1c("1.1c1", "Early stopping keeps the weights small", norm_stopped, "below", 0.9,
                     _NORM, "stopped"),
            _of_1_1c("1.1c2", "L2 keeps the weights small", norm_decayed, "below", 0.9, _NORM,
                     "decayed"),
            _of_1_1c("1.1c3", "Early stopping reduces overfitting", gap_stopped, "above", 0.02,
                     _GAP, "stopped", unit=_OF_IMAGES,
                     trap="a rate too slow to fit the labels would be a stop of its own: the "
                     "figure says how far neither fits them"),
            _of_1_1c("1.1c4", "L2 reduces overfitting", gap_decayed, "above", 0.02, _GAP,
                     "decayed", unit=_OF_IMAGES),
            _of_1_1c(
                "1.1c5", "Early stopping generalises better", gain_stopped, "above", 0.01, _ERROR,
                "stopped", unit=_OF_IMAGES, condition="with a validation set of its own",
                control=_of_1_1c(
                    "1.1c5", "Early stopping generalises better", gain_peeked, "above", 0.01,
                    _ERROR, "stopped", unit=_OF_IMAGES, figure="peeking",
                    condition="with the test set as validation set",
                ),
                trap="a test set that chose the stop flatters it: the control, and its figure",
            ),
            _of_1_1c("1.1c6", "L2 generalises better", gain_decayed, "above", 0.01, _ERROR,
                     "decayed", unit=_OF_IMAGES,
                     trap="a best penalty at the grid's edge: the figure of the tuning"),
        ),
        section="1 (1)",
    ),
    combine(
        "1.3e",
        "Early stopping with patience finds a good stopping time",
        (
            _claim(
                "1.3e1", "As good as the best moment in hindsight", regret, "below", 0.01, _ERROR,
                ("stopped",), unit=_OF_IMAGES, figure="patience",
                condition="with the main patience",
                control=_claim(
                    "1.3e1", "As good as the best moment in hindsight", regret_least, "below",
                    0.01, _ERROR, ("stopped",), unit=_OF_IMAGES, figure="patience",
                    condition="with the least patience",
                ),
                trap="hindsight chooses among noisy errors, so it looks better than it is: the "
                "claim is judged too strictly rather than too mildly",
            ),
            _claim(
                "1.3e2", "Better than training on to the end", saved, "above", 0.01, _ERROR,
                ("stopped",), unit=_OF_IMAGES, figure="patience",
                condition="with the main patience",
                control=_claim(
                    "1.3e2", "Better than training on to the end", saved_least, "above", 0.01,
                    _ERROR, ("stopped",), unit=_OF_IMAGES, figure="patience",
                    condition="with the least patience",
                ),
            ),
            _claim(
                "1.3e3", "It stops where the book's loop stops", misplaced_stops, "within", 0.0,
                "the same rule on the same numbers", (), kind="exact", unit="steps",
                figure="curves", oracle="hand-written traces: strict <, patience in evaluations",
            ),
        ),
    ),
    _claim(
        "1.3f", "Retraining on all data for i* steps beats early stopping alone", retraining_gain,
        "above", 0.0025, _MORE_DATA, ("stopped", "retrain_steps"), unit=_OF_IMAGES,
        figure="algorithms", condition="with i* counted in steps",
        control=_claim(
            "1.3f", "Retraining on all data for i*'s passes beats early stopping alone",
            retraining_gain_epochs, "above", 0.0025, _MORE_DATA, ("stopped", "retrain_epochs"),
            unit=_OF_IMAGES, figure="algorithms", condition="with i* counted in passes",
        ),
        trap="steps are not passes once the set has grown: both are run",
    ),
    combine(
        "1.3g",
        "Continuing on all data is cheaper than retraining, and less well behaved",
        (
            _claim(
                "1.3g1", "It takes fewer steps", cost, "below", 0.8, _COST, _FROM_LAST, **_STARTS,
                figure="cost",
                control=_claim("1.3g1", "It takes fewer steps", cost_from_best, "below", 0.8,
                               _COST, _FROM_BEST, figure="cost", **_BESTS),
            ),
            _claim(
                "1.3g2", "It may not end by itself", capped, "above", 0.1, _CAPPED, _FROM_LAST,
                kind="proportion", figure="curves", **_STARTS, trap=_OWN_LOSS,
                control=_claim("1.3g2", "It may not end by itself", capped_from_best, "above", 0.1,
                               _CAPPED, _FROM_BEST, kind="proportion", figure="curves", **_BESTS),
            ),
            _claim(
                "1.3g3", "Its test error is higher", harm, "above", 0.0025, _MORE_DATA, _FROM_LAST,
                unit=_OF_IMAGES, figure="algorithms", **_STARTS,
                control=_claim("1.3g3", "Its test error is higher", harm_from_best, "above",
                               0.0025, _MORE_DATA, _FROM_BEST, unit=_OF_IMAGES,
                               figure="algorithms", **_BESTS),
            ),
        ),
    ),
)  # fmt: skip
