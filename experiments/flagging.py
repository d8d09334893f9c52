"""Flags from dataclasses, in one place.

A configuration is a frozen dataclass whose fields are made by `setting`. Nothing is registered
when a module is imported: `parse` defines the flags on a fresh absl `FlagValues`, so that any
number of experiments live in one process.

A field is an int, float, bool, str, or a tuple of ints, floats or strings (written with commas).
What a flag accepts can always be written to a flagfile and read back to the same value: strings
are one line without spaces around it, numbers are finite, and items of a list hold no comma.
"""

import dataclasses
import difflib
import math
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from absl import flags

from dlstudy.errors import UserError

ROOT = Path(__file__).resolve().parents[1]  # flagfiles are looked for here too
HELP = ("--help", "-help", "-h")


def setting(
    default: Any,
    help: str,
    unit: str = "",
    choices: Sequence[Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    high_open: bool = False,
    local: bool = False,
    words: Mapping[str, Any] | None = None,
) -> Any:
    """A field of a configuration.

    Args:
        default: the value without a flag.
        help: what it is, one or two sentences.
        unit: of a number, for the help text.
        choices: the values allowed; None for any.
        low: smallest number allowed; with `low_open` the number itself is not. In a list these
            limits and the choices hold for each item.
        high: largest number allowed; with `high_open` the number itself is not.
        local: says something about this machine and nothing about the result (a folder of data):
            it may change when a run is resumed.
        words: values with a name, which may lie outside the limits: {"auto": 0}. The name is how
            such a value is given, written and shown; the bare value is not understood.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "choices": choices,
        "local": local,
        "low": low,
        "high": high,
        "low_open": low_open,
        "high_open": high_open,
        "words": words or {},
    }
    return dataclasses.field(default=default, metadata=metadata)


# ---------------------------------------------------------------------------- text and values


class Flag(NamedTuple):
    name: str
    type: Any  # int, float, bool, str, or tuple[int | float | str, ...]
    default: Any
    about: dict[str, Any]


def flags_of(config: type) -> list[Flag]:
    """The fields of a configuration class, in order.

    Raises:
        TypeError: a field has another type, or was not made by `setting`.
        ValueError: a default is not allowed.
    """
    hints = get_type_hints(config)
    found = []
    for field in dataclasses.fields(config):
        flag = Flag(field.name, hints[field.name], field.default, dict(field.metadata))
        if _item_type(flag.type) not in (int, float, bool, str) or "help" not in flag.about:
            raise TypeError(f"{config.__name__}.{flag.name}: not a setting of a known type")
        if to_value(to_text(flag.default, flag), flag) != flag.default:
            raise ValueError(f"{config.__name__}.{flag.name}: default {flag.default!r}")
        found.append(flag)
    return found


def _item_type(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is tuple else kind


def to_text(value: Any, flag: Flag | None = None) -> str:
    """A value as it stands in a flagfile; the inverse of `to_value`, given the same flag."""
    named = flag.about["words"].items() if flag else ()
    for word, meaning in named:
        if value == meaning:
            return word
    if isinstance(value, tuple):
        return ",".join(map(to_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def to_value(text: str, flag: Flag) -> Any:
    """Reads the text of a flag.

    Raises:
        ValueError: what is allowed instead.
    """
    if get_origin(flag.type) is tuple:
        items = text.split(",") if text else []
        return tuple(_item(item.strip(), flag, "each ") for item in items)
    return _item(text, flag, "")


def _item(text: str, flag: Flag, each: str) -> Any:
    kind, words = _item_type(flag.type), flag.about["words"]
    if text in words:
        return words[text]
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError("must be true or false")
        return text.lower() in ("true", "1")
    if kind is str:
        if text != text.strip() or not text.isprintable() or (each and not text):
            raise ValueError(f"{each}must be {'some' if each else 'one line of'} printable text")
        value = text
    else:
        try:
            value = kind(text)
        except ValueError:
            noun = "a whole number" if kind is int else "a number"
            raise ValueError(f"{each}must be {' or '.join([noun, *words])}") from None
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{each}must be a finite number")
    about = flag.about
    if about["choices"] is not None:
        good = value in about["choices"]
    else:
        low, high = about["low"], about["high"]
        good = (low is None or (value > low if about["low_open"] else value >= low)) and (
            high is None or (value < high if about["high_open"] else value <= high)
        )
    if not good:
        raise ValueError(f"{each}must be {_allowed(flag)}")
    return value


def _allowed(flag: Flag) -> str:
    about = flag.about
    if about["choices"] is not None:
        return "one of " + ", ".join(map(to_text, about["choices"]))
    limits = []
    if about["low"] is not None:
        limits.append(f"{'greater than' if about['low_open'] else 'at least'} {about['low']}")
    if about["high"] is not None:
        limits.append(f"{'less than' if about['high_open'] else 'at most'} {about['high']}")
    allowed = [" and ".join(limits)] if limits else []
    return ", or ".join([*allowed, *about["words"]])


# ---------------------------------------------------------------------------- reading flags


def expand_flagfiles(arguments: Iterable[str], here: Path = Path(), outer: tuple = ()) -> list[str]:
    """Replaces every --flagfile=FILE by the file's lines, flagfiles within flagfiles too.

    A file is looked for in the working directory, beside the file that names it, and in the
    project's root. Blank lines and lines that begin with # are skipped.

    Raises:
        UserError: a file cannot be read, includes itself, or has a line that is no flag.
    """
    found, arguments = [], iter(arguments)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            found.append(argument)
            continue
        if not equals:
            value = next(arguments, "")
        given = Path(value).expanduser()
        places = [given, here / given, ROOT / given]
        path = next((place for place in places if place.is_file()), given).resolve()
        if path in outer:
            raise UserError(f"--flagfile={value}: the file includes itself")
        try:
            lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text file"
            raise UserError(f"--flagfile={value}: cannot be read: {reason}") from None
        lines = [line for line in lines if line and not line.startswith(("#", "//"))]
        for line in lines:
            if not line.startswith("-"):
                raise UserError(f"--flagfile={value}: {line!r}: a line must be --NAME=VALUE")
        found += expand_flagfiles(lines, path.parent, (*outer, path))
    return found


class _Parser(flags.ArgumentParser):
    def __init__(self, flag: Flag):
        self.flag = flag
        self.syntactic_help = ""

    def parse(self, argument):
        return to_value(argument, self.flag) if isinstance(argument, str) else argument

    def flag_type(self):
        return str(self.flag.type)


def parse(arguments: Sequence[str], *classes: type) -> tuple[list[Any], dict[str, Any]]:
    """Makes one configuration of each class from the command line.

    Args:
        arguments: the command line without the program's name.
        classes: dataclasses made of `setting`s with different names.

    Returns:
        The configurations, and the values that were given (rather than left at their default)
        by name.

    Raises:
        UserError: a flag is unknown or has a bad value, or there is a stray argument.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    every = {flag.name: flag for config in classes for flag in flags_of(config)}
    for flag in every.values():
        if flag.type is bool:
            item = flags.BooleanFlag(flag.name, flag.default, flag.about["help"])
            item.parser = _Parser(flag)
        else:
            item = flags.Flag(_Parser(flag), None, flag.name, flag.default, flag.about["help"])
        flags.DEFINE_flag(item, values)
    try:
        stray = values(["", *expand_flagfiles(arguments)])[1:]
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, [*every, "flagfile", "help"], 1)
        hint = f"did you mean --{near[0]}?" if near else "--help lists them"
        raise UserError(f"--{error.flagname}: there is no such flag; {hint}") from None
    except flags.IllegalFlagValueError as error:
        raise UserError(str(error).removeprefix("flag ")) from None
    except flags.Error as error:
        text = str(error)
        missing = text.removeprefix("Missing value for flag ")
        raise UserError(f"{missing}: needs a value" if missing != text else text) from None
    except ValueError as error:  # absl's for --noNAME=value
        raise UserError(str(error)) from None
    if stray:
        raise UserError(f"{stray[0]!r}: stray argument; settings are given as --NAME=VALUE")
    given = {name: values[name].value for name in every if values[name].present}
    configs = [
        config(**{f.name: values[f.name].value for f in dataclasses.fields(config)})
        for config in classes
    ]
    return configs, given


