"""Memory that was freed goes back to the system: long runs over pictures of many sizes stay as small as short ones."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

EVERY_PICTURES = 64  # often enough to stay flat; a call costs some milliseconds


def give_back_freed() -> None:
    """Hand memory that the C library keeps for later back to the system; does nothing where the library cannot.

    glibc keeps freed blocks between those in use. Each picture frees blocks of other sizes, so what it keeps grows.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc; Windows has no handle of the program itself
        return None
    return found
