"""COCO box figures with pycocotools, recall at given rates of false positives, points, and all of them by group.

One detection run is matched once, at up to `max_dets` detections a picture. Matching is greedy by falling score, so a
smaller limit is a prefix of it and COCO's own limits 1, 10 and 100 are read from the same run.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

from cascade_det.core.registry import register_evaluator
from cascade_det.core.types import Annotations
from cascade_det.errors import RecipeError, choices
from cascade_det.evaluation.base import SIZE_BANDS_PX, Evaluator, ScoredSet, in_size_band
from cascade_det.evaluation.files import coco_results, coco_truth
from cascade_det.evaluation.points import Normaliser, point_errors

SIZE = "size"
FALSE_POSITIVES_PER_IMAGE = ("0.1", "1")
_COCO_LIMITS = (1, 10, 100)
_ALL = "all"
_AREAS_PX2 = {_ALL: (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}


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

    def __init__(self, *, group_by: Sequence[str] = (), max_dets: int = 300, normaliser: str = "eyes") -> None:
        if isinstance(group_by, str):
            raise ValueError(f"group_by={group_by!r} must be a list of fields; write [{group_by}]")
        if max_dets < 1:
            raise ValueError(f"max_dets={max_dets} must be at least 1")
        self.group_by = tuple(group_by)
        self.max_dets = max_dets
        self.normaliser = Normaliser.from_value(normaliser)

    def evaluate(self, scored: ScoredSet) -> dict[str, Any]:
        """Return ``AP AP50 AP75 AR`` (at `max_dets`), `recall_at_fppi`, `nme` and its counts, `coco12` and `groups`.

        Shares lie in [0, 1] and are -1 where there is no counted object; `nme` is in percent, None without a match. A
        group has the same figures without `AR`, plus `images` (the pictures scored) and `objects` (those counted).

        Raises:
            RecipeError: a field of `group_by` is unknown; the message lists the fields.
        """
        check_fields(scored, self.group_by)
        matching = _Matching(scored, (*_COCO_LIMITS, self.max_dets), _AREAS_PX2)
        figures = self._figures(matching, scored)
        groups = {}
        for field in self.group_by:
            for value, group in _groups(scored, field):
                groups[value if len(self.group_by) == 1 else f"{field}={value}"] = self._group_figures(group)
        return {
            **{name: figures[name] for name in ("AP", "AP50", "AP75")},
            "AR": matching.recall(self.max_dets),
            **figures,
            "coco12": _coco12(matching),
            "groups": groups,
        }

    def _group_figures(self, group: _Group) -> dict[str, Any]:
        ranges = {_ALL: (0, 1e10) if group.band_px is None else group.band_px}
        matching = _Matching(group.scored, (self.max_dets,), ranges, by_height=group.band_px is not None)
        return {
            **self._figures(matching, group.counted),
            "images": len(group.scored.pictures),
            "objects": sum(int((~truth.ignore).sum()) for truth in group.counted.truth),
        }

    def _figures(self, matching: _Matching, counted: ScoredSet) -> dict[str, Any]:
        errors = point_errors(counted.truth, counted.detections, self.normaliser)
        return {
            "AP": matching.precision(self.max_dets),
            "AP50": matching.precision(self.max_dets, iou=0.5),
            "AP75": matching.precision(self.max_dets, iou=0.75),
            "recall_at_fppi": {f: matching.recall_at_fppi(float(f), self.max_dets) for f in FALSE_POSITIVES_PER_IMAGE},
            "nme": errors.nme,
            "nme_matched": len(errors.percent),
            "nme_total": errors.total,
        }


def check_fields(scored: ScoredSet, fields: Sequence[str]) -> None:
    """Raise a `RecipeError` where the set has pictures, but neither they nor their objects have one of `fields`."""
    known = {SIZE}.union(*(p.fields for p in scored.pictures), *(t.extras for t in scored.truth))
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


class _Matching:
    """What pycocotools made of a set: its match of every picture, and precision and recall from them.

    Args:
        scored: what is matched.
        limits: numbers of detections a picture that figures will be asked for.
        ranges: ranges of an object's size by name, the first named "all".
        by_height: sizes are heights in px, low <= height < high, instead of COCO's areas in square px.
    """

    def __init__(
        self,
        scored: ScoredSet,
        limits: Sequence[int],
        ranges: Mapping[str, tuple[float, float]],
        by_height: bool = False,
    ) -> None:
        truth = coco_truth(scored)
        results = coco_results(scored.pictures, scored.detections)
        found = [{**r, "id": n, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0} for n, r in enumerate(results, 1)]
        if by_height:
            for record in (*truth["annotations"], *found):
                record["area"] = record["bbox"][3]
            ranges = {name: (low, math.nextafter(high, 0)) for name, (low, high) in ranges.items()}
        self._limits, self._ranges, self._pictures = sorted(set(limits)), list(ranges), len(scored.pictures)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            run = COCOeval(_indexed(truth), _indexed({**truth, "annotations": found}), "bbox")
            run.params.maxDets = self._limits
            run.params.areaRng = [list(bounds) for bounds in ranges.values()]
            run.params.areaRngLbl = self._ranges
            run.evaluate()
            run.accumulate()
        self._run = run

    def precision(self, limit: int, iou: float | None = None, size: str = _ALL) -> float:
        """Return average precision over 101 levels of recall at one IoU threshold or, by default, over all ten."""
        # [threshold, recall, category, size, limit]; `summarize` looks for the limit 100 and prints -1 for others
        values = self._run.eval["precision"][:, :, 0, self._ranges.index(size), self._limits.index(limit)]
        return _mean(values if iou is None else values[np.isclose(self._run.params.iouThrs, iou)])

    def recall(self, limit: int, size: str = _ALL) -> float:
        """Return the highest recall, averaged over the ten IoU thresholds."""
        return _mean(self._run.eval["recall"][:, 0, self._ranges.index(size), self._limits.index(limit)])

    def recall_at_fppi(self, fppi: float, limit: int) -> float:
        """Return the recall at IoU 0.5 with at most `fppi` false positives an image, over all images; -1 if none.

        Ignored detections are neither found objects nor false positives. Of equal scores the earlier picture's comes
        first, as in the precision.
        """
        matches = [match for match in self._run.evalImgs[: self._pictures] if match is not None]  # the range "all"
        objects = sum(int((np.asarray(match["gtIgnore"]) == 0).sum()) for match in matches)
        if objects == 0:
            return -1.0
        counts = [~np.asarray(match["dtIgnore"][0][:limit], bool) for match in matches]
        scores = np.concatenate([np.asarray(m["dtScores"][:limit])[c] for m, c in zip(matches, counts, strict=True)])
        hits = np.concatenate([m["dtMatches"][0][:limit][c] > 0 for m, c in zip(matches, counts, strict=True)])
        hits = hits[np.argsort(-scores, kind="stable")]
        allowed = np.cumsum(~hits) <= fppi * self._pictures
        return float(np.cumsum(hits)[allowed].max(initial=0) / objects)


def _indexed(dataset: dict[str, Any]) -> Any:
    """Return a pycocotools data set. `loadRes` would be the way for results, but it fails on an empty list."""
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _coco12(matching: _Matching) -> dict[str, float]:
    """Return COCO's twelve figures under their names, at COCO's limits of detections a picture."""
    most = max(_COCO_LIMITS)
    sizes = [name for name in _AREAS_PX2 if name != _ALL]
    return {
        "AP": matching.precision(most),
        "AP50": matching.precision(most, iou=0.5),
        "AP75": matching.precision(most, iou=0.75),
        **{f"AP_{size}": matching.precision(most, size=size) for size in sizes},
        **{f"AR_{limit}": matching.recall(limit) for limit in _COCO_LIMITS},
        **{f"AR_{size}": matching.recall(most, size) for size in sizes},
    }


def _mean(values: NDArray[np.float64]) -> float:
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0
