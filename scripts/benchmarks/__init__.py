"""Speed and memory of dlstudy, measured against peers and against itself.

    bash scripts/benchmark

The files:

    __main__.py     options, what is measured in which order, and what is made of it
    workers.py      one part in a process of its own, and the parent's end of it
    contenders.py   parts: training by dlstudy, PyTorch and plain Flax; a matrix product
    instruments.py  parts: bare training, and each instrument of `mnist_gradnorm`
    gradients.py    parts: the gradients of a batch's examples, and their mean
    counting.py     the floating-point operations of a training step
    results.py      figures with their targets: rows of tables, JSON, Markdown
    charts.py       bars
"""
