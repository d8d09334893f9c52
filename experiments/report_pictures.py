"""The pictures of a run folder, made small enough for a page that holds all of them."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ALL = 2_600_000  # bytes that the pictures of a page may take, before base64 adds a third
MOST = 60_000  # bytes of one picture
WIDTHS = (1100, 900, 700)  # pixels, tried in turn
COLOURS = 128


class Picture(NamedTuple):
    """A figure as the page shows it. `still` is for readers who want nothing to move."""

    name: str
    title: str
    uri: str
    width: int
    height: int
    still: str = ""


def files(folder: Path | None) -> dict[str, Path]:
    """The file of each figure of a run folder, by name."""
    found = {}
    for kind in ("gif", "svg", "png"):  # the last one that exists is shown
        for path in sorted((folder / "figures").glob(f"*.{kind}") if folder else ()):
            found[path.stem] = path
    return found


def titles(folder: Path | None) -> dict[str, str]:
    """What the figures say in words, where the run has noted it."""
    try:
        noted = json.loads((folder / "figures" / "figures.json").read_text("utf-8"))
        return {name: str(about["title"]) for name, about in noted.items() if about.get("title")}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def limit(count: int) -> int:
    """Bytes that each of `count` pictures may take."""
    return min(MOST, ALL // max(count, 1))


def pictures(found: dict[str, Path], words: dict[str, str], most: int) -> Iterator[Picture]:
    """Pictures of at most about `most` bytes each, in the order of their `words` (see `titles`).

    A file that cannot be read is left out.
    """
    order = {name: i for i, name in enumerate(words)}
    for name, path in sorted(found.items(), key=lambda item: order.get(item[0], len(order))):
        try:
            shown = _vector(path, most) if path.suffix == ".svg" else _raster(path, most)
        except (OSError, ValueError, SyntaxError):
            continue
        yield Picture(name, words.get(name, name.replace("_", " ")), *shown)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _vector(path: Path, most: int) -> tuple[str, int, int]:
    content = path.read_bytes()
    if len(content) > most:
        raise ValueError(f"{path}: {len(content)} bytes are too many")
    return _uri("svg+xml", content), 1100, 500


def _raster(path: Path, most: int) -> tuple:
    from PIL import Image

    with Image.open(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            return _moving(image, most)
        image = _flat(image)
    for width in WIDTHS:
        made = _narrowed(image, width)
        for how in ({"lossless": True}, {"quality": 80}, {"quality": 55}):
            content = _webp(_few_colours(made) if "lossless" in how else made, **how)
            if len(content) <= most:
                return _uri("webp", content), *made.size
    return _uri("webp", _webp(made, quality=40)), *made.size


def _moving(image, most: int) -> tuple:
    """Every frame, where five times the bytes of a still picture do; else the last one."""
    from PIL import ImageSequence

    frames = [_narrowed(_flat(frame), WIDTHS[-1]) for frame in ImageSequence.Iterator(image)]
    still = _uri("webp", _webp(frames[-1], quality=80))
    duration = image.info.get("duration", 100)
    content = _webp(
        frames[0], quality=50, save_all=True, append_images=frames[1:], duration=duration, loop=0
    )
    if len(content) > 5 * most:
        return still, *frames[-1].size
    return _uri("webp", content), *frames[-1].size, still


def _flat(image):
    """On white, as a figure is printed."""
    from PIL import Image

    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _narrowed(image, width: int):
    from PIL import Image

    if image.width <= width:
        return image
    size = width, max(1, round(image.height * width / image.width))
    return image.resize(size, Image.Resampling.LANCZOS)


def _few_colours(image):
    return image.quantize(COLOURS, dither=0).convert("RGB")


def _webp(image, **how) -> bytes:
    content = io.BytesIO()
    image.save(content, "WEBP", method=4, **how)
    return content.getvalue()
