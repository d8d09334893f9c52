"""Numbers in the titles of the figures of `adaptive`, and their legends."""

import numpy as np


def median(values) -> float:
    """Over what is finite; NaN where nothing is."""
    values = np.asarray(values, float)
    good = values[np.isfinite(values)]
    return float(np.median(good)) if good.size else float("nan")


def number(value: float) -> str:
    """Three digits; words where there is no number."""
    return f"{value:.3g}" if np.isfinite(value) else "an unknown number"


def seeds_line(record) -> str:
    return f"{record.sizes['seed']} seeds; lines: medians, bands: quartiles, faint: single seeds"


def legend(axis, **options):
    """A legend, if there is something to tell apart."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, **options)
