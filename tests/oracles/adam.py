"""Adam as Goodfellow, Bengio & Courville (2016) write it, in NumPy and float64."""

import numpy as np


def steps(gradients, rate=1e-3, rho1=0.9, rho2=0.999, delta=1e-8):
    """Algorithm 8.7: the changes of the parameters, [T, n], for gradients[T, n]."""
    s = np.zeros_like(gradients[0])
    r = np.zeros_like(gradients[0])
    changes = []
    for t, g in enumerate(gradients, start=1):
        s = rho1 * s + (1 - rho1) * g
        r = rho2 * r + (1 - rho2) * g**2
        s_hat = s / (1 - rho1**t)
        r_hat = r / (1 - rho2**t)
        changes.append(-rate * s_hat / (np.sqrt(r_hat) + delta))
    return np.array(changes)


def second_moment(gradients, rho2=0.999):
    """Bias-corrected second moment after gradients[T, n]: [n], as a plain weighted mean."""
    weights = rho2 ** np.arange(len(gradients))[::-1]
    return weights @ np.square(gradients) / weights.sum()
