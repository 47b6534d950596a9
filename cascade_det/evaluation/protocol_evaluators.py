"""The protocols of `cascade-det score` as evaluators: they score what a model found by the same code.

So `detect --save-as wider|fddb` followed by `score` gives the figures of `evaluate`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.registry import register_evaluator
from cascade_det.data.formats.fddb import Fddb as FddbSource
from cascade_det.data.formats.picture_files import PictureFiles
from cascade_det.data.formats.wider import Wider as WiderSource
from cascade_det.errors import DataError, choices
from cascade_det.evaluation.base import Evaluator, ScoredSet
from cascade_det.evaluation.fddb import fddb_result
from cascade_det.evaluation.fddb_files import FddbRegions
from cascade_det.evaluation.fddb_files import read_truth as read_ellipses
from cascade_det.evaluation.files import coco_attributes_truth, coco_results
from cascade_det.evaluation.given import Given, given_of
from cascade_det.evaluation.miss_rate import Variant, miss_rate_result
from cascade_det.evaluation.points import Normaliser, points_result
from cascade_det.evaluation.protocol import ProtocolResult
from cascade_det.evaluation.submissions import xywh_scores
from cascade_det.evaluation.wider import wider_result
from cascade_det.evaluation.wider_files import ALL, WiderTruth
from cascade_det.evaluation.wider_files import read_truth as read_faces

Rows = NDArray[np.float64]


class _Protocol(Evaluator):
    """An evaluator that scores by the code of `cascade-det score`: `result` is what differs between them."""

    def evaluate(self, scored: ScoredSet) -> dict[str, Any]:
        return self.result(scored).figures

    @abstractmethod
    def result(self, scored: ScoredSet) -> ProtocolResult: ...


@register_evaluator("wider")
class WiderProtocol(_Protocol):
    """Average precision by the WIDER FACE protocol: easy, medium and hard.

    The levels are in the toolbox's files, which a source of kind `wider` names as its annotations, whichever level it
    has itself. Of any other truth there is one level, "all": every object that is not ignored. A warning says so.
    """

    def result(self, scored: ScoredSet) -> ProtocolResult:
        """Return ``{"easy", "medium", "hard"}`` or ``{"all"}``, in [0, 1]; None where no face counts.

        Raises:
            DataError: the toolbox's files cannot be read.
        """
        if not isinstance(scored.source, WiderSource):
            told = (
                "The truth has no levels of WIDER FACE: every object that is not ignored counts, which no published "
                "figure means. For easy, medium and hard use --format wider with the toolbox's .mat files."
            )
            return _with_warnings(
                wider_result(_truth_of_boxes(scored), list(map(xywh_scores, scored.detections)), [told])
            )
        truth = read_faces(scored.source.annotation_path)
        chosen, found, warnings = _by_name(scored, scored.source, truth.names)
        truth = WiderTruth(
            [truth.names[row] for row in chosen],
            [truth.boxes_xywh[row] for row in chosen],
            {level: [rows[row] for row in chosen] for level, rows in truth.counted.items()},
        )
        if ALL in truth.counted:
            warnings.append(
                f"{scored.source.annotation_path} has no levels: every face counts, which no published figure means. "
                "For easy, medium and hard give the folder of the toolbox's .mat files."
            )
        return _with_warnings(wider_result(truth, found, warnings))


@register_evaluator("fddb")
class FddbProtocol(_Protocol):
    """True positive rates by the FDDB protocol; it needs a source of kind `fddb`, whose truth are ellipses."""

    def result(self, scored: ScoredSet) -> ProtocolResult:
        """Return ``{"discrete_tpr_at": {"100": ..}, "lowest_threshold": {..}}``, as `score_fddb` does.

        Raises:
            DataError: the truth has no ellipses.
        """
        if not isinstance(scored.source, FddbSource):
            raise DataError(
                "the metric fddb compares with FDDB's ellipses, and this truth has boxes alone. Use --format fddb "
                "(kind: fddb) with the folder of FDDB-fold-NN-ellipseList.txt, or leave fddb out."
            )
        truth: FddbRegions = read_ellipses(scored.source.annotation_path)
        chosen, found, warnings = _by_name(scored, scored.source, truth.names)
        size_of = {_bare(picture.name): picture.image_hw for picture in scored.pictures}
        sizes_hw = [size_of.get(truth.names[row], (1, 1)) for row in chosen]  # without a detection no size matters
        return _with_warnings(fddb_result([truth.rows[row] for row in chosen], found, sizes_hw, warnings))


@register_evaluator("miss-rate")
class MissRateProtocol(_Protocol):
    """Log-average miss rate of pedestrians, with `vis_ratio` of the objects as their visibility (1 where unknown).

    Args:
        variant: citypersons or caltech, the tool that is followed.

    Raises:
        ValueError: there is no such variant.
    """

    def __init__(self, *, variant: str = "citypersons") -> None:
        names = [item.value for item in Variant]
        if variant not in names:
            raise ValueError(f"variant={variant!r}; {choices(variant, names)}")
        self._variant = Variant(variant)

    def result(self, scored: ScoredSet) -> ProtocolResult:
        """Return ``{"mr2", "recall_at_fppi", "score_at_fppi"}`` by set-up, as `score_miss_rate` does."""
        return (
            _with_warnings(miss_rate_result(_given(scored), self._variant)) if scored.pictures else ProtocolResult({})
        )


@register_evaluator("points")
class PointsProtocol(_Protocol):
    """Error of points: NME in percent, failure rate and AUC.

    Args:
        normaliser: eyes, box or diagonal: the length that distances are divided by.

    Raises:
        ValueError: there is no such normaliser.
    """

    def __init__(self, *, normaliser: str = "eyes") -> None:
        self._normaliser = Normaliser.from_value(normaliser)

    def result(self, scored: ScoredSet) -> ProtocolResult:
        """Return ``{"nme", "failure_rate", "auc", "nme_matched", "nme_total"}``, as `score_points` does.

        Raises:
            DataError: no object of the truth has a known point.
        """
        if not scored.pictures:
            return ProtocolResult({})
        if not any(truth.points_known.any() for truth in scored.truth):
            raise DataError(
                "the metric points compares with points of the truth, and none of its objects has a known one. Use a "
                "truth with points, whose names the model's recipe has under object.points, or leave points out."
            )
        if any(found.points is None for found in scored.detections if len(found)):
            raise DataError("the metric points: what the last stage finds has no points; leave points out.")
        return _with_warnings(points_result(_given(scored), self._normaliser))


def _with_warnings(result: ProtocolResult) -> ProtocolResult:
    """Return a result whose warnings stand among its figures, where an evaluator has them."""
    told = {"warnings": list(result.warnings)} if result.warnings else {}
    return replace(result, figures={**result.figures, **told})


def _given(scored: ScoredSet) -> Given:
    """Return the set as its files would give it: to the digit what `evaluate --out` writes."""
    results = coco_results(scored.pictures, scored.detections)
    return given_of(results, coco_attributes_truth(scored), Path("detections"), Path("truth"))


def _truth_of_boxes(scored: ScoredSet) -> WiderTruth:
    boxes = [truth.boxes.astype(np.float64) for truth in scored.truth]
    for own in boxes:
        own[:, 2:] -= own[:, :2]
    names = [picture.name for picture in scored.pictures]
    return WiderTruth(names, boxes, {ALL: [np.flatnonzero(~truth.ignore) for truth in scored.truth]})


def _bare(name: str) -> str:
    """Return a picture's name without its suffix, as the protocols have it."""
    return name.rsplit(".", 1)[0]


def _by_name(scored: ScoredSet, source: PictureFiles, names: Sequence[str]) -> tuple[list[int], list[Rows], list[str]]:
    """Return the rows of `names` that the source selects, the detections of each, and warnings.

    An image that was selected and not run, since it is not on disk or cannot be read, is without detections, as for the
    official programs: its faces are missed.
    """
    asked = set(map(_bare, source.asked_names))
    rows = [row for row, name in enumerate(names) if name in asked]
    found_in = {_bare(p.name): d for p, d in zip(scored.pictures, scored.detections, strict=True)}
    found = [xywh_scores(found_in[names[row]]) if names[row] in found_in else np.zeros((0, 5)) for row in rows]
    absent = [names[row] for row in rows if names[row] not in found_in]
    warnings = []
    if len(rows) < len(names):
        warnings.append(f"Figures are of the {len(rows):,} of {len(names):,} images that `where` selects.")
    if absent:
        warnings.append(
            f"{len(absent):,} of {len(rows):,} images are not on disk or cannot be read and count as without "
            f"detections, their faces as missed; the first is {absent[0]}."
        )
    return rows, found, warnings
