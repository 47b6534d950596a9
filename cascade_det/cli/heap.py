"""Settings of a whole process that keep its memory flat over thousands of pictures; the package alone changes none."""

from __future__ import annotations

import ctypes
import os

_M_TOP_PAD = -2  # of mallopt(3), malloc.h
_TOP_PAD = 64 << 20  # bytes by which the heap grows at once
_PRIMITIVES = "64"  # of oneDNN's default 1,024


def keep_memory_flat() -> None:
    """Bound what the C library and oneDNN keep between pictures; call it before torch is imported.

    Every picture has other level sizes. oneDNN keeps code and buffers for each shape that it met, so its cache is made
    smaller. glibc raises the size from which it returns a block to the system with the largest block that it has seen,
    and spreads the others over an ever longer heap: setting any of its parameters switches that off. A variable of the
    environment (ONEDNN_PRIMITIVE_CACHE_CAPACITY, MALLOC_TOP_PAD_) that the user has set stays.

    `python benchmarks/folder.py PICTURES --counts 200 2000` shows the effect.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _PRIMITIVES)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and "MALLOC_TOP_PAD_" not in os.environ:  # glibc alone has it
        mallopt(_M_TOP_PAD, _TOP_PAD)
