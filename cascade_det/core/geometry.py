"""Boxes as arrays: overlap, fitting to a window's aspect, and the frames of picture and crop.

All boxes are ``(N, 4)`` x0 y0 x1 y1 in edge coordinates, so a width is x1 - x0 and never +1.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.types import Annotations, CropPlan, CropTruth, Detections, SampleRole

Boxes = NDArray[Any]
_COINCIDE = 1e-6  # float32 points that are nearer to each other, relative to their size, differ by rounding alone


def box_sides(boxes_xyxy: Boxes) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return widths and heights, each ``(N,)``, of boxes ``(N, 4)``."""
    return boxes_xyxy[:, 2] - boxes_xyxy[:, 0], boxes_xyxy[:, 3] - boxes_xyxy[:, 1]


def box_area(boxes_xyxy: Boxes) -> NDArray[Any]:
    """Return areas ``(N,)``; an inverted box has area 0."""
    width, height = box_sides(boxes_xyxy)
    return np.maximum(width, 0) * np.maximum(height, 0)


def intersection_matrix(a_xyxy: Boxes, b_xyxy: Boxes) -> NDArray[Any]:
    """Return the areas common to each pair, ``(N, M)`` for boxes ``(N, 4)`` and ``(M, 4)``."""
    width = np.minimum(a_xyxy[:, None, 2], b_xyxy[None, :, 2]) - np.maximum(a_xyxy[:, None, 0], b_xyxy[None, :, 0])
    height = np.minimum(a_xyxy[:, None, 3], b_xyxy[None, :, 3]) - np.maximum(a_xyxy[:, None, 1], b_xyxy[None, :, 1])
    return np.maximum(width, 0) * np.maximum(height, 0)


def iou_matrix(a_xyxy: Boxes, b_xyxy: Boxes) -> NDArray[Any]:
    """Return the intersection over union of each pair, ``(N, M)``; two boxes without area have 0.

    >>> iou_matrix(np.array([[0., 0., 2., 2.]]), np.array([[0., 0., 2., 2.], [1., 0., 3., 2.]])).round(3)
    array([[1.   , 0.333]])
    """
    common = intersection_matrix(a_xyxy, b_xyxy)
    union = box_area(a_xyxy)[:, None] + box_area(b_xyxy)[None, :] - common
    return common / np.maximum(union, 1e-12)


def coverage_matrix(a_xyxy: Boxes, b_xyxy: Boxes) -> NDArray[Any]:
    """Return which share of each box of *b* lies inside each box of *a*, ``(N, M)`` in [0, 1]."""
    return intersection_matrix(a_xyxy, b_xyxy) / np.maximum(box_area(b_xyxy)[None, :], 1e-12)


def fit_to_aspect(boxes_xyxy: Boxes, window_hw: tuple[int, int]) -> Boxes:
    """Return the smallest boxes of the window's aspect that enclose `boxes_xyxy`, with the same centres.

    >>> fit_to_aspect(np.array([[0., 0., 10., 20.]]), (12, 12))
    array([[-5.,  0., 15., 20.]])
    """
    width, height = box_sides(boxes_xyxy)
    half_height = np.maximum(height, width * (window_hw[0] / window_hw[1])) / 2
    half_width = half_height * (window_hw[1] / window_hw[0])
    centre_x = (boxes_xyxy[:, 0] + boxes_xyxy[:, 2]) / 2
    centre_y = (boxes_xyxy[:, 1] + boxes_xyxy[:, 3]) / 2
    return np.stack(
        [centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height], axis=1
    )


def widen(boxes_xyxy: Boxes, factor: float) -> Boxes:
    """Return boxes of `factor` times the sides with the same centres.

    >>> widen(np.array([[0., 0., 10., 20.]]), 1.5)
    array([[-2.5, -5. , 12.5, 25. ]])
    """
    if factor == 1:
        return boxes_xyxy
    centre = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    half = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) * (factor / 2)
    return np.concatenate([centre - half, centre + half], axis=1)


def aspect_reach(boxes_xyxy: Boxes, window_hw: tuple[int, int]) -> NDArray[Any]:
    """Return the best IoU, ``(N,)``, that a box of the window's aspect can reach on each object.

    For an aspect that differs by the ratio r <= 1 the best box has the object's centre and area and reaches
    sqrt(r) / (2 - sqrt(r)).
    """
    width, height = box_sides(boxes_xyxy)
    ratio = (height / np.maximum(width, 1e-9)) / (window_hw[0] / window_hw[1])
    root = np.sqrt(np.clip(np.minimum(ratio, 1 / np.maximum(ratio, 1e-9)), 0, 1))
    return root / (2 - root)


