"""COCO box figures with pycocotools, recall at given rates of false positives, points, and all of them by group.

One detection run is matched once, at up to `max_dets` detections a picture. Matching is greedy by falling score, so a
smaller limit is a prefix of it and COCO's own limits 1, 10 and 100 are read from the same run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.registry import register_evaluator
from cascade_det.core.types import Annotations
from cascade_det.data.sources import Picture
from cascade_det.errors import RecipeError, choices
from cascade_det.evaluation.base import SIZE_BANDS_PX, Evaluator, ScoredSet, in_size_band
from cascade_det.evaluation.bootstrap import resampled_intervals
from cascade_det.evaluation.coco_matching import ALL, COCO_AREAS_PX2, COCO_LIMITS, Backend, CocoMatching, coco12
from cascade_det.evaluation.files import coco_results, coco_truth
from cascade_det.evaluation.given import Given, number_column, read_given
from cascade_det.evaluation.points import Normaliser, point_errors
from cascade_det.evaluation.protocol import Curve, ProtocolResult

SIZE = "size"
FALSE_POSITIVES_PER_IMAGE = ("0.1", "1")


@register_evaluator("coco")
class Coco(Evaluator):
    """COCO's average precision and recall, recall at 0.1 and 1 false positives an image, and the error of points.

    Args:
        group_by: what to split the figures by: fields of pictures, fields of objects, or `size`. With one field the
            groups are named by its values, with several by ``FIELD=value``. Pictures and objects that lack a field are
            in none of its groups.
        max_dets: how many detections of a picture count, by falling score; more than COCO's 100 for dense objects.
        normaliser: what distances of points are divided by: `eyes` (distance of the first two points), `box` or
            `diagonal`.
        bootstrap: number of resamples of the pictures for 95 % intervals of AP, AP50 and the recalls, of groups too;
            1000 take seconds. 0: no intervals.
        bootstrap_seed: of the draws.

    What the groups of a field are:
        *a field of pictures*: only the pictures with that value are scored.
        *a field of objects*: all pictures are scored, objects with another value are ignored like those that the truth
            ignores: a detection of which more than the IoU threshold lies inside one is dropped.
        *size*: bands of box height, 12 to 24, 24 to 48, 48 to 96 and from 96 px on. As with COCO's ranges of area,
            objects outside the band are ignored (at plain IoU, each by one detection), and so is an unmatched
            detection whose own height is outside the band.

    Raises:
        ValueError: a parameter cannot be used; the message names it.
    """

    version = 1

    def __init__(
        self,
        *,
        group_by: Sequence[str] = (),
        max_dets: int = 300,
        normaliser: str = "eyes",
        bootstrap: int = 0,
        bootstrap_seed: int = 0,
    ) -> None:
        if isinstance(group_by, str):
            raise ValueError(f"group_by={group_by!r} must be a list of fields; write [{group_by}]")
        if max_dets < 1:
            raise ValueError(f"max_dets={max_dets} must be at least 1")
        if min(bootstrap, bootstrap_seed) < 0:
            raise ValueError(f"bootstrap={bootstrap} and bootstrap_seed={bootstrap_seed} must be 0 or more")
        self.group_by = tuple(group_by)
        self.max_dets = max_dets
        self.normaliser = Normaliser.from_value(normaliser)
        self.bootstrap = bootstrap
        self.bootstrap_seed = bootstrap_seed

    def evaluate(self, scored: ScoredSet) -> dict[str, Any]:
        """Return ``AP AP50 AP75 AR`` (at `max_dets`), `recall_at_fppi`, `nme` and its counts, `coco12` and `groups`.

        Shares lie in [0, 1] and are -1 where there is no counted object; `nme` is in percent, None without a match. A
        group has the same figures without `AR`, plus `images` (the pictures scored) and `objects` (those counted).
        With `bootstrap` both have `intervals`: ``[low, high]`` of AP, AP50 and each recall at FPPI.

        Raises:
            RecipeError: a field of `group_by` is unknown; the message lists the fields.
        """
        check_fields(scored, self.group_by)
        matching = _match(scored, (*COCO_LIMITS, self.max_dets), COCO_AREAS_PX2)
        figures = self._figures(matching, scored)
        groups = {}
        for field in self.group_by:
            for value, group in _groups(scored, field):
                groups[value if len(self.group_by) == 1 else f"{field}={value}"] = self._group_figures(group)
        return {
            **{name: figures[name] for name in ("AP", "AP50", "AP75")},
            "AR": matching.recall(self.max_dets),
            **figures,
            "coco12": coco12(matching),
            "groups": groups,
        }

    def _group_figures(self, group: _Group) -> dict[str, Any]:
        ranges = {ALL: (0, 1e10) if group.band_px is None else group.band_px}
        matching = _match(group.scored, (self.max_dets,), ranges, by_height=group.band_px is not None)
        return {
            **self._figures(matching, group.counted),
            "images": len(group.scored.pictures),
            "objects": sum(int((~truth.ignore).sum()) for truth in group.counted.truth),
        }

    def _figures(self, matching: CocoMatching, counted: ScoredSet) -> dict[str, Any]:
        errors = point_errors(counted.truth, counted.detections, self.normaliser)
        intervals = {}
        if self.bootstrap:
            table = matching.table(self.max_dets)
            intervals["intervals"] = resampled_intervals(
                table, self.bootstrap, self.bootstrap_seed, FALSE_POSITIVES_PER_IMAGE
            )
        return {
            "AP": matching.precision(self.max_dets),
            "AP50": matching.precision(self.max_dets, iou=0.5),
            "AP75": matching.precision(self.max_dets, iou=0.75),
            "recall_at_fppi": {f: matching.recall_at_fppi(float(f), self.max_dets) for f in FALSE_POSITIVES_PER_IMAGE},
            "nme": errors.nme,
            "nme_matched": len(errors.percent),
            "nme_total": errors.total,
            **intervals,
        }


def fields_of(pictures: Sequence[Picture], truth: Sequence[Annotations]) -> set[str]:
    """Return what figures can be grouped by: fields of the pictures, columns of their objects, and `size`."""
    return {SIZE}.union(*(p.fields for p in pictures), *(t.extras for t in truth))


def check_fields(scored: ScoredSet, fields: Sequence[str]) -> None:
    """Raise a `RecipeError` where the set has pictures, but neither they nor their objects have one of `fields`."""
    known = fields_of(scored.pictures, scored.truth)
    for field in fields:
        if scored.pictures and field not in known:
            raise RecipeError(
                f"group_by={field!r}: no picture or object has this field; {choices(field, known)}. Name a field of "
                "pictures or objects, or size."
            )


@dataclass(frozen=True)
class _Group:
    """A part of a set: what is matched, the same with all that is not counted ignored, and the band of heights."""

    scored: ScoredSet
    counted: ScoredSet
    band_px: tuple[float, float] | None = None


def _groups(scored: ScoredSet, field: str) -> Iterator[tuple[str, _Group]]:
    """Yield the name of each value of `field` and its group, in order of the values."""
    if field == SIZE:
        for name, band in SIZE_BANDS_PX.items():
            inside = [in_size_band(truth.boxes, band) for truth in scored.truth]
            yield name, _Group(scored, _ignore_others(scored, inside), band)
    elif any(field in picture.fields for picture in scored.pictures):
        of_pictures = [_name(picture.fields.get(field)) for picture in scored.pictures]
        for name in _in_order(of_pictures):
            part = _subset(scored, [row for row, value in enumerate(of_pictures) if value == name])
            yield name, _Group(part, part)
    else:
        of_objects = [_object_names(truth, field) for truth in scored.truth]
        for name in _in_order([value for values in of_objects for value in values]):
            part = _ignore_others(scored, [np.asarray([v == name for v in values], bool) for values in of_objects])
            yield name, _Group(part, part)


def _subset(scored: ScoredSet, rows: Sequence[int]) -> ScoredSet:
    return replace(
        scored,
        pictures=[scored.pictures[row] for row in rows],
        truth=[scored.truth[row] for row in rows],
        detections=[scored.detections[row] for row in rows],
    )


def _ignore_others(scored: ScoredSet, inside: Sequence[NDArray[np.bool_]]) -> ScoredSet:
    """Return the set with the objects where `inside` ``(G,)`` is not set ignored too."""
    truth = [objects.replace(ignore=objects.ignore | ~own) for objects, own in zip(scored.truth, inside, strict=True)]
    return replace(scored, truth=truth)


def _object_names(truth: Annotations, field: str) -> list[str]:
    column = truth.extras.get(field)
    return [""] * len(truth) if column is None else [_name(value) for value in column.tolist()]


def _name(value: object) -> str:
    """Return the name of a group; "" for no value. Sources keep whole numbers as floats, which 2 and not 2.0 names."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _in_order(names: Sequence[str]) -> list[str]:
    """Return the distinct names but "", numbers by their size and before texts."""

    def key(name: str) -> tuple[float, str]:
        try:
            return float(name), name
        except ValueError:
            return math.inf, name

    return sorted(set(names) - {""}, key=key)


