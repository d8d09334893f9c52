"""The claims of `initialization`: a statistic of the record, and a threshold, for each.

The gain of a layer is the ratio of its activations' sum of squares to that of the layer below; its
expectation over draws, given the layers below, is known. So the mean of such ratios over layers and
draws has the expected gain, and no rare draw rules it, as it rules the mean of what 50 layers
multiply up to. What a draw typically does is the mean of the ratios' logarithms, for one input: the
mean of several varies less. Gradients are those of a fixed direction of the outputs. The first
layer is left out: it is not square, and what it reads is not rectified. *Decades* are powers of ten
of a second moment from the top layer down to the first; what is 0 counts as -100.

A network has *learned* if its training loss ends below the target of 2.0 nat, where guessing by
class frequency reads 2.30. Momentum has one rate for all weights; Adam scales each by itself.
Thresholds are the smallest effects worth having, fixed with their reasons before the first run.
"""

import numpy as np

from dlstudy.claims import Claim, combine

SMALL = ("normal", "uniform", "lecun", "glorot")  # gains below 1
LARGE = ("sparse",)
GOOD = ("he", "orthogonal")  # gain 1
POOR = (*SMALL, *LARGE)
NOTHING_LEFT = -100.0  # decades of what is 0

# -- parts of statistics


def ratios(record, name: str, moment: str = "forward") -> np.ndarray:
    """Of each square layer's second moment to that before it on the way, [S, draws x layers].

    The way is up for activations and down for gradients. Biases are 0.
    """
    own = record[f"{moment}_moment"].sel(measured=name, bias=0.0)
    values = own.transpose("seed", "draw", "layer").values
    values = values[..., ::-1] if moment.endswith("backward") else values
    return (values[..., 1:] / values[..., :-1]).reshape(len(values), -1)


def decades(record, name: str, moment: str = "backward", bias: float = 0.0) -> np.ndarray:
    """log10 of the last second moment over the first on the way; median over draws, [S]."""
    own = record[f"{moment}_moment"].sel(measured=name, bias=bias)
    values = own.transpose("seed", "draw", "layer").values
    values = values[..., ::-1] if moment == "backward" else values
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(values[..., -1] / values[..., 0])
    lost = (values[..., -1] == 0) | (logs < NOTHING_LEFT)
    return np.median(np.where(lost, NOTHING_LEFT, logs), 1)


def _names(record, wanted) -> list[str]:
    """Those of the wanted initialisers that the record has."""
    return [name for name in wanted if name in record["measured"].values]


def expected(record, variable: str, name: str) -> float:
    return float(record[variable].sel(measured=name))


def learned(record, optimizer: str, name: str) -> np.ndarray:
    """bool[S, rates]: which runs of an initialiser ended below the target."""
    own = record["train_loss"].sel(optimizer=optimizer, retuned=name)
    return own.transpose("seed", "place").values < float(record.attrs["target"])


def learned_at_common(record, optimizer: str, variant: str) -> np.ndarray:
    """bool[S] at the optimizer's common rate."""
    own = record["common_train_loss"].sel(optimizer=optimizer, variant=variant)
    return own.transpose("seed").values < float(record.attrs["target"])


# -- 2.4a: gains


def gain_up(record):
    """mean ratio of activations, layer over layer, to the expected gain, less 1: largest size"""
    return np.max(
        [
            np.abs(ratios(record, name).mean(1) / expected(record, "gain", name) - 1)
            for name in _names(record, (*POOR, *GOOD))
        ],
        0,
    )


def log_gain_down(record):
    """mean log ratio of an input's gradients, layer over layer, minus the expected: largest size"""
    return np.max(
        [
            np.abs(
                np.log(ratios(record, name, "one_backward")).mean(1)
                - expected(record, "log_gain", name)
            )
            for name in _names(record, (*POOR, *GOOD))
        ],
        0,
    )


def shortfall(record):
    """log of the typical gain over the expected one, times the width: mean of the initialisers"""
    found = [
        np.log(ratios(record, name, "one_forward")).mean(1) - np.log(expected(record, "gain", name))
        for name in _names(record, (*SMALL, "he"))
    ]
    return np.mean(found, 0) * float(record.attrs["moment_width"])


