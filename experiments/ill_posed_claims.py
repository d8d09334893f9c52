"""The claims of `ill_posed` (problem 1, question 3): a statistic of the record for each sentence.

"Late" is the last tenth of the log time. Thresholds are the smallest effects worth having, fixed
with their reasons before the first run.
"""

import numpy as np

from dlstudy.claims import Claim, combine

LOWEST = 1e-13  # ridge down to which the slope is asked for
SMALL = 1e-2  # largest ridge over the smallest singular value's square that counts as small
CONSTANT = 1e-10  # ridge from which the constant is read

# -- parts of statistics


def late(log_time) -> int:
    """Index at which the last tenth of the log time begins."""
    return min(int(np.searchsorted(log_time, 0.9 * log_time[-1])), len(log_time) - 2)


def late_slopes(record):
    """d|w| / d ln t over the last tenth of the log time, [penalties, S], first without one."""
    norm, log_time = record["norm"].values, record["log_time"].values
    i = late(log_time)
    return (norm[..., -1] - norm[..., i]) / (log_time[-1] - log_time[i])


def end_of(record, name, solver):
    return record[name].sel(solver=solver).values[:, -1]


def small_ridges(record, seed, lowest, highest):
    """Indices of the ridges from `lowest` to `highest` times a seed's smallest eigenvalue."""
    ridge = record["ridge"].values
    top = highest * record["smallest"].values[seed] ** 2
    return np.flatnonzero((ridge >= 0.999 * lowest) & (ridge <= top))


def slope_in(record, form):
    """Slope of log error over log ridge, by least squares, [S]."""
    errors = record["inverse_error"].sel(form=form).values
    found = np.full(len(errors), np.nan)
    for s, error in enumerate(errors):
        kept = small_ridges(record, s, LOWEST, SMALL)
        if len(kept) > 1 and (error[kept] > 0).all():
            logs = np.log10(record["ridge"].values[kept]), np.log10(error[kept])
            found[s] = np.polyfit(*logs, 1)[0]
    return found


# -- 1.3c


def growth(record):
    """late d|w|/d ln t without a penalty, times the hard margin, minus 1"""
    return late_slopes(record)[0] * record["margin"].values - 1


def growth_left(record):
    """late d|w|/d ln t times the hard margin, largest over the penalties"""
    return late_slopes(record)[1:].max(0) * record["margin"].values


def bound_used(record):
    """largest |w| on the way over sqrt(2 ln 2 / penalty), largest over the penalties"""
    norm = record["norm"].values[1:].max(2)
    bound = np.sqrt(2 * np.log(2) / record["penalty"].values[1:])
    return (norm / bound[:, None]).max(0)


def apart_without(record):
    """distance between gradient descent's ends from two starts, over the shortest solution"""
    return record["between_starts"].sel(decayed=0).values


def apart_with(record):
    """distance between weight decay's ends from two starts, over the shortest solution"""
    return record["between_starts"].sel(decayed=1).values


def beyond_decay(record):
    """distance of standard weight decay's end from the stabilised inverse's solution, relative"""
    return record["from_ridge"].sel(solver="weight_decay").values


def new_variance(record, stabiliser):
    """log10 of the largest variance of whitened new samples; whitening is to make it 1"""
    return np.log10(record["new_variance"].sel(stabiliser=stabiliser).values)


def variance_without(record):
    """log10 of the largest variance of whitened new samples, without a stabiliser"""
    return new_variance(record, 0.0)


def variance_with(record):
    """log10 of the largest variance of whitened new samples, with a stabiliser"""
    return new_variance(record, record.attrs["main_stabiliser"])


# -- 1.3d


def slope_dual(record):
    """slope of log |pseudoinverse - X'(XX' + ridge I)^-1| over log ridge, minus 1"""
    return slope_in(record, "dual") - 1


def slope_primal(record):
    """slope of log |pseudoinverse - (X'X + ridge I)^-1 X'| over log ridge, minus 1"""
    return slope_in(record, "primal") - 1


def constant_in(record, form):
    """Error times s^3 over ridge, minus 1, where it is farthest from 0, [S]."""
    errors = record["inverse_error"].sel(form=form).values
    found = np.full(len(errors), np.nan)
    for s, error in enumerate(errors):
        kept = small_ridges(record, s, CONSTANT, SMALL)
        if len(kept):
            smallest = record["smallest"].values[s]
            apart = error[kept] * smallest**3 / record["ridge"].values[kept] - 1
            found[s] = apart[np.abs(apart).argmax()]
    return found


def constant_dual(record):
    """error of the dual form over ridge / s^3, minus 1, at the worst ridge from 1e-10 on"""
    return constant_in(record, "dual")


def from_zero(record):
    """distance of gradient descent's end from the minimum-norm solution, started at zero"""
    return end_of(record, "distance", "gradient_descent")


def from_another_start(record):
    """distance of gradient descent's end from the minimum-norm solution, started elsewhere"""
    return end_of(record, "distance", "other_start")


def adam_unseen(record):
    """part of Adam's end that X maps to zero, over the norm of the shortest solution"""
    fitted = end_of(record, "residual", "adam") < FITTED
    return np.where(fitted, record["unseen"].sel(solver="adam").values, np.nan)


# -- the claims

