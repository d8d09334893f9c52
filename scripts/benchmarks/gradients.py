"""Parts: the gradient of each of a batch's examples, and the mean gradient to compare with.

Each part is a function as in `contenders`; its "seconds" are those of one batch of `task.batch`.
"""

import time

from scripts.benchmarks.contenders import flax_network, images_and_labels, torch_network

TIMES = 10  # batches of a repeat


def timed(gradients):
    """`repeat()` of a function that returns when its gradients are there."""

    def repeat():
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(TIMES):
            gradients()
        return {
            "seconds": (time.perf_counter() - wall) / TIMES,
            "cpu_seconds": (time.process_time() - cpu) / TIMES,
        }

    return repeat


def prepared(task):
    """jax, started; a batch; our network; its parameters."""
    import jax
    import jax.numpy as jnp

    from dlstudy import models
    from scripts.benchmarks.instruments import start
    from scripts.benchmarks.results import NETWORKS

    start(1)
    split = images_and_labels(task)
    batch = jnp.asarray(split.x[: task.batch]), jnp.asarray(split.y[: task.batch])
    _, widths, pool = NETWORKS[task.network]
    model = models.CNN(widths, 10, pool)
    return jax, batch, model, models.initialise(model, jax.random.key(0), batch[0][0])


def compiled(jax, function, params):
    program = jax.jit(function)
    return timed(lambda: jax.block_until_ready(program(params)))


def mean_gradient(task):
    """dlstudy: the gradient of the mean loss."""
    from dlstudy import losses

    jax, (images, labels), model, params = prepared(task)

    def loss(p):
        return losses.cross_entropy(model.apply({"params": p}, images)[0], labels)

    return compiled(jax, jax.grad(loss), params)


def own_factored(task):
    """dlstudy: per-example gradients, those of the dense kernel as factors."""
    return own(task, factored=True)


def own_written(task):
    """dlstudy: per-example gradients, all written out."""
    return own(task, factored=False)


def own(task, factored: bool):
    from dlstudy import losses, noise

    jax, batch, model, params = prepared(task)

    def gradients(p):
        return noise.network_gradients(
            losses.cross_entropy, model.apply, p, batch, factored=factored
        )

    return compiled(jax, gradients, params)


def own_flax(task):
    """`vmap(grad)` of Flax's own layers."""
    import optax

    jax, (images, labels), _, _ = prepared(task)
    model = flax_network(task.network)
    params = model.init(jax.random.key(0), images[:1])

    def loss(p, image, label):
        logits = model.apply(p, image[None])
        return optax.softmax_cross_entropy_with_integer_labels(logits, label[None]).mean()

    each = jax.vmap(jax.grad(loss), (None, 0, 0))
    return compiled(jax, lambda p: each(p, images, labels), params)


def own_pytorch(task):
    """PyTorch: `torch.func.vmap(grad)`, every core a thread, or the GPU."""
    import torch
    from torch.func import functional_call, grad, vmap
    from torch.nn.functional import cross_entropy

    from dlstudy.host import available_cpus

    torch.set_num_threads(available_cpus())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = torch_network(task.network).to(device)
    split = images_and_labels(task)
    images = torch.tensor(split.x[: task.batch].transpose(0, 3, 1, 2).copy(), device=device)
    labels = torch.tensor(split.y[: task.batch], dtype=torch.long, device=device)
    params = {name: value.detach() for name, value in model.named_parameters()}

    def loss(p, image, label):
        return cross_entropy(functional_call(model, p, (image[None],)), label[None])

    each = vmap(grad(loss), (None, 0, 0))

    def gradients():
        found = each(params, images, labels)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return found

    return timed(gradients)
