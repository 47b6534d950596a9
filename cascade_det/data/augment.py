"""Views of whole pictures by albumentations, and batched jitter of crops. Truth moves with the pixels."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.geometry import box_sides, coverage_matrix, mirror_truth
from cascade_det.core.imaging import Resample, Resampler, mirror_crops
from cascade_det.core.schema import JitterSection, Part, View
from cascade_det.core.types import Annotations, CropTruth
from cascade_det.errors import RecipeError, choices

# These only scale the picture: the truth is scaled by the sizes before and after. albumentations would move key points
# by the factor it drew, although it rounds the size to whole pixels. All others move key points between pixel centres
# (a mirror takes x to W - 1 - x); ours are edge coordinates: half a pixel goes off before and comes back after. Those
# that cut and then scale take key points times the factor, which is right for edge coordinates.
_SCALING = {"RandomScale", "Resize", "LongestMaxSize", "SmallestMaxSize"}
_CUTTING = {"CropAndPad", "RandomResizedCrop", "RandomSizedBBoxSafeCrop", "RandomSizedCrop"}
_LEAST_INSIDE = 0.5  # share of an object below which a transform has moved it out of the picture: it is ignored then


class PictureView:
    """One view of whole pictures.

    Args:
        view: share, scaling and transform.
        key: recipe key, named in errors.
        flip_points: ``(K,)`` which point each becomes where the transform mirrors the picture.
    """

    def __init__(self, view: View, key: str, flip_points: NDArray[np.intp]) -> None:
        self.share = view.share
        self._object_px = view.object_px
        self._flip = flip_points
        self._transform = _compose(view.transform, f"{key}.transform") if view.transform else None
        self._centre_px = 0.0 if view.transform and view.transform.kind in _CUTTING else 0.5

    def __call__(
        self, image: NDArray[np.uint8], truth: Annotations, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Annotations]:
        """Return the picture and its truth as this view shows them; neither argument is changed."""
        if self._object_px is not None:
            image, truth = _scale_to_object(image, truth, self._object_px, rng)
        if self._transform is None:
            return image, truth
        self._transform.set_random_seed(int(rng.integers(2**31)))
        if not self._transform.processors:
            shown = np.asarray(self._transform(image=image)["image"])
            return shown, _scaled(truth, image.shape, shown.shape)
        return self._move(self._transform, image, truth)

    def _move(
        self, transform: Any, image: NDArray[np.uint8], truth: Annotations
    ) -> tuple[NDArray[np.uint8], Annotations]:
        """Return the picture transformed, and its truth moved along as key points.

        A box becomes that of the moved ellipse inscribed in it: the box of its moved corners would be far too large
        where a picture is turned. Source: Kalra et al., "Towards Rotation Invariance in Object Detection", ICCV 2021.
        """
        centre = (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2
        right, below = centre.copy(), centre.copy()
        right[:, 0], below[:, 1] = truth.boxes[:, 2], truth.boxes[:, 3]
        frames = np.stack([centre, right, below], axis=1).reshape(-1, 2)
        axes = np.array([[0, 0], [8, 0], [0, 8]], np.float32)  # tell a mirror from a turn by their handedness
        marks = np.concatenate([axes, frames, truth.points.reshape(-1, 2)]) - self._centre_px
        result = transform(image=image, keypoints=marks)
        moved = np.asarray(result["keypoints"], np.float32).reshape(-1, 2)[: len(marks)] + self._centre_px
        middle, right_of, under = moved[3 : 3 + len(frames)].reshape(-1, 3, 2).transpose(1, 0, 2)
        points = moved[3 + len(frames) :].reshape(truth.points.shape)
        known = truth.points_known
        across, down = moved[1] - moved[0], moved[2] - moved[0]
        if across[0] * down[1] - across[1] * down[0] < 0:
            points, known = points[:, self._flip], known[:, self._flip]
        half = np.hypot(right_of - middle, under - middle)
        boxes = np.concatenate([middle - half, middle + half], axis=1)
        points = np.where(known[..., None], points, 0)
        shown = np.asarray(result["image"])
        frame = np.array([[0, 0, shown.shape[1], shown.shape[0]]], np.float32)
        ignore = truth.ignore | (coverage_matrix(frame, boxes)[0] < _LEAST_INSIDE)
        return shown, truth.replace(boxes=boxes, ignore=ignore, points=points, points_known=known)


def _compose(part: Part, key: str) -> Any:
    import albumentations

    known = {
        name
        for name, c in vars(albumentations).items()
        if inspect.isclass(c) and issubclass(c, albumentations.BasicTransform)
    }
    if part.kind not in known:
        raise RecipeError(
            f"{key}.kind={part.kind!r}: albumentations has no such transform; {choices(part.kind, known)[:200]}."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations warns of a parameter that it does not know
            transform = getattr(albumentations, part.kind)(**{"p": 1.0, **part.params})
    except (TypeError, ValueError, UserWarning) as error:
        raise RecipeError(f"{key}.params={part.params!r}: {' '.join(str(error).split())}") from error
    if isinstance(transform, albumentations.ImageOnlyTransform) or part.kind in _SCALING:
        return albumentations.Compose([transform])
    points = albumentations.KeypointParams(format="xy", remove_invisible=False)
    return albumentations.Compose([transform], keypoint_params=points)


def _scaled(truth: Annotations, from_hw: Sequence[int], to_hw: Sequence[int]) -> Annotations:
    ratio = np.array([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]], np.float32)
    return truth.replace(boxes=truth.boxes * np.tile(ratio, 2), points=truth.points * ratio)


def _scale_to_object(
    image: NDArray[np.uint8], truth: Annotations, object_px: list[float], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Annotations]:
    """Scale a picture down until its median object has a height drawn from the range; never up."""
    heights = box_sides(truth.boxes[~truth.ignore])[1]
    wanted = float(np.exp(rng.uniform(np.log(object_px[0]), np.log(object_px[1]))))
    factor = min(1.0, wanted / float(np.median(heights))) if len(heights) else 1.0
    level_hw = (max(1, round(image.shape[0] * factor)), max(1, round(image.shape[1] * factor)))
    return Resampler(image, Resample.area).level(level_hw), _scaled(truth, image.shape, level_hw)


def jitter_batch(
    pixels: NDArray[np.uint8],
    truth: CropTruth,
    jitter: JitterSection,
    flip_points: NDArray[np.intp],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], CropTruth]:
    """Return a batch ``(B, h, w, 3)`` float32 in 0..255 with random mirror and photometric changes, and its truth.

    Few passes over the pixels, most of them in place: beside a network of 24 px this is a quarter of the work.
    """
    rows = len(pixels)
    mirrored = rng.random(rows) < jitter.mirror
    crops = pixels.copy()
    crops[mirrored] = mirror_crops(pixels[mirrored])
    _cover(crops, np.flatnonzero(rng.random(rows) < jitter.cover), rng)
    batch = crops.astype(np.float32)
    grey = np.flatnonzero(rng.random(rows) < jitter.grey)
    batch[grey] = (batch[grey] @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    blurred = np.flatnonzero(rng.random(rows) < jitter.blur)
    batch[blurred] = _smooth(batch[blurred])
    gain = 1 + rng.uniform(-1, 1, (rows, 1)) * jitter.contrast
    tint = 1 + rng.uniform(-1, 1, (rows, 3)) * jitter.colour
    lift = rng.uniform(-255, 255, (rows, 1)) * jitter.brightness
    centre = crops[:, ::3, ::3].mean(axis=(1, 2, 3))[:, None]  # contrast turns about the crop's mean
    lines = batch.reshape(
        rows, batch.shape[1], batch.shape[2] * 3
    )  # long rows: numpy is slow at broadcasting over 3 channels
    lines *= np.tile((gain * tint).astype(np.float32), batch.shape[2])[:, None]
    lines += (lift + centre * (1 - gain)).astype(np.float32)[:, None]
    dark = np.flatnonzero(rng.random(rows) < jitter.dark)
    batch[dark] = _darken(batch[dark], rng)
    return np.clip(batch, 0, 255, out=batch), mirror_truth(truth, mirrored, flip_points)


def _smooth(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smooth ``(B, h, w, 3)`` by the binomial filter 1 2 1 along both axes, edges repeated."""
    for axis in (1, 2):
        padded = np.concatenate([batch.take([0], axis), batch, batch.take([-1], axis)], axis=axis)
        size = batch.shape[axis]
        low, middle, high = (np.take(padded, np.arange(s, s + size), axis) for s in range(3))
        batch = (low + 2 * middle + high) / 4
    return batch


