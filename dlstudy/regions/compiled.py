"""Numba's compiler, with machine code kept on disk where a folder can be written.

Numba keeps it beside the source, else in the user's cache folder, or where NUMBA_CACHE_DIR says.
A read-only installation without any of them compiles anew in every process. Numba notices a change
of the file a function stands in, not of a function it calls in another file: whoever edits
`events.bits_of`, which `subdivide` calls, deletes that folder.
"""

from __future__ import annotations

import numba


def njit(**options):
    """Decorator: `numba.njit` with these options, cached if possible."""

    def decorate(function):
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # raised by Numba when no folder for the cache can be written
            return numba.njit(**options)(function)

    return decorate
