"""Computes the studies of `sparsity`: settings and arrays in, rows of numbers out."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlstudy import losses, models, regularizers, sweep
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.regularizers import Strengths
from dlstudy.stages import run_stage
from experiments import sparsity_record as records
from experiments.sparsity import BLOCK

SHOWN_WEIGHTS, SHOWN_STEPS = 12, 120  # of a quadratic, kept for the figure of trajectories
FALL = 100  # steps after which the falling rate is half of the first
FLOOR = 0.2  # of the rate, at the end of the epochs and in the full-batch steps
SPAN = 1e-3  # smallest over largest strength on the path of a linear model


class Conditions(NamedTuple):
    """How each of C networks is trained: numbers only, so that all are one program."""

    rate: np.ndarray  # float32[C]
    strengths: Strengths  # of proximal maps, float32[C] each
    subgradient: np.ndarray  # float32[C], strength of L1 in the source's update (2)


def run(config, data: Data, host: Host):
    """Runs all studies and returns the record, an `xarray.Dataset` (see `sparsity_record`)."""
    seeds = list(host.seeds(config.num_seeds))
    study = Study(config, data, host, seeds)
    return records.assemble(
        config, data, seeds, study.run_quadratic(), study.run_linear(), study.run_network()
    )


def conditions_of(config) -> tuple[list[tuple[str, float, float]], Conditions]:
    """(arm, strength, rate) of each network, and the numbers they stand for."""
    paths = {
        "network_l1": config.l1_strengths,
        "network_l2": config.l2_strengths,
        "network_group": config.group_strengths,
        "network_source": config.l1_strengths,
    }
    labels = [(arm, s, r) for arm, path in paths.items() for s in path for r in config.rates]
    rate = np.array([r for _, _, r in labels], np.float32)
    only = lambda name: np.array(  # noqa: E731
        [s if arm == f"network_{name}" else 0 for arm, s, _ in labels], np.float32
    )
    return labels, Conditions(
        rate, Strengths(only("l1"), only("l2"), only("group")), only("source")
    )


class Study:
    """The data, and the programs over seeds."""

    def __init__(self, config, data: Data, host: Host, seeds):
        self.config, self.host = config, host
        self.keys = sweep.seed_keys(config.seed, seeds)
        flat = [(s.x.reshape(len(s.x), -1), s.y) for s in (data.train, data.tune, data.test)]
        self.train, self.tune, self.test = jax.device_put(flat)
        self.model = models.MLP(config.widths, data.classes)
        self.labels, self.conditions = conditions_of(config)
        arms = np.array([arm for arm, _, _ in self.labels])
        self.l2_rows = np.flatnonzero(arms == "network_l2")

    # -- functions of one seed: quadratics

    def quadratic(self, key):
        """All updates on one quadratic: arrays [updates, strengths, ...]."""
        config = self.config
        size = (config.weights,)
        of_curvature, of_target, of_start = jax.random.split(jax.random.fold_in(key, 1), 3)
        curvature = 10.0 ** jax.random.uniform(of_curvature, size, minval=-1.0, maxval=0.0)
        target = jax.random.normal(of_target, size)
        start = jax.random.normal(of_start, size)
        start = jnp.broadcast_to(start, (len(records.UPDATES), *size))

        def end(alpha):
            def step(carry, number):
                w, crossings = carry
                new = self.update(alpha, curvature, target, w, number)
                return (new, crossings + (new * w < 0).astype(w.dtype)), None

            begin = (start, jnp.zeros_like(start))
            (w, crossings), _ = jax.lax.scan(step, begin, jnp.arange(config.quadratic_steps))
            return self.compare(alpha, curvature, target, w, crossings)

        found = jax.vmap(end, out_axes=1)(jnp.array(config.alphas))
        middle = len(config.alphas) // 2

        def kept(w, number):
            after = self.update(config.alphas[middle], curvature, target, w, number)
            return after, w[:, :SHOWN_WEIGHTS]

        _, trajectories = jax.lax.scan(kept, start, jnp.arange(SHOWN_STEPS))
        return found | {
            "end_weights": found["end_weights"][:, middle],
            "trajectories": trajectories.transpose(1, 2, 0),
            "curvatures": curvature,
            "targets": target,
        }

    def update(self, alpha, curvature, target, w, number):
        """w[updates, weights] after one step of each update; `number` counts steps."""
        rate, ridge = self.config.quadratic_rate, self.config.l2_ratio * alpha
        falling = rate / (1 + number / FALL)
        gradient = curvature[None] * (w - target[None])
        rows = {name: (w[i], gradient[i]) for i, name in enumerate(records.UPDATES)}
        after = {
            "proximal": regularizers.proximal_step(
                *rows["proximal"], rate, lambda v, t: regularizers.soft_threshold(v, t * alpha)
            ),
            "source": regularizers.subgradient_step(*rows["source"], rate, alpha),
            "falling": regularizers.subgradient_step(*rows["falling"], falling, alpha),
            "l2": rows["l2"][0] - rate * (rows["l2"][1] + alpha * rows["l2"][0]),
            "elastic_net": regularizers.proximal_step(
                *rows["elastic_net"], rate,
                lambda v, t: regularizers.elastic_net_prox(v, t * alpha, t * ridge),
            ),
        }  # fmt: skip
        return jnp.stack([after[name] for name in records.UPDATES])

    def compare(self, alpha, curvature, target, w, crossings):
        """What is said of w[updates, weights] beside the closed form: [updates] each."""
        cutoff, ridge = self.config.cutoff, self.config.l2_ratio * alpha
        lasso = regularizers.diagonal_minimiser(curvature, target, alpha)
        others = {
            "l2": regularizers.diagonal_minimiser(curvature, target, 0.0, alpha),
            "elastic_net": regularizers.diagonal_minimiser(curvature, target, alpha, ridge),
        }
        best = jnp.stack([others.get(name, lasso) for name in records.UPDATES])
        small, cut = best == 0, jnp.abs(w) < cutoff
        return {
            "zeros": (w == 0).sum(1),
            "closed_zeros": small.sum(1),
            "zeros_hit": (small & (w == 0)).sum(1),
            "cut_zeros": cut.sum(1),
            "cut_wrong": (cut != small).sum(1),
            "closed_error": jnp.abs(w - best).max(1) / jnp.abs(target).max(),
            "crossings": jnp.where(small, crossings, 0).sum(1)
            / jnp.maximum(small.sum(1), 1).astype(w.dtype),
            "end_weights": w,
        }

    # -- linear data

    def linear(self, key):
        """Lasso and ridge along their paths, for all correlations: arrays [correlations, ...]."""
        return jax.vmap(lambda rho: self.linear_at(key, rho))(jnp.array(self.config.correlations))

    def linear_at(self, key, rho):
        config = self.config
        key = jax.random.fold_in(key, 2)
        of_place, of_size, of_sign, of_train, of_tune = jax.random.split(key, 5)
        d, k = config.features, config.informative
        place = jax.random.permutation(of_place, d) < k
        sizes = jax.random.uniform(of_size, (d,), minval=0.5, maxval=1.5)
        truth = jnp.where(place, sizes * jax.random.rademacher(of_sign, (d,), sizes.dtype), 0)
        covariance, factor = neighbours(d, rho)

        def draw(key, number):
            of_x, of_noise = jax.random.split(key)
            x = jax.random.normal(of_x, (number, d)) @ factor.T
            return x, x @ truth + config.noise * jax.random.normal(of_noise, (number,))

        (x, y), (tune_x, tune_y) = draw(of_train, config.samples), draw(of_tune, config.tuning)
        hessian, slope = x.T @ x / config.samples, x.T @ y / config.samples
        # A bound on the largest curvature; no LAPACK, whose calls wait for each other for ever
        # when several devices of a CPU make them at once.
        bound = jnp.abs(hessian).sum(1).max()
        shape = jnp.logspace(0.0, np.log10(SPAN), config.path)

        def solve(prox, strengths):
            """Minimisers [path, D] along a path; prox takes (w, step, strength)."""
            return jax.vmap(
                lambda strength: regularizers.minimise(
                    lambda w: hessian @ w - slope, lambda w, t: prox(w, t * strength),
                    1 / bound, jnp.zeros(d), config.linear_steps,
                )
            )(strengths)  # fmt: skip

        # From the strength at which no feature is left, downwards; of ridge from ten times the
        # bound, where nearly nothing is left.
        lasso = solve(regularizers.soft_threshold, jnp.abs(slope).max() * shape)
        ridge = solve(regularizers.shrink, 10 * bound * shape)
        found = {}
        for name, weights in (("linear_l1", lasso.params), ("linear_l2", ridge.params)):
            chosen = choose(jnp.square(weights @ tune_x.T - tune_y[None]))
            w = weights[chosen]
            off = w - truth
            found[name] = {
                **selection(w != 0, place),
                "top_f1": selection(largest_of(jnp.abs(w), k), place)["f1"],
                "risk": off @ covariance @ off,
                "chosen": chosen,
                "linear_weights": w,
            }
        both = {
            name: jnp.stack([found[arm][name] for arm in records.LINEAR])
            for name in found["linear_l1"]
        }
        return both | {
            "linear_truth": truth,
            "residual": jnp.maximum(lasso.residual.max(), ridge.residual.max()),
        }

    # -- networks

    def start(self, key):
        """Parameters of all networks: the same first weights for each, leading axis [C]."""
        params = models.initialise(self.model, jax.random.fold_in(key, 3), self.train[0][0])
        return jax.tree.map(lambda w: jnp.broadcast_to(w, (len(self.labels), *w.shape)), params)

    def loss(self, params, batch):
        return losses.cross_entropy(self.model.apply({"params": params}, batch[0])[0], batch[1])

    def descend(self, params, batch, fraction, condition: Conditions):
        """One step of one network at this fraction of its rate."""
        rate = fraction * condition.rate
        optimizer = optax.chain(
            regularizers.add_penalty_gradient(
                lambda tree: jax.tree.map(
                    lambda w, b: condition.subgradient * jnp.sign(w) * b, tree, self.penalised
                )
            ),
            optax.scale(-rate),
            regularizers.proximal(lambda tree, step: self.prox(tree, step, condition), rate),
        )
        gradient = jax.grad(self.loss)(params, batch)
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    @property
    def penalised(self):
        """1 at kernels and 0 at biases, like the parameters."""
        names = (*(f"hidden_{i}" for i in range(len(self.config.widths))), "head")
        return {name: {"kernel": 1.0, "bias": 0.0} for name in names}

    def prox(self, params, step, condition: Conditions):
        """A group is all that enters a hidden unit, and in the head all that leaves one."""
        return regularizers.on_kernels(
            lambda name, w: regularizers.sparse_group_prox(
                w, step, condition.strengths, axis=1 if name == "head" else 0
            ),
            params,
        )

    def descend_all(self, params, batch, fraction):
        return jax.vmap(lambda p, c: self.descend(p, batch, fraction, c))(
            params, Conditions(*self.conditions)
        )

    def block(self, params, key, begin, end, last, data):
        """Epochs begin to end - 1, in the last block full-batch steps too: (params, row)."""
        train, tune, test = data
        size = self.config.batch_size
        batches = len(train[1]) // size
        total = self.config.epochs * batches

        def epoch(number, params):
            own = jax.random.fold_in(jax.random.fold_in(key, 4), number)
            order = jax.random.permutation(own, len(train[1]))[: batches * size]

            def step(params, given):
                i, rows = given
                done = (number * batches + i).astype(jnp.float32) / total
                fraction = 1 - (1 - FLOOR) * done
                return self.descend_all(params, (train[0][rows], train[1][rows]), fraction), None

            steps = jnp.arange(batches), order.reshape(batches, size)
            return jax.lax.scan(step, params, steps)[0]

        params = jax.lax.fori_loop(begin, end, epoch, params)
        row = {"zero_share_before": jax.vmap(zero_share)(params)}
        count = jnp.where(last, self.config.last_steps, 0)
        params = jax.lax.fori_loop(
            0, count, lambda _, p: self.descend_all(p, train, jnp.float32(FLOOR)), params
        )
        row |= jax.vmap(lambda p: self.measure(p, train, tune, test))(params)
        ridged = jax.tree.map(lambda w: w[self.l2_rows], params)
        prune = lambda: jax.lax.map(lambda p: self.prune(p, tune, test), ridged)  # noqa: E731
        nothing = jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), jax.eval_shape(prune))
        return params, row | jax.lax.cond(last, prune, lambda: nothing)

    def measure(self, params, train, tune, test):
        """What is said of one network."""
        output = lambda x: self.model.apply({"params": params}, x)[0]  # noqa: E731
        first = params["hidden_0"]["kernel"]
        return {
            "train_loss": self.loss(params, train),
            "tune_error": losses.error_rate(output(tune[0]), tune[1]),
            "test_error": losses.error_rate(output(test[0]), test[1]),
            "zero_share": zero_share(params),
            "units_removed": units_removed(params),
            "pixels_read": pixels_read(params),
            "pixel_norm": jnp.linalg.norm(first, axis=1),
        }

    def prune(self, params, tune, test):
        """The same with the smallest weights cut, at every level: [levels] each."""
        kernels = regularizers.kernels(params)
        sizes = jnp.sort(jnp.concatenate([jnp.abs(w).ravel() for w in kernels.values()]))
        levels = self.config.pruning_levels
        cuts = sizes[np.arange(levels) * len(sizes) // levels]

        def at(cut):
            kept = regularizers.on_kernels(lambda _, w: jnp.where(jnp.abs(w) < cut, 0, w), params)
            found = self.measure(kept, tune, tune, test)
            return {
                f"pruned_{name}": found[name]
                for name in ("tune_error", "test_error", "zero_share", "units_removed",
                             "pixels_read")
            }  # fmt: skip

        return jax.lax.map(at, cuts)

    # -- stages

    def over_seeds(self, function, **more):
        return sweep.over_seeds(function, self.host.layout, **more)

    def run_quadratic(self) -> dict:
        return self.run_exactly("quadratic", self.quadratic, lambda row: {
            "zeros": float(np.median(row["zeros"][:, 0])),
        })  # fmt: skip

    def run_linear(self) -> dict:
        return self.run_exactly("linear", self.linear, lambda row: {
            "F1": float(np.median(row["f1"][:, 0, 0])),
        })  # fmt: skip

    def run_exactly(self, name: str, function, headline) -> dict:
        """A stage of one unit, in float64."""

        def advance(unit, state):
            with jax.enable_x64(True):
                return state, jax.device_get(self.over_seeds(function)(self.keys))

        return run_stage(self.host, name, 1, lambda: (), advance, headline)[0]

    def run_network(self) -> dict:
        config = self.config
        start = self.over_seeds(self.start)
        block = self.over_seeds(self.block, shared=4, donate=(0,))
        data = (self.train, self.tune, self.test)

        def advance(unit, params):
            begin, end = unit * BLOCK, min((unit + 1) * BLOCK, config.epochs)
            last = np.bool_(unit == config.blocks - 1)
            return block(params, self.keys, np.int32(begin), np.int32(end), last, data)

        def headline(row):
            return {"tune error": float(np.nanmedian(row["tune_error"].min(1)))}

        rows = run_stage(
            self.host, "network", config.blocks, lambda: start(self.keys), advance, headline
        )
        finite = np.stack([np.isfinite(row["train_loss"]) for row in rows])  # [blocks, S, C]
        return rows[-1] | {"finite": finite, "labels": self.labels}


# -- numbers of one model


def zero_share(params):
    """Share of the kernels' weights that are exactly 0."""
    kernels = regularizers.kernels(params).values()
    zeros = sum((w == 0).sum() for w in kernels)
    return zeros.astype(jnp.float32) / sum(w.size for w in kernels)