def shortfall_off(record):
    """log of the typical gain over the expected one, times the width, plus 5 / 2"""
    return shortfall(record) + 2.5


def vanishing(record):
    """decades of gradients from the top layer down to the first: largest of the small scales"""
    return np.max([decades(record, name) for name in _names(record, SMALL)], 0)


def exploding(record):
    """decades of gradients from the top layer down to the first: smallest of the large scales"""
    return np.min([decades(record, name) for name in _names(record, LARGE)], 0)


def keeping(record):
    """decades of gradients from the top layer down to the first: largest size of the good scales"""
    return np.max([np.abs(decades(record, name)) for name in _names(record, GOOD)], 0)


def truncated(record):
    """mean ratio of activations over 1/2, minus 1: LeCun's as Flax draws them"""
    return np.abs(ratios(record, "lecun").mean(1) / 0.5 - 1)


def truncated_naively(record):
    """mean ratio of activations over 1/2, minus 1: cut off and not widened"""
    return np.abs(ratios(record, "lecun_uncorrected").mean(1) / 0.5 - 1)


# -- 2.4a: training


def _poor_at_common(record, optimizer):
    share = lambda names: np.mean(  # noqa: E731
        [learned_at_common(record, optimizer, name) for name in _names(record, names)], 0
    )
    return share(POOR) - share(GOOD)


def poor_with_momentum(record):
    """share of the poor scales that learn at the common rate, minus that of He and orthogonal"""
    return _poor_at_common(record, "momentum")


def poor_with_adam(record):
    """share of the poor scales that learn at the common rate, minus that of He and orthogonal"""
    return _poor_at_common(record, "adam")


def _rescued(name, optimizer):
    def statistic(record):
        return learned(record, optimizer, name).any(1).astype(float)

    statistic.__name__ = f"rescued_{name}_{optimizer}"
    statistic.__doc__ = "whether any rate of the grid trains it to the target"
    return statistic


def _retuning(record, optimizer):
    return np.mean(
        [
            learned(record, optimizer, name).any(1) ^ learned_at_common(record, optimizer, name)
            for name in _names(record, POOR)
        ],
        0,
    )


def retuning_momentum(record):
    """share of the poor scales that learn at some rate of the grid but not at the common one"""
    return _retuning(record, "momentum")


def retuning_adam(record):
    """share of the poor scales that learn at some rate of the grid but not at the common one"""
    return _retuning(record, "adam")


def _far_scales(record, optimizer):
    far = np.mean([learned_at_common(record, optimizer, name) for name in ("he*0.5", "he*2")], 0)
    return far - learned_at_common(record, optimizer, "he")


def far_scales_momentum(record):
    """share of half and twice He's scale that learn at the common rate, minus He's own"""
    return _far_scales(record, "momentum")


def far_scales_adam(record):
    """share of half and twice He's scale that learn at the common rate, minus He's own"""
    return _far_scales(record, "adam")


# -- biases and zeros


def lowest_bias(record) -> float:
    return float(record["bias"].values.min())


def highest_bias(record) -> float:
    return float(record["bias"].values.max())


def negative_bias(record):
    """decades of He's gradients from the top down to the first layer, with the lowest bias"""
    return decades(record, "he", bias=lowest_bias(record))


def no_bias(record):
    """decades of He's gradients from the top down to the first layer, without bias"""
    return decades(record, "he")


def positive_bias(record):
    """decades of LeCun's gradients from the top down: the highest bias minus none"""
    return decades(record, "lecun", bias=highest_bias(record)) - decades(record, "lecun")


def told_apart(record):
    """log10 of the top layer's share of variance over inputs: highest bias over none, LeCun"""

    def top(bias):
        own = record["spread"].sel(measured="lecun", bias=bias).isel(layer=-1)
        return np.log10(own.transpose("seed", "draw").values)

    return np.median(top(highest_bias(record)), 1) - np.median(top(0.0), 1)


