"""Runs `momentum`: settings and arrays in, record out.

Quadratics are float64, the network float32. Methods, condition numbers, constants and rates are
axes of one compiled program each.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dlstudy import losses, models, optimizers, sweep
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.stages import run_stage
from experiments import momentum_quadratics as quadratics
from experiments import momentum_record as records

PATH_KAPPA, PATH_STEPS = 30.0, 40  # of the paths in the plane
COMPARED = 200  # steps over which the two forms are compared


def run(config, data: Data, host: Host):
    """Runs all stages and returns the record, an `xarray.Dataset` (see `momentum_record`)."""
    seeds = list(host.seeds(config.num_seeds))
    study = Study(config, data, host, seeds)
    with jax.enable_x64(True):
        rows = study.run_quadratics()
    return records.assemble(config, seeds, rows | study.run_network())


def stack(methods) -> quadratics.Method:
    """Methods as one, each constant an array."""
    return quadratics.Method(*(np.array(values) for values in zip(*methods, strict=True)))


def noise_grid(config) -> quadratics.Method:
    """All constants that are tried with noise: alpha, 0 first, before the rate."""
    return stack(
        quadratics.Method(rate, alpha, 0.0)
        for alpha in (0.0, *config.noise_alphas) for rate in records.NOISE_RATES
    )  # fmt: skip


class Study:
    """The data on the device, and the programs over seeds."""

    def __init__(self, config, data: Data, host: Host, seeds):
        self.config, self.host = config, host
        self.keys = sweep.seed_keys(config.seed, seeds)
        flat = lambda split: (split.x.reshape(len(split.y), -1), split.y)  # noqa: E731
        self.train, self.tune = jax.device_put((flat(data.train), flat(data.tune)))
        self.model = models.MLP(config.widths, data.classes)

    def once(self, name, function, headline, *arguments):
        """A stage of one unit: a program over seeds, on their arguments."""
        program = sweep.over_seeds(function, self.host.layout)
        (row,) = run_stage(
            self.host, name, 1, lambda: (), lambda unit, state: (state, program(*arguments)),
            headline,
        )  # fmt: skip
        return row

    # -- quadratics

    def problems(self, key) -> tuple[quadratics.Quadratic, quadratics.Quadratic]:
        """A seed's problem in all dimensions, and one in a plane."""
        keys = jax.random.split(jax.random.fold_in(key, 0))
        plane = quadratics.draw(keys[1], 2)
        # As far across the valley as along it, so that all seeds show the same.
        plane = plane._replace(start=jnp.sign(plane.start) * 2**-0.5)
        return quadratics.draw(keys[0], self.config.dimensions), plane

    def quadratics(self, problem, plane):
        """All methods on all condition numbers of one seed, [methods, kappas]; paths in a plane."""
        config = self.config
        kappas = jnp.array(config.kappas)
        each = [quadratics.methods(kappa, config.alpha) for kappa in config.kappas]
        methods = [stack(of[name] for of in each) for name in records.METHODS]
        methods = quadratics.Method(*(np.stack(values) for values in zip(*methods, strict=True)))

        def one(method, kappa):
            return quadratics.descend(
                kappa**-problem.place, problem.start, method, config.target, config.most_steps
            )

        found = jax.vmap(lambda of: jax.vmap(one)(of, kappas))(jax.tree.map(jnp.array, methods))
        hessian, start = quadratics.turned(plane, PATH_KAPPA)
        shown = stack(quadratics.methods(PATH_KAPPA, config.alpha).values())
        paths = jax.vmap(lambda of: quadratics.path(hessian, start, of, PATH_STEPS))(
            jax.tree.map(jnp.array, shown)
        )
        return found._asdict() | {
            "place": problem.place, "plane_path": paths, "plane_hessian": hessian,
        }  # fmt: skip

    def run_quadratics(self) -> dict[str, dict]:
        """All that is done with the quadratics, by stage."""
        drawn = sweep.over_seeds(self.problems, self.host.layout)(self.keys)
        middle = lambda name: lambda row: {"steps": float(np.median(row[name]))}  # noqa: E731
        return {
            "quadratics": self.once("quadratics", self.quadratics, middle("steps"), *drawn),
            "noise": self.once("noise", self.noisy, middle("noisy_steps"), drawn[0]),
            "forms": self.once("forms", self.forms, middle("form_steps"), drawn[0]),
        }

    def noisy(self, problem):
        """Steps to the target with every constant and amount of noise, [constants, amounts]."""
        config = self.config
        return {
            "noisy_steps": quadratics.steps_with_noise(
                config.noise_kappa**-problem.place, problem.start,
                jax.tree.map(jnp.array, noise_grid(config)), jnp.array(config.noises),
                config.noise_target, config.noise_steps,
            )
        }  # fmt: skip

    def forms(self, problem):
        """The source's exponential average against the book's sum, at some ratios of the rates."""
        config = self.config
        hessian, start = quadratics.turned(problem, config.form_kappa)
        factors = jnp.array(records.FACTORS)

        def descend(update):
            """First points [COMPARED, N], and steps until the target."""

            def once(run, _):
                run = update(*run, lambda at: hessian @ at)
                return run, (run[0], jnp.linalg.norm(run[0]))

            _, (points, away) = jax.lax.scan(
                once, (start, jnp.zeros_like(start)), length=config.form_steps
            )
            return points[:COMPARED], (away > config.target).sum() + 1

        def summed(alpha):
            method = quadratics.Method(config.form_rate, alpha, 0.0)
            return descend(lambda *run: quadratics.step(method, *run))

        def averaged(rate):
            return descend(lambda *run: quadratics.averaged_step(rate, config.alpha, *run))

        matched = config.form_rate / (1 - config.alpha)
        sums, steps = jax.vmap(summed)(jnp.array([config.alpha, 0.0]))
        points, others = jax.vmap(averaged)(jnp.append(matched * factors, config.form_rate))
        book = sums[0]
        away = jnp.linalg.norm(points[:-1] - book[None], axis=2)
        relative = (away / jnp.linalg.norm(book, axis=1)[None]).max(1)
        return {
            "form_distance": relative,
            "form_steps": jnp.stack([*steps, others[records.FACTORS.index(1.0)], others[-1]]),
        }

    # -- the network

    def loss(self, params, batch):
        return losses.cross_entropy(self.model.apply({"params": params}, batch[0])[0], batch[1])

    def network(self, size: int, steps: int, key):
        """Losses [2 optimizers, rates, measurements] of one seed, before any step and on the way.

        Args:
          size: images of a batch; all of them: the whole set.
          steps: so many, cut to a multiple of the distance between measurements.
          key: of the seed.
        """
        config, train = self.config, self.train
        examples = len(train[1])
        begin = models.initialise(self.model, jax.random.fold_in(key, 2), train[0][0])
        rates = jnp.array(config.rates, jnp.float32)
        alphas = jnp.array([0.0, config.alpha], jnp.float32)[:, None]
        shape = 2, len(rates)
        each = jax.tree.map(
            lambda of: jnp.broadcast_to(of, shape).ravel(), (rates[None], alphas)
        )  # fmt: skip
        # Every pass over the set in an order of its own; all runs of a seed see the same batches.
        per_pass = examples // size
        passes = -(-steps // per_pass)

        def order(number):
            own = jax.random.fold_in(jax.random.fold_in(key, 3), number)
            return jax.random.permutation(own, examples)[: per_pass * size].reshape(-1, size)

        def step(run, constants, batch):
            params, state = run
            optimizer = optimizers.momentum(*constants)
            updates, state = optimizer.update(jax.grad(self.loss)(params, batch), state, params)
            return jax.tree.map(jnp.add, params, updates), state

        def block(runs, rows):
            """Measures, then makes the steps of so many batches."""
            measured = jax.vmap(
                lambda p: jnp.stack([self.loss(p, train), self.loss(p, self.tune)])
            )(runs[0])  # fmt: skip

            def batch_step(runs, own):
                batch = train if size == examples else jax.tree.map(lambda a: a[own], train)
                return jax.vmap(step, (0, 0, None))(runs, each, batch), None

            return jax.lax.scan(batch_step, runs, rows)[0], measured

        blocks = steps // config.every
        if size == examples:  # there is nothing to draw
            batches = jnp.zeros((blocks, config.every), jnp.int32)
        else:
            batches = jax.vmap(order)(jnp.arange(passes)).reshape(-1, size)
            batches = batches[: blocks * config.every].reshape(blocks, config.every, size)
        first = jax.vmap(lambda *c: (begin, optimizers.momentum(*c).init(begin)))(*each)
        _, measured = jax.lax.scan(block, first, batches)
        return {
            name: jnp.moveaxis(measured[:, :, i].reshape(blocks, *shape), 0, 2)
            for i, name in enumerate(("train_loss", "tune_loss"))
        }

    def run_network(self) -> dict[str, dict]:
        config, every = self.config, len(self.train[1])
        found = {}
        for name, size, steps in (
            ("whole", every, config.whole_steps), ("batches", config.batch_size, config.batch_steps)
        ):  # fmt: skip
            found[name] = self.once(
                name, lambda key, size=size, steps=steps: self.network(size, steps, key),
                lambda row: {"training loss": float(np.nanmin(row["train_loss"][..., -1]))},
                self.keys,
            )  # fmt: skip
        return found
