"""Files and folders that are there whole or not at all: written beside their place and renamed at the end."""

# ruff: noqa: PTH105 - os.replace, which a test makes fail
from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


def write_json_atomic(path: Path, obj: object, indent: int | None = None) -> None:
    """Write `obj` as JSON in UTF-8, replacing an old file at once; numpy scalars are written as numbers.

    Raises:
        ValueError: a number is not finite (JSON has none such); the old file stays.
        TypeError: a value has no form in JSON; the old file stays.
    """
    text = json.dumps(obj, indent=indent, allow_nan=False, ensure_ascii=False, default=_plain)
    write_text_atomic(path, text + "\n")


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` in UTF-8, replacing an old file at once."""
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write `data`, replacing an old file at once; where that fails the old file stays."""
    temporary = _beside(path, "tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_dir(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside `final`; on success it takes the place of `final`, on an error it is removed.

    Two renames replace an old folder, since none can rename over a filled one: a reader sees the old one, for a moment
    none, then the new one, and never a mixture.
    """
    temporary, old = _beside(final, "tmp"), _beside(final, "old")
    for left_over in (temporary, old):  # of a killed process that had this id
        shutil.rmtree(left_over, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _swap_in(temporary, final, old)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _swap_in(temporary: Path, final: Path, old: Path) -> None:
    if not final.is_dir():
        os.replace(temporary, final)
        return
    os.replace(final, old)
    try:
        os.replace(temporary, final)
    except BaseException:
        os.replace(old, final)
        raise


def _beside(path: Path, word: str) -> Path:
    return path.with_name(f".{word}-{path.name}-{os.getpid()}")


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be written as JSON")
