"""Parts: bare training, and what each instrument of `mnist_gradnorm` adds to an epoch.

All but the bare step are the experiment's own functions. Each part is a function as in
`contenders`; its "seconds" are those of one seed and epoch.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dlstudy import optimizers
from dlstudy.chunks import mean_over_chunks
from dlstudy.data import load
from dlstudy.host import Layout, NullHost
from dlstudy.training import Instruments
from experiments.devices import cache_folder, start_jax, use_compilation_cache
from experiments.mnist_gradnorm import Config
from experiments.mnist_gradnorm_runs import Study
from scripts.benchmarks.contenders import epoch_seconds


def start(seeds: int | None = None) -> Layout:
    """Starts jax as the command line does, and returns the layout it would choose.

    Without a number of seeds it is a layout over all devices.
    """
    layout = start_jax({}, {}, False, seeds)
    use_compilation_cache(cache_folder())
    return Layout(**{field.name: layout[field.name] for field in dataclasses.fields(Layout)})


def curvature_size(images: int) -> int:
    """Images for the curvature: the default run's share of them, 512 of 4,000."""
    return round(images * 512 / 4000)


def make_study(task, layout: Layout | None = None):
    """The experiment's programs, its training data on the device, and a rate for each seed."""
    layout = layout or start(task.seeds)
    config = Config(
        network=task.network, num_seeds=task.seeds, batch_size=task.batch,
        curvature_size=curvature_size(task.images),
    )  # fmt: skip
    data = load(config.data, train_size=task.images)
    study = Study(config, data, NullHost(layout), range(task.seeds))
    rates = jnp.full(task.seeds, config.learning_rate, jnp.float32)
    return study, jax.device_put(tuple(data.train)), rates


def bare_epoch(study, state, key, data):
    """An epoch of `training.make_trainer` that computes nothing but the losses and the steps."""
    config = study.config
    optimizer = optimizers.make(config.optimizer, config.learning_rate)

    def step(carry, rows):
        params, opt_state = carry
        value, gradient = mean_over_chunks(
            lambda batch: jax.value_and_grad(study.loss)(params, batch),
            jax.tree.map(lambda a: a[rows], data),
        )
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (jax.tree.map(jnp.add, params, updates), opt_state), value

    examples, size = len(data[1]), config.batch_size
    order = jax.random.permutation(jax.random.fold_in(key, state.step), examples)
    rows = order[: examples // size * size].reshape(-1, size)
    (params, opt_state), losses = jax.lax.scan(step, (state.params, state.opt_state), rows)
    return state._replace(params=params, opt_state=opt_state, step=state.step + len(rows)), losses


def bare(task):
    """Training with nothing measured: what the others are compared with."""
    study, data, _ = make_study(task)
    epoch = study.over_seeds(lambda *arguments: bare_epoch(study, *arguments), 1, (0,))
    state = first_state(study)

    def work():
        nonlocal state
        state, losses = jax.block_until_ready(epoch(state, study.keys, data))
        return losses

    return lambda: epoch_seconds(work, task.seeds)


def norms(task):
    """Training that records the norms of gradient (whole and by layer) and step."""
    return training(task, Instruments(0, 0))


def taylor(task):
    """Training that also records the Taylor budget of every step."""
    return training(task, Instruments(1, 0, 0))


def training(task, instruments):
    study, data, rates = make_study(task)
    epoch = training_program(study, instruments)
    state = first_state(study)

    def work():
        nonlocal state
        state, metrics, _ = jax.block_until_ready(epoch(state, study.keys, rates, data))
        return metrics.loss

    return lambda: epoch_seconds(work, task.seeds)


def evaluation(task):
    """Losses, errors and churn of the tuning and test images."""
    return evaluated(task, with_train=False)


def evaluation_all(task):
    """The same of the training images too."""
    return evaluated(task, with_train=True)


def evaluated(task, with_train: bool):
    study, data, _ = make_study(task)
    splits = {"tune": study.tune, "test": study.test} | ({"train": data} if with_train else {})
    params = first_state(study).params
    predictions = jnp.zeros((task.seeds, *study.test[1].shape), jnp.int32)
    evaluate = study.over_seeds(study.evaluate, 1)

    def work():
        return jax.block_until_ready(evaluate(params, predictions, splits))[1]["test_loss"]

    return lambda: epoch_seconds(work, task.seeds)


def gradient(task):
    """Full-batch gradient and tr Sigma in one pass."""
    study, data, _ = make_study(task)
    params = first_state(study).params
    program = study.over_seeds(study.full_gradient, 1)

    def work():
        return jax.block_until_ready(program(params, data))["train_loss"]

    return lambda: epoch_seconds(work, task.seeds)


def curvature(task):
    """g'Hg, the largest eigenvalue and the preconditioned one, after each of a few real epochs.

    The epoch between two measurements is not timed; "products" is the mean over seeds of the
    Hessian-vector products the two eigenvalues took.
    """
    study, data, rates = make_study(task)
    epoch = training_program(study, Instruments(0, 0))
    program = study.over_seeds(study.curvatures, 1)
    params = study.initial(study.keys)
    state, measured = study.over_seeds(lambda p, rate: study.start(study.main, p, rate))(
        params, rates
    )
    products = []

    def work():
        nonlocal measured
        measured, row = jax.block_until_ready(program(state, measured, study.subset))
        products[:] = row["sharpness_products"], row["preconditioned_sharpness_products"]
        return row["sharpness"]

    def repeat():
        nonlocal state
        found = epoch_seconds(work, task.seeds)
        found["products"] = float(np.sum(products) / task.seeds)
        state = jax.block_until_ready(epoch(state, study.keys, rates, data))[0]
        return found

    return repeat


def training_program(study, instruments):
    """The experiment's epoch over seeds: (state, keys, rates, data) -> (state, metrics, moved)."""
    arm = study.main._replace(instruments=instruments)
    return study.over_seeds(
        lambda state, key, rate, data: study.train_epoch(arm, state, key, rate, data), 1, (0,)
    )


def first_state(study):
    trainer = study.trainer(study.main, study.config.learning_rate)
    return study.over_seeds(trainer.init)(study.keys)
