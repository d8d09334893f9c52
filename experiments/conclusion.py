"""What follows a run: verdicts and figures, from the record alone."""

import contextlib
import importlib
import io
import json
import threading
from types import ModuleType
from typing import Any

from dlstudy import records
from dlstudy.host import Host

DPI = 150  # of PNG
NEEDED = (
    "xarray", "netCDF4", "dlstudy.claims", "scipy.stats", "dlstudy.plots",
    "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "rich.table",
)  # fmt: skip


def prepare() -> threading.Thread:
    """Imports, in a thread, what follows a run: seconds that are not missed while XLA compiles."""
    thread = threading.Thread(target=_import, name="imports")
    thread.start()
    return thread


def _import() -> None:
    for name in NEEDED:
        # Whoever needs it meets the error.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def conclude(module: ModuleType, folder: records.RunFolder, host: Host) -> Any:
    """Judges and draws the record of a folder; returns the table of verdicts.

    The record is read back from the file, so that a run and a redrawing see the same numbers.
    """
    from dlstudy import claims

    record = folder.load_record()
    cost = record.attrs.get("cost", [])
    for line in [cost] if isinstance(cost, str) else cost:
        host.log(line)
    verdicts = claims.judge(module.CLAIMS, record)
    folder.write("claims.json", claims.to_json(verdicts))
    draw(module, folder, record)
    return claims.table(verdicts)


def draw(module: ModuleType, folder: records.RunFolder, record: Any) -> None:
    """Writes every figure as SVG and PNG, a moving one as GIF; same record, same bytes.

    `figures/figures.json`, written last, says what each shows: by name, in the order drawn, its
    "title" (the titles of its axes, which state what was found) and its "files".
    """
    import matplotlib

    listing = {}
    with matplotlib.rc_context({"svg.hashsalt": module.NAME}):
        for name, made in module.figures(record):
            moving = hasattr(made, "gif")
            pictures = {f"{name}.gif": made.gif()} if moving else saved(made, name)
            for file, content in pictures.items():
                folder.write(f"figures/{file}", content)
            title = titles(made.figure if moving else made)
            listing[name] = {"title": title, "files": list(pictures)}
    text = json.dumps(listing, indent=1, ensure_ascii=False)
    folder.write("figures/figures.json", text, "\n")


def saved(figure: Any, name: str) -> dict[str, bytes]:
    """A figure as SVG and PNG, by the names of the files."""
    from dlstudy import plots

    # Left to `savefig`, the layout would be made anew for each format, and all drawn twice for it.
    figure.set_dpi(DPI)
    plots.fix_layout(figure)
    pictures = {}
    for kind, metadata in (("svg", {"Date": None}), ("png", None)):
        content = io.BytesIO()
        figure.savefig(content, format=kind, metadata=metadata, dpi=DPI)
        pictures[f"{name}.{kind}"] = content.getvalue()
    return pictures


def titles(figure: Any) -> str:
    """The titles of a figure's visible axes, joined."""
    found = [axis.get_title("left") for axis in figure.axes if axis.get_visible()]
    return "; ".join(title for title in found if title)
