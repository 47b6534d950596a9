"""The objects of an annotation in columns: moved to the pictures that are there, checked, and grouped by picture."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.types import Annotations
from cascade_det.data.formats.coco_records import FARTHEST_PX


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """G objects in the order of an annotation.

    Attributes:
        picture: ``(G,)`` row of each one's picture, -1 where that is left out.
        boxes: ``(G, 4)`` float64 x0 y0 x1 y1 in edge coordinates.
        ignore: ``(G,)`` bool.
        points: ``(G, K, 2)`` float64 x y; unknown points hold 0.
        points_known: ``(G, K)`` bool.
        category: ``(G,)`` names.
        extras: further columns of length G.
    """

    picture: NDArray[np.intp]
    boxes: NDArray[np.float64]
    ignore: NDArray[np.bool_]
    points: NDArray[np.float64]
    points_known: NDArray[np.bool_]
    category: NDArray[np.str_]
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @staticmethod
    def of(
        picture: Any,
        boxes: Any,
        num_points: int,
        *,
        ignore: Any = None,
        points: Any = None,
        points_known: Any = None,
        category: Any = None,
        extras: Mapping[str, NDArray[Any]] | None = None,
    ) -> Objects:
        """Return objects of any array-likes: none is ignored and no point known where nothing is given."""
        rows = len(picture)
        shape = (rows, num_points)
        return Objects(
            np.asarray(picture, np.intp).reshape(rows),
            np.asarray(boxes, np.float64).reshape(rows, 4),
            np.zeros(rows, bool) if ignore is None else np.asarray(ignore, bool).reshape(rows),
            np.zeros((*shape, 2)) if points is None else np.asarray(points, np.float64).reshape(*shape, 2),
            np.zeros(shape, bool) if points_known is None else np.asarray(points_known, bool).reshape(shape),
            np.zeros(rows, "<U1") if category is None else np.asarray(category, np.str_).reshape(rows),
            extras or {},
        )

    def __getitem__(self, index: Any) -> Objects:
        """Select rows by a boolean mask, an index array or a slice."""
        return Objects(
            self.picture[index],
            self.boxes[index],
            self.ignore[index],
            self.points[index],
            self.points_known[index],
            self.category[index],
            {name: column[index] for name, column in self.extras.items()},
        )

    def replace(self, **columns: Any) -> Objects:
        """Return a copy with some columns replaced."""
        return dataclasses.replace(self, **columns)

    def moved_to(self, place: NDArray[np.intp]) -> Objects:
        """Return the objects of the pictures ``(P,)`` that have a new place, -1 being none."""
        moved = self.replace(picture=place[self.picture])
        return moved[moved.picture >= 0]

    def in_pixels(self, image_hw: NDArray[Any]) -> Objects:
        """Return objects in pixels of their pictures ``(P, 2)`` height width, given in shares of these sides."""
        size_wh = image_hw[self.picture][:, ::-1]
        return self.replace(boxes=self.boxes * np.tile(size_wh, 2), points=self.points * size_wh[:, None])


def box_faults(boxes_xyxy: NDArray[np.float64], image_hw: NDArray[Any]) -> NDArray[np.str_]:
    """Return why boxes ``(G, 4)`` of pictures ``(G, 2)`` height width cannot be used, "" where they can."""
    x0, y0, x1, y1 = boxes_xyxy.T
    with np.errstate(invalid="ignore", over="ignore"):
        as_kept = boxes_xyxy.astype(np.float32)
        conditions = {
            "boxes that are not finite": ~np.isfinite(boxes_xyxy).all(axis=1),
            "boxes without area": (x1 <= x0) | (y1 <= y0),
            "boxes outside their picture": (x0 >= image_hw[:, 1]) | (y0 >= image_hw[:, 0]) | (x1 <= 0) | (y1 <= 0),
            "boxes that reach too far": np.abs(boxes_xyxy).max(axis=1, initial=0) > FARTHEST_PX,
        }
        thin = (as_kept[:, 2] <= as_kept[:, 0]) | (as_kept[:, 3] <= as_kept[:, 1])
    reasons = [*conditions, "boxes without area"]
    return np.select([*conditions.values(), thin], reasons, default="")


def without_faults(objects: Objects, image_hw: NDArray[Any], left_out: Counter[str]) -> Objects:
    """Return the objects whose boxes can be used in pictures ``(P, 2)`` height width; the others are counted."""
    faults = box_faults(objects.boxes, image_hw[objects.picture])
    left_out.update(fault for fault in faults.tolist() if fault)
    return objects[faults == ""]


def by_picture(objects: Objects, pictures: int) -> tuple[Annotations, NDArray[np.intp]]:
    """Return the truth of all pictures, and the row ``(P + 1,)`` at which that of each begins."""
    order = np.argsort(objects.picture, kind="stable")
    ordered = objects[order]
    truth = Annotations(
        ordered.boxes.astype(np.float32),
        ordered.ignore,
        ordered.points.astype(np.float32),
        ordered.points_known,
        ordered.extras,
    )
    return truth, np.searchsorted(ordered.picture, np.arange(pictures + 1))