def _match(
    scored: ScoredSet, limits: Sequence[int], ranges: Mapping[str, tuple[float, float]], by_height: bool = False
) -> CocoMatching:
    """Match a set; by height, `ranges` are heights in px, low <= height < high, instead of areas in square px."""
    truth, results = coco_truth(scored), coco_results(scored.pictures, scored.detections)
    if by_height:
        for record in (*truth["annotations"], *results):
            record["area"] = record["bbox"][3]
        ranges = {name: (low, math.nextafter(high, 0)) for name, (low, high) in ranges.items()}
    return CocoMatching(truth, results, limits, ranges)


def score_coco(predictions: Path, annotations: Path, *, backend: Backend = Backend.pycocotools) -> ProtocolResult:
    """Return COCO's twelve box figures of given detections, equal to those of the library alone; -1 where absent.

    At most 1, 10 and 100 detections of a picture count. As in the library, `iscrowd` alone makes an object ignored, and
    an object's size is its `area`, that of its box where it has none. With several categories figures are their means.

    Args:
        predictions: a COCO results list.
        annotations: the COCO truth.
        backend: the library that matches.

    Raises:
        DataError: a file cannot be used; the message names the entry and the value. Or the backend is not installed.
    """
    given = read_given(predictions, annotations)
    matching = CocoMatching(_truth_of(given), _results_of(given), backend=backend)
    figures = coco12(matching)
    recall, precision = matching.precision_curve(max(COCO_LIMITS), iou=0.5)
    curve = Curve("precision-recall", "IoU 0.5", recall, precision, f"AP50 {figures['AP50']:.3f}".replace(" 0.", " ."))
    return ProtocolResult(figures, [curve] if len(recall) else [], warnings=[*given.warnings, *_warnings(given)])


