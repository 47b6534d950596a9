"""The first stage: its network runs densely over an image pyramid and proposes windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.imaging import Resampler
from cascade_det.core.nms import nms
from cascade_det.core.registry import register_stage
from cascade_det.core.types import Detections
from cascade_det.heads.base import Head
from cascade_det.nets.base import Net
from cascade_det.stages.base import StageSettings, suppress
from cascade_det.stages.network import NetworkRunner, StageNetwork, num_points_of

_LEVEL_PIXELS = 1 << 21  # pixels of one forward pass; levels of equal size go together up to this


def pyramid_levels(
    image_hw: tuple[int, int], window_hw: tuple[int, int], settings: StageSettings
) -> list[tuple[int, int]]:
    """Return the sizes of the pyramid's levels, largest first.

    On the first level an object of `min_object_px` has the window's height; each further level is `factor` times as
    large. A level smaller than the window is not built, nor one on which `max_object_px` is below the window.
    """
    levels: list[tuple[int, int]] = []
    scale = window_hw[0] / settings.min_object_px
    while settings.max_object_px is None or window_hw[0] / scale <= settings.max_object_px or not levels:
        level_hw = (math.ceil(image_hw[0] * scale), math.ceil(image_hw[1] * scale))
        if level_hw[0] < window_hw[0] or level_hw[1] < window_hw[1]:
            break
        levels.append(level_hw)
        scale *= settings.factor
    return levels


@register_stage("proposer")
class Proposer:
    """Dense proposals over a pyramid.

    Args:
        name, window_hw, net, heads: given by the framework.
        nms_on: suppress by the "windows" of the map (as MTCNN does) or by the regressed "boxes".
    """

    trainable = True
    version = 1

    def __init__(
        self, name: str, window_hw: tuple[int, int], net: Net, heads: Mapping[str, Head], nms_on: str = "windows"
    ) -> None:
        if net is None or net.stride is None:
            raise ValueError("a proposer runs its net densely: choose a net with a stride, such as mtcnn_pnet")
        if nms_on not in ("windows", "boxes"):
            raise ValueError(f"nms_on={nms_on!r} must be windows or boxes")
        self.name = name
        self.window_hw = window_hw
        self.num_points = num_points_of(heads)
        self.runner = NetworkRunner(StageNetwork(net, heads), heads)
        self._stride = net.stride
        self._nms_on = nms_on

    def __call__(
        self, images: Sequence[Resampler], candidates: Sequence[Detections] | None, settings: StageSettings
    ) -> list[Detections]:
        by_size: dict[tuple[int, int], list[tuple[int, int]]] = {}
        found: list[list[tuple[int, Detections, NDArray[Any]]]] = [[] for _ in images]
        for index, image in enumerate(images):
            for position, level_hw in enumerate(pyramid_levels(image.image_hw, self.window_hw, settings)):
                by_size.setdefault(level_hw, []).append((index, position))
        for level_hw, members in by_size.items():
            step = max(1, _LEVEL_PIXELS // (level_hw[0] * level_hw[1]))
            for start in range(0, len(members), step):
                chosen = members[start : start + step]
                pixels = np.stack([images[index].level(level_hw) for index, _ in chosen])
                raw = self.runner.raw(pixels, settings.mean, settings.scale)
                for row, (index, position) in enumerate(chosen):
                    outputs = {name: value[row] for name, value in raw.items()}
                    proposals, windows = self._read_map(outputs, images[index].image_hw, level_hw, settings)
                    found[index].append((position, proposals, windows))
        return [self._merge(sorted(levels, key=lambda entry: entry[0]), settings) for levels in found]

    def _nothing(self, settings: StageSettings) -> Detections:
        """Return N = 0 proposals with every column that this stage fills."""
        crops, windows = np.zeros((0, *self.window_hw, 3), np.uint8), np.zeros((0, 4), np.float32)
        raw = self.runner.raw_of_crops(crops, settings.mean, settings.scale, settings.chunk)
        return self.runner.decode(raw, windows, np.zeros(0, np.float32))

    def _read_map(
        self,
        raw: Mapping[str, NDArray[np.float32]],
        image_hw: tuple[int, int],
        level_hw: tuple[int, int],
        settings: StageSettings,
    ) -> tuple[Detections, NDArray[np.float32]]:
        """Return the positions of one level's map above the threshold, and their windows in picture pixels."""
        score_map = raw[self.runner.score_head]
        breadth = score_map.shape[2]
        scores = self.runner.scores(score_map.reshape(1, -1).T)
        kept = np.flatnonzero(scores >= settings.score)
        rows, columns = np.divmod(kept, breadth)
        corner = np.stack([columns, rows], axis=1) * float(self._stride)
        ratio = np.array([image_hw[1] / level_hw[1], image_hw[0] / level_hw[0]])
        far = corner + np.array([self.window_hw[1], self.window_hw[0]])
        windows = np.concatenate([corner * ratio, far * ratio], axis=1).astype(np.float32)
        flat = {name: value.reshape(len(value), -1).T[kept] for name, value in raw.items()}
        proposals = self.runner.decode(flat, windows, scores[kept])
        on = windows if self._nms_on == "windows" else None
        keep = suppress(proposals, settings.nms, settings.nms_mode, on)
        return proposals[keep], windows[keep]

    def _merge(self, levels: Sequence[tuple[int, Detections, NDArray[Any]]], settings: StageSettings) -> Detections:
        if not levels:
            return self._nothing(settings)
        merged = Detections.concat([proposals for _, proposals, _ in levels])
        windows = np.concatenate([level_windows for _, _, level_windows in levels])
        on = windows if self._nms_on == "windows" else merged.boxes
        if settings.nms_across_levels is None:
            keep = np.argsort(-merged.scores, kind="stable")
        else:
            keep = nms(on, merged.scores, settings.nms_across_levels, settings.nms_mode)
        return merged[keep[: settings.max_per_image]]

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        return self.runner.arrays()

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.runner.load_arrays(arrays)

    def to(self, device: str) -> None:
        self.runner.to(device)
