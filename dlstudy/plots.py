"""Drawing: functions that get axes and finished numbers, and compute nothing but quantiles.

Colours are Okabe and Ito's, told apart by colour-blind readers; arms and splits also differ in
line style, so that figures survive a black-and-white printer.
"""

import io
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

COLOURS = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "amber": "#E69F00",
    "black": "#000000",
}
CYCLE = tuple(COLOURS.values())
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))


def style(index: int) -> dict:
    """Colour and line style number `index`."""
    return {"color": CYCLE[index % len(CYCLE)], "linestyle": DASHES[index % len(DASHES)]}


def figure(columns: int = 1, rows: int = 1, width: float = 6.4, height: float = 4.0):
    """A figure without pyplot's global state, and its axes as a flat list."""
    made = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = np.atleast_1d(made.subplots(rows, columns)).ravel().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, alpha=0.25, linewidth=0.6)
    return made, axes


def fix_layout(figure: Figure):
    """Makes the layout, once for all drawing that follows; the resolution must be set by now."""
    engine = figure.get_layout_engine()
    if engine:  # a figure may have been laid out by hand
        engine.execute(figure)
        figure.set_layout_engine(None)


def labels(axis, title: str, x: str, y: str, legend: bool = True):
    """Title, axis labels with their units, and a legend if there is something to tell apart."""
    axis.set_title(title, fontsize=10.5, loc="left")
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    if legend and axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8.5)


def seeds_over(axis, x, values, label: str, index: int, *, singles: bool = True, marker=""):
    """Median, quartile band and faint single seeds of values[S, X] over x[X].

    Columns in which no seed was measured are left out, so a sparse series is joined up.
    """
    values = np.asarray(values, float)
    seen = np.isfinite(values).any(0)
    if not seen.any():
        return
    x, values = np.asarray(x)[seen], values[:, seen]
    low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
    look = style(index)
    if singles and len(values) > 1:
        # One collection: a line object for each seed would take most of the time of a figure.
        rows = np.stack([np.broadcast_to(x, values.shape), values], 2)
        faint = LineCollection(rows, colors=[look["color"]], alpha=0.13, linewidths=0.5)
        axis.add_collection(faint)
        axis.autoscale_view()
    axis.fill_between(x, low, high, color=look["color"], alpha=0.22, linewidth=0)
    axis.plot(x, middle, label=label, linewidth=1.8, marker=marker, markersize=4, **look)


def logarithmic(axis, which: str = "y"):
    """Logarithmic axis with plain numbers; 2 and 5 are named too where there are few decades."""
    for name in which:
        getattr(axis, f"set_{name}scale")("log")
        low, high = getattr(axis, f"get_{name}lim")()
        scaled = getattr(axis, f"{name}axis")
        plain = ticker.FuncFormatter(lambda value, _: f"{value:g}")
        scaled.set_major_formatter(plain)
        few = np.log10(high / low) < 2.5
        scaled.set_minor_locator(ticker.LogLocator(subs=(2, 5) if few else range(2, 10)))
        scaled.set_minor_formatter(plain if few else ticker.NullFormatter())


def percent_from_zero(axis):
    """Percentages over decades, with zero at the bottom: linear below 1%."""
    axis.set_yscale("symlog", linthresh=1, linscale=0.5)
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_locator(ticker.FixedLocator([0, 0.5, 1, 2, 5, 10, 20, 50, 100]))
    axis.yaxis.set_minor_locator(ticker.NullLocator())
    axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))


def reference(axis, y: float, text: str):
    """A horizontal line at a value theory names."""
    axis.axhline(y, color="0.35", linewidth=1, linestyle=(0, (4, 3)), label=text)


def cloud(axis, x, y, label: str, index: int, *, most: int = 2000):
    """Points of two flat arrays, thinned evenly to at most `most`; drawn as pixels in SVG too."""
    x, y = np.ravel(x), np.ravel(y)
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    keep = np.linspace(0, len(x) - 1, min(most, len(x))).astype(int)
    axis.scatter(
        x[keep], y[keep], s=7, alpha=0.4, linewidths=0, label=label, rasterized=True,
        color=CYCLE[index % len(CYCLE)], marker=("o", "s", "^", "D")[index % 4],
    )  # fmt: skip


