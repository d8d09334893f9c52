"""Parts that train the same network on the same images with the same batches and optimizer.

Each function takes a `workers.Task` and returns `repeat() -> dict`, which trains one epoch and
says the seconds it took per seed and epoch ("seconds") and the mean loss of its steps ("loss").
"""

import time

import numpy as np

RATE = 0.001
MATRIX = 2048


def epoch_seconds(work, per: float) -> dict[str, float]:
    """Times work(), which returns losses: seconds of wall clock and CPU, divided by `per`."""
    wall, cpu = time.perf_counter(), time.process_time()
    losses = work()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "seconds": seconds / per,
        "cpu_seconds": cpu_seconds / per,
        "loss": float(np.mean(losses)),
    }


def images_and_labels(task):
    from dlstudy.data import load

    return load("mnist_5k", train_size=task.images).train


def ours(task):
    """dlstudy: seeds over the devices, instruments off."""
    import jax

    from dlstudy.training import Instruments
    from scripts.benchmarks.instruments import make_study

    study, data, _ = make_study(task)
    arm = study.main._replace(instruments=Instruments(0, 0, 0))
    state = study.over_seeds(study.trainer(arm, RATE).init)(study.keys)
    epoch = study.over_seeds(
        lambda state, key, data: study.trainer(arm, RATE).epoch(state, key, data), 1, (0,)
    )

    def work():
        nonlocal state
        state, metrics = jax.block_until_ready(epoch(state, study.keys, data))
        return metrics.loss

    return lambda: epoch_seconds(work, task.seeds)


def torch_network(network: str):
    """The network in PyTorch."""
    from torch import nn

    if network == "one_conv":
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(25088, 10)
        )
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1568, 10),
    )  # fmt: skip


def flax_network(network: str):
    """The network of Flax's own layers."""
    import flax.linen as nn

    widths, pool = ((32,), False) if network == "one_conv" else ((16, 32), True)

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in widths:
                x = nn.relu(nn.Conv(width, (3, 3))(x))
                x = nn.max_pool(x, (2, 2), (2, 2)) if pool else x
            return nn.Dense(10)(x.reshape(x.shape[0], -1))

    return Network()


def pytorch(task):
    """PyTorch eager: one seed, every core a thread, or the GPU."""
    import torch
    from torch import nn

    from dlstudy.host import available_cpus

    torch.set_num_threads(available_cpus())
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = torch_network(task.network).to(device)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    cross_entropy = nn.CrossEntropyLoss()
    split = images_and_labels(task)
    images = torch.tensor(split.x.transpose(0, 3, 1, 2).copy(), device=device)
    labels = torch.tensor(split.y, dtype=torch.long, device=device)

    def work():
        losses = []
        order = torch.randperm(len(labels), device=device)
        for rows in order.split(task.batch):
            if len(rows) < task.batch:
                break
            optimizer.zero_grad()
            loss = cross_entropy(model(images[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).cpu().numpy()  # waits for the device

    return lambda: epoch_seconds(work, 1)


def plain_flax(task):
    """Flax's own layers, `jit(vmap(...))` over seeds on one device with all its threads.

    On a CPU it is so slow that it trains on a quarter of the images; a step costs the same.
    """
    import jax
    import jax.numpy as jnp
    import optax

    part = 4 if jax.default_backend() == "cpu" and task.images >= 8 * task.batch else 1
    model, optimizer = flax_network(task.network), optax.adam(RATE)
    split = images_and_labels(task)
    count = len(split.y) // part
    images, labels = jnp.asarray(split.x[:count]), jnp.asarray(split.y[:count])

    def init(key):
        params = model.init(key, images[:1])
        return params, optimizer.init(params)

    def step(state, rows):
        params, moments = state

        def loss(p):
            logits = model.apply(p, images[rows])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    def epoch(state, key):
        order = jax.random.permutation(key, count)[: count // task.batch * task.batch]
        return jax.lax.scan(step, state, order.reshape(-1, task.batch))

    epoch = jax.jit(jax.vmap(epoch), donate_argnums=0)
    keys = jax.random.split(jax.random.key(0), task.seeds)
    state = jax.jit(jax.vmap(init))(keys)

    def work():
        nonlocal state, keys
        keys = jax.vmap(lambda key: jax.random.split(key, 1)[0])(keys)
        state, losses = jax.block_until_ready(epoch(state, keys))
        return losses

    return lambda: epoch_seconds(work, task.seeds / part)


def matmul(task):
    """float32 products of two 2048 x 2048 matrices, one chain on each device at a time."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, PartitionSpec

    from scripts.benchmarks.instruments import start

    layout = start()
    count = 4 if jax.default_backend() == "cpu" else 400
    mesh = Mesh(np.array(jax.devices()[: layout.devices]), ("device",))
    keys = jax.random.split(jax.random.key(0), 2)
    shape = (layout.devices, MATRIX, MATRIX)
    left, right = (jax.random.normal(key, shape, jnp.float32) / MATRIX**0.5 for key in keys)

    def chain(left, right):
        return jax.lax.fori_loop(0, count, lambda _, x: x @ right, left)

    spec = PartitionSpec("device")
    chains = jax.jit(jax.shard_map(chain, mesh=mesh, in_specs=(spec, spec), out_specs=spec))

    def repeat():
        work = lambda: jax.block_until_ready(chains(left, right))  # noqa: E731
        found = epoch_seconds(work, count * layout.devices)
        found["flops_per_second"] = 2 * MATRIX**3 / found["seconds"]
        return found

    return repeat
