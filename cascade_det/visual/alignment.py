"""Aligned crops: each object turned, scaled and shifted so that its points lie where a template has them.

The step between detection and recognition. `core.geometry` decides the windows, the cascade's `Resampler` cuts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.geometry import fit_similarity, similarity_windows
from cascade_det.core.imaging import Border, Resample, Resampler, to_image

Pixels = NDArray[np.uint8]

ALIGNED_HW = (112, 112)
FACE_POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # left as the picture shows it
# The reference points of ArcFace, in pixels of its crop of 112 x 112 (InsightFace aligns by them).
_ARCFACE_PX = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
FACE_TEMPLATE = tuple((x / 112, y / 112) for x, y in _ARCFACE_PX)
Template = Sequence[Sequence[float]]


def align(
    image: object,
    points: NDArray[Any],
    size_hw: tuple[int, int] = ALIGNED_HW,
    template: Template | NDArray[Any] | None = None,
) -> Pixels:
    """Return each object upright, cut by the similarity that fits its points best to a template.

    Only turn, one scale and shift: nothing is sheared or mirrored. Large objects are averaged down first, so they do
    not alias; what lies outside the picture is black.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, a path or a PIL image.
        points: ``(K, 2)`` of one object or ``(N, K, 2)`` of several, x y in the picture's pixels.
        size_hw: height and width of a crop.
        template: ``(K, 2)`` x y as shares of the crop's width and height, as a recipe's ``object.align_template``;
            where absent, five points are taken as those of a face, in the order of `FACE_POINTS`.

    Returns:
        ``(h, w, 3)`` uint8 RGB for one object, ``(N, h, w, 3)`` for several; N = 0 is no special case.

    Raises:
        ValueError: an argument has another form, or an object's points fix no turn (`alignable` tells which do).
    """
    pixels = to_image(image)
    given = np.asarray(points, np.float64) if points is not None else np.zeros(0)
    if given.ndim not in (2, 3) or given.shape[-1] != 2:
        got = "None (this cascade finds no points)" if points is None else f"shape {given.shape}"
        raise ValueError(f"points must have shape (K, 2) or (N, K, 2), got {got}")
    if len(size_hw) != 2 or not all(int(side) == side > 0 for side in size_hw):
        raise ValueError(f"size_hw={size_hw} must be a height and a width in whole pixels")
    rows = given if given.ndim == 3 else given[None]
    size = (int(size_hw[0]), int(size_hw[1]))
    maps = fit_similarity(rows, _target(template, rows.shape[1]) * size[::-1])
    open_rows = np.flatnonzero(np.isnan(maps).any(axis=(1, 2)))
    if len(open_rows):
        raise ValueError(
            f"the points of the objects {open_rows.tolist()} fix no turn (they coincide or are not finite); leave "
            "these objects out, cascade_det.visual.alignment.alignable tells which can be aligned"
        )
    crops = Resampler(pixels, Resample.area, Border.pad, 0).cut(similarity_windows(maps, size), size)
    return crops[0] if given.ndim == 2 else crops


def alignable(points: NDArray[Any], template: Template | NDArray[Any] | None = None) -> NDArray[np.bool_]:
    """Return ``(N,)`` whether the points ``(N, K, 2)`` of each object fix how it is turned; else `align` refuses it."""
    maps = fit_similarity(points, _target(template, points.shape[1]))
    return np.asarray(~np.isnan(maps).any(axis=(1, 2)))


def template_of(point_names: Sequence[str]) -> Template | None:
    """Return a common template for points of these names, or None where none is known."""
    return FACE_TEMPLATE if tuple(point_names) == FACE_POINTS else None


def _target(template: Template | NDArray[Any] | None, num_points: int) -> NDArray[np.float64]:
    if template is None and num_points != len(FACE_TEMPLATE):
        raise ValueError(
            f"there is no usual template of {num_points} points; pass template=, one (x, y) a point as shares of the "
            f"crop's width and height. Without it, {len(FACE_TEMPLATE)} points are those of a face: "
            f"{', '.join(FACE_POINTS)}"
        )
    target = np.asarray(FACE_TEMPLATE if template is None else template, np.float64)
    if target.shape != (num_points, 2) or not np.isfinite(target).all() or np.ptp(target, axis=0).max() == 0:
        raise ValueError(
            f"template must be {num_points} finite points (x, y) that do not all coincide, one for each point of an "
            f"object; got {target.tolist()}"
        )
    return target
