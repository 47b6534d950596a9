"""A first stage that nobody trains: one of OpenCV's Haar cascades (Viola and Jones 2001) proposes the candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cascade_det import Detections, register_stage
from cascade_det.core.imaging import Resampler
from cascade_det.errors import choices
from cascade_det.stages.base import StageSettings, WeightlessStage, suppress


@register_stage("haar")
class Haar(WeightlessStage):
    """Windows that pass a Haar cascade, scored by how clearly they pass its last level.

    The picture is scaled first so that an object of `min_object_px` has the height of the cascade's window. A window
    that exceeds the last level's threshold by m scores m / (1 + m).

    Args:
        name, window_hw: given by the framework; `window_hw` must be the cascade's own, 24 x 24 for the default.
        file: a cascade that comes with OpenCV, by file name, or the path of another.
        scale_factor: ratio of the sizes of windows, one to the next; `pyramid.factor` is for networks.
        min_neighbors: how many windows must agree on an object to be merged into one candidate; 0: every window is one.

    Raises:
        ValueError: this OpenCV has no Haar cascades, the file cannot be used, or a parameter is out of range.
    """

    def __init__(
        self,
        name: str,
        window_hw: tuple[int, int],
        *,
        file: str = "haarcascade_frontalface_default.xml",
        scale_factor: float = 1.1,
        min_neighbors: int = 0,
    ) -> None:
        super().__init__(name, window_hw)
        if not scale_factor > 1 or min_neighbors < 0:
            raise ValueError(
                f"scale_factor={scale_factor} must be above 1, min_neighbors={min_neighbors} must not be negative"
            )
        self._classifier, self._threshold = _load(file)
        width, height = self._classifier.getOriginalWindowSize()
        if window_hw != (height, width):
            raise ValueError(f"window_hw={list(window_hw)}: the window of {file} is [{height}, {width}]; write that")
        self._scale_factor, self._min_neighbors = scale_factor, min_neighbors

    def __call__(
        self, images: Sequence[Resampler], candidates: Sequence[Detections] | None, settings: StageSettings
    ) -> list[Detections]:
        return [self._candidates(image, settings) for image in images]

    def _candidates(self, image: Resampler, settings: StageSettings) -> Detections:
        scale = self.window_hw[0] / settings.min_object_px
        level_hw = (math.ceil(image.image_hw[0] * scale), math.ceil(image.image_hw[1] * scale))
        if level_hw[0] < self.window_hw[0] or level_hw[1] < self.window_hw[1]:
            return Detections.empty()
        most_px = settings.max_object_px
        boxes, scores = self._detect(image.level(level_hw), None if most_px is None else most_px * scale)
        ratio = np.array([image.image_hw[1] / level_hw[1], image.image_hw[0] / level_hw[0]] * 2)
        kept = scores >= settings.score
        found = Detections(boxes[kept] * ratio, scores[kept])
        return found[suppress(found, settings.nms, settings.nms_mode)[: settings.max_per_image]]

    def _detect(self, level: NDArray[Any], most_px: float | None) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return boxes ``(N, 4)`` and scores ``(N,)`` of one picture in an order that no thread decides."""
        grey = cv2.cvtColor(np.asarray(level, np.uint8), cv2.COLOR_RGB2GRAY)
        height, width = self.window_hw
        largest = (0, 0) if most_px is None else (math.ceil(most_px * width / height), math.ceil(most_px))
        corner_and_size, _, weights = self._classifier.detectMultiScale3(
            grey, self._scale_factor, self._min_neighbors, 0, (width, height), largest, outputRejectLevels=True
        )
        boxes = np.asarray(corner_and_size, np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        margin = np.maximum(np.asarray(weights, np.float64).ravel() - self._threshold, 0)
        order = np.lexsort((*boxes.T, -margin))
        return boxes[order], (margin / (1 + margin)).astype(np.float32)[order]


def _load(file: str) -> tuple[Any, float]:
    """Return the classifier of a file and the threshold of its last level."""
    if not hasattr(cv2, "CascadeClassifier"):
        raise ValueError(
            f"OpenCV {cv2.__version__} has no CascadeClassifier (it was removed in 5.0); pip install "
            "'opencv-python-headless>=4.11,<5'"
        )
    shipped = Path(cv2.data.haarcascades)  # type: ignore[attr-defined]
    path = Path(file) if Path(file).is_file() else shipped / file
    if not path.is_file():
        known = [entry.name for entry in shipped.glob("*.xml")]
        raise ValueError(f"file={file!r} is neither a file nor one of OpenCV's cascades; {choices(file, known)}")
    try:
        classifier = cv2.CascadeClassifier(str(path))
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)  # its nodes live as long as it does
        levels = storage.getFirstTopLevelNode().getNode("stages")
        threshold = levels.at(int(levels.size()) - 1).getNode("stageThreshold")
        if classifier.isOldFormatCascade() or not threshold.isReal():  # without levels there are no scores
            raise ValueError
    except (cv2.error, SystemError, ValueError) as error:
        raise ValueError(f"file={file!r} is no Haar cascade as opencv_traincascade writes them") from error
    return classifier, threshold.real()
