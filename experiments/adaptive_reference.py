"""The algorithms of Goodfellow, Bengio & Courville (2016), chapter 8, as written, in NumPy.

Plain loops with nothing shared between them: what `dlstudy.optimizers` must agree with. Every
function takes

    gradient: (t, theta[n]) -> g[n], the gradient of step t = 0, 1, ... at a point;
    theta: float64[n], the start;
    rates: the learning rate of each step, [T];

and the algorithm's constants, and returns the change of theta in each step, float64[T, n].
"""

import numpy as np


def linear_decay(first: float, last: float, steps: int, count: int) -> np.ndarray:
    """Equation 8.14: rates of the updates k = 1 ... count; constant from k = `steps` on."""
    a = np.minimum(np.arange(1, count + 1) / steps, 1)
    return (1 - a) * first + a * last


def sgd(gradient, theta, rates):
    """Algorithm 8.1."""
    changes = []
    for t, rate in enumerate(rates):
        change = -rate * gradient(t, theta)
        theta = theta + change
        changes.append(change)
    return np.array(changes)


def momentum(gradient, theta, rates, alpha=0.9):
    """Algorithm 8.2."""
    v, changes = np.zeros_like(theta), []
    for t, rate in enumerate(rates):
        v = alpha * v - rate * gradient(t, theta)
        theta = theta + v
        changes.append(v)
    return np.array(changes)


def nesterov(gradient, theta, rates, alpha=0.9):
    """Algorithm 8.3: the gradient is taken at the interim point theta + alpha v."""
    v, changes = np.zeros_like(theta), []
    for t, rate in enumerate(rates):
        v = alpha * v - rate * gradient(t, theta + alpha * v)
        theta = theta + v
        changes.append(v)
    return np.array(changes)


def adagrad(gradient, theta, rates, delta=1e-7):
    """Algorithm 8.4."""
    r, changes = np.zeros_like(theta), []
    for t, rate in enumerate(rates):
        g = gradient(t, theta)
        r = r + g * g
        change = -rate / (delta + np.sqrt(r)) * g
        theta = theta + change
        changes.append(change)
    return np.array(changes)


def rmsprop(gradient, theta, rates, rho=0.9, delta=1e-6):
    """Algorithm 8.5."""
    r, changes = np.zeros_like(theta), []
    for t, rate in enumerate(rates):
        g = gradient(t, theta)
        r = rho * r + (1 - rho) * g * g
        change = -rate / np.sqrt(delta + r) * g
        theta = theta + change
        changes.append(change)
    return np.array(changes)


def rmsprop_nesterov(gradient, theta, rates, rho=0.9, alpha=0.9):
    """Algorithm 8.6; where r = 0, and so g = 0, its 0 / 0 is read as 0."""
    r, v, changes = np.zeros_like(theta), np.zeros_like(theta), []
    for t, rate in enumerate(rates):
        g = gradient(t, theta + alpha * v)
        r = rho * r + (1 - rho) * g * g
        scaled = np.divide(g, np.sqrt(r), out=np.zeros_like(g), where=r != 0)
        v = alpha * v - rate * scaled
        theta = theta + v
        changes.append(v)
    return np.array(changes)


def adam(gradient, theta, rates, rho1=0.9, rho2=0.999, delta=1e-8):
    """Algorithm 8.7."""
    s, r, changes = np.zeros_like(theta), np.zeros_like(theta), []
    for t, rate in enumerate(rates, start=1):
        g = gradient(t - 1, theta)
        s = rho1 * s + (1 - rho1) * g
        r = rho2 * r + (1 - rho2) * g * g
        s_hat, r_hat = s / (1 - rho1**t), r / (1 - rho2**t)
        change = -rate * s_hat / (np.sqrt(r_hat) + delta)
        theta = theta + change
        changes.append(change)
    return np.array(changes)


def averaged_momentum(gradient, theta, rates, beta=0.9):
    """The source's equations 3 and 4."""
    v, changes = np.zeros_like(theta), []
    for t, rate in enumerate(rates):
        v = beta * v + (1 - beta) * gradient(t, theta)
        theta = theta - rate * v
        changes.append(-rate * v)
    return np.array(changes)


def adam_uncorrected(gradient, theta, rates, rho1=0.9, rho2=0.999, delta=1e-8):
    """The source's equations 5 and 6, with the step of algorithm 8.7."""
    s, r, changes = np.zeros_like(theta), np.zeros_like(theta), []
    for t, rate in enumerate(rates):
        g = gradient(t, theta)
        s = rho1 * s + (1 - rho1) * g
        r = rho2 * r + (1 - rho2) * g * g
        change = -rate * s / (np.sqrt(r) + delta)
        theta = theta + change
        changes.append(change)
    return np.array(changes)


def amsgrad(gradient, theta, rates, rho1=0.9, rho2=0.999, delta=1e-8):
    """Reddi, Kale & Kumar (2018), algorithm 2; `delta` is not in the paper."""
    s, r, highest, changes = *np.zeros((3, *theta.shape)), []
    for t, rate in enumerate(rates):
        g = gradient(t, theta)
        s = rho1 * s + (1 - rho1) * g
        r = rho2 * r + (1 - rho2) * g * g
        highest = np.maximum(highest, r)
        change = -rate * s / (np.sqrt(highest) + delta)
        theta = theta + change
        changes.append(change)
    return np.array(changes)


BY_NAME = {
    made.__name__: made
    for made in (
        sgd, momentum, nesterov, adagrad, rmsprop, rmsprop_nesterov, adam, averaged_momentum,
        adam_uncorrected, amsgrad,
    )
}  # fmt: skip
