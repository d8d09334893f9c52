"""What a run depends on: code, flags, data and versions.

The manifest of a run says them, and `changes` compares them with what a run would have now. Code
is what the interpreter makes of it: comments, docstrings and layout do not count. There are two
kinds: code that makes the record ("run"), and code that judges and draws it ("conclusion"), after
a change of which a redrawing is enough.
"""

import ast
import functools
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("dlstudy", "experiments")
# What says or does nothing about the numbers: flags, consoles, devices (the layout says those).
AROUND = ("experiments.cli",)
# What comes after the run.
AFTER = ("dlstudy.claims", "dlstudy.plots", "dlstudy.stats", "experiments.conclusion")
CONCLUSION = "judging or drawing"
AFTER_ENDINGS = ("_claims", "_figures", "_charts", "_plan")


def code(module: ModuleType) -> dict[str, str]:
    """SHA-256 of the code that makes an experiment's record, and of the rest that concludes."""
    run = closure(module, lambda name: name in AROUND or _comes_after(name))
    every = closure(module, lambda name: name in AROUND) | closure(
        importlib.import_module("experiments.conclusion"), lambda name: name in AROUND
    )
    return {
        "run": digest(run.values()),
        "conclusion": digest(path for name, path in every.items() if name not in run),
    }


def _comes_after(name: str) -> bool:
    return name.endswith(AFTER_ENDINGS) or any(f"{name}.".startswith(f"{a}.") for a in AFTER)


def closure(module: ModuleType, left_out=lambda name: False) -> dict[str, Path]:
    """Files of a module and of all of this project that it imports, however deep, by name.

    Of a subpackage every module counts: it may load them on first use.

    Args:
        module: where to start.
        left_out: says of a module's name whether it, and what only it imports, stays out.
    """
    found = {}
    spec = getattr(module, "__spec__", None)
    waiting = [(spec.name if spec else module.__name__, Path(module.__file__))]
    while waiting:
        name, path = waiting.pop()
        if name in found or left_out(name):
            continue
        found[name] = path
        if path.name == "__init__.py" and name not in PACKAGES:
            waiting += [(f"{name}.{other.stem}", other) for other in path.parent.glob("[!_]*.py")]
        waiting += [
            (other, place) for other in imported(path) if (place := file_of(other)) is not None
        ]
    return found


@functools.cache
def imported(path: Path) -> tuple[str, ...]:
    """Names of this project's modules that a file may import, wherever in it it does."""
    return tuple(dict.fromkeys(_imported(ast.parse(path.read_bytes()))))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] in PACKAGES:
                yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def file_of(name: str) -> Path | None:
    """The file of a module; None for what is no module (a function of one, say)."""
    known = sys.modules.get(name)
    if known is None:
        try:
            known = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # its parent is no package
            return None
    place = getattr(known, "__file__", None) or getattr(known, "origin", None)
    return Path(place) if place else None


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 of what the interpreter makes of these files."""
    return hashlib.sha256("".join(sorted(map(_digest, paths))).encode()).hexdigest()


@functools.cache
def _digest(path: Path) -> str:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            del body[0]
    return hashlib.sha256(f"{path.name} {ast.dump(tree)}".encode()).hexdigest()


def digest_of_bytes(paths: Iterable[Path]) -> str:
    """SHA-256 of files that are not code."""
    parts = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def versions(environment: dict[str, Any]) -> dict[str, str]:
    """Interpreter and packages of a manifest's `environment`; this project's code says more."""
    packages = environment.get("packages", {})
    every = {"python": environment.get("python"), **packages}
    return {name: version for name, version in every.items() if name != "dlstudy"}


def changes(manifest: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between a finished run's manifest and what a run would have now.

    Args:
        manifest: of a run; a key that is missing counts as different.
        now: "code", "data" and "environment" as a manifest has them.

    Returns:
        Of "code", "data", "versions" and `CONCLUSION` (that alone needs only a redrawing) those
        that differ, with particulars where there are any.
    """
    found = []
    old, new = manifest.get("code", {}), now.get("code", {})
    if old.get("run") != new.get("run"):
        found.append("code")
    if manifest.get("data") != now.get("data"):
        found.append("data")
    before, after = (versions(side.get("environment", {})) for side in (manifest, now))
    differing = [
        f"{name} {before.get(name)} -> {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    if differing:
        found.append(f"versions ({', '.join(differing)})")
    if old.get("conclusion") != new.get("conclusion"):
        found.append(CONCLUSION)
    return found
