"""The chart of a benchmark: gets finished numbers and draws them."""

import statistics

from dlstudy import plots
from scripts.benchmarks.results import NAMES, NETWORKS

COLOURS = dict(zip(NETWORKS, plots.CYCLE, strict=False))
HATCHES = dict(zip(NETWORKS, ("", "///"), strict=True))


def chart(groups: list):
    """Time of the contenders, and cost of the instruments; None if neither was measured."""
    peers, costs = [], []
    for network, workers, figures in groups:
        for part in ("ours", "pytorch", "plain_flax"):
            if part in workers:
                peers.append((network, NAMES[part], workers[part].values("seconds")))
        costs += [f for f in figures if f.section == "instruments" and f.unit == "x"]
    if not peers and not costs:
        return None
    made, axes = plots.figure(bool(peers) + bool(costs), width=7.2, height=4.6)
    if peers:
        draw_peers(axes[0], peers)
    if costs:
        draw_costs(axes[-1], costs)
    return made


def draw_peers(axis, rows):
    """rows: (network, contender, seconds of each repeat)."""
    bars(axis, rows)
    axis.margins(x=0.12)
    plots.labels(axis, "Training", "seconds per seed and epoch", "")


def draw_costs(axis, figures):
    """Ratios to bare training, each with its target as a black mark."""
    places, thickness = bars(axis, [(f.network, f.name, f.values) for f in figures])
    for figure, place in zip(figures, places, strict=True):
        if figure.target is not None:
            ends = place - thickness / 2, place + thickness / 2
            axis.plot([figure.target] * 2, ends, color="black", linewidth=2)
    axis.plot([], [], color="black", linewidth=2, label="target (at most)")
    axis.margins(x=0.12)
    plots.labels(axis, "Instruments", "time, in epochs of bare training", "")


def bars(axis, rows):
    """Medians with ranges, a colour and hatch for each network.

    Returns:
      The places of the rows on the vertical axis, and the thickness of a bar.
    """
    labels = list(dict.fromkeys(label for _, label, _ in rows))
    networks = list(dict.fromkeys(network for network, _, _ in rows))
    thickness = 0.8 / len(networks)
    places = [
        labels.index(label) - 0.4 + (networks.index(network) + 0.5) * thickness
        for network, label, _ in rows
    ]
    for network in networks:
        mine = [(p, v) for p, (owner, _, v) in zip(places, rows, strict=True) if owner == network]
        where = [place for place, _ in mine]
        middle = [statistics.median(values) for _, values in mine]
        low = [m - min(v) for m, (_, v) in zip(middle, mine, strict=True)]
        high = [max(v) - m for m, (_, v) in zip(middle, mine, strict=True)]
        axis.barh(
            where, middle, thickness * 0.9, xerr=[low, high], label=network,
            color=COLOURS[network], hatch=HATCHES[network], edgecolor="white",
            error_kw={"elinewidth": 1, "capsize": 2},
        )  # fmt: skip
        for place, value, above in zip(where, middle, high, strict=True):
            axis.annotate(
                f"{value:.3g}", (value + above, place), (4, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    return places, thickness
