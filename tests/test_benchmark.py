"""The benchmark's own arithmetic: what its ratios are taken of."""

import math
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.extend
import jax.numpy as jnp
import pytest

from dlstudy import losses, models
from dlstudy.host import Layout
from scripts.benchmarks import __main__ as benchmark
from scripts.benchmarks import gradients, instruments, results
from scripts.benchmarks.contenders import RATE
from scripts.benchmarks.counting import training_flops
from scripts.benchmarks.workers import Task, Worker

ROOT = Path(__file__).parents[1]


def product_flops(jaxpr) -> int:
    """2 m k n of every matrix product in a jaxpr, counted from the shapes of its equations."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left, right = (operand.aval.shape for operand in equation.invars)
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = math.prod(left[axis] for axis in contracted)
            outer = math.prod(left) // inner * (math.prod(right) // inner)
            total += 2 * outer * inner
        for inner_jaxpr in jax.extend.core.jaxprs_in_params(equation.params):
            total += product_flops(inner_jaxpr)
    return total


@pytest.mark.parametrize("network", results.NETWORKS)
def test_counted_operations_are_those_of_the_program(network):
    _, widths, pool = results.NETWORKS[network]
    model = models.CNN(widths, 10, pool)
    images, labels = jnp.zeros((4, 28, 28, 1)), jnp.zeros(4, jnp.int32)
    params = models.initialise(model, jax.random.key(0), images[0])

    def loss(p):
        return losses.cross_entropy(model.apply({"params": p}, images)[0], labels)

    program = jax.make_jaxpr(jax.grad(loss))(params)
    assert product_flops(program.jaxpr) == 4 * training_flops((28, 28, 1), widths, 10, pool)


def test_the_bare_epoch_takes_the_steps_of_the_trainer():
    task = Task("bare", "two_conv", images=64, seeds=1, batch=32)
    study, data, _ = instruments.make_study(task, Layout())
    trainer = study.trainer(study.main, RATE)
    key = study.keys[0]
    state = trainer.init(key)
    bare, bare_losses = jax.jit(lambda s: instruments.bare_epoch(study, s, key, data))(state)
    full, metrics = jax.jit(trainer.epoch)(state, key, data)
    chex.assert_trees_all_close(bare, full, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(bare_losses, metrics.loss, rtol=1e-5)


@pytest.mark.parametrize("part", ["own_factored", "own_written"])
def test_the_gradients_of_examples_are_timed(part, monkeypatch):
    monkeypatch.setattr(instruments, "start", lambda seeds: None)
    monkeypatch.setattr(gradients, "TIMES", 1)
    found = getattr(gradients, part)(Task(part, "two_conv", images=16, seeds=1, batch=2))()
    assert found["seconds"] > 0


def test_gradients_of_examples_are_compared_with_the_mean_and_the_peers():
    def worker(seconds):
        found = Worker.__new__(Worker)
        found.replies = [{"seconds": seconds}]
        return found

    seconds = {"mean_gradient": 2.0, "own_factored": 2.6, "own_written": 4.0, "own_flax": 10.0}
    figures = results.figures_of("two_conv", {k: worker(v) for k, v in seconds.items()})
    assert [figure.median for figure in figures] == [1.3, 2.0, 0.4]
    assert [figure.verdict for figure in figures] == ["met", "MISSED", ""]


def test_a_figure_says_whether_its_target_is_met():
    figure = results.Figure("peers", "one_conv", "time", (0.5, 0.7, 0.4), 0.6)
    assert figure.cells() == ("time", "0.500 x", "0.400 - 0.700", "<= 0.6", "met")
    assert (
        results.Figure("rate", "one_conv", "share", (0.2,), 1 / 3, most=False).verdict == "MISSED"
    )
    assert results.Figure("rate", "one_conv", "rate", (0.2,)).verdict == ""


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--only=peers,nothing"], "--only"),
        (["--repeats=0"], "--repeats"),
        (["--cores=100000"], "--cores"),
        (["--networks="], "--networks"),
        (["mnist"], "mnist"),
    ],
)
def test_bad_options_are_named(arguments, wanted, capsys):
    with pytest.raises(SystemExit) as raised:
        benchmark.read_options(arguments)
    assert raised.value.code == 2
    assert wanted in capsys.readouterr().err


def test_help_needs_no_jax():
    script = "import sys; from scripts.benchmarks import __main__; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)
