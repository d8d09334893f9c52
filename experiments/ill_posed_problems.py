"""The algebra of ill-posed problems, in NumPy and float64: margins, stabilised inverses, whitening.

Functions of one problem or of stacks of them (leading axes), without random numbers.
"""

import numpy as np
from scipy.optimize import nnls

FORMS = ("dual", "primal")


def hard_margin(signed) -> tuple[np.ndarray, float]:
    """The hard-margin separator through the origin.

    Args:
      signed: float64[N, P], each point times its label, a bias being a feature like any other.

    Returns:
      (w, margin): the shortest w with signed @ w >= 1, and 1 / |w|, the largest margin that a
      vector of length one can have; both nan where no vector separates.

    Least-distance programming by non-negative least squares (Lawson & Hanson 1974, chapter 23): an
    active-set method, which ends at the solution and shares nothing with gradient descent.
    """
    points, size = signed.shape
    matrix = np.vstack([signed.T, np.ones(points)])
    target = np.append(np.zeros(size), 1.0)
    weights, distance = nnls(matrix, target)
    if distance < 1e-9:  # the target is reached: the constraints contradict each other
        return np.full(size, np.nan), np.nan
    left = matrix @ weights - target
    w = -left[:size] / left[size]
    return w, 1 / np.linalg.norm(w)


def pseudoinverse(x):
    """Moore-Penrose inverse of x[..., N, D] of full rank, by its singular values."""
    u, sizes, vt = np.linalg.svd(x, full_matrices=False)
    return np.swapaxes(vt, -1, -2) / sizes[..., None, :] @ np.swapaxes(u, -1, -2)


def stabilised_inverse(x, ridge, form: str):
    """(X'X + ridge I)^-1 X' in floating point, float64[..., D, N].

    Args:
      x: float64[..., N, D].
      ridge: numbers of x's leading shape.
      form: "primal", as the book writes it (equation 7.29); "dual", X' (XX' + ridge I)^-1, the
        same matrix, of which only the smaller and better conditioned product is inverted.
    """
    transposed = np.swapaxes(x, -1, -2)
    ridge = np.asarray(ridge)[..., None, None]
    if form == "primal":
        return solve(transposed @ x + ridge * np.eye(x.shape[-1]), transposed)
    return np.swapaxes(solve(x @ transposed + ridge * np.eye(x.shape[-2]), x), -1, -2)


def solve(matrix, right):
    """`np.linalg.solve` of stacks, with nan for a matrix that is singular to the last bit."""
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        found = np.full(np.broadcast_shapes(matrix.shape[:-2], right.shape[:-2])
                        + right.shape[-2:], np.nan)  # fmt: skip
        if matrix.ndim > 2:
            right = np.broadcast_to(right, found.shape)
            for i, one in enumerate(matrix):
                found[i] = solve(one, right[i])
        return found


def inverse_errors(x, ridges) -> dict[str, np.ndarray]:
    """How far the stabilised inverse is from the pseudoinverse.

    Args:
      x: float64[S, N, D], N <= D.
      ridges: float64[A].

    Returns:
      By form, spectral norms [S, A]; and "smallest", the smallest singular value [S]. In exact
      arithmetic the norm is ridge / (s (s^2 + ridge)) at the smallest singular value s.
    """
    found = {"smallest": np.linalg.svd(x, compute_uv=False)[:, -1]}
    for form in FORMS:
        # Seeds in turn: all their inverses at once would take gigabytes.
        found[form] = np.stack([_errors(one, np.asarray(ridges), form) for one in x])
    return found


def _errors(x, ridges, form):
    """Spectral norms [A] for one x[N, D]; nan for a matrix that could not be inverted."""
    stacked = np.broadcast_to(x, (*ridges.shape, *x.shape))
    apart = stabilised_inverse(stacked, ridges, form) - pseudoinverse(x)
    good = np.isfinite(apart).all((1, 2))
    norms = np.full(ridges.shape, np.nan)
    norms[good] = np.linalg.norm(apart[good], 2, axis=(1, 2))
    return norms


def whitening(train, new, stabilisers) -> dict[str, np.ndarray]:
    """What PCA whitening (L + a I)^(-1/2) Q' does, L and Q of the covariance of `train`.

    Directions whose computed L + a is not positive have no real root. They are left out and
    counted.

    Args:
      train: float64[S, N, D], from which mean and covariance (divided by N) are taken.
      new: float64[S, M, D], whitened with the same matrix.
      stabilisers: float64[A], 0 allowed.

    Returns:
      [S, A] each. train_variance, new_variance: the largest mean square among the whitened
      coordinates of the training and the new samples. condition: of the whitening matrix.
      without_root: directions left out. And largest_new [S], the largest eigenvalue of the new
      samples' second moment about the training mean: new_variance is at most largest_new / a.
    """
    mean = train.mean(1, keepdims=True)
    train, new = train - mean, new - mean
    values, vectors = np.linalg.eigh(np.swapaxes(train, 1, 2) @ train / train.shape[1])
    raised = values[:, None, :] + np.asarray(stabilisers)[:, None]
    good = raised > 0
    safe = np.where(good, raised, 1.0)
    found = {"without_root": (~good).sum(-1).astype(float)}
    for name, samples in (("train_variance", train), ("new_variance", new)):
        square = ((samples @ vectors) ** 2).mean(1)[:, None, :]
        found[name] = np.where(good, square / safe, 0.0).max(-1)
    lowest = np.where(good, raised, np.inf).min(-1)
    found["condition"] = np.sqrt(raised.max(-1) / lowest)
    moment = np.swapaxes(new, 1, 2) @ new / new.shape[1]
    found["largest_new"] = np.linalg.eigvalsh(moment)[:, -1]
    return found
