"""The journal of a run over many pictures: what is finished stands in it, so a run that was cut off can go on.

A file of JSON lines: first what decides the results, then an entry for each finished piece of work in their order. A
line that was torn by the end of the process is no entry; that piece is done again.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cascade_det import __version__
from cascade_det.core.types import Detections
from cascade_det.data.atomic import write_bytes_atomic, write_text_atomic
from cascade_det.errors import RunError

_FORMAT = 1


class Journal:
    """Finished work on disk.

    Args:
        path: the file.
        entries: those that it holds.
        heading: the first line where there is no file of this run yet; it is written with the first entry, so a run
            that is refused or cut off before leaves what was there.

    Attributes:
        path: the file.
        entries: what was finished before this run, in order.
    """

    def __init__(self, path: Path, entries: list[dict[str, Any]], heading: str = "") -> None:
        self.path = path
        self.entries = entries
        self._heading = heading

    @staticmethod
    def begin(path: Path, header: Mapping[str, object]) -> Journal:
        """Begin a journal without entries, in place of what is there.

        Args:
            path: the file; its folder exists.
            header: what decides the results, by the words in which an error names it; ready for JSON.
        """
        return Journal(path, [], _line(_full(header)))

    @staticmethod
    def resume(path: Path, header: Mapping[str, object]) -> Journal:
        """Go on with the journal of an earlier run; begin one where there is none.

        Raises:
            RunError: the journal is of a run with another header; the message names the first difference.
        """
        if not path.is_file():
            return Journal.begin(path, header)
        first, entries, end = _read(path)
        _refuse_other(path, first, _full(header))
        os.truncate(path, end)
        return Journal(path, entries)

    def keep(self, count: int) -> None:
        """Drop all entries but the first `count`."""
        if count < len(self.entries):
            lines = self.path.read_bytes().splitlines(keepends=True)
            write_bytes_atomic(self.path, b"".join(lines[: 1 + count]))
            self.entries = self.entries[:count]

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a piece of finished work; it is on disk when this returns."""
        if self._heading:
            write_text_atomic(self.path, self._heading + _line(entry))
            self._heading = ""
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Remove the file: its run is finished."""
        self.path.unlink(missing_ok=True)


def entries_of(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a journal of whichever run; none where there is no journal."""
    try:
        return _read(path)[1]
    except (OSError, RunError):
        return []


def pack(found: Detections) -> dict[str, list[Any]]:
    """Return detections ready for JSON, to the last bit: by column its dtype, shape and bytes in base64."""
    columns = {"boxes": found.boxes, "scores": found.scores, **{f"extras.{k}": v for k, v in found.extras.items()}}
    if found.points is not None:
        columns["points"] = found.points
    return {
        name: [column.dtype.str, list(column.shape), base64.b64encode(np.ascontiguousarray(column).tobytes()).decode()]
        for name, column in columns.items()
    }


def unpack(columns: Mapping[str, Any]) -> Detections:
    """Return the detections that `pack` made a text of."""
    arrays = {
        name: np.frombuffer(base64.b64decode(data), np.dtype(kind)).reshape(shape).copy()
        for name, (kind, shape, data) in columns.items()
    }
    extras = {name.removeprefix("extras."): arrays[name] for name in arrays if name.startswith("extras.")}
    return Detections(arrays["boxes"], arrays["scores"], arrays.get("points"), extras)


def _full(header: Mapping[str, object]) -> dict[str, Any]:
    """Return a header as it comes back from JSON, with what is the same for all journals of this version."""
    everything = {"the version of the package": __version__, "the form of the journal": _FORMAT, **header}
    plain: dict[str, Any] = json.loads(json.dumps(everything))
    return plain


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, allow_nan=False) + "\n"


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """Return the header, the whole entries, and how many bytes they take."""
    lines, end = [], 0
    with path.open("rb") as file:
        for raw in file:
            try:
                value = json.loads(raw) if raw.endswith(b"\n") else None
            except ValueError:
                value = None
            if not isinstance(value, dict):
                break  # torn, and so is all after it
            lines.append(value)
            end += len(raw)
    if not lines:
        raise RunError(f"{path}: is no journal of an unfinished run. Remove it, or leave --resume out to begin anew.")
    return lines[0], lines[1:], end


def _refuse_other(path: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key in [*now, *was]:
        if was.get(key) != now.get(key):
            raise RunError(
                f"--resume: the unfinished run in {path.parent} had {key} {_shown(was.get(key))}, and now it is "
                f"{_shown(now.get(key))}. Give the command that the run was begun with, leave --resume out to begin "
                "anew in this folder, or name another folder."
            )


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