def window_reach(boxes_xyxy: Boxes, windows_hw: NDArray[Any]) -> NDArray[Any]:
    """Return the best IoU, ``(N,)``, that windows of sizes ``(L, 2)`` height width reach where they fit an object best.

    >>> window_reach(np.array([[0., 0., 10., 20.]]), np.array([[20, 20], [10, 10]])).round(3)
    array([0.5])
    """
    width, height = (side[:, None] for side in box_sides(boxes_xyxy))
    common = np.minimum(width, windows_hw[:, 1]) * np.minimum(height, windows_hw[:, 0])
    union = width * height + windows_hw.prod(axis=1) - common
    return (common / np.maximum(union, 1e-12)).max(axis=1, initial=0)


def clip_boxes(boxes_xyxy: Boxes, image_hw: tuple[int, int]) -> Boxes:
    """Return boxes clipped to a picture of `image_hw`."""
    height, width = image_hw
    return np.clip(boxes_xyxy, 0, np.array([width, height, width, height], boxes_xyxy.dtype))


def crop_truth(plan: CropPlan, truth: Annotations, flip_points: NDArray[np.intp]) -> CropTruth:
    """Move the truth of a picture into the frames of the windows that a sampler chose.

    Args:
        plan: M windows; a row with ``truth == -1`` gets no box and no points.
        truth: the picture's objects.
        flip_points: ``(K,)`` which point each one becomes when the window is mirrored.

    Returns:
        The truth of the M crops. The box of a turned window is the axis-aligned box around the turned truth box.
    """
    rows, has_box = np.maximum(plan.truth, 0), plan.truth >= 0
    num_points = truth.points.shape[1]
    if len(truth) == 0:
        blank = {name: np.zeros((1, *column.shape[1:]), column.dtype) for name, column in truth.extras.items()}
        truth = Annotations.of(np.zeros((1, 4)), num_points).replace(extras=blank)
    box, points = truth.boxes[rows], truth.points[rows]
    known = truth.points_known[rows] & has_box[:, None]
    corners = box[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(len(plan), 4, 2)
    local = _to_window_frame(np.concatenate([corners, points], axis=1), plan)
    low, high = local[:, :4].min(axis=1), local[:, :4].max(axis=1)
    local_points = local[:, 4:]
    swapped = plan.mirror[:, None]
    local_points = np.where(swapped[..., None], local_points[:, flip_points], local_points)
    known = np.where(swapped, known[:, flip_points], known)
    return CropTruth(
        role=plan.role,
        box=np.where(has_box[:, None], np.concatenate([low, high], axis=1), 0),
        has_box=has_box,
        points=np.where(known[..., None], local_points, 0),
        points_known=known,
        extras={name: column[rows] for name, column in truth.extras.items()},
    )


def _to_window_frame(points: NDArray[Any], plan: CropPlan) -> NDArray[Any]:
    """Return picture points ``(M, P, 2)`` as fractions of each window: undo centre, turn, size and mirror."""
    centre = (plan.boxes[:, :2] + plan.boxes[:, 2:]) / 2
    sides = np.maximum(plan.boxes[:, 2:] - plan.boxes[:, :2], 1e-6)
    offset = points - centre[:, None]
    angle = np.deg2rad(plan.angle_deg)[:, None]
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.stack(
        [cos * offset[..., 0] + sin * offset[..., 1], -sin * offset[..., 0] + cos * offset[..., 1]], axis=-1
    )
    unit = turned / sides[:, None] + 0.5
    unit[..., 0] = np.where(plan.mirror[:, None], 1 - unit[..., 0], unit[..., 0])
    return unit


def mirror_truth(truth: CropTruth, mirrored: NDArray[np.bool_], flip_points: NDArray[np.intp]) -> CropTruth:
    """Return the truth after flipping the crops where `mirrored` ``(B,)`` is set, points relabelled left to right."""
    box = np.where(mirrored[:, None] & truth.has_box[:, None], truth.box * [-1, 1, -1, 1] + [1, 0, 1, 0], truth.box)
    box = np.where(mirrored[:, None], box[:, [2, 1, 0, 3]], box)
    flipped = truth.points[:, flip_points] * [-1, 1] + [1, 0]
    known = np.where(mirrored[:, None], truth.points_known[:, flip_points], truth.points_known)
    points = np.where(mirrored[:, None, None], flipped, truth.points)
    return truth.replace(box=box, points=np.where(known[..., None], points, 0), points_known=known)


def mirror_detections(found: Detections, edges_sum: NDArray[Any] | float, flip_points: NDArray[np.intp]) -> Detections:
    """Return detections flipped left to right, points relabelled.

    Args:
        found: N detections.
        edges_sum: where the mirror stands, as left plus right edge of what is mirrored, in pixels: a picture's width,
            or ``(N,)`` of each detection's window.
        flip_points: ``(K,)`` which point each becomes.
    """
    edges = np.broadcast_to(np.asarray(edges_sum, np.float32), len(found))[:, None]
    boxes = found.boxes.copy()
    boxes[:, [0, 2]] = edges - found.boxes[:, [2, 0]]
    if found.points is None:
        return found.replace(boxes=boxes)
    points = found.points[:, flip_points]
    points[..., 0] = edges - points[..., 0]
    return found.replace(boxes=boxes, points=points)


def fit_similarity(points_xy: NDArray[Any], target_xy: NDArray[Any]) -> NDArray[np.float64]:
    """Return the similarity of least squares that takes the points of each object to a target (Umeyama 1991).

    In the plane the paper's rotation and scale (its eq. 40 and 42) are one complex factor: the covariance of points and
    target over the variance of the points, each about its mean. Such a factor turns and scales, it cannot mirror.

    Args:
        points_xy: ``(N, K, 2)`` the points of N objects, in any unit.
        target_xy: ``(K, 2)`` where they should lie.

    Returns:
        ``(N, 2, 3)`` matrices [A | b] with A p + b near the target; all NaN where none follows from the points: one is
        not finite, they coincide, or any turn fits as badly as any other.

    >>> fit_similarity(np.array([[[0., 0.], [2., 0.]]]), np.array([[5., 5.], [5., 6.]])).round(3) + 0.
    array([[[ 0. , -0.5,  5. ],
            [ 0.5,  0. ,  5. ]]])
    """
    points = np.asarray(points_xy, np.float64)
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(points).all(axis=(1, 2)))
    points = np.where(finite[:, None, None], points, 0)
    p, q = points[..., 0] + 1j * points[..., 1], target_xy[:, 0] + 1j * target_xy[:, 1]
    p_mean, q_mean = p.mean(axis=1, keepdims=True), q.mean()
    covariance = (np.conj(p - p_mean) * (q - q_mean)).mean(axis=1)  # (N,)
    p_spread, q_spread = np.abs(p - p_mean).max(axis=1), np.abs(q - q_mean).max()
    variance = (np.abs(p - p_mean) ** 2).mean(axis=1)
    distinct = p_spread > _COINCIDE * np.abs(p).max(axis=1)
    decided = finite & distinct & (np.abs(covariance) > _COINCIDE * p_spread * q_spread)
    factor = np.where(decided, covariance, np.nan) / np.where(decided, variance, 1)
    shift = q_mean - factor * p_mean[:, 0]
    rows = [factor.real, -factor.imag, shift.real, factor.imag, factor.real, shift.imag]
    return np.stack(rows, axis=1).reshape(-1, 2, 3)


def similarity_windows(maps: NDArray[np.float64], crop_hw: tuple[int, int]) -> CropPlan:
    """Return the turned windows that similarities ``(N, 2, 3)`` from picture to crop pixels cut out, for a `Resampler`.

    Both frames count in edge coordinates, so that the middle of a crop is half its size.
    """
    factor = maps[:, 0, 0] + 1j * maps[:, 1, 0]
    shift = maps[:, 0, 2] + 1j * maps[:, 1, 2]
    half = np.array([crop_hw[1], crop_hw[0]]) / 2
    centre = (complex(half[0], half[1]) - shift) / factor
    middle = np.stack([centre.real, centre.imag], axis=1)
    reach = half / np.abs(factor)[:, None]
    plan = CropPlan.upright(np.concatenate([middle - reach, middle + reach], axis=1), SampleRole.points)
    return dataclasses.replace(plan, angle_deg=-np.rad2deg(np.angle(factor)))
