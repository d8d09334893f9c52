"""Does noisy gradient descent on a quadratic shrink the loss? (toy, for the tests of cli)

Two stages, "plain" and "heavy_ball", of a few epochs; a second's work.
"""

import dataclasses
import os
import sys
import time

import numpy as np

from dlstudy.claims import Claim
from dlstudy.errors import UserError
from dlstudy.host import Interrupted
from experiments import cli
from experiments.cli import seeds_setting, setting

NAME = "toy"
STAGES = ("plain", "heavy_ball")


@dataclasses.dataclass(frozen=True)
class Config:
    num_seeds: int = seeds_setting(3)
    seed: int = setting(0, "the base seed", low=0)
    epochs: int = setting(4, "epochs of each stage", low=1)
    steps: int = setting(5, "steps in an epoch", low=1)
    learning_rate: float = setting(0.1, "step size", unit="1", low=0, low_open=True)
    momentum: float = setting(0.9, "of heavy_ball", low=0, high=1, high_open=True)
    widths: tuple[int, ...] = setting((3, 2), "sizes of the two blocks", low=1)
    arms: tuple[str, ...] = setting(STAGES, "which stages to run", choices=STAGES)
    noise: bool = setting(True, "add noise to the gradient")
    target: str = setting("zero", "where the minimum is", choices=("zero", "one"))
    data_dir: str = setting("", "where data would be", local=True)

    def check(self):
        if len(self.widths) != 2:
            raise UserError(f"--widths={cli.flagging.to_text(self.widths)}: must be two numbers")


@dataclasses.dataclass(frozen=True)
class Data:
    name: str
    checksum: str
    scales: np.ndarray


def load(config):
    scales = np.linspace(1, 2, sum(config.widths), dtype=np.float32)
    return Data("scales", f"{scales.sum():.3f}", scales)


def stages(config):
    return {arm: config.epochs for arm in config.arms}


def plan(config, seeds, devices):
    lines = [
        f"{arm}: {seeds} seeds x {config.epochs} epochs on {devices} devices" for arm in config.arms
    ]
    return cli.Plan(lines, 1.0)


def run(config, data, host):
    import jax
    import jax.numpy as jnp
    import xarray

    seeds = list(host.seeds(config.num_seeds))
    base = jax.random.key(config.seed)
    target = jnp.float32(config.target == "one")

    def init(seed):
        key = jax.random.fold_in(base, seed)
        a, b = jnp.split(jax.random.normal(key, (sum(config.widths),)), [config.widths[0]])
        params = {"a": a, "b": b}
        return {
            "params": params,
            "velocity": jax.tree.map(jnp.zeros_like, params),
            "key": key,
            "step": jnp.int32(0),
        }

    def loss(params):
        flat = jnp.concatenate([params["a"], params["b"]])
        return 0.5 * jnp.sum(data.scales * (flat - target) ** 2)

    def step(state, momentum):
        value, grads = jax.value_and_grad(loss)(state["params"])
        key = jax.random.fold_in(state["key"], state["step"])
        size = 0.1 * config.noise
        grads = jax.tree.map(lambda g: g + size * jax.random.normal(key, g.shape), grads)
        velocity = jax.tree.map(lambda v, g: momentum * v + g, state["velocity"], grads)
        params = jax.tree.map(lambda p, v: p - config.learning_rate * v, state["params"], velocity)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        state = {**state, "params": params, "velocity": velocity, "step": state["step"] + 1}
        return state, {"loss": value, "grad_norm": norm}

    @jax.jit
    @jax.vmap
    def epoch_of(state, momentum):
        return jax.lax.scan(lambda s, _: step(s, momentum), state, length=config.steps)

    every = {}
    for arm in config.arms:
        stage = host.stage(arm, config.epochs)
        momentum = jnp.full(len(seeds), config.momentum if arm == "heavy_ball" else 0.0)
        start = jax.vmap(init)(jnp.asarray(seeds))
        begin, state, rows = stage.restore(start) or (0, start, [])
        for epoch in range(begin, config.epochs):
            time.sleep(float(os.environ.get("TOY_SLEEP", 0)))
            state, row = epoch_of(state, momentum)
            rows.append({name: np.asarray(value) for name, value in row.items()})
            stage.save(epoch, state, rows)
            stage.report({"loss": float(np.median(row["loss"])), "diverged": 0})
            if host.should_stop():
                raise Interrupted
        stage.finish(rows)
        every[arm] = {name: np.concatenate([r[name] for r in rows], 1) for name in rows[0]}
    variables = {
        name: (
            ("arm", "seed", "step"),
            np.stack([every[arm][name] for arm in config.arms]),
            {"units": "1", "long_name": name},
        )
        for name in ("loss", "grad_norm")
    }
    diverged = np.full((len(seeds), len(config.arms)), -1)
    return xarray.Dataset(
        {**variables, "diverged_step": (("seed", "arm"), diverged)},
        coords={"arm": list(config.arms), "seed": seeds},
        attrs={"cost": ["gradient norm: 0.1 s", "loss: free"]},
    )


def decrease(record):
    """First loss minus last loss."""
    loss = record["loss"].sel(arm="plain")
    return loss.isel(step=0) - loss.isel(step=-1)


CLAIMS = (
    Claim("0.1", "The loss falls", "paired", decrease, "above", 0.0, "any fall is a fall", "", "0"),
)


def figures(record):
    from matplotlib.figure import Figure

    for name in ("loss", "grad_norm"):
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot(record[name].isel(arm=0).values.T)
        yield name, figure


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
