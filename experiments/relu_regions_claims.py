"""The claims of `relu_regions` (problem 4): a statistic of the record, and a threshold, for each.

"Late" is the last tenth of a run's own epochs, "early" the first tenth; a run ends when it has
converged. Thresholds are the smallest effects worth having, fixed with their reasons before the
first run.
"""

import numpy as np

from dlstudy.claims import Claim, combine

# -- parts of statistics


def in_arm(record, name, arm="main"):
    """Values [S, epochs] of one arm; NaN after a seed's end."""
    return record[name].sel(arm=arm).values.astype(float)


def trained(record, arm="main"):
    return record["epochs_trained"].sel(arm=arm).values


def at_end(record, name, arm="main"):
    """Value [S] after each seed's last epoch."""
    return np.take_along_axis(in_arm(record, name, arm), trained(record, arm)[:, None], 1)[:, 0]


def early_and_late(record, name, arm="main"):
    """Means [S] over the first and the last tenth of each seed's epochs."""
    found = []
    for values, epochs in zip(in_arm(record, name, arm), trained(record, arm), strict=True):
        part = max(1, epochs // 10)
        found.append((values[1 : 1 + part].mean(), values[epochs + 1 - part : epochs + 1].mean()))
    return np.array(found).T


def time_of_share(record, name, share, arm="main"):
    """Epoch [S] by which this share of the sum over all epochs had come, over the seed's epochs."""
    total = np.nancumsum(in_arm(record, name, arm)[:, 1:], 1)
    reached = total >= share * total[:, -1:]
    return np.where(total[:, -1] > 0, (1 + reached.argmax(1)) / trained(record, arm), np.nan)


# -- 4.1


def mean_error_kept(record):
    """mean error on the samples, end / start"""
    return at_end(record, "mean_error") / in_arm(record, "mean_error")[:, 0]


def max_error_kept(record):
    """maximal error on the fine grid, end / start"""
    return at_end(record, "grid_max_error") / in_arm(record, "grid_max_error")[:, 0]


def converged(record):
    """1 if the mean error fell, and stopped improving before the cap on epochs"""
    fell = at_end(record, "mean_error") < in_arm(record, "mean_error")[:, 0]
    return record["converged"].sel(arm="main").values * fell


# -- 4.2


def map_error(record):
    """largest |f - its affine piece| over the largest |f|, beyond rounding, at the end"""
    return record["map_error"].sel(arm="main", moment="end").values


def repeated_patterns(record):
    """regions that share their pattern with another one, at the end"""
    regions = at_end(record, "regions")
    return regions - record["distinct_patterns"].sel(arm="main", moment="end").values


def misplaced(record):
    """share of 2,000 points whose pattern is not that of the region they lie in, at the end"""
    return record["misplaced"].sel(arm="main", moment="end").values


def like_neighbour(record):
    """neighbouring regions whose colours in the figure are the same, at the end"""
    from dlstudy.plots import pattern_colours
    from experiments.relu_regions_record import pieces_of

    found = []
    for pieces in pieces_of(record, record["end_params"].sel(arm="main").values):
        colours = pattern_colours(pieces.patterns)
        found.append(int((colours[1:] == colours[:-1]).all(1).sum()))
    return np.array(found)


def start_count(record, arm="main"):
    """log2 of regions / neurons before training"""
    return np.log2(in_arm(record, "regions", arm)[:, 0] / record.attrs["neurons"])


def start_count_zero_bias(record):
    """log2 of regions / neurons before training, biases at zero"""
    return start_count(record, "zero_bias")


def end_count(record):
    """log2 of regions / neurons after training"""
    return np.log2(at_end(record, "regions") / record.attrs["neurons"])


def bound_used(record):
    """log2 of the most regions at any epoch, over the number of neurons: 1 is the bound 2^N"""
    return np.log2(np.nanmax(in_arm(record, "regions"), 1)) / record.attrs["neurons"]


# -- 4.3


def hamming_kept(record, arm="main"):
    """total Hamming distance of an epoch, last tenth of the epochs / first tenth"""
    early, late = early_and_late(record, "hamming", arm)
    return np.where(early > 0, late / np.where(early > 0, early, 1), np.nan)


def hamming_kept_decay(record):
    """total Hamming distance of an epoch, last tenth / first tenth, with a decaying rate"""
    return hamming_kept(record, "decay")


def last_is_zero(record):
    """1 if no sample's pattern changes in the last epoch"""
    return at_end(record, "hamming") == 0


def last_share(record):
    """units x samples that change in the last epoch, in a hundred"""
    return 100 * at_end(record, "hamming") / (record.attrs["neurons"] * record.attrs["samples"])


def half_lead(record):
    """time by which half the changes of patterns were over, minus that of the weights' way"""
    return time_of_share(record, "hamming", 0.5) - time_of_share(record, "displacement", 0.5)


def most_lead(record):
    """time by which nine tenths of the changes of patterns were over, minus that of the weights"""
    return time_of_share(record, "hamming", 0.9) - time_of_share(record, "displacement", 0.9)


# -- the claims

_TENTH = "a tenth: a fall that a plot on a linear axis shows as a fall to nothing"
_FACTOR = "a factor of two: the same number as far as a count over sizes can tell"
_HALF = "half: a fall that single epochs, which scatter, do not explain"
_LEAD = "a twentieth of the training: the smallest lead that a plot of both would show"


def _claim(id, sentence, statistic, direction, threshold, reason, **more):
    more = {"kind": "paired", "unit": "", "section": "4", "arms": ("main",)} | more
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, **more,
    )  # fmt: skip