def _bias_helps(record, optimizer):
    highest = f"lecun{highest_bias(record):+g}"
    with_bias = learned_at_common(record, optimizer, highest).astype(float)
    return with_bias - learned_at_common(record, optimizer, "lecun")


def bias_helps_momentum(record):
    """LeCun with the highest bias learns at the common rate (0 or 1), minus LeCun without"""
    return _bias_helps(record, "momentum")


def bias_helps_adam(record):
    """LeCun with the highest bias learns at the common rate (0 or 1), minus LeCun without"""
    return _bias_helps(record, "adam")


def zeros_moved(record):
    """largest change of any weight of the square layers that start at zero, both common rates"""
    own = record["common_moved"].sel(variant="zeros")
    return own.max("optimizer", skipna=False).transpose("seed").values


def zeros_learn(record):
    """whether zeros learn at the common rate of momentum or Adam"""
    found = [learned_at_common(record, name, "zeros") for name in ("momentum", "adam")]
    return np.any(found, 0).astype(float)


# -- the claims

_TENTH = "a tenth: what is told apart differs by more (He 1, LeCun 0.5, a naive truncation 0.39)"
_DECADES = "two decades: a factor of ten in the gradient itself"
_MOST = "half: most of them, or most seeds"
_MOMENTUM, _ADAM = "with momentum, one rate for all weights", "with Adam, which scales each"
_FOOLED = (
    "the mean over draws of what many layers multiply up to is ruled by rare draws: ratios of "
    "neighbours are averaged, or their logarithms"
)


def _claim(id, sentence, statistic, direction, threshold, reason, **more):
    # Runs that diverge are what these claims are about.
    more = {"kind": "paired", "unit": "", "section": "2 (4)", "keep_diverged": True} | more
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, **more,
    )  # fmt: skip


def _untrained(*args, **more):
    """A claim about networks as they are drawn: no divergence in training concerns it."""
    return _claim(*args, arms=("untrained",), **more)


def _both(id, sentence, momentum, adam, direction, threshold, reason, **more):
    """A claim with momentum, and beside it the same with Adam."""
    control = _claim(
        id, sentence, adam, direction, threshold, reason, condition=_ADAM, **more
    )  # fmt: skip
    return _claim(
        id, sentence, momentum, direction, threshold, reason, condition=_MOMENTUM,
        control=control, **more,
    )  # fmt: skip


def _rescue(id, name, words):
    return _both(
        id, f"It rescues {words}", _rescued(name, "momentum"), _rescued(name, "adam"), "above",
        0.5, "most seeds", kind="proportion", figure="rates",
        trap="an optimum on the edge of the grid: few rates, 1e-3 to 1 "
        "and one of 1e-14 by momentum, 1e-4 to 0.1 by Adam: what lies between was not tried",
    )  # fmt: skip


