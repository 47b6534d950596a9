"""What the command line sets for its process, and what it leaves to its user."""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace

import pytest

from cascade_det.cli.heap import keep_memory_flat

NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "MALLOC_TOP_PAD_")


@pytest.mark.parametrize(
    ("given", "cache", "calls"),
    [
        ({}, "64", 1),
        ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "9"}, "9", 1),
        ({"MALLOC_TOP_PAD_": "0"}, "64", 0),
    ],
)
def test_what_the_user_set_stays(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], cache: str, calls: int
) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *args: seen.append(args)))
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    keep_memory_flat()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == cache
    assert seen == [(-2, 64 << 20)] * calls


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    monkeypatch.setenv(NAMES[0], "")
    keep_memory_flat()
    assert os.environ[NAMES[0]] == ""
