"""What `data check` tells about the pictures of a recipe: files, objects, what windows reach, and equal pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.geometry import box_sides, window_reach
from cascade_det.core.schema import Recipe, window_of
from cascade_det.data.formats.picture_files import PictureFiles
from cascade_det.data.picture_set import PictureSet
from cascade_det.data.sources import Source, left_out
from cascade_det.errors import DataError
from cascade_det.evaluation.base import SIZE_BANDS_PX, in_size_band
from cascade_det.stages.proposer import pyramid_levels
from cascade_det.training.check import CheckReport

_HEIGHT_BANDS_PX = {"0-12": (0.0, 12.0), **SIZE_BANDS_PX}
_ASPECT_BANDS = {
    "below 0.5": (0, 0.5),
    "0.5-0.8": (0.5, 0.8),
    "0.8-1.25": (0.8, 1.25),
    "1.25-2": (1.25, 2),
    "2 and more": (2, np.inf),
}
_REACH_IOU = (0.5, 0.65)
_SHOWN = 20  # problems of one kind


def check_data(
    recipe: Recipe, sets: Mapping[str, PictureSet], tick: Callable[[int], None]
) -> tuple[CheckReport, dict[str, NDArray[np.float32]]]:
    """Read every picture of a recipe and report on all.

    Args:
        recipe: valid.
        sets: its pictures of "train" and of "val".
        tick: called with the number of pictures done.

    Returns:
        What was found, and the boxes ``(N, 4)`` of the objects that count by the key of their source.

    Raises:
        DataError: an annotation is missing or wrong.
    """
    report, boxes = CheckReport(), {}
    for split, pictures in sets.items():
        for name, source in zip(pictures.names, pictures.sources, strict=True):
            key = f"data.{split}.{name}"
            truth = [source.annotations(index) for index in range(len(source.pictures))]
            counted = [objects.boxes[~objects.ignore] for objects in truth]
            boxes[key] = np.concatenate([np.zeros((0, 4), np.float32), *counted])
            facts = _files(report, key, source, tick) | {
                "empty": sum(len(own) == 0 for own in counted),
                "objects": len(boxes[key]),
                "ignored": sum(int(objects.ignore.sum()) for objects in truth),
                "left_out": dict(source.report()),
                **object_facts(boxes[key]),
                **_reach(recipe, source, counted),
            }
            report.facts[key] = facts
            report.lines += _lines(key, source, facts)
    report.facts["equal"] = _equal(report, sets["train"], sets["val"])
    report.facts["problems"] = report.problems
    return report, boxes


def _files(report: CheckReport, key: str, source: Source, tick: Callable[[int], None]) -> dict[str, Any]:
    """Read all pictures; return how many there are, are missing and cannot be read, and add these to the problems."""
    missing, unreadable = source.missing_files(), []
    absent = set(missing)
    if isinstance(source, PictureFiles):
        unreadable += source.unreadable_files()
    for index, picture in enumerate(source.pictures):
        tick(1)
        if isinstance(source, PictureFiles) and str(source.folder / picture.name) in absent:
            continue
        try:
            source.read(index)
        except DataError as error:
            unreadable.append(str(error))
    report.problems += [f"{key}: {path} is missing" for path in missing[:_SHOWN]]
    report.problems += [f"{key}: {reason}" for reason in unreadable[:_SHOWN]]
    hidden = max(0, len(missing) - _SHOWN) + max(0, len(unreadable) - _SHOWN)
    report.problems += [f"{key}: {hidden:,} more pictures are missing or unreadable"] if hidden else []
    return {"pictures": len(source.pictures), "missing": len(missing), "unreadable": len(unreadable)}


def object_facts(boxes_xyxy: NDArray[Any]) -> dict[str, Any]:
    """Return how many boxes ``(N, 4)`` have which height and which width / height, and percentiles of both."""
    width, height = box_sides(boxes_xyxy.astype(np.float64))
    aspect = width / np.maximum(height, 1e-9)
    tenths = [10, 50, 90]
    return {
        "heights_px": {name: int(in_size_band(boxes_xyxy, band).sum()) for name, band in _HEIGHT_BANDS_PX.items()},
        "height_px_10_50_90": np.percentile(height, tenths).tolist() if len(height) else None,
        "aspects": {
            name: int(((aspect >= low) & (aspect < high)).sum()) for name, (low, high) in _ASPECT_BANDS.items()
        },
        "aspect_10_50_90": np.percentile(aspect, tenths).tolist() if len(aspect) else None,
    }


def _reach(recipe: Recipe, source: Source, boxes: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """Return the share of the objects that windows of the pyramid reach, by IoU, and that which is too low."""
    window_hw = window_of(next(iter(recipe.stages.values())))
    reached = [np.zeros(0)]
    for picture, own in zip(source.pictures, boxes, strict=True):
        levels_hw = np.array(pyramid_levels(picture.image_hw, window_hw, recipe.pyramid)).reshape(-1, 2)
        sizes_hw = np.array(window_hw) * np.array(picture.image_hw) / np.maximum(levels_hw, 1)
        reached.append(window_reach(own, sizes_hw))
    best = np.concatenate(reached)
    height = box_sides(np.concatenate([np.zeros((0, 4)), *boxes]))[1]
    if len(best) == 0:
        return {"reach": None, "below_min_object_px": None}
    return {
        "reach": {str(iou): float((best >= iou).mean()) for iou in _REACH_IOU},
        "below_min_object_px": float((height < recipe.pyramid.min_object_px).mean()),
    }


def _lines(key: str, source: Source, facts: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{key}: {facts['pictures']:,} pictures ({facts['empty']:,} without an object that counts), "
        f"{facts['missing']:,} missing, {facts['unreadable']:,} unreadable",
        f"  {facts['objects']:,} objects, {facts['ignored']:,} ignored"
        + (f"; left out: {left_out(source)}" if left_out(source) else ""),
    ]
    if facts["objects"]:
        heights, aspects = (
            ", ".join(f"{band}: {count:,}" for band, count in facts[name].items()) for name in ("heights_px", "aspects")
        )
        low, middle, high = facts["height_px_10_50_90"]
        lines.append(f"  height in px: {heights} (10, 50, 90 % are below {low:.0f}, {middle:.0f}, {high:.0f})")
        low, middle, high = facts["aspect_10_50_90"]
        lines.append(f"  width / height: {aspects} (10, 50, 90 % are below {low:.2f}, {middle:.2f}, {high:.2f})")
        shares = ", ".join(f"IoU {iou} on {share:.1%}" for iou, share in facts["reach"].items())
        low = facts["below_min_object_px"]
        lines.append(f"  windows of the pyramid reach {shares}; {low:.1%} are lower than pyramid.min_object_px")
    return lines


def equal_groups(hashes: Sequence[str]) -> list[list[int]]:
    """Return the numbers of the pictures that share a content hash, group by group; "" is none.

    >>> equal_groups(["a", "b", "", "a", ""])
    [[0, 3]]
    """
    groups: dict[str, list[int]] = {}
    for number, value in enumerate(hashes):
        if value:
            groups.setdefault(value, []).append(number)
    return [numbers for numbers in groups.values() if len(numbers) > 1]


def _equal(report: CheckReport, train: PictureSet, val: PictureSet) -> dict[str, list[list[str]]]:
    """Return the names of equal pictures within train, within val, and across both, which is a problem."""
    found: dict[str, list[list[str]]] = {}
    for split, pictures in (("train", train), ("val", val)):
        groups = equal_groups(pictures.content_hashes)
        found[split] = [[pictures.picture(number).name for number in numbers] for numbers in groups]
        report.lines.append(f"data.{split}: {len(groups):,} groups of equal pictures" + _such_as(found[split]))
    known = {value: number for number, value in enumerate(train.content_hashes) if value}
    shared = [(known[value], number) for number, value in enumerate(val.content_hashes) if value in known]
    found["train and val"] = [[train.picture(first).name, val.picture(second).name] for first, second in shared]
    if shared:
        report.problems.append(
            f"data.train and data.val share {len(shared):,} pictures of equal content{_such_as(found['train and val'])}"
        )
    return found


def _such_as(groups: Sequence[Sequence[str]]) -> str:
    return f", such as {' and '.join(groups[0][:3])}" if groups else ""
