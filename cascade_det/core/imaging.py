"""All pixels: reading a picture, resampling it to pyramid levels and cutting windows from it.

A picture is uint8 ``(H, W, 3)`` RGB from the moment of reading. One resampling rule serves pyramid levels and crops
alike (`Resampler`), in mining as in detection.
"""

from __future__ import annotations

import io
import threading
from enum import Enum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cascade_det.core.types import MAX_PIXELS, CropPlan, SampleRole
from cascade_det.errors import DataError

Pixels = NDArray[np.uint8]
_REMAP_SIDE = 32_000  # cv2.remap refuses any side of 32,767 or more
_MAP_ELEMENTS = 1 << 21  # bounds the memory of the coordinate maps: 16 MiB at two float32 each
_EXIF_ORIENTATION = 0x0112
_EXPOSURE_STEP, _EXPOSURE_SIDE = 4, 320  # every 4th pixel either way, of large pictures 320 along the longer side
_MOST_GAIN = 8.0  # beyond it there is more noise than picture

_HEADER_LOCK = threading.Lock()


class Resample(str, Enum):
    """How pixels are interpolated when a level or a crop is made.

    `linear` interpolates between the four neighbours at any scale. `area` first halves the picture by averaging until
    less than a factor of two remains, then interpolates: no aliasing when an object is much larger than the window.
    `pooled` averages the whole pixels that an output pixel touches and cuts windows at whole pixels, at the picture's
    border too: adaptive average pooling, as ports of MTCNN resample. Its pixels are float32, not rounded: by rounding
    alone P-Net's scores move by up to .02. It is for comparison with ports, not for training.
    """

    linear = "linear"
    area = "area"
    pooled = "pooled"


class Border(str, Enum):
    """What a window that crosses the picture's border sees: a constant value, or only the part inside, stretched."""

    pad = "pad"
    clip = "clip"


