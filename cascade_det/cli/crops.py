"""What `detect --crops` writes: one picture an object, as its box or aligned by its points, and a table of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_det.cli.common import numbered_name, own_folder, say
from cascade_det.cli.object_table import object_columns, object_rows
from cascade_det.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from cascade_det.cascade import Cascade
    from cascade_det.core.imaging import Pixels
    from cascade_det.core.types import Detections
    from cascade_det.visual.alignment import Template

_TABLE = "crops.csv"
_HEADER = ["file", "picture"]  # the columns before those of the object


def crops_folder(crops: Path | None, align: bool, out: Path | None) -> Path | None:
    """Return the folder for crops as the flags say, None where none are wanted; nothing in it is changed yet."""
    if crops is None:
        if align:
            raise RecipeError("--align turns the crops upright and needs --crops DIR.")
        return None
    if out is not None and crops.resolve() == out.resolve():
        raise RecipeError(f"--crops {crops}: is the folder of --out; name another, such as {out / 'crops'}.")
    return own_folder(crops, {_TABLE, *_listed(crops)}, "--crops")


def _listed(folder: Path) -> list[str]:
    """Return the crops that the table of an earlier run lists, plain names of files in the folder; none without one.

    A name alone proves nothing: ``2021_beach_01.png`` is a photograph as well as it could be a crop.

    Raises:
        RecipeError: there is a `crops.csv` of somebody else.
    """
    table = folder / _TABLE
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [row for row in csv.reader(file) if row]
    wanted = [*_HEADER, *object_columns([])]
    if not rows or rows[0][: len(wanted)] != wanted:
        raise RecipeError(
            f"--crops {folder}: its {_TABLE} is not one of this verb, which would begin with {','.join(wanted)}; "
            "name another folder."
        )
    return [row[0] for row in rows[1:] if Path(row[0]).name == row[0] and row[0].endswith(".png")]


class CropWriter:
    """Writes the objects of one picture after another into a folder, in place of an earlier run's.

    The table lists a crop before it is written: also a run that is cut off leaves no file that it does not name.

    Attributes:
        lines: the table's, of the crops that are there.
        left_out: objects that give no crop.

    Args:
        folder: an own folder of this verb.
        pictures: what will be read; a picture in the folder would be overwritten.
        align: cut upright crops of one size by the points, else the part of the picture inside the box.
        cascade: the model that finds the objects.
        before: entries of a journal, whose `crops` (lines of the table) an earlier run wrote and which stay.

    Raises:
        ModelError: `align`, and the model has no points or no template for them.
        RecipeError: `folder` holds one of the pictures, or a `crops.csv` of somebody else.
    """

    def __init__(
        self,
        folder: Path,
        pictures: Sequence[Path],
        align: bool,
        cascade: Cascade,
        before: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.lines: list[list[str]] = [line for entry in before for line in entry["crops"]]
        self.left_out = sum(entry["crops_left_out"] for entry in before)
        self._folder = folder
        self._template = _template(cascade) if align else None
        self._heading = [*_HEADER, *object_columns(cascade.recipe.object.points)]
        if any(folder.resolve() == path.resolve().parent for path in pictures):
            raise RecipeError(f"--crops {folder}: holds pictures to detect in; name another folder.")
        kept = {line[0] for line in self.lines}
        for name in set(_listed(folder)) - kept:
            (folder / name).unlink(missing_ok=True)
        self._write_table()

    @property
    def written(self) -> int:
        """How many crops there are."""
        return len(self.lines)

    def add(self, number: int, path: Path, image: Pixels, found: Detections) -> None:
        """Write the objects of the picture `path`, the one of this `number`; a crop's last figures are its rank.

        Raises:
            DataError, OSError: a crop cannot be written; those before it are there and listed.
        """
        from cascade_det.core.imaging import write_image

        rows, crops = _boxes(image, found) if self._template is None else _aligned(image, found, self._template)
        names = [numbered_name(number, path, f"_{row:03d}.png") for row in rows]
        values = list(object_rows(found))
        lines = [[name, str(path), *values[row]] for name, row in zip(names, rows, strict=True)]
        with (self._folder / _TABLE).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(lines)
        self.left_out += len(found) - len(rows)
        for line, crop in zip(lines, crops, strict=True):
            write_image(self._folder / line[0], crop)
            self.lines.append(line)

    def close(self) -> None:
        """Write the table of what is there and say what was left out."""
        self._write_table()
        reason = "no pixel inside the box" if self._template is None else "points that fix no turn"
        say(f"{self.written} crops in {self._folder}; {self.left_out} left out ({reason})")

    def _write_table(self) -> None:
        from cascade_det.data.atomic import write_text_atomic

        text = io.StringIO()
        csv.writer(text).writerows([self._heading, *self.lines])
        write_text_atomic(self._folder / _TABLE, text.getvalue())


def _template(cascade: Cascade) -> Template:
    """Return where the model's recipe wants the points; a common template where it says nothing."""
    from cascade_det.visual.alignment import template_of

    names = cascade.recipe.object.points
    if not cascade.stages[-1].num_points:
        raise ModelError(
            f"--align: the last stage {cascade.stages[-1].name!r} finds no points to align by; use a model "
            "with points, or --crops without --align for the boxes."
        )
    template = cascade.recipe.object.align_template or template_of(names)
    if template is None:
        raise ModelError(
            f"--align: object.align_template of the model's recipe is null, and there is no usual one for the points "
            f"{', '.join(names)}. Set it in the recipe, or pass template= to cascade_det.align in Python."
        )
    return template


def _boxes(image: Pixels, found: Detections) -> tuple[list[int], list[Any]]:
    """Return the rows whose box holds a pixel of the picture, and those parts of the picture."""
    import numpy as np

    limit = np.array([image.shape[1], image.shape[0]] * 2)
    edges = np.concatenate([np.floor(found.boxes[:, :2]), np.ceil(found.boxes[:, 2:])], axis=1)
    x0, y0, x1, y1 = np.clip(edges, 0, limit).astype(int).T
    rows = np.flatnonzero((x1 > x0) & (y1 > y0)).tolist()
    return rows, [image[y0[row] : y1[row], x0[row] : x1[row]] for row in rows]


def _aligned(image: Pixels, found: Detections, template: Template) -> tuple[list[int], Any]:
    """Return the rows whose points fix a turn, and their upright crops."""
    import numpy as np

    from cascade_det.visual.alignment import align, alignable

    assert found.points is not None
    rows = np.flatnonzero(alignable(found.points, template))
    return rows.tolist(), align(image, found.points[rows], template=template)