CLAIMS = (
    combine(
        "4.1",
        "Average and maximal error fall until they converge",
        (
            _claim("4.1a", "The average error falls", mean_error_kept, "below", 0.1, _TENTH,
                   figure="errors"),
            _claim(
                "4.1b", "The maximal error falls", max_error_kept, "below", 0.1, _TENTH,
                trap="a maximum over the samples alone misses what happens between them: it is "
                "taken on a fine grid", figure="errors",
            ),
            _claim(
                "4.1c", "They converge", converged, "above", 0.75,
                "three runs in four", kind="proportion", figure="errors",
            ),
        ),
        section="4 (1)",
    ),
    combine(
        "4.2a",
        "Each pattern defines one region where the map is linear",
        (
            _claim(
                "4.2a1", "The map is affine in every region", map_error, "below", 1e-9,
                "1e-9: rounding of float64", kind="exact",
                oracle="networks in rational arithmetic; regions that independent tools agree on",
                figure="function",
            ),
            _claim(
                "4.2a2", "No two regions share a pattern", repeated_patterns, "within", 0.0,
                "an identity", kind="exact",
                trap="a grid misses thin regions: the count is exact, the samples' stands beside",
                figure="patterns",
            ),
        ),
        section="4 (2)",
    ),
    combine(
        "4.2b",
        "The domain is coloured by pattern",
        (
            _claim(
                "4.2b1", "Every point has the colour of its pattern", misplaced, "within", 0.0,
                "an identity", kind="exact", figure="function",
            ),
            _claim(
                "4.2b2", "Neighbours are told apart", like_neighbour, "within", 0.0,
                "an identity", kind="exact", figure="motion",
            ),
        ),
        section="4 (2)",
    ),
    combine(
        "4.2c",
        "There are about as many regions as neurons, far fewer than 2^N",
        (
            _claim(
                "4.2c1", "About as many before training", start_count, "within", 1.0, _FACTOR,
                unit="octaves", condition="with random biases",
                control=_claim(
                    "4.2c1", "About as many before training", start_count_zero_bias, "within", 1.0,
                    _FACTOR, unit="octaves", condition="with biases at zero", arms=("zero_bias",),
                    figure="counts",
                ),
                oracle="biases at zero: exactly 2 regions at any depth",
                trap="Flax starts biases at zero, which makes the study vacuous", figure="counts",
            ),
            _claim(
                "4.2c2", "About as many after training", end_count, "within", 1.0, _FACTOR,
                unit="octaves", figure="counts",
            ),
            _claim(
                "4.2c3", "Far fewer than the bound", bound_used, "below", 0.5,
                "half of the exponent: fewer than the square root of 2^N", figure="counts",
            ),
        ),
        section="4 (2)",
    ),
    _claim(
        "4.3a", "The Hamming distance between an epoch's start and end falls", hamming_kept,
        "below", 0.5, _HALF, section="4 (3)", condition="at a constant rate",
        control=_claim(
            "4.3a", "The Hamming distance between an epoch's start and end falls",
            hamming_kept_decay, "below", 0.5, _HALF, section="4 (3)",
            condition="with a decaying rate", arms=("decay",), figure="hamming",
        ),
        oracle="equal to a count over samples and units one by one",
        trap="a falling rate makes every step smaller: the claim is about the constant one",
        figure="hamming",
    ),
    combine(
        "4.3b",
        "In the last epoch the patterns at start and end agree",
        (
            _claim(
                "4.3b1", "They agree entirely", last_is_zero, "above", 0.5,
                "more often than not", kind="proportion", figure="hamming",
            ),
            _claim(
                "4.3b2", "They agree nearly", last_share, "below", 1.0,
                "one unit in a hundred, over all samples", unit="in 100", figure="hamming",
            ),
        ),
        section="4 (3)",
    ),
    combine(
        "4.3c",
        "Patterns settle before weights",
        (
            _claim("4.3c1", "Half of their changes come sooner", half_lead, "below", -0.05, _LEAD,
                   unit="of the epochs", figure="settling"),
            _claim("4.3c2", "Nine tenths of them come sooner", most_lead, "below", -0.05, _LEAD,
                   unit="of the epochs", trap="the answer may depend on the share chosen: two are",
                   figure="settling"),
        ),
        section="4 (3)",
    ),
)  # fmt: skip
