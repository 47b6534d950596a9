"""The files of an evaluation, in COCO's form. `Coco` scores these very dictionaries, so the files give its figures.

A box is written as the float64 ``x y w h`` of its float32 corners: the difference of two float32 numbers is exact
there, so nothing is rounded between a detection, its file and its score.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.geometry import box_area
from cascade_det.core.types import Annotations, Detections
from cascade_det.data.atomic import write_json_atomic
from cascade_det.data.sources import Picture, Source
from cascade_det.evaluation.base import ScoredSet

CATEGORY_ID = 1  # of every detection and truth that this package writes


def write_evaluation(out_dir: Path, scored: ScoredSet) -> None:
    """Write `detections.json`, `truth.json` and `images.json` to `out_dir`, which is made if it is missing."""
    out_dir.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out_dir / "detections.json", coco_results(scored.pictures, scored.detections))
    write_json_atomic(out_dir / "truth.json", coco_attributes_truth(scored))
    write_json_atomic(out_dir / "images.json", image_list(scored.pictures))


def write_errors(path: Path, errors: Sequence[tuple[object, str]]) -> None:
    """Write (picture, reason) of all that could not be read, with a heading, as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "reason"), *errors])


def coco_results(pictures: Sequence[Picture], detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """Return a COCO results list: the detections of each picture in their order, under the picture's id."""
    results = []
    for picture, found in zip(pictures, detections, strict=True):
        scores = found.scores.astype(np.float64).tolist()
        for row, (box, score) in enumerate(zip(_xywh(found.boxes), scores, strict=True)):
            result = {"image_id": picture.image_id, "category_id": CATEGORY_ID, "bbox": box, "score": score}
            if found.points is not None:
                result["keypoints"] = _keypoints(found.points[row], np.ones(found.points.shape[1], bool))
            results.append(result)
    return results


def coco_truth(scored: ScoredSet) -> dict[str, Any]:
    """Return the truth as a COCO data set with one category; ignored objects are crowds, which pycocotools ignores."""
    return _coco_data(scored.pictures, scored.truth, scored.category, scored.point_names, attributes=False)


def coco_attributes_truth(scored: ScoredSet) -> dict[str, Any]:
    """Return the truth as `coco_truth` does, with the attributes of the objects, such as `vis_ratio`, too."""
    return _coco_data(scored.pictures, scored.truth, scored.category, scored.point_names, attributes=True)


def coco_set(source: Source, category: str, point_names: Sequence[str]) -> dict[str, Any]:
    """Return all that a source holds as a COCO data set: as `coco_truth`, with the attributes of the objects too.

    An attribute is a column of `extras` of texts, numbers or truth values; a number that is not finite is left out.
    """
    truth = [source.annotations(index) for index in range(len(source.pictures))]
    return _coco_data(source.pictures, truth, category, point_names, attributes=True)


def _coco_data(
    pictures: Sequence[Picture],
    truth: Sequence[Annotations],
    name: str,
    point_names: Sequence[str],
    *,
    attributes: bool,
) -> dict[str, Any]:
    category = {"id": CATEGORY_ID, "name": name, "supercategory": name}
    if point_names:
        category |= {"keypoints": list(point_names), "skeleton": []}
    images = [
        {
            **picture.fields,
            "id": picture.image_id,
            "file_name": picture.name,
            "width": picture.image_hw[1],
            "height": picture.image_hw[0],
        }
        for picture in pictures
    ]
    annotations: list[dict[str, Any]] = []
    for picture, objects in zip(pictures, truth, strict=True):
        # ids start at 1: pycocotools takes a match with an object of id 0 for no match
        records = _objects(picture.image_id, objects, first_id=len(annotations) + 1)
        if attributes:
            records = [own | record for own, record in zip(_attributes(objects), records, strict=True)]
        annotations += records
    return {"images": images, "annotations": annotations, "categories": [category]}


def image_list(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """Return id, path and size in pixels of each picture."""
    return [{"id": p.image_id, "path": p.name, "width": p.image_hw[1], "height": p.image_hw[0]} for p in pictures]


def _objects(image_id: int, truth: Annotations, first_id: int) -> list[dict[str, Any]]:
    records = []
    areas = _areas(truth).tolist()
    for row, (box, area, ignored) in enumerate(zip(_xywh(truth.boxes), areas, truth.ignore.tolist(), strict=True)):
        record = {
            "id": first_id + row,
            "image_id": image_id,
            "category_id": CATEGORY_ID,
            "bbox": box,
            "area": area,
            "iscrowd": int(ignored),
            "ignore": int(ignored),
        }
        if truth.points.shape[1]:
            record["keypoints"] = _keypoints(truth.points[row], truth.points_known[row])
            record["num_keypoints"] = int(truth.points_known[row].sum())
        records.append(record)
    return records


def _attributes(truth: Annotations) -> list[dict[str, Any]]:
    """Return the attributes of each object."""
    columns = {name: column.tolist() for name, column in truth.extras.items() if column.ndim == 1}
    return [
        {name: values[row] for name, values in columns.items() if _is_attribute(values[row])}
        for row in range(len(truth))
    ]


def _is_attribute(value: object) -> bool:
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))  # a bool is an int


def _areas(truth: Annotations) -> NDArray[np.float64]:
    """Return areas ``(G,)`` in square pixels, as the source gives them (COCO's are of outlines) or of the boxes."""
    of_boxes: NDArray[np.float64] = box_area(truth.boxes.astype(np.float64))
    given = truth.extras.get("area")
    if given is None or given.ndim != 1 or given.dtype.kind not in "iuf":
        return of_boxes
    return np.where(np.isfinite(given) & (given > 0), given, of_boxes).astype(np.float64)


def _xywh(boxes_xyxy: NDArray[np.float32]) -> list[list[float]]:
    boxes = boxes_xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    rows: list[list[float]] = boxes.tolist()
    return rows


def _keypoints(points: NDArray[np.float32], known: NDArray[np.bool_]) -> list[float]:
    """Return x y v of each point, v = 2 where it is known and 0 (with x = y = 0) where not."""
    flat: list[float] = []
    for (x, y), sure in zip(points.astype(np.float64).tolist(), known.tolist(), strict=True):
        flat += [x, y, 2] if sure else [0, 0, 0]
    return flat
