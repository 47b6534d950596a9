"""What `detect --crops` writes: one picture an object, as its box or aligned by its points, and a table of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_det.cli.common import own_folder, say
from cascade_det.cli.object_table import object_columns, object_rows
from cascade_det.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from cascade_det.cascade import Cascade
    from cascade_det.core.imaging import Pixels
    from cascade_det.core.types import Detections
    from cascade_det.visual.alignment import Template

_TABLE = "crops.csv"
_CROPS = "[0-9]*_*_[0-9]*.png"
_STEM = 60  # characters of a picture's name in a crop's, so that no name outgrows a file system; the number tells apart


def crops_folder(crops: Path | None, align: bool, out: Path | None) -> Path | None:
    """Return the folder for crops as the flags say, None where none are wanted; nothing in it is changed yet."""
    if crops is None:
        if align:
            raise RecipeError("--align turns the crops upright and needs --crops DIR.")
        return None
    if out is not None and crops.resolve() == out.resolve():
        raise RecipeError(f"--crops {crops}: is the folder of --out; name another, such as {out / 'crops'}.")
    return own_folder(crops, {_TABLE, _CROPS}, "--crops")


class CropWriter:
    """Writes the objects of one picture after another into a folder, in place of an earlier run's.

    Args:
        folder: an own folder of this verb.
        pictures: what will be read; a picture in the folder would be overwritten.
        align: cut upright crops of one size by the points, else the part of the picture inside the box.
        cascade: the model that finds the objects.

    Raises:
        ModelError: `align`, and the model has no points or no template for them.
        RecipeError: `folder` holds one of the pictures.
    """

    def __init__(self, folder: Path, pictures: Sequence[Path], align: bool, cascade: Cascade) -> None:
        self.written = 0
        self.left_out = 0
        self._folder = folder
        self._template = _template(cascade) if align else None
        self._rows = [["file", "picture", *object_columns(cascade.recipe.object.points)]]
        if any(folder.resolve() == path.resolve().parent for path in pictures):
            raise RecipeError(f"--crops {folder}: holds pictures to detect in; name another folder.")
        for old in folder.glob(_CROPS):
            old.unlink()

    def add(self, number: int, path: Path, image: Pixels, found: Detections) -> None:
        """Write the objects of the picture `path`, the one of this `number`; a crop's last figures are its rank."""
        from cascade_det.core.imaging import write_image

        rows, crops = _boxes(image, found) if self._template is None else _aligned(image, found, self._template)
        values = list(object_rows(found))
        for row, crop in zip(rows, crops, strict=True):
            name = f"{number:05d}_{path.stem[:_STEM]}_{row:03d}.png"
            write_image(self._folder / name, crop)
            self._rows.append([name, str(path), *values[row]])
        self.written += len(rows)
        self.left_out += len(found) - len(rows)

    def close(self) -> None:
        """Write the table and say what was left out."""
        from cascade_det.data.atomic import write_text_atomic

        text = io.StringIO()
        csv.writer(text).writerows(self._rows)
        write_text_atomic(self._folder / _TABLE, text.getvalue())
        reason = "no pixel inside the box" if self._template is None else "points that fix no turn"
        say(f"{self.written} crops in {self._folder}; {self.left_out} left out ({reason})")


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
