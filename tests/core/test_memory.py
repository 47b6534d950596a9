"""Freed memory goes back to the system, and nothing happens where the C library cannot give it back."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from cascade_det.core import memory


@pytest.fixture(autouse=True)
def fresh() -> Any:
    memory._trim.cache_clear()
    yield
    memory._trim.cache_clear()


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_another_c_library_is_left_alone(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", absent)
    memory.give_back_freed()
    assert memory._trim() is None


def test_what_was_freed_goes_back() -> None:
    if memory._trim() is None:
        pytest.skip("the C library has no malloc_trim")
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    block, many = 64 << 10, 2000  # too small for pages of their own, 125 MiB in all
    held = [ctypes.c_void_p(libc.malloc(block)) for _ in range(many)]
    for address in held:
        ctypes.memset(address, 1, block)
    for address in held[:-1]:  # the last one keeps the heap from shrinking by itself
        libc.free(address)
    before = resident_bytes()
    memory.give_back_freed()
    assert before - resident_bytes() > many * block // 2
    libc.free(held[-1])


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