def _truth_of(given: Given) -> dict[str, Any]:
    """Return the truth as a COCO data set with ids of its own, from 1 on."""
    truth, area = given.truth, number_column(given, "area")
    of_box = truth.boxes_xywh[:, 2] * truth.boxes_xywh[:, 3]
    annotations = [
        {
            "id": row + 1,
            "image_id": int(truth.picture[row]),
            "category_id": int(truth.category[row]),
            "bbox": truth.boxes_xywh[row].tolist(),
            "area": float(of_box[row] if math.isnan(area[row]) else area[row]),
            "iscrowd": int(bool(record.get("iscrowd"))),
        }
        for row, record in enumerate(truth.records)
    ]
    return {
        "images": [{"id": row} for row in range(given.pictures)],
        "annotations": annotations,
        "categories": [{"id": row, "name": str(row)} for row in range(given.categories)],
    }


def _results_of(given: Given) -> list[dict[str, Any]]:
    found = given.found
    columns = found.picture.tolist(), found.category.tolist(), found.boxes_xywh.tolist(), given.scores.tolist()
    names = ("image_id", "category_id", "bbox", "score")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _warnings(given: Given) -> list[str]:
    """Return what of the files the protocol takes in another way than a user may think."""
    told = []
    records = given.truth.records
    counted = sum(bool(record.get("ignore")) and not record.get("iscrowd") for record in records)
    if counted:
        told.append(f"{given.truth_file}: {counted:,} objects with `ignore` count, since COCO ignores `iscrowd` alone.")
    if any(record["id"] == 0 for record in records):
        told.append(
            f"{given.truth_file}: an annotation has the id 0, which pycocotools alone takes for no match; here it is "
            "matched like any other."
        )
    most = max(COCO_LIMITS)
    over = int((np.unique(given.found.picture, return_counts=True)[1] > most).sum())
    if over:
        told.append(f"{given.found_file}: {over:,} pictures have more than {most} detections; the best {most} count.")
    return told
