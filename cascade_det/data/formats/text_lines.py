"""Lines of text annotations: read with their numbers, so that an error can name file, line and value."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascade_det.data.formats.coco_records import FARTHEST_PX, check_name, shown
from cascade_det.errors import DataError

_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank, without the space around it; `number` counts from 1."""

    file: Path
    number: int
    text: str

    @property
    def place(self) -> str:
        """File and line as an error names them."""
        return f"{self.file}, line {self.number}"

    def fault(self, wanted: str) -> DataError:
        """Return the error that something else is `wanted` here."""
        return DataError(f"{self.place}: {shown(self.text)} is not {wanted}. Correct the line.")

    def values(self, columns: str, words: Sequence[str] | None = None) -> list[float]:
        """Return the finite numbers that the line, or `words` of it, holds for `columns`, which are named in a text.

        Raises:
            DataError: they are fewer or more, or one is no such number.
        """
        words = self.text.split() if words is None else words
        wanted = f"{len(columns.split())} numbers ({columns})"
        if len(words) != len(columns.split()):
            raise DataError(
                f"{self.place}: {shown(self.text)} has {len(words)} fields, not {wanted}. Correct the line."
            )
        values = [finite(word) for word in words]
        for word, value in zip(words, values, strict=True):
            if value is None:
                raise DataError(f"{self.place}: {shown(word)} is no finite number; {wanted} are due. Correct the line.")
        return [value for value in values if value is not None]

    def count(self, what: str) -> int:
        """Return the whole number that is all the line holds; `what` it counts is named in an error."""
        if not re.fullmatch(r"[0-9]{1,9}", self.text):
            raise self.fault(f"a number of {what}")
        return int(self.text)

    def name(self, text: str | None = None) -> str:
        """Return the name of a picture, all of the line or `text` of it, relative to the folder of the pictures.

        Raises:
            DataError: it is none, leaves the folder, or is written as Windows does.
        """
        return picture_name(self.place, self.text if text is None else text)


def finite(text: str) -> float | None:
    """Return the number that a text is; None where it is none, not finite or too far away for any picture."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= FARTHEST_PX else None  # false for NaN too


def picture_name(place: str, name: str) -> str:
    """Return the name of a picture below a folder; raises a `DataError` that begins with `place` if it is none."""
    where = f"{place}: the picture is named {shown(name)}"
    if "\\" in name or _DRIVE.match(name):
        raise DataError(f"{where}, a path of Windows. Write / between folders, relative to the folder of the pictures.")
    check_name(where, name)
    return name


def read_text(file: Path, what: str) -> tuple[str, str]:
    """Return the text of a file in UTF-8 and a hash of its bytes; `what` is wanted is named in an error.

    Raises:
        DataError: it cannot be read or is no text; the message names the line.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}). `annotations` must name {what}.") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: the byte {raw[error.start : error.start + 1]!r} is no text in UTF-8. Save {what} in "
            "UTF-8."
        ) from error
    return text, hashlib.sha256(raw).hexdigest()


def read_lines(file: Path, what: str) -> tuple[list[Line], str]:
    """Return the lines of a file that are not blank, and a hash of its bytes; see `read_text`."""
    text, file_hash = read_text(file, what)
    numbered = enumerate(text.split("\n"), start=1)  # splitlines would also split at characters that names may have
    return [Line(file, number, line.strip()) for number, line in numbered if line.strip()], file_hash


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Blocks of a text file: the name of a picture, a count, and a row of numbers for each of its objects.

    Attributes:
        names: the line that names each of P pictures.
        rows: the line of each of G objects.
        picture: ``(G,)`` row of its picture.
        values: ``(G, C)`` its numbers.
    """

    names: list[Line]
    rows: list[Line]
    picture: NDArray[np.intp]
    values: NDArray[np.float64]


def read_blocks(lines: Sequence[Line], columns: str, what: str) -> Blocks:
    """Return the blocks of a file.

    Args:
        lines: of the file.
        columns: names of the numbers of a row.
        what: the objects, as errors name them.

    After a count of 0 one row of zeros is skipped, as WIDER FACE has it.

    Raises:
        DataError: a line is not what is due there, or a picture is named twice.
    """
    names: list[Line] = []
    rows: list[Line] = []
    picture: list[int] = []
    values: list[list[float]] = []
    at = 0
    while at < len(lines):
        name = lines[at]
        if _is_row(name.text, columns):
            raise name.fault(f"the name of a picture: the picture before has more {what} than it counts")
        if at + 1 == len(lines):
            raise DataError(f"{name.place}: the file ends after {shown(name.text)}, where a number of {what} is due.")
        count, at = lines[at + 1].count(what), at + 2
        if at + count > len(lines):
            raise DataError(
                f"{name.place}: {shown(name.text)} counts {count} {what}, but the file ends after {len(lines) - at}. "
                "Fetch the whole file, or correct the count."
            )
        rows += lines[at : at + count]
        values += [line.values(columns) for line in lines[at : at + count]]
        picture += [len(names)] * count
        names.append(name)
        at += count
        if count == 0 and at < len(lines) and set(lines[at].text.split()) == {"0"}:
            at += 1
    refuse_twice(names)
    table = np.array(values, np.float64).reshape(-1, len(columns.split()))
    return Blocks(names, rows, np.array(picture, np.intp), table)


def refuse_twice(lines: Sequence[Line], name_of: Callable[[Line], str] = lambda line: line.text) -> None:
    """Raise a `DataError` where two lines name one picture: by all of their text, or by what `name_of` gives."""
    first: dict[str, Line] = {}
    for line in lines:
        other = first.setdefault(name_of(line), line)
        if other is not line:
            raise DataError(f"{line.place}: {shown(name_of(line))} is named before, in {other.place}. Remove one.")


def _is_row(text: str, columns: str) -> bool:
    words = text.split()
    return len(words) == len(columns.split()) and all(finite(word) is not None for word in words)