def units_removed(params):
    """Share of hidden units without incoming or without outgoing weights: they can be left out.

    What such a unit passes on is a constant, which the biases above can take over.
    """
    kernels = regularizers.kernels(params)
    names = [*(f"hidden_{i}" for i in range(len(kernels) - 1)), "head"]
    removed = [
        (kernels[here] == 0).all(0) | (kernels[above] == 0).all(1)
        for here, above in itertools.pairwise(names)
    ]
    return jnp.concatenate(removed).astype(jnp.float32).mean()


def pixels_read(params):
    """Share of the inputs from which a weight leads into the first layer."""
    return (params["hidden_0"]["kernel"] != 0).any(1).astype(jnp.float32).mean()


def neighbours(d: int, rho):
    """Covariance rho^|i - j| of D features, and its Cholesky factor, in closed form."""
    index = jnp.arange(d)
    apart = index[:, None] - index[None]
    covariance = rho ** jnp.abs(apart).astype(rho.dtype)
    own = jnp.where(index == 0, 1, jnp.sqrt(1 - rho**2))
    return covariance, jnp.where(apart >= 0, covariance * own[None], 0)


def choose(squares):
    """Place on a path of falling strength: the strongest within a standard error of the best.

    The rule of one standard error (Hastie, Tibshirani & Friedman 2009, 7.10). Choosing the best
    itself keeps far more features than matter.

    Args:
      squares: squared errors [path, samples] on the tuning split.
    """
    mean = squares.mean(1)
    best = mean.argmin()
    limit = mean[best] + squares[best].std() / squares.shape[1] ** 0.5
    return (mean <= limit).argmax()


def largest_of(sizes, k: int):
    """Which of sizes[D] are the k largest: bool[D]."""
    return jnp.zeros(sizes.shape, bool).at[jax.lax.top_k(sizes, k)[1]].set(True)


def selection(selected, true):
    """Precision, recall and F1 of selected features bool[D]; of none selected, 0."""
    count = lambda mask: mask.sum().astype(jnp.result_type(float))  # noqa: E731
    hits, number, wanted = count(selected & true), count(selected), count(true)
    return {
        "precision": hits / jnp.maximum(number, 1),
        "recall": hits / wanted,
        "f1": 2 * hits / (number + wanted),
        "selected": number,
    }
