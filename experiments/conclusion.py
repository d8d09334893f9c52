"""What follows a run: verdicts and figures, from the record alone."""

import io
from types import ModuleType
from typing import Any

from dlstudy import records
from dlstudy.host import Host


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
    """Writes every figure as SVG and PNG, a moving one as GIF; same record, same bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": module.NAME}):
        for name, figure in module.figures(record):
            if hasattr(figure, "gif"):
                folder.write(f"figures/{name}.gif", figure.gif())
                continue
            for kind, metadata in (("svg", {"Date": None}), ("png", None)):
                content = io.BytesIO()
                figure.savefig(content, format=kind, metadata=metadata, dpi=150)
                folder.write(f"figures/{name}.{kind}", content.getvalue())
            pyplot.close(figure)