class Moving(NamedTuple):
    """A figure that changes: `draw(i)` brings it to frame i of `frames`.

    It returns the artists that may look different in another frame and those that lie over them,
    lowest first; all others, and the layout, are drawn once, as they are in frame 0.
    """

    figure: Figure
    draw: Callable[[int], Sequence[Artist]]
    frames: int
    seconds: float = 0.1  # that a frame is shown; the last one stays longer

    def gif(self, dpi: int = 90) -> bytes:
        """All frames as an animated GIF; the same frames give the same bytes."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image

        canvas, images = FigureCanvasAgg(self.figure), []
        self.figure.set_dpi(dpi)
        above = self.draw(0)
        for artist in above:
            artist.set_animated(True)  # left out of the background
        fix_layout(self.figure)
        canvas.draw()
        background = canvas.copy_from_bbox(self.figure.bbox)
        for artist in above:
            artist.set_animated(False)
        for i in range(self.frames):
            canvas.restore_region(background)
            for artist in self.draw(i):
                self.figure.draw_artist(artist)
            images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
        # One palette for all: colours must not flicker from frame to frame.
        palette = images[-1].quantize(128)
        first, *rest = [image.quantize(palette=palette, dither=0) for image in images]
        content = io.BytesIO()
        shown = [round(1000 * self.seconds)] * (self.frames - 1) + [2000]
        first.save(content, "GIF", save_all=True, append_images=rest, duration=shown, loop=0)
        return content.getvalue()


def pattern_colours(patterns: np.ndarray) -> np.ndarray:
    """A colour for every activation pattern, the same in every figure and epoch.

    The hue comes from a hash of the pattern. Patterns with an even number of active units are
    light, the others dark: regions that differ in one unit are told apart in black and white too.

    Args:
      patterns: uint64[R, W], packed bits.

    Returns:
      float64[R, 3], red, green and blue in [0, 1].
    """
    mixed = np.zeros(len(patterns), np.uint64)
    for word in patterns.T:  # the finaliser of splitmix64 (Steele, Lea & Flood 2014)
        mixed = mixed + np.uint64(0x9E3779B97F4A7C15) ^ word
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ mixed >> np.uint64(shift)) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
    wheel = np.array([to_rgb(c) for c in CYCLE[:-1]])
    place = mixed / 2.0**64 * len(wheel)
    low = place.astype(int) % len(wheel)
    part = (place - place.astype(int))[:, None]
    hue = wheel[low] * (1 - part) + wheel[(low + 1) % len(wheel)] * part
    odd = np.bitwise_count(patterns).sum(1) % 2 == 1
    return np.where(odd[:, None], 0.85 * hue, 0.35 * hue + 0.65)


def regions_under(axis, knots, colours, low: float, high: float):
    """Paints intervals of the x axis, from `low` to `high`, each in its own colour."""
    corners = [[(a, low), (b, low), (b, high), (a, high)] for a, b in itertools.pairwise(knots)]
    return axis.add_collection(
        PolyCollection(corners, facecolors=colours, linewidths=0, zorder=0, antialiased=False)
    )


def plane_regions(axis, plane, colour: str = "pattern", output: int = 0):
    """Draws the regions of a `dlstudy.regions.Plane`.

    Args:
      axis: of a figure.
      plane: the regions.
      colour: "pattern", a colour for each (`pattern_colours`); "output", the mean of one output
        over a region's corners; "depth", the first layer among those that bound the region.
      output: which output.

    Returns:
      The collection of polygons, for a colour bar.

    Raises:
      ValueError: another colour.
    """
    from dlstudy.regions import depth_of_first_change

    shapes = PolyCollection([plane.polygon(i) for i in range(plane.n_regions)], linewidths=0)
    shapes.set_rasterized(True)
    if colour == "pattern":
        none = np.zeros((plane.n_regions, 0), np.uint64)
        words = [none, *(np.asarray(part, np.uint64) for part in plane.patterns)]
        shapes.set_facecolor(pattern_colours(np.concatenate(words, 1)))
    elif colour == "output":
        corners = plane.outputs[plane.face_vertices, output]
        ptr = plane.cells.face_ptr
        shapes.set_array(np.add.reduceat(corners, ptr[:-1]) / np.diff(ptr))
        shapes.set_cmap("cividis")
    elif colour == "depth":
        shapes.set_array(depth_of_first_change(plane).astype(float))
        shapes.set_cmap("cividis")
    else:
        raise ValueError(f"colour is {colour!r}; it must be pattern, output or depth")
    axis.add_collection(shapes)
    low, high = plane.vertices.min(0), plane.vertices.max(0)
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axis.grid(False)
    return shapes


def boundary_lines(axis, boundary):
    """Draws a `dlstudy.regions.Boundary` over a plane: where the class of largest output changes"""
    under = LineCollection(boundary.segments, colors="white", linewidths=2.6)
    over = LineCollection(boundary.segments, colors="black", linewidths=1.2)
    axis.add_collection(under)
    return axis.add_collection(over)
