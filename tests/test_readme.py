"""The README's examples run as printed, and say what it says they print."""

import contextlib
import io
import re
from pathlib import Path

import jax
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```(?:\n\nprints `(.*?)`)?", README, re.DOTALL)


def test_there_are_examples():
    assert len(EXAMPLES) >= 2
    assert any(printed for _, printed in EXAMPLES)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_prints_what_it_says(number):
    code, printed = EXAMPLES[number]
    out = io.StringIO()
    # A user's process is not strict as the tests are.
    with (
        contextlib.redirect_stdout(out),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        exec(code, {})
    assert out.getvalue().strip()
    if printed:
        assert out.getvalue().strip() == printed


def test_every_picture_is_there_and_shown():
    shown = set(re.findall(r"\]\((docs/.*?)\)", README))
    assert shown == {f"docs/{p.name}" for p in (Path(__file__).parents[1] / "docs").iterdir()}