def _darken(batch: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Take light from ``(B, h, w, 3)``; the rest carries noise of a standard deviation of at most 8 of 255 levels."""
    share = (len(batch), 1, 1, 1)
    noise = rng.standard_normal(batch.shape, np.float32) * rng.uniform(0, 8, share).astype(np.float32)
    return batch * rng.uniform(0.1, 0.6, share).astype(np.float32) + noise


def _cover(crops: NDArray[np.uint8], chosen: NDArray[np.intp], rng: np.random.Generator) -> None:
    """Paste over each chosen crop, in place, a rectangle of another: 20 to 50 % of one side, 20 to 100 % of the other.

    So a half is covered at most, be it the left, the right, the upper or the lower one.
    """
    height, width = crops.shape[1:3]
    size = rng.uniform(0.2, [0.5, 1.0], (len(chosen), 2))
    size = np.where(rng.random((len(chosen), 1)) < 0.5, size, size[:, ::-1])
    start = rng.random((len(chosen), 2)) * (1 - size)
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    in_y = (y >= start[:, :1]) & (y < start[:, :1] + size[:, :1])
    in_x = (x >= start[:, 1:]) & (x < start[:, 1:] + size[:, 1:])
    mask = in_y[:, :, None] & in_x[:, None, :]
    other = crops[rng.integers(len(crops), size=len(chosen))]
    crops[chosen] = np.where(mask[..., None], other, crops[chosen])
