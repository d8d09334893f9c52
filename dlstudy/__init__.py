"""dlstudy: a laboratory for claims about training neural networks."""

__version__ = "0.1.0"