def read_image(path: str | Path, annotated_hw: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Read a picture of any common kind as uint8 ``(H, W, 3)`` RGB.

    Grey, palette, CMYK and 16-bit pictures are converted (16 bits scaled to 8), alpha is laid over black and the EXIF
    orientation is applied.

    Args:
        path: the file.
        annotated_hw: size that an annotation states; where it equals the size before EXIF rotation, the truth was
            drawn on the unrotated picture and no rotation is applied.
        max_pixels: a larger picture is refused before it is decoded.

    Raises:
        DataError: missing, empty, not a picture, truncated, or too large; the message names the file and the reason.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error
    if not data:
        raise DataError(f"{path}: the file is empty.")
    try:
        with _open_header(io.BytesIO(data)) as picture:
            _refuse_large(path, picture, max_pixels)
            rotate = _orientation(picture) != 1 and annotated_hw != (picture.height, picture.width)
            decoded = None if rotate else _decode_plain(picture, data)
            if decoded is not None:
                return decoded
            return _convert(ImageOps.exif_transpose(picture) if rotate else picture)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        begin = f"it begins with {data[:12]!r}"
        raise DataError(f"{path}: not a readable picture ({begin}); JPEG, PNG, WebP and the like are.") from error
    except Exception as error:  # decoders raise nearly anything for damaged data
        raise DataError(f"{path}: not a readable picture ({error or type(error).__name__}).") from error


def picture_size(path: Path, *, turned: bool) -> tuple[int, int]:
    """Return height and width in pixels of a picture from its header; nothing is decoded.

    Args:
        path: the file.
        turned: as viewers show it, EXIF orientation applied; otherwise as its pixels are stored.

    Raises:
        DataError: missing, empty or not a picture; the message names the file and the reason.
    """
    try:
        with _open_header(path) as picture:
            swapped = turned and _orientation(picture) >= 5  # 5 to 8 lie on their side
            return (picture.width, picture.height) if swapped else (picture.height, picture.width)
    except Exception as error:  # headers of damaged files raise nearly anything
        raise DataError(f"{path}: not a readable picture ({error or type(error).__name__}).") from error


def _open_header(file: Path | io.BytesIO) -> Image.Image:
    """Open a picture without Pillow's cap on its size, which is the whole program's; ours is checked by the caller."""
    with _HEADER_LOCK:  # else a thread could put back the other's None for good
        cap, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = cap


def _refuse_large(name: object, picture: Image.Image, max_pixels: int) -> None:
    """Raise a `DataError` where the header alone claims more than `max_pixels`; nothing is decoded yet."""
    if picture.width * picture.height > max_pixels:
        raise DataError(
            f"{name}: {picture.width} x {picture.height} px is above the cap of {max_pixels:,} pixels; "
            "scale it down first, or raise image.max_pixels."
        )


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation 1 to 8; 1 where there is none or the EXIF block is damaged, as viewers do."""
    if picture.format == "PNG" and not _may_hold_exif(picture):
        return 1
    try:
        return int(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # the picture itself may be whole
        return 1


def _may_hold_exif(picture: Image.Image) -> bool:
    """Return whether the words that begin EXIF stand in a PNG file; Pillow would decode all of it to find none."""
    file: Any = getattr(picture, "fp", None)
    if file is None:
        return True
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    return b"eXIf" in data or b"Raw profile type" in data


def _decode_plain(picture: Image.Image, data: bytes) -> Pixels | None:
    """Return the pixels of the common kinds by OpenCV, which is quicker; None where they are for Pillow."""
    plain = picture.mode == "RGB" and "transparency" not in picture.info
    if not plain or picture.format not in ("JPEG", "PNG", "BMP"):
        return None
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    whole = decoded is not None and decoded.shape[:2] == (picture.height, picture.width)
    return np.asarray(decoded, np.uint8) if whole else None


def _convert(picture: Image.Image) -> Pixels:
    if picture.mode.startswith("I;16"):
        return _grey_to_rgb(cv2.convertScaleAbs(np.asarray(picture, np.uint16), alpha=255 / 65535))
    if picture.mode in ("I", "F"):
        wide = np.nan_to_num(np.asarray(picture, np.float32))
        sixteen_bits = picture.format == "PNG" or wide.max(initial=0) > 255  # Pillow before 11 opens such a PNG as "I"
        scale = 255 / 65535 if sixteen_bits else 1
        return _grey_to_rgb(np.clip(np.round(wide * scale), 0, 255).astype(np.uint8))
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        over = picture.convert("RGBA")
        black = Image.new("RGB", picture.size)
        black.paste(over, mask=over)  # of the mask its alpha counts
        return np.array(black, np.uint8)
    return np.array(picture.convert("RGB"), np.uint8)


def _grey_to_rgb(grey: NDArray[Any]) -> Pixels:
    return np.repeat(np.asarray(grey, np.uint8)[:, :, None], 3, axis=2)


def to_image(value: object, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Return what a caller passed as a picture as uint8 ``(H, W, 3)`` RGB.

    Args:
        value: an array of that very form, a path, or a PIL image.
        max_pixels: a larger file or PIL image is refused; an array is there already.

    Raises:
        ValueError: anything else; the message says what was got and what is taken.
        DataError: a path that cannot be read, or a picture above the cap.
    """
    if isinstance(value, (str, Path)):
        return read_image(value, max_pixels=max_pixels)
    if isinstance(value, Image.Image):
        _refuse_large("PIL image", value, max_pixels)
        value = _convert(ImageOps.exif_transpose(value))
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3:
        height, width, channels = value.shape
        if height and width and channels == 3:
            return value
    got = f"an array of shape {value.shape} and dtype {value.dtype}" if isinstance(value, np.ndarray) else type(value)
    raise ValueError(f"a picture is an (H, W, 3) uint8 RGB array, a path or a PIL image; got {got}")


class Resampler:
    """One picture, ready to be resampled to levels and windows.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        mode: the interpolation.
        border: what lies outside the picture for a window that crosses its border.
        border_value: the constant of ``Border.pad``, 0 to 255.
    """

    def __init__(
        self, image: Pixels, mode: Resample = Resample.linear, border: Border = Border.pad, border_value: int = 0
    ) -> None:
        self.image_hw = (int(image.shape[0]), int(image.shape[1]))
        self._mode = mode
        self._border = border
        self._border_value = border_value
        self._octaves = [image]
        self._sums: NDArray[np.float64] | None = None

    def _octave(self, scale: float) -> Pixels:
        """Return the halved picture to interpolate from when one output pixel spans `scale` picture pixels."""
        wanted = int(np.floor(np.log2(max(scale, 1.0)) + 1e-6)) if self._mode == Resample.area else 0
        smallest = int(np.ceil(np.log2(max(max(self.image_hw) / _REMAP_SIDE, 1.0))))
        wanted = max(wanted, smallest)
        while len(self._octaves) <= wanted:
            last = self._octaves[-1]
            half_hw = ((last.shape[0] + 1) // 2, (last.shape[1] + 1) // 2)
            self._octaves.append(np.asarray(cv2.resize(last, half_hw[::-1], interpolation=cv2.INTER_AREA), np.uint8))
        return self._octaves[wanted]

    def level(self, level_hw: tuple[int, int]) -> Pixels:
        """Return the whole picture at the size `level_hw`, ``(h, w, 3)`` uint8 (`pooled`: float32)."""
        if self._mode == Resample.pooled:
            return self._pool(np.array([[0, 0, self.image_hw[1], self.image_hw[0]]]), level_hw)[0]
        scale = min(self.image_hw[0] / level_hw[0], self.image_hw[1] / level_hw[1])
        base = self._octave(scale)
        if base.shape[:2] == level_hw:
            return base
        return np.asarray(cv2.resize(base, (level_hw[1], level_hw[0]), interpolation=cv2.INTER_LINEAR), np.uint8)

    def crops(self, windows_xyxy: NDArray[Any], crop_hw: tuple[int, int]) -> Pixels:
        """Return upright windows ``(N, 4)`` of the picture as crops ``(N, h, w, 3)`` uint8."""
        return self.cut(CropPlan.upright(windows_xyxy, SampleRole.negative), crop_hw)

    def cut(self, plan: CropPlan, crop_hw: tuple[int, int]) -> Pixels:
        """Return the windows of a plan, turned and mirrored as it says, as crops ``(M, h, w, 3)`` uint8
        (`pooled`: float32).

        Raises:
            ValueError: a window is turned or mirrored, which `pooled` cannot.
        """
        if self._mode == Resample.pooled:
            if plan.angle_deg.any() or plan.mirror.any():
                raise ValueError("resample='pooled' cuts upright windows only; train with linear or area")
            return self._pool(_whole_pixels(plan.boxes, self.image_hw), crop_hw)
        height, width = crop_hw
        out = np.empty((len(plan), height, width, 3), np.uint8)
        boxes = plan.boxes.astype(np.float64)
        if self._border == Border.clip:
            limit = np.array([self.image_hw[1], self.image_hw[0]] * 2, np.float64)
            boxes = np.clip(boxes, 0, limit)
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3)
        scale = np.minimum(sides[:, 0] / width, sides[:, 1] / height)
        octave = np.floor(np.log2(np.maximum(scale, 1)) + 1e-6) if self._mode == Resample.area else np.zeros(len(plan))
        step = max(1, min(_REMAP_SIDE // height, _MAP_ELEMENTS // (height * width)))
        for value in np.unique(octave):  # a handful: one round an octave, never one a crop
            base = self._octave(float(2**value))
            rows = np.flatnonzero(octave == value)
            for start in range(0, len(rows), step):
                chosen = rows[start : start + step]
                out[chosen] = self._remap(base, boxes[chosen], plan[chosen], crop_hw)
        return out

    def _remap(self, base: Pixels, boxes: NDArray[np.float64], plan: CropPlan, crop_hw: tuple[int, int]) -> Pixels:
        height, width = crop_hw
        u = (np.arange(width) + 0.5) / width - 0.5
        v = (np.arange(height) + 0.5) / height - 0.5
        sides = boxes[:, 2:] - boxes[:, :2]
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        du = np.where(plan.mirror, -1.0, 1.0)[:, None] * u * sides[:, :1]  # (N, w)
        dv = v * sides[:, 1:]  # (N, h)
        ratio_x, ratio_y = base.shape[1] / self.image_hw[1], base.shape[0] / self.image_hw[0]
        angle = np.deg2rad(plan.angle_deg.astype(np.float64))
        cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
        x = centre[:, 0, None, None] + cos * du[:, None, :] - sin * dv[:, :, None]  # (N, h, w)
        y = centre[:, 1, None, None] + sin * du[:, None, :] + cos * dv[:, :, None]
        cut = cv2.remap(
            base,
            (x * ratio_x - 0.5).astype(np.float32).reshape(-1, width),
            (y * ratio_y - 0.5).astype(np.float32).reshape(-1, width),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT if self._border == Border.pad else cv2.BORDER_REPLICATE,
            borderValue=(self._border_value,) * 3,
        )
        return np.asarray(cut, np.uint8).reshape(-1, height, width, 3)

    def _pool(self, boxes: NDArray[np.intp], crop_hw: tuple[int, int]) -> Any:
        """Return the means of whole pixels of boxes ``(N, 4)`` at whole pixels, ``(N, h, w, 3)`` float32."""
        if self._sums is None:
            self._sums = np.asarray(cv2.integral(self._octaves[0], sdepth=cv2.CV_64F), np.float64)
        out = np.empty((len(boxes), *crop_hw, 3), np.float32)
        step = max(1, _MAP_ELEMENTS // (crop_hw[0] * crop_hw[1]))
        for start in range(0, len(boxes), step):
            chosen = boxes[start : start + step]
            left, right = _bins(chosen[:, 0], chosen[:, 2], crop_hw[1])
            top, bottom = _bins(chosen[:, 1], chosen[:, 3], crop_hw[0])
            rows, columns = (top[:, :, None], bottom[:, :, None]), (left[:, None, :], right[:, None, :])
            total = self._sums[rows[1], columns[1]] - self._sums[rows[0], columns[1]]
            total += self._sums[rows[0], columns[0]] - self._sums[rows[1], columns[0]]
            pixels = (rows[1] - rows[0]) * (columns[1] - columns[0])
            out[start : start + step] = total / pixels[..., None]
        return out


def _bins(low: NDArray[np.intp], high: NDArray[np.intp], count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return first pixels and ends ``(N, count)`` of the bins of adaptive pooling from `low` to `high`."""
    position, length = np.arange(count), (high - low)[:, None]
    return low[:, None] + position * length // count, low[:, None] - (-(position + 1) * length // count)


def _whole_pixels(boxes: NDArray[Any], image_hw: tuple[int, int]) -> NDArray[np.intp]:
    """Return boxes ``(N, 4)`` at whole pixels within the picture, each of one pixel at least.

    Ports count pixels from 1 and cut the fraction off, so the first pixel is ``trunc(x0 + 1) - 1`` in edge coordinates.
    """
    limit = np.array([image_hw[1], image_hw[0]])
    first = np.clip(np.trunc(boxes[:, :2].astype(np.float64) + 1) - 1, 0, limit - 1)
    end = np.clip(np.trunc(boxes[:, 2:].astype(np.float64)), first + 1, limit)
    return np.concatenate([first, end], axis=1).astype(np.intp)


def lift_exposure(image: Pixels, level: float) -> Pixels:
    """Return a dark picture multiplied until the brightest hundredth of it reaches a level, at most eightfold.

    Nets that were trained on well-lit pictures find little in others; a picture that is bright enough returns as it is.

    Args:
        image: ``(H, W, 3)`` uint8.
        level: 0 to 255, of the brightest channel of a pixel; 0 changes nothing.
    """
    if level <= 0 or image.size == 0:
        return image
    step = max(_EXPOSURE_STEP, max(image.shape[:2]) // _EXPOSURE_SIDE)
    brightest = float(np.percentile(image[::step, ::step].max(axis=2), 99))
    gain = min(_MOST_GAIN, level / max(brightest, 1.0))
    return np.asarray(cv2.convertScaleAbs(image, alpha=gain), np.uint8) if gain > 1 else image


def mirror_crops(crops: NDArray[Any]) -> NDArray[Any]:
    """Return crops ``(B, h, w, 3)`` with left and right exchanged, faster than a slice of step -1."""
    if crops.size == 0:
        return crops
    return np.asarray(cv2.flip(crops.reshape(-1, crops.shape[2], 3), 1)).reshape(crops.shape)


def write_image(path: Path, image: Pixels) -> None:
    """Write an RGB picture; the suffix of `path` chooses the format, and its folder is made if missing.

    Raises:
        DataError: no such format, or a size that the format cannot hold; the message names the file.
    """
    try:
        data = encode_image(image, path.suffix or ".png")
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def encode_image(image: Pixels, suffix: str, *, quality: int | None = None) -> bytes:
    """Return an RGB picture as the bytes of a file.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        suffix: the format, such as ".jpg".
        quality: of JPEG, 0 to 100; OpenCV's 95 by default.

    Raises:
        DataError: no such format, or a size that the format cannot hold.
    """
    if not cv2.haveImageWriter(f"picture{suffix}"):
        raise DataError(f"OpenCV cannot write pictures with the suffix {suffix!r}; use .png or .jpg.")
    options = [] if quality is None else [cv2.IMWRITE_JPEG_QUALITY, quality]
    try:
        written, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    except cv2.error:
        written = False
    if not written:
        raise DataError(
            f"a picture of {image.shape[1]} x {image.shape[0]} px cannot be written as {suffix} "
            "(JPEG ends at 65,500 px a side); scale it down, or use .png."
        )
    return bytes(data.tobytes())
