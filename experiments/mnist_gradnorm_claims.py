"""The claims of `mnist_gradnorm` (problem 5): a statistic of the record, and a threshold, for each.

"Late" is the last fifth of the epochs; what is late is compared with the first epoch. An "early"
head is the last that was frozen within the first fifth. A statistic raises where the record does
not hold what it compares: the claim is then inconclusive and says why. Thresholds are the smallest
effects worth having, fixed with their reasons before the first run.
"""

import numpy as np
import xarray

from dlstudy import curvature
from dlstudy.claims import Claim, combine
from experiments.mnist_gradnorm_record import rate_arm

# -- parts of statistics


def in_arm(record, name, arm="main"):
    """Values of a variable in one arm: the epochs with a value, or the steps up to the last epoch
    with one (whole epochs, also where every seed diverged on the way).
    """
    values = record[name].sel(arm=arm)
    if "epoch" in values.dims:
        return values.dropna("epoch", how="all")
    steps = record.attrs["steps_per_epoch"]
    seen = values.notnull().any([dim for dim in values.dims if dim != "step"])
    epochs = np.flatnonzero(seen).max(initial=0) // steps + 1
    return values.isel(step=slice(epochs * steps))


def late_count(record) -> int:
    return max(1, (record.sizes["epoch"] - 1) // 5)


def _late(values, record):
    """Mean over the last fifth of the epochs, as far as measured."""
    first = record.sizes["epoch"] - late_count(record)
    return values.sel(epoch=slice(first, None)).mean("epoch")


def _spread_late(values, record):
    first = record.sizes["epoch"] - late_count(record) - 1
    late = values.sel(epoch=slice(first, None))
    return late.max("epoch") - late.min("epoch")


def by_epoch(values, record):
    """[S, steps] as an array [S, epochs, steps of one]."""
    return values.values.reshape(values.sizes["seed"], -1, record.attrs["steps_per_epoch"])


def norm_by_epoch(record, arm="main"):
    """Median minibatch gradient norm of each epoch, [S, epochs]."""
    return np.nanmedian(by_epoch(in_arm(record, "grad_norm", arm), record), axis=2)


def _eigenvalues(record, name):
    """Eigenvalues by epoch, those with too large a residual left out."""
    values, residual = in_arm(record, name), in_arm(record, f"{name}_residual")
    alive = record["diverged_step"].sel(arm="main") < 0
    _, counted = xarray.broadcast(residual, alive)
    counted = counted.transpose(*residual.dims).values
    return values.copy(data=curvature.converged(values.values, residual.values, name, counted))


def growth(values, record):
    """Late mean over the value after the first epoch."""
    if record.sizes["epoch"] - late_count(record) <= 1:
        raise ValueError("there is no late epoch beside the first")
    if 1 not in values.epoch.values:
        raise ValueError(f"{values.name} was not measured after the first epoch")
    return (_late(values, record) / values.sel(epoch=1)).values


def whole_range(values):
    """Largest less smallest value over all epochs."""
    return values.max("epoch") - values.min("epoch")


# -- 5.1


def loss_ratio(record):
    """late training loss / loss before training"""
    loss = in_arm(record, "train_loss")
    return _late(loss, record) / loss.sel(epoch=0)


def error_ratio(record):
    """late test error / error before training"""
    error = in_arm(record, "test_error")
    return _late(error, record) / error.sel(epoch=0)


def loss_unrest(record):
    """late range of the training loss / its range over all epochs"""
    loss = in_arm(record, "train_loss")
    return _spread_late(loss, record) / whole_range(loss)


def error_unrest(record):
    """late range of the test error / its range over all epochs"""
    error = in_arm(record, "test_error")
    return _spread_late(error, record) / whole_range(error)


# -- 5.2


def minibatch_norm_kept(record, arm="main"):
    """late minibatch gradient norm / that of the first epoch (medians over steps)"""
    norms = norm_by_epoch(record, arm)
    if norms.shape[1] < 2:
        raise ValueError("there is no late epoch beside the first")
    return norms[:, -late_count(record) :].mean(1) / norms[:, 0]


def minibatch_norm_kept_noisy(record):
    """late minibatch gradient norm / that of the first epoch, with wrong labels"""
    return minibatch_norm_kept(record, "label_noise")


def full_norm_kept(record):
    """late full-batch gradient norm / that after the first epoch"""
    return growth(in_arm(record, "full_grad_norm"), record)


def norm_trend(record, arm="main"):
    """minibatch gradient norm, last quarter of the epochs / the quarter before"""
    norms = norm_by_epoch(record, arm)
    quarter = max(1, norms.shape[1] // 4)
    return norms[:, -quarter:].mean(1) / norms[:, -2 * quarter : -quarter].mean(1)


def norm_trend_noisy(record):
    """minibatch gradient norm, last quarter / the quarter before, with wrong labels"""
    return norm_trend(record, "label_noise")


# -- 5.3


def norm_outlasts_error(record):
    """log10 of (late / initial gradient norm) over (late / initial test error)"""
    norm = in_arm(record, "full_grad_norm")
    kept = _late(norm, record) / norm.sel(epoch=0)
    return np.log10(kept / error_ratio(record))


def step_elasticity(record, arm="main"):
    """slope of log step size on log gradient norm, within epochs after the first"""
    logs = [
        np.log(np.maximum(by_epoch(in_arm(record, name, arm), record)[:, 1:], 1e-30))
        for name in ("grad_norm", "update_norm")
    ]
    grad, update = (x - np.nanmean(x, 2, keepdims=True) for x in logs)
    return np.nansum(grad * update, (1, 2)) / np.nansum(np.square(grad), (1, 2))


def adam_elasticity(record):
    """slope of log step size on log gradient norm, within epochs after the first"""
    optimizer = record.attrs.get("optimizer", "adam")
    if optimizer != "adam":
        raise ValueError(f"the main arm was trained by {optimizer}, not Adam")
    return step_elasticity(record)


def elasticity_against_sgd(record):
    """the same slope, plain gradient descent minus Adam"""
    sgd = next(a for a in record.arm.values if str(a).startswith("sgd_"))
    return step_elasticity(record, sgd) - adam_elasticity(record)


def late_displacement(record):
    """parameter displacement of a late epoch / that of the first"""
    return growth(in_arm(record, "displacement"), record)


def late_churn(record):
    """share of test predictions that change in a late epoch"""
    churn = in_arm(record, "churn")
    if (np.diff(churn.epoch.values) != 1).any():
        raise ValueError("predictions were not compared every epoch")
    return _late(churn, record)


def _head_error(record, epoch):
    return record["head_test_error"].sel(frozen_at=epoch)


def early_head(record) -> int:
    """The last epoch within the first fifth after which a head was frozen, but not the final."""
    epochs = record["frozen_at"].values
    early = [e for e in epochs[:-1] if 1 <= e <= max(1, late_count(record))]
    if not early:
        raise ValueError("no convolution was frozen early: see --head_at")
    return int(early[-1])


def head_deficit(record):
    """test error of a head on the early convolution minus on the final one"""
    final = int(record["frozen_at"].values.max())
    return _head_error(record, early_head(record)) - _head_error(record, final)


def head_gain(record):
    """test error of a head on the initial convolution minus on the early one"""
    return _head_error(record, 0) - _head_error(record, early_head(record))


# -- 5.4


def second_order_gain(record):
    """R2 of the realised change by both orders minus R2 by the first, median epoch"""
    first, second, realised = (
        by_epoch(record[name].sel(arm="main"), record)
        for name in ("first_order", "second_order", "realised")
    )

    def unexplained(prediction):
        return np.nansum(np.square(realised - prediction), 2)

    realised = np.where(np.isfinite(realised), realised, np.nan)
    count = np.isfinite(realised).sum(2)
    centred = realised - (np.nansum(realised, 2) / np.maximum(count, 1))[..., None]
    total = np.nansum(np.square(centred), 2)
    # Epochs with fewer than two measured steps have no variance to explain.
    total = np.where((count > 1) & (total > 0), total, np.nan)
    gain = (unexplained(first) - unexplained(first + second)) / total
    return np.array(
        [np.median(g[np.isfinite(g)]) if np.isfinite(g).any() else np.nan for g in gain]
    )


def gradient_curvature_growth(record):
    """late g'Hg / g'g over that after the first epoch"""
    return growth(in_arm(record, "gradient_curvature"), record)


def sharpness_growth(record):
    """late largest eigenvalue over that after the first epoch"""
    return growth(_eigenvalues(record, "sharpness"), record)


def preconditioned_growth(record):
    """late preconditioned largest eigenvalue over that after the first epoch"""
    return growth(_eigenvalues(record, "preconditioned_sharpness"), record)


def fixed_arms(record) -> list[str]:
    return [str(a) for a in record.arm.values if str(a).startswith("sgd_")]


def _largest_fixed(record) -> str:
    return rate_arm(max(float(a.removeprefix("sgd_")) for a in fixed_arms(record)))


def rises(record, arm):
    """Steps in 100 after which the loss of their own batch is higher."""
    change = record["realised"].sel(arm=arm)
    measured = np.isfinite(change)
    return 100 * (change > 0).where(measured).mean("step")


def fewer_rises(record):
    """steps in 100 that raise their batch's loss: largest fixed rate minus capped"""
    return rises(record, _largest_fixed(record)) - rises(record, "capped")


def capped_converged(record):
    """1 where the capped run ends below a tenth of its first training loss"""
    loss = in_arm(record, "train_loss", "capped")
    finite = record["diverged_step"].sel(arm="capped") < 0  # epochs without any value are dropped
    return (finite & (loss.isel(epoch=-1) < 0.1 * loss.isel(epoch=0))).astype(float)


def cap_binds(record):
    """share of steps on which the cap, not the fixed rate, sets the step"""
    update, grad = (in_arm(record, name, "capped") for name in ("update_norm", "grad_norm"))
    rate = float(_largest_fixed(record).removeprefix("sgd_"))
    return (update < 0.999 * rate * grad).where(grad.notnull()).mean("step")


def best_fixed(record) -> str:
    """The fixed rate with the lowest median tuning error at the end, diverged runs as all wrong."""

    def end(arm):
        errors = in_arm(record, "tune_error", arm)
        if not errors.sizes["epoch"]:
            return 1.0
        return float(errors.isel(epoch=-1).fillna(1).median())

    return min(fixed_arms(record), key=end)


def capped_gain(record):
    """test error, best fixed rate (by tuning error) minus capped"""
    fixed, capped = (
        in_arm(record, "test_error", arm).isel(epoch=-1) for arm in (best_fixed(record), "capped")
    )
    return fixed - capped


# -- the claims

_TENTH = "a tenth: from guessing to nine in ten right, the least that deserves the word"
_TWENTIETH = "a twentieth of the whole range: below what a plot of the whole course shows"
_HALF = "half: what loses less is still of the same order"
_LEVEL = "0.9: a tenth lost in a quarter of the training still counts as level"
_QUARTER = "1.25: a quarter more, beyond the wiggle of single epochs"


def _claim(id, sentence, statistic, direction, threshold, reason, **more):
    more = {"kind": "paired", "unit": "", "section": "5", "arms": ("main",)} | more
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, **more,
    )  # fmt: skip


def _noisy(id, sentence, statistic, direction, threshold, reason):
    return _claim(
        id, sentence, statistic, direction, threshold, reason,
        arms=("label_noise",), condition="with wrong labels added",
    )  # fmt: skip


CLAIMS = (
    combine(
        "5.1",
        "Training loss and classification error fall and settle",
        (
            _claim("5.1a", "The training loss falls", loss_ratio, "below", 0.1, _TENTH,
                   figure="loss"),
            _claim("5.1b", "The test error falls", error_ratio, "below", 0.1, _TENTH,
                   figure="error"),
            _claim("5.1c", "The training loss settles", loss_unrest, "below", 0.05, _TWENTIETH,
                   figure="loss"),
            _claim("5.1d", "The test error settles", error_unrest, "below", 0.05, _TWENTIETH,
                   figure="error"),
        ),
        section="5 (2)",
    ),
    combine(
        "5.2",
        "Gradient norms stay large",
        (
            _claim(
                "5.2a", "Minibatch gradient norms stay large", minibatch_norm_kept, "above", 0.5,
                _HALF, condition="in the main arm",
                control=_noisy(
                    "5.2a", "Minibatch gradient norms stay large", minibatch_norm_kept_noisy,
                    "above", 0.5, _HALF,
                ),
                oracle="E||g_B||^2 = ||g||^2 + tr Sigma / B (N - B) / (N - 1)",
                trap="growth may be noise, and a few misfits drive the mean: hence medians over "
                "steps, the split into signal and noise, and the arm with wrong labels",
                figure="gradient_norms",
            ),
            _claim(
                "5.2b", "The full-batch gradient norm stays large", full_norm_kept, "above", 0.5,
                _HALF, figure="gradient_norms",
            ),
            _claim(
                "5.2c", "Gradient norms do not decline in the last half", norm_trend, "above", 0.9,
                _LEVEL, condition="in the main arm",
                control=_noisy(
                    "5.2c", "Gradient norms do not decline in the last half", norm_trend_noisy,
                    "above", 0.9, _LEVEL,
                ), figure="gradient_norms",
            ),
        ),
        section="5 (2)",
    ),
    combine(
        "5.3a",
        "The error settles although the gradient norm is large",
        (
            _claim("5.3a1", "The test error settles", error_unrest, "below", 0.05, _TWENTIETH,
                   figure="error"),
            _claim(
                "5.3a2", "The gradient norm falls far less than the error", norm_outlasts_error,
                "above", float(np.log10(2)), "a factor of two between the two falls",
                unit="decades", figure="gradient_norms",
            ),
        ),
        section="5 (3)",
    ),
    combine(
        "5.3b",
        "Adam keeps parameter updates small when gradients are large",
        (
            _claim(
                "5.3b1", "Adam's step grows less than the gradient", adam_elasticity, "below", 0.5,
                "0.5: a gradient ten times larger makes a step at most three times larger",
                oracle="1 for plain gradient descent; |step| <= 7.27 times the rate for Adam",
                figure="steps",
            ),
            _claim(
                "5.3b2", "This is Adam's doing", elasticity_against_sgd, "above", 0.5,
                "0.5: half of plain gradient descent's slope of 1", figure="steps",
            ),
        ),
        section="5 (3)",
    ),
    combine(
        "5.3c",
        "Late epochs fine-tune the decision boundary with small parameter shifts",
        (
            _claim(
                "5.3c1", "Late epochs move the parameters little", late_displacement, "below", 0.5,
                "half of the first epoch's displacement", figure="movement",
            ),
            _claim(
                "5.3c2", "Late epochs change few predictions", late_churn, "below", 0.01,
                "1% of the test images: about the error left to gain", figure="movement",
            ),
        ),
        section="5 (3)",
    ),
    combine(
        "5.3d",
        "Useful representations are learned early",
        (
            _claim(
                "5.3d1", "A head on the early convolution is as good as on the final one",
                head_deficit, "below", 0.01, "one percentage point of test error",
                trap="heads trained for different times: here all train for the same",
                figure="heads",
            ),
            _claim(
                "5.3d2", "It is better than a head on the initial convolution", head_gain, "above",
                0.005, "half a percentage point: otherwise nothing useful had to be learned",
                figure="heads",
            ),
        ),
        section="5 (3)",
    ),
    _claim(
        "5.4a", "The second-order term decides a step's effect", second_order_gain, "above", 0.1,
        "a tenth of the variance of the realised changes: visible in a plot", section="5 (4)",
        oracle="on a quadratic, first and second order together are exact",
        trap="evaluating on another batch: all terms are of the batch that made the step",
        figure="taylor_budget",
    ),
    combine(
        "5.4b",
        "Curvature grows while the gradient norm does not shrink",
        (
            _claim(
                "5.4b1", "Curvature along the gradient grows", gradient_curvature_growth, "above",
                1.25, _QUARTER, figure="curvature",
            ),
            _claim(
                "5.4b2", "The largest Hessian eigenvalue grows", sharpness_growth, "above", 1.25,
                _QUARTER, oracle="full-batch gradient descent: towards 2 / rate",
                trap="full-batch sharpness under minibatches sits below 2 / rate",
                figure="curvature",
            ),
            _claim(
                "5.4b3", "The preconditioned largest eigenvalue grows", preconditioned_growth,
                "above", 1.25, _QUARTER, oracle="full-batch Adam: towards 38 / rate",
                figure="curvature",
            ),
            _claim(
                "5.4b4", "The full-batch gradient norm does not shrink", full_norm_kept, "above",
                0.9, "0.9: a tenth less still counts as level", figure="gradient_norms",
            ),
        ),
        section="5 (4)",
    ),
    combine(
        "5.4c",
        "Curvature-aware steps adjust the step size, prevent oscillation and ensure convergence",
        (
            _claim(
                "5.4c1", "The cap adjusts the step size", cap_binds, "above", 0.1,
                "one step in ten", arms=("capped",), unit="share of steps", figure="rates",
            ),
            _claim(
                "5.4c2", "It prevents steps that raise the loss", fewer_rises, "above", 5.0,
                "five steps in 100", arms=("capped",), unit="steps in 100", figure="rates",
            ),
            _claim(
                "5.4c3", "Capped runs converge", capped_converged, "above", 0.75,
                "three runs in four", kind="proportion", arms=("capped",), keep_diverged=True,
                figure="rates",
            ),
        ),
        section="5 (4)",
    ),
    _claim(
        "5.4d", "Curvature-aware steps improve generalisation", capped_gain, "above", 0.005,
        "half a percentage point of test error", arms=("capped",), section="5 (4)",
        trap="an untuned fixed rate: the best of the grid is chosen on the tuning split",
        figure="rates",
    ),
)  # fmt: skip