CLAIMS = (
    combine(
        "2.4a",
        "Poor initial scale makes gradients vanish or explode, requiring learning-rate adjustments",
        (
            _untrained(
                "2.4a1", "Activations grow from layer to layer by width x E[w^2] / 2", gain_up,
                "below", 0.1, _TENTH, figure="gains", trap=_FOOLED,
                oracle="expected gain: He 1, Glorot and LeCun 1/2, U(+-1/sqrt m) 1/6",
            ),
            _untrained(
                "2.4a2", "Gradients grow by the same on their way down", log_gain_down, "below",
                0.1, _TENTH, figure="gains", trap=_FOOLED,
                oracle="the typical logarithm: of the gain, less 5 / (2 width) to first order",
            ),
            _untrained(
                "2.4a3", "With a gain below 1 they vanish", vanishing, "below", -2.0, _DECADES,
                unit="decades", figure="moments",
            ),
            _untrained(
                "2.4a4", "With a gain above 1 they explode", exploding, "above", 2.0, _DECADES,
                unit="decades", figure="moments",
            ),
            _untrained(
                "2.4a5", "With a gain of 1 they do neither", keeping, "below", 2.0, _DECADES,
                unit="decades", figure="moments",
            ),
            _both(
                "2.4a6", "At the rate that suits a good scale a poor one does not learn",
                poor_with_momentum, poor_with_adam, "below", -0.5, _MOST, figure="rates",
                trap="too few steps for any: He and orthogonal are subtracted; that another rate "
                "would help does not follow: it is judged by itself",
            ),
        ),
        section="2 (4)",
    ),
    combine(
        "2.4d",
        "Adjusting the learning rate makes up for a poor initial scale",
        (
            _rescue("2.4d1", "lecun", "LeCun's, half of a gain of 1"),
            _rescue("2.4d2", "glorot", "Glorot's, likewise"),
            _rescue("2.4d3", "uniform", "U(+-1/sqrt m), a sixth"),
            _rescue("2.4d4", "normal", "N(0, 0.01^2)"),
            _rescue("2.4d5", "sparse", "sparse N(0, 1), whose gain is above 1"),
            _both(
                "2.4d6", "At least one learns at another rate and not at the common one",
                retuning_momentum, retuning_adam, "above", 0.1,
                "half of the share of one of five", figure="rescued",
            ),
        ),
        section="2 (4)",
    ),
    _untrained(
        "2.4e", "A typical draw falls short of the expected gain by 5 / (2 width) a layer, in "
        "logarithms", shortfall_off, "within", 1.25, "half of the shortfall itself",
        section="added", figure="draws",
        oracle="0.29 of the mean at depth 50 and width 100",
        trap="measured over 50 layers, the mean over draws is that of few draws far above the rest",
    ),
    _untrained(
        "2.4f", "LeCun's weights, which Flax cuts off at two standard deviations, have the gain of "
        "their name", truncated, "below", 0.1, _TENTH, section="added", figure="gains",
        condition="widened for what was cut off",
        control=_untrained(
            "2.4f", "LeCun's weights, which Flax cuts off at two standard deviations, have the "
            "gain of their name", truncated_naively, "below", 0.1, _TENTH, section="added",
            figure="gains", condition="not widened",
        ),
        oracle="1/2; without the correction 0.387",
    ),
    _both(
        "2.4g", "Half and twice He's scale are too far off for 30 layers", far_scales_momentum,
        far_scales_adam, "below", -0.5, _MOST, section="added", figure="scales",
    ),
    combine(
        "2.4h",
        "Appropriate biases matter to stable gradients",
        (
            _untrained(
                "2.4h1", "With He's weights gradients vanish", negative_bias, "below", -2.0,
                _DECADES, unit="decades", figure="biases", condition="with a negative bias",
                control=_untrained(
                    "2.4h1", "With He's weights gradients vanish", no_bias, "below", -2.0,
                    _DECADES, unit="decades", figure="biases", condition="without bias",
                ),
            ),
            _untrained(
                "2.4h2", "With LeCun's weights a positive bias keeps more of them", positive_bias,
                "above", 2.0, _DECADES, unit="decades", figure="biases",
            ),
        ),
        section="2 (4)",
    ),
    combine(
        "2.4i",
        "From zero weights nothing is learned",
        (
            _claim(
                "2.4i1", "No weight between hidden layers ever changes", zeros_moved, "within", 0,
                "exactly: their gradients are products with 0, whatever the rate", kind="exact",
                section="added", figure="rescued", oracle="0",
            ),
            _claim(
                "2.4i2", "No network reaches the target", zeros_learn, "below", 0.5, "most seeds",
                kind="proportion", section="added", figure="rescued",
                trap="the bias of the head learns the classes' frequencies, no more",
            ),
        ),
        section="added",
    ),
    _untrained(
        "2.4j", "Where a positive bias keeps LeCun's gradients, the layers above no longer tell "
        "inputs apart", told_apart, "below", -1.0, "a decade", unit="decades", section="added",
        figure="biases", trap="gradients that survive say nothing of what they carry",
    ),
    _both(
        "2.4k", "With a positive bias LeCun's weights learn where they do not without",
        bias_helps_momentum, bias_helps_adam, "above", 0.5, "for most seeds", section="added",
        figure="biases",
    ),
)  # fmt: skip
