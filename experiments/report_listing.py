"""Listings of the code that measures, a line of which each verdict can point to."""

import ast
import inspect
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import NamedTuple

from markupsafe import Markup

from dlstudy.claims import Verdict

STYLES = ("default", "github-dark")  # by day and by night


class Line(NamedTuple):
    """One line. `measured`: it belongs to a statistic."""

    number: int
    html: Markup
    measured: bool


class Listing(NamedTuple):
    """A module's source; `path` is what `Verdict.code` calls it."""

    path: str
    lines: list[Line]


def module_of(dotted: str) -> ModuleType | None:
    """The loaded module that holds a function of this dotted name."""
    parts = dotted.split(".")
    names = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
    return next((sys.modules[name] for name in names if name in sys.modules), None)


def listings(verdicts: Iterable[Verdict]) -> list[Listing]:
    """The modules of all statistics, each once; one without readable source is left out."""
    modules, places = {}, {}
    for verdict in verdicts:
        path, _, line = verdict.code.rpartition(":")
        module = module_of(verdict.statistic)
        if path and module is not None:
            modules.setdefault(path, module)
            places.setdefault(path, set()).add(int(line))
    found = []
    for path, module in sorted(modules.items()):
        try:
            source = inspect.getsource(module)
        except (OSError, TypeError):
            continue
        found.append(Listing(path, lines_of(source, places[path])))
    return found


def lines_of(source: str, places: set[int]) -> list[Line]:
    """Source as lines of HTML; functions that begin at one of `places` are marked as measuring."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    html = highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True))
    measured = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            begin = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if begin in places:
                measured.update(range(begin, node.end_lineno + 1))
    return [
        Line(number, Markup(text), number in measured)
        for number, text in enumerate(html.rstrip("\n").split("\n"), 1)
    ]


def styles() -> str:
    """CSS of the colours of code, by day and by night."""
    from pygments.styles import get_style_by_name
    from pygments.token import STANDARD_TYPES

    day, night = (get_style_by_name(name) for name in STYLES)
    rules = []
    for token, short in STANDARD_TYPES.items():
        by_day, by_night = day.style_for_token(token), night.style_for_token(token)
        if short and (by_day["color"] or by_night["color"]):
            colours = (f"#{s['color']}" if s["color"] else "currentColor"
                       for s in (by_day, by_night))  # fmt: skip
            rules.append(f".code .{short}{{color:light-dark({','.join(colours)})}}")
    return "\n".join(rules)
