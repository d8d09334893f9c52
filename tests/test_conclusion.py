"""Figures as files: what is written, in which order, and that the short cuts change no picture."""

import io
import json
import types

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from dlstudy import plots
from experiments import conclusion


class Folder:
    """Notes what is written."""

    def __init__(self):
        self.written = {}

    def write(self, name, *chunks):
        assert name not in self.written
        parts = [c.encode() if isinstance(c, str) else c for c in chunks]
        self.written[name] = b"".join(parts)


def two_panels():
    made, (left, right, hidden) = plots.figure(3)
    rng = np.random.default_rng(0)
    plots.seeds_over(left, np.arange(5), rng.uniform(1, 30, (4, 5)), "errors", 0)
    plots.logarithmic(left)
    plots.labels(left, "Errors “fall” to 3%", "epoch", "error (%)")
    plots.labels(right, "Nothing else", "x", "y")
    hidden.set_title("not to be seen", loc="left")
    hidden.set_visible(False)
    return made


def sliding():
    """A bar that moves to the right under a line, with a title that grows."""
    made, (axis,) = plots.figure()

    def draw(frame):
        for artist in (*axis.collections, *axis.lines):
            artist.remove()
        colours = [plots.CYCLE[frame]]
        bar = plots.regions_under(axis, [frame, frame + 1], colours, -1, 1)
        (line,) = axis.plot([0, 3], [frame - 1, 0], color="black", label="line")
        title = axis.set_title("frame " + "so " * frame + str(frame), loc="left")
        if not axis.get_legend():
            axis.legend(loc="upper left")
        return bar, line, title, *axis.spines.values(), axis.get_legend()

    axis.set(xlim=(0, 3), ylim=(-1, 1), xlabel="x")
    axis.grid(False)  # it would lie between the bar and the line
    return plots.Moving(made, draw, 3)


def module(name="toy"):
    def figures(record):
        yield "b", two_panels()
        yield "moving", sliding()
        yield "a", two_panels()

    return types.SimpleNamespace(NAME=name, figures=figures)


@pytest.fixture(scope="module")
def written():
    folder = Folder()
    conclusion.draw(module(), folder, None)
    return folder.written


def test_the_listing_comes_last_and_names_titles_and_files_in_the_order_drawn(written):
    assert list(written)[-1] == "figures/figures.json"
    listing = json.loads(written["figures/figures.json"])
    assert list(listing) == ["b", "moving", "a"]
    assert listing["b"] == {
        "title": "Errors “fall” to 3%; Nothing else", "files": ["b.svg", "b.png"]
    }  # fmt: skip
    assert listing["moving"] == {"title": "frame so so 2", "files": ["moving.gif"]}
    files = [f"figures/{file}" for entry in listing.values() for file in entry["files"]]
    assert files == list(written)[:-1]
    assert written["figures/b.svg"].startswith(b"<?xml")
    assert written["figures/b.png"].startswith(b"\x89PNG")


def test_the_same_record_gives_the_same_bytes(written):
    again = Folder()
    conclusion.draw(module(), again, None)
    assert again.written == written


def test_a_picture_is_the_one_that_matplotlib_lays_out_itself(written):
    plain = io.BytesIO()
    two_panels().savefig(plain, format="png", dpi=conclusion.DPI)
    found = Image.open(io.BytesIO(written["figures/b.png"])).convert("RGB")
    np.testing.assert_array_equal(found, Image.open(plain).convert("RGB"))


def test_a_moving_picture_is_each_frame_drawn_whole(monkeypatch):
    """The frames before GIF reduces their colours, against a figure drawn anew for each."""
    frames = []
    fromarray = Image.fromarray

    def noted(pixels):
        frames.append(np.array(pixels))
        return fromarray(pixels)

    monkeypatch.setattr(Image, "fromarray", noted)
    content = sliding().gif()
    assert len(frames) == 3
    for i, found in enumerate(frames):
        whole = sliding()
        canvas = FigureCanvasAgg(whole.figure)
        whole.figure.set_dpi(90)
        whole.draw(i)
        canvas.draw()
        np.testing.assert_array_equal(found, np.asarray(canvas.buffer_rgba()))
    assert not np.array_equal(frames[0], frames[1])
    assert Image.open(io.BytesIO(content)).n_frames == 3