FITTED = 1e-4  # residual from which on Adam's end is a solution
_TWENTIETH = "a twentieth: the slope approaches 1/margin like a power of 1/t or of 1/ln t"
_SAME = "one in a million: what is left of a distance that falls geometrically"
_LIMIT = "a twentieth: rounding at the smallest ridges and curvature at the largest"
_LEAST = "Gradient descent ends at the minimum-norm solution"
_SLOPE = "It approaches the pseudoinverse in proportion to the ridge"


def _claim(id, sentence, statistic, direction, threshold, reason, **more):
    more = {"kind": "paired", "unit": "", "section": "1 (3)"} | more
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, **more,
    )  # fmt: skip


CLAIMS = (
    combine(
        "1.3c",
        "Regularisation makes ill-posed problems converge",
        (
            _claim(
                "1.3c1", "Without a penalty the weights of separable logistic regression grow "
                "with ln t for ever", growth, "within", 0.05, _TWENTIETH, arms=("flow",),
                oracle="d|w|/d ln t tends to 1 / hard margin, the bias being a feature "
                "(Soudry et al. 2018)",
                trap="|w| / ln t, which still carries the start, is not the local slope",
                figure="growth",
            ),
            _claim(
                "1.3c2", "With a penalty they stop growing", growth_left, "below", 1e-3,
                "a thousandth of the growth without: nothing in any time that one can wait",
                arms=("flow", "flow_decay"), figure="growth",
                trap="the remedy is itself an L2 penalty, which the source calls standard and sets "
                "it against",
            ),
            _claim(
                "1.3c3", "With a penalty they stay below sqrt(2 ln 2 / penalty)", bound_used,
                "below", 1.0,
                "the flow cannot raise its loss, which is ln 2 at the start", kind="exact",
                arms=("flow_decay",),
                oracle="|w| is at most sqrt(2 ln 2 / penalty) (exact)", figure="growth",
            ),
            _claim(
                "1.3c4", "Without a penalty the start decides what singular least squares gives",
                apart_without, "above", 0.1, "a tenth of the solution: two answers, not one",
                arms=("gradient_descent", "other_start"), figure="solutions",
            ),
            _claim(
                "1.3c5", "With one, every start ends in the stabilised inverse's solution",
                apart_with, "below", 1e-6, _SAME, arms=("weight_decay", "weight_decay_other"),
                reading="book", figure="solutions",
                trap="the remedy is itself an L2 term: it is compared with weight decay too",
                oracle="(X'X + ridge I)^-1 X'y (exact)",
                other_reading=_claim(
                    "1.3c5", "The remedy does other than standard L2 weight decay", beyond_decay,
                    "above", 1e-6, _SAME, arms=("weight_decay",), reading="source",
                    oracle="0: update (1) has the stabilised inverse's solution as fixed point",
                    figure="solutions",
                ),
            ),
            _claim(
                "1.3c6", "Whitening with a covariance of deficient rank blows up",
                variance_without, "above", 6.0, "a million times the variance asked for",
                unit="decades", arms=("whitening",),
                trap="on its own training samples whitening looks harmless: they have nothing in "
                "the missing directions", figure="whitening",
            ),
            _claim(
                "1.3c7", "Stabilised, it stays bounded", variance_with, "below", 2.0,
                "a hundred times the variance asked for", unit="decades", arms=("whitening",),
                oracle="at most the new samples' largest variance over the stabiliser (exact)",
                figure="whitening",
            ),
        ),
        section="1 (3)",
    ),
    combine(
        "1.3d",
        "The stabilised inverse tends to the Moore-Penrose pseudoinverse",
        (
            _claim(
                "1.3d1", _SLOPE, slope_dual, "within", 0.05, _LIMIT, kind="exact",
                arms=("dual",), condition="as X'(XX' + ridge I)^-1",
                oracle="the error is ridge / (s (s^2 + ridge)), s the smallest singular value "
                "(exact)",
                trap="(X'X + ridge I)^-1 X' loses its digits below a ridge of about 1e-6",
                control=_claim(
                    "1.3d1", _SLOPE, slope_primal, "within", 0.05, _LIMIT, kind="exact",
                    arms=("primal",), condition="as (X'X + ridge I)^-1 X'", figure="inverse",
                ),
                figure="inverse",
            ),
            _claim(
                "1.3d2", "The constant is 1 / s^3, s the smallest singular value", constant_dual,
                "within", 0.05, _LIMIT, kind="exact", arms=("dual",), figure="inverse",
            ),
            _claim(
                "1.3d3", _LEAST, from_zero, "below", 1e-6, _SAME, arms=("gradient_descent",),
                condition="from zero",
                control=_claim(
                    "1.3d3", _LEAST, from_another_start, "below", 1e-6, _SAME,
                    arms=("other_start",), condition="from another start", figure="solutions",
                ),
                oracle="gradients are combinations of X's rows: what X does not see of the start "
                "stays (exact)", figure="solutions",
            ),
            _claim(
                "1.3d4", "(added) Adam, from zero too, ends at another solution", adam_unseen,
                "above", 0.01, "a hundredth of the solution: far more than a distance that still "
                "falls", arms=("adam",),
                trap="a run that has not yet fitted is no limit: its residual is below 1e-4 here",
                figure="solutions",
            ),
        ),
        section="1 (3)",
    ),
)  # fmt: skip
