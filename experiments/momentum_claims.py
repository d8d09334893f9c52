"""The claims of `momentum` (problem 2, question 2): a statistic of the record for each sentence.

"Middle" is the middle one of the condition numbers. Octaves are log2 of a ratio of step counts:
1 means half as many. Thresholds are the smallest effects worth having, fixed with their reasons
before the first run.
"""

import numpy as np

from dlstudy.claims import Claim, combine

# -- parts of statistics


def middle(record) -> float:
    """The condition number that is judged."""
    return float(record["kappa"].values[record.sizes["kappa"] // 2])


def steps_of(record, method: str) -> np.ndarray:
    """Steps at the middle condition number, [S]."""
    return record["steps"].sel(way=method, kappa=middle(record)).values


def saved(slow, fast) -> np.ndarray:
    """Octaves of steps by which `fast` needs fewer."""
    return np.log2(np.asarray(slow, float) / np.asarray(fast, float))


def off_theory(record, method: str) -> np.ndarray:
    """Spectral radius minus theory, at the condition number where it is farthest from 0, [S]."""
    own = record.sel(way=method)
    apart = (own["spectral_radius"] - own["theory"]).transpose("kappa", "seed").values
    return np.take_along_axis(apart, np.abs(apart).argmax(0)[None], 0)[0]


def best_with_noise(record, momentum: bool) -> np.ndarray:
    """Fewest steps over all constants, [noise, S]; with momentum, or alpha 0.

    NaN where they are on an edge of the grid, beyond which there may be fewer: the lowest or
    highest rate, the largest momentum.
    """
    found = record["noisy_steps"].transpose("noise_alpha", "noise_rate", "noise", "seed").values
    found = found[1:] if momentum else found[:1]
    found = np.where(np.isnan(found), np.inf, found)
    by_rate, by_alpha = found.min(0), found.min(1)
    lowest = by_rate.min(0)
    edge = np.isin(by_rate.argmin(0), (0, len(by_rate) - 1))
    if momentum:
        edge |= by_alpha.argmin(0) == len(by_alpha) - 1
    return np.where(np.isfinite(lowest) & ~edge, lowest, np.nan)


def gain_with_noise(record) -> np.ndarray:
    """Octaves of steps that momentum saves at each amount of noise, [noise, S]."""
    return saved(best_with_noise(record, False), best_with_noise(record, True))


def chosen_rate(record, batch: str, optimizer: str) -> np.ndarray:
    """Index of the rate [S] at which the tuning loss is at its target first; -1: at none."""
    steps = record["net_tune_steps"].sel(batch=batch, optimizer=optimizer)
    steps = steps.transpose("seed", "rate").values
    return np.where(np.isfinite(steps).any(1), np.where(np.isnan(steps), np.inf, steps).argmin(1),
                    -1)  # fmt: skip


def network_steps(record, batch: str, optimizer: str) -> np.ndarray:
    """Steps to the target of the training loss at the rate that the tuning loss prefers, [S]."""
    chosen = chosen_rate(record, batch, optimizer)
    steps = record["net_steps"].sel(batch=batch, optimizer=optimizer)
    steps = steps.transpose("seed", "rate").values[np.arange(len(chosen)), chosen]
    return np.where(chosen < 0, np.nan, steps)


def form_steps(record, form: str) -> np.ndarray:
    return record["form_steps"].sel(form=form).values


# -- 2.2a


def gd_off(record):
    """gradient descent's spectral radius minus (kappa - 1) / (kappa + 1), at the worst kappa"""
    return off_theory(record, "gd")


def heavy_ball_off(record):
    """heavy ball's spectral radius minus (sqrt kappa - 1) / (sqrt kappa + 1), at the worst kappa"""
    return off_theory(record, "heavy_ball")


def nesterov_off(record):
    """Nesterov's spectral radius minus 1 - 2 / sqrt(3 kappa + 1), at the worst kappa"""
    return off_theory(record, "nesterov")


def nesterov_usual_off(record):
    """the same at rate 1 / L, minus 1 - 1 / sqrt kappa, at the worst kappa"""
    return off_theory(record, "nesterov_usual")


def exact_gain(record):
    """octaves of steps that the best momentum saves with exact gradients"""
    return gain_with_noise(record)[0]


def noisy_gain(record):
    """octaves of steps that the best momentum saves with the most noise"""
    return gain_with_noise(record)[-1]


def nesterov_gain(record):
    """octaves of steps that Nesterov's method saves at the middle condition number"""
    return saved(steps_of(record, "gd"), steps_of(record, "nesterov"))


def gain_slope(record):
    """slope of log steps saved by heavy ball over log kappa, minus 1/2"""
    steps = [record["steps"].sel(way=m).transpose("kappa", "seed").values
             for m in ("gd", "heavy_ball")]  # fmt: skip
    logs = np.log(steps[0] / steps[1])
    kept = np.isfinite(logs).all(1)
    if kept.sum() < 2:
        return np.full(record.sizes["seed"], np.nan)
    return np.polyfit(np.log(record["kappa"].values[kept]), logs[kept], 1)[0] - 0.5


def zigzag_spared(record, method: str) -> np.ndarray:
    share = record["zigzag"].sel(kappa=middle(record))
    return (share.sel(way="gd") - share.sel(way=method)).values


def zigzag_at_best(record):
    """share of gradient descent's steps that turn back, minus heavy ball's, each at its best"""
    return zigzag_spared(record, "heavy_ball")


def zigzag_at_same_rate(record):
    """share of gradient descent's steps that turn back, minus momentum's at the same rate"""
    return zigzag_spared(record, "momentum_at_best")


def zigzag_of_less(record):
    """share of gradient descent's steps that turn back at its best rate, minus at rate 1 / L"""
    return zigzag_spared(record, "gd_cautious")


def averaged_gain(record):
    """octaves of steps that the exponential average saves on gradient descent at its rate"""
    return saved(form_steps(record, "plain"), form_steps(record, "averaged_unmatched"))


def book_gain(record):
    """octaves of steps that the book's momentum saves on gradient descent at its rate"""
    return saved(form_steps(record, "plain"), form_steps(record, "book"))


# -- 2.2c


def matched_distance(record):
    """largest relative distance of the two ways at rate / (1 - alpha)"""
    return record["form_distance"].sel(factor=1.0).values


def unmatched_distance(record):
    """the same where that rate is off by a thousandth, the smaller of both sides"""
    return record["form_distance"].sel(factor=[0.999, 1.001]).min("factor").values


def unmatched_slower(record):
    """decades of steps by which the average at the book's rate is slower, minus log10 of 1/(1-a)"""
    slower = np.log10(form_steps(record, "averaged_unmatched") / form_steps(record, "book"))
    return slower + np.log10(1 - float(record.attrs["alpha"]))


# -- added


def gain_on_tenth(record):
    """octaves of steps that momentum saves on gradient descent, both at a tenth of its best rate"""
    return saved(steps_of(record, "gd_tenth"), steps_of(record, "momentum_tenth"))


def gain_on_best(record):
    """octaves of steps that the same momentum saves on gradient descent at its best rate"""
    return saved(steps_of(record, "gd"), steps_of(record, "momentum_tenth"))


def whole_gain(record):
    """octaves of steps that momentum saves on a network, with the whole set"""
    return saved(*(network_steps(record, "whole", o) for o in ("sgd", "momentum")))


def batches_gain(record):
    """octaves of steps that momentum saves on a network, with minibatches"""
    return saved(*(network_steps(record, "batches", o) for o in ("sgd", "momentum")))


# -- the claims

_HALF = "half the steps"
_ROUNDING = "rounding: the eigenvalues are distinct"
_DEFECTIVE = "rounding: an eigenvalue that is double moves by the root of it, 1e-8"
_TENTH = "one step in ten"
_COVARIANCE = "noise of covariance H and expected costs in closed form: no luck is involved"


def _claim(id, sentence, statistic, direction, threshold, reason, **more):
    more = {"kind": "paired", "unit": "", "section": "2 (2)"} | more
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, **more,
    )  # fmt: skip


CLAIMS = (
    combine(
        "2.2a",
        "Momentum speeds up ill-conditioned descent and reduces zigzag",
        (
            _claim(
                "2.2a1", "Gradient descent at its best rate contracts by (kappa - 1)/(kappa + 1)",
                gd_off, "within", 1e-12, _ROUNDING, kind="exact", arms=("gd",), figure="rates",
                oracle="(kappa - 1) / (kappa + 1) (exact)",
            ),
            _claim(
                "2.2a2", "Heavy ball at its best constants contracts by "
                "(sqrt kappa - 1)/(sqrt kappa + 1)", heavy_ball_off, "within", 1e-6, _DEFECTIVE,
                kind="exact", arms=("heavy_ball",), figure="rates",
                oracle="(sqrt kappa - 1) / (sqrt kappa + 1) at alpha = that squared (exact)",
                trap="the measured mean over a run is slower: the optimum is defective",
            ),
            _claim(
                "2.2a3", "Nesterov's method at its best constants contracts by "
                "1 - 2/sqrt(3 kappa + 1)", nesterov_off, "within", 1e-6, _DEFECTIVE, kind="exact",
                arms=("nesterov",), figure="rates",
                oracle="1 - 2 / sqrt(3 kappa + 1) (Lessard, Recht & Packard 2016; exact)",
            ),
            _claim(
                "2.2a4", "At the rate 1 / L it contracts by 1 - 1/sqrt kappa", nesterov_usual_off,
                "within", 1e-6, _DEFECTIVE, kind="exact", arms=("nesterov_usual",), figure="rates",
                oracle="1 - 1 / sqrt kappa (exact)",
            ),
            _claim(
                "2.2a5", "The best momentum needs fewer steps than the best gradient descent",
                exact_gain, "above", 1.0, _HALF, unit="octaves", figure="noise", arms=("gd",),
                trap="untuned constants: all are the best of one grid, alpha 0 included",
                condition="with exact gradients",
                control=_claim(
                    "2.2a5", "The best momentum needs fewer steps than the best gradient descent",
                    noisy_gain, "above", 1.0, _HALF, unit="octaves", arms=("gd",),
                    figure="noise", trap=_COVARIANCE, condition="with noise in the gradient",
                ),
            ),
            _claim(
                "2.2a6", "So does Nesterov's method", nesterov_gain, "above", 1.0, _HALF,
                unit="octaves", arms=("gd", "nesterov"), figure="rates",
            ),
            _claim(
                "2.2a7", "Heavy ball's gain grows as the root of the condition number", gain_slope,
                "within", 0.1, "a fifth of the exponent: the double eigenvalue costs a logarithm",
                arms=("gd", "heavy_ball"), figure="rates",
            ),
            _claim(
                "2.2a8", "It turns back less often than gradient descent", zigzag_at_best, "above",
                0.1, _TENTH, arms=("gd", "heavy_ball"), figure="zigzag",
                trap="zigzag depends on the rate: gradient descent at 1 / L has none either (2.2f)",
                condition="each at its best constants",
                control=_claim(
                    "2.2a8", "It turns back less often than gradient descent", zigzag_at_same_rate,
                    "above", 0.1, _TENTH, arms=("gd", "momentum_at_best"), figure="zigzag",
                    condition="with momentum added at gradient descent's best rate",
                ),
            ),
            _claim(
                "2.2a9", "Added to gradient descent at its rate, momentum needs fewer steps",
                averaged_gain, "above", 1.0, _HALF, unit="octaves", reading="source",
                arms=("plain", "averaged_unmatched"), figure="forms",
                trap="the source's average has the size of one gradient: at the same rate it is "
                "gradient descent",
                other_reading=_claim(
                    "2.2a9", "Added to gradient descent at its rate, momentum needs fewer steps",
                    book_gain, "above", 1.0, _HALF, unit="octaves", reading="book",
                    arms=("plain", "book"), figure="forms",
                    trap="the same rate is not the best rate of each: see 2.2e",
                ),
            ),
        ),
        section="2 (2)",
    ),
    combine(
        "2.2c",
        "The source's exponential average is the book's momentum if its rate is eta = "
        "epsilon / (1 - beta), and only then",
        (
            _claim(
                "2.2c1", "At that rate they are identical", matched_distance, "below", 1e-12,
                "rounding of float64 over 200 steps", kind="exact",
                arms=("book", "averaged_matched"), figure="forms",
                oracle="identical for v = 0 at the start (exact)",
            ),
            _claim(
                "2.2c2", "At a rate a thousandth off they are not", unmatched_distance, "above",
                1e-6, "a million times the rounding", kind="exact",
                arms=("book", "averaged_matched"), figure="forms",
            ),
            _claim(
                "2.2c3", "At the book's rate the average is slower by 1 / (1 - beta)",
                unmatched_slower, "within", 0.05, "an eighth: the fast directions take their time",
                unit="decades", arms=("book", "averaged_unmatched"), figure="forms",
                oracle="1 / (1 - beta), 10 at 0.9",
                trap="a comparison of the two at one rate finds momentum slow",
            ),
        ),
        section="2 (2), equations 3 and 4",
    ),
    _claim(
        "2.2d", "On a network momentum needs fewer steps to a loss than SGD, each at its best rate",
        whole_gain, "above", 1.0, _HALF, unit="octaves", arms=("sgd_whole", "momentum_whole"),
        figure="network", trap="a rate on the edge of the grid", condition="with the whole set",
        control=_claim(
            "2.2d",
            "On a network momentum needs fewer steps to a loss than SGD, each at its best rate",
            batches_gain, "above", 1.0, _HALF, unit="octaves", figure="network",
            arms=("sgd_batches", "momentum_batches"), condition="with minibatches",
        ),
    ),
    _claim(
        "2.2e", "Momentum 0.9 at a tenth of gradient descent's best rate gains on it",
        gain_on_tenth, "above", 1.0, _HALF, unit="octaves", arms=("gd_tenth", "momentum_tenth"),
        figure="rates",
        trap="untuned gradient descent: the same gain is had by a rate ten times as large",
        condition="if that has the tenth too",
        control=_claim(
            "2.2e", "Momentum 0.9 at a tenth of gradient descent's best rate gains on it",
            gain_on_best, "above", 1.0, _HALF, unit="octaves", arms=("gd", "momentum_tenth"),
            figure="rates", condition="if that has its best rate",
        ),
    ),
    _claim(
        "2.2f", "(added) Gradient descent spares the zigzag without momentum, at the rate 1 / L",
        zigzag_of_less, "above", 0.1, _TENTH, arms=("gd", "gd_cautious"), figure="zigzag",
        trap="less zigzag is not more speed: at that rate it needs about twice the steps",
    ),
)  # fmt: skip
