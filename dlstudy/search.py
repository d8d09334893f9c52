"""What random search finds: the expected best of K trials, and its band over seeds."""

import numpy as np


def chances_of_best(trials: int) -> np.ndarray:
    """float64[K, N]: probability that trial i from the best is the best of k drawn, K = N = trials.

    Of N trials k are drawn without replacement, each set alike; row k - 1 is of k draws. The
    chance is C(N - 1 - i, k - 1) / C(N, k).
    """
    if trials < 1:
        raise ValueError(f"trials={trials}: must be at least 1")
    drawn = np.arange(1, trials + 1)
    found = np.zeros((trials, trials))
    found[:, 0] = drawn / trials
    for i in range(trials - 1):
        # All draws below the first i + 1, and among them the next.
        found[:, i + 1] = found[:, i] * (trials - i - drawn).clip(0) / (trials - 1 - i)
    return found


def expected_best(scores, values=None) -> np.ndarray:
    """Expected value of the trial with the lowest score among k of the N, k = 1 ... N.

    The expectation is over which k of the N trials were made, so a curve of few trials uses all
    of them. Among trials with one score chance decides.

    Args:
      scores: [..., N], finite, by which a trial is chosen; low is good.
      values: [..., N], what is told of the chosen one; the scores if None.

    Returns:
      float64[..., N].
    """
    scores = np.asarray(scores, float)
    values = scores if values is None else np.asarray(values, float)
    if scores.shape != values.shape or not scores.size or not np.isfinite(scores).all():
        raise ValueError("scores must be finite, and as many as the values")
    rows = [_by_rank(*row) for row in zip(*map(_rows, (scores, values)), strict=True)]
    return np.reshape(np.stack(rows) @ chances_of_best(scores.shape[-1]).T, scores.shape)


def _rows(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1])


def _by_rank(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values from the best score to the worst; equal scores share the mean of their values."""
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(group, values) / size
    return np.repeat(means, size)


def band(curves, level: float = 0.9, *, resamples: int = 999, seed: int = 0) -> np.ndarray:
    """Percentile bootstrap band of the mean of curves[S, K] over S: float64[2, K], low and high.

    Seeds draw their own trials, so drawing seeds again draws both. One seed has no band: nan.
    """
    from scipy.stats import bootstrap

    curves = np.asarray(curves, float)
    if len(curves) < 2:
        return np.full((2, curves.shape[1]), np.nan)
    found = bootstrap(
        (curves,), np.mean, axis=0, n_resamples=resamples, confidence_level=level,
        method="percentile", vectorized=True, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return np.stack([found.low, found.high])