def to_lines(config: Any) -> list[str]:
    """A configuration as the lines of a flagfile; every setting, defaults too."""
    return [f"--{f.name}={to_text(getattr(config, f.name), f)}" for f in flags_of(type(config))]


# ---------------------------------------------------------------------------- help


def describe(title: str, config: type, width: int | None = None) -> str:
    """The flags of a configuration class for --help."""
    width = width or max(60, min(100, shutil.get_terminal_size().columns))
    indent = 30
    lines = [f"{title}:"]
    for flag in flags_of(config):
        is_bool = flag.type is bool
        left = (
            f"  --[no]{flag.name}" if is_bool else f"  --{flag.name}={to_text(flag.default, flag)}"
        )
        text = flag.about["help"].rstrip(".")
        if flag.about["unit"]:
            text += f" [{flag.about['unit']}]"
        each = "each " if get_origin(flag.type) is tuple else ""
        text += f"; {each}{_allowed(flag)}" if _allowed(flag) else ""
        text += f"; default {to_text(flag.default)}" if is_bool else ""
        right = textwrap.wrap(text, width - indent)
        if len(left) + 2 > indent:
            lines.append(left)
            left = ""
        lines += [left.ljust(indent) + (right[0] if right else "")]
        lines += [" " * indent + line for line in right[1:]]
    return "\n".join(lines)
