"""The FDDB protocol: discrete and continuous rate of faces over false positives.

Source: Jain and Learned-Miller, "FDDB: A Benchmark for Face Detection in Unconstrained Settings", UM-CS-2010-009, and
its evaluation program. Regions are pixel masks; detections are assigned to faces so that the summed overlap is highest.
The program's own solver misses that now and then. On published detections its discrete curve is this one in every row,
its continuous curve differs by at most 1.4e-5; on made-up crowded scenes it may lose a true positive.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from cascade_det.errors import DataError
from cascade_det.evaluation.fddb_files import read_detections, read_sizes, read_truth, sizes_of_images
from cascade_det.evaluation.fddb_regions import mask_overlaps
from cascade_det.evaluation.protocol import Curve, ProtocolResult

Floats = NDArray[np.float64]
FALSE_POSITIVES = (100, 500, 1000)
MIN_OVERLAP = 0.5  # a face is found above it
_NO_DETECTION = np.finfo(np.float64).max  # score of the entry of an image without detections


@dataclass(frozen=True, eq=False)
class Roc:
    """Counts over all images at every distinct score, the lowest first.

    Attributes:
        scores: ``(R,)`` thresholds; an image without detections has the greatest float64.
        discrete: ``(R,)`` faces found, overlap above 0.5.
        continuous: ``(R,)`` overlaps of all assigned pairs, summed.
        false_positives: ``(R,)`` detections less faces found.
        faces: of all images.
    """

    scores: Floats
    discrete: Floats
    continuous: Floats
    false_positives: Floats
    faces: int

    def rates(self, found: Floats) -> Floats:
        """Return `found` ``(R,)`` as a share of the faces, 0 where there are none."""
        return found / max(self.faces, 1)


def score_fddb(
    predictions: Path, annotations: Path, *, image_sizes: Path | None = None, images: Path | None = None
) -> ProtocolResult:
    """Score detections of FDDB's images, all folds together.

    Args:
        predictions: blocks (name, count, lines ``left top width height score`` or ``major_radius minor_radius angle
            center_x center_y score``) for each image in the order of the truth, in one file or a folder of folds; or a
            COCO results file (`.json`) with an `images.json` beside it.
        annotations: the folder of ``FDDB-fold-NN-ellipseList.txt``, or one such file.
        image_sizes: CSV file with the columns name, width, height.
        images: instead, the folder that the names are relative to. Only the sizes of the pictures are used.

    Returns:
        Figures ``discrete_tpr_at``: the share of faces found at the lowest threshold with at most 100, 500 and 1000
        false positives (0 where every score gives more), and ``lowest_threshold``, where all detections count; None
        where there is no face. Curves, and `DiscROC.txt` and `ContROC.txt` as the program writes them.

    Raises:
        DataError: a file cannot be used; the message names it and what to do.
    """
    truth = read_truth(annotations)
    detections, warnings = read_detections(predictions, truth.names)
    return fddb_result(truth.rows, detections, _sizes(image_sizes, images, truth.names), warnings)


def fddb_result(
    faces: Sequence[Floats],
    detections: Sequence[Floats],
    sizes_hw: Sequence[tuple[int, int]],
    warnings: Sequence[str],
) -> ProtocolResult:
    """Return what `score_fddb` does, of regions in memory.

    Args:
        faces, detections: regions of each image, as `FddbRegions` has them.
        sizes_hw: height and width of each image in pixels.
        warnings: passed on.
    """
    overlaps = [mask_overlaps(*each) for each in zip(detections, faces, sizes_hw, strict=True)]
    roc = roc_of(overlaps, [rows[:, -1] for rows in detections])
    return ProtocolResult(_figures(roc), _curves(roc), _files(roc), warnings)


def _sizes(image_sizes: Path | None, images: Path | None, names: Sequence[str]) -> list[tuple[int, int]]:
    if image_sizes is not None and images is None:
        return read_sizes(image_sizes, names)
    if images is not None and image_sizes is None:
        return sizes_of_images(images, names)
    raise DataError(
        f"FDDB compares pixels of images, so it needs the size of each; {'both' if images else 'neither'} of "
        "--image-sizes FILE.csv (columns name, width, height) and --images DIR given. Give one of them."
    )


def roc_of(overlaps: Sequence[Floats], scores: Sequence[Floats]) -> Roc:
    """Return the curve over P images.

    Args:
        overlaps: for each image ``(N, G)`` overlaps of its detections and faces.
        scores: for each image ``(N,)``.
    """
    entries = [_entries(*each) for each in zip(overlaps, scores, strict=True)]
    table = np.concatenate(entries) if entries else np.zeros((0, 4))
    table = table[np.argsort(-table[:, 0], kind="stable")]
    # each image adds what it gains from one of its scores to the next lower one
    sums = np.cumsum(table[:, 1:], axis=0)
    last = _ends(table[:, 0])[::-1] - 1
    faces = sum(matrix.shape[1] for matrix in overlaps)
    if not faces:
        sums[:] = 0
    discrete, continuous, detected = sums[last].T
    return Roc(table[last, 0], discrete, continuous, detected - discrete, faces)


def _entries(overlaps: Floats, scores: Floats) -> Floats:
    """Return rows of score and of the gain in faces found, overlap and detections at each distinct score, falling."""
    if len(scores) == 0:
        return np.asarray([[_NO_DETECTION, 0, 0, 0]])
    order = np.argsort(-scores, kind="stable")
    scores, overlaps = scores[order], overlaps[order]
    touching = np.asarray((overlaps > 0).any(axis=1))
    ends = _ends(scores)
    totals = [(0, 0.0, 0)]
    for begin, end in itertools.pairwise([0, *ends.tolist()]):
        found, overlap, _ = totals[-1]
        if touching[begin:end].any():  # else the assignment stays
            found, overlap = _assigned(overlaps[:end][touching[:end]])
        totals.append((found, overlap, end))
    return np.column_stack([scores[ends - 1], np.diff(totals, axis=0)])


def _ends(scores: Floats) -> NDArray[np.intp]:
    """Return the index after each run of equal scores, which fall."""
    return np.cumsum(np.unique(scores, return_counts=True)[1][::-1])


def _assigned(overlaps: Floats) -> tuple[int, float]:
    """Return the pairs above 0.5, and the sum of all, of the one-to-one assignment with the highest sum."""
    pairs = overlaps[linear_sum_assignment(overlaps, maximize=True)]
    return int((pairs > MIN_OVERLAP).sum()), float(pairs.sum())


def rate_at(roc: Roc, false_positives: int) -> float | None:
    """Return the discrete rate at the lowest threshold with at most this many false positives; None without faces.

    Where all detections together give fewer, that is the rate of all; where the highest score alone gives more, only
    a threshold above it is left, which finds nothing.
    """
    if not roc.faces:
        return None
    rows = np.flatnonzero(roc.false_positives <= false_positives)
    return float(roc.rates(roc.discrete)[rows[0]]) if len(rows) else 0.0


def _figures(roc: Roc) -> dict[str, Any]:
    lowest = {
        "discrete": float(roc.rates(roc.discrete)[0]) if roc.faces else None,
        "continuous": float(roc.rates(roc.continuous)[0]) if roc.faces else None,
        "false_positives": int(roc.false_positives[0]),
    }
    return {"discrete_tpr_at": {str(k): rate_at(roc, k) for k in FALSE_POSITIVES}, "lowest_threshold": lowest}


def _curves(roc: Roc) -> list[Curve]:
    if not roc.faces:
        return []
    return [
        Curve("roc", name, roc.false_positives[::-1], rates[::-1], _legend(rates[0], roc.false_positives[0]))
        for name, rates in (("discrete", roc.rates(roc.discrete)), ("continuous", roc.rates(roc.continuous)))
    ]


def _legend(rate: float, false_positives: float) -> str:
    return f"TPR {rate:.3f} at {false_positives:.0f} FP".replace(" 0.", " .")


def _files(roc: Roc) -> dict[str, str]:
    """Return both curves as text, in the order and the six digits of the program."""
    discrete, continuous = roc.rates(roc.discrete), roc.rates(roc.continuous)
    return {
        "DiscROC.txt": _lines(discrete, roc.false_positives, roc.scores),
        "ContROC.txt": _lines(continuous, roc.false_positives),
    }


def _lines(*columns: Floats) -> str:
    return "".join(" ".join(f"{value:g}" for value in row) + "\n" for row in np.column_stack(columns).tolist())
