"""The first stage: its network runs densely over an image pyramid and proposes windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.imaging import Resampler
from cascade_det.core.registry import register_stage
from cascade_det.core.schema import PyramidSection
from cascade_det.core.types import Detections
from cascade_det.heads.base import Head
from cascade_det.nets.base import Net
from cascade_det.stages.base import StageSettings, suppress
from cascade_det.stages.network import NetworkRunner, StageNetwork, num_points_of

_MOST_HITS = 10_000  # of a level go into its suppression, the best: an untrained net's whole map would take minutes
_PASS_PIXELS = 1 << 21  # of one forward pass: levels of equal size go together up to this, a larger one goes in tiles


def pyramid_levels(
    image_hw: tuple[int, int],
    window_hw: tuple[int, int],
    settings: StageSettings | PyramidSection,
    whole_pixels: bool = False,
) -> list[tuple[int, int]]:
    """Return the sizes of the pyramid's levels, largest first; of `settings` what a recipe's `pyramid` holds counts.

    On the first level an object of `min_object_px` has the window's height; each further level is `factor` times as
    large. A level smaller than the window is not built, nor one on which `max_object_px` is below the window. With
    `whole_pixels` a side that comes out whole gets one pixel more, and a level counts as it is before it is rounded up,
    as in ports of MTCNN.
    """
    levels: list[tuple[int, int]] = []
    scale = window_hw[0] / settings.min_object_px
    while settings.max_object_px is None or window_hw[0] / scale <= settings.max_object_px or not levels:
        sides = (image_hw[0] * scale, image_hw[1] * scale)
        level_hw = (math.ceil(sides[0]), math.ceil(sides[1]))
        reached = sides if whole_pixels else level_hw
        if reached[0] < window_hw[0] or reached[1] < window_hw[1]:
            break
        levels.append((int(sides[0] + 1), int(sides[1] + 1)) if whole_pixels else level_hw)
        scale *= settings.factor
    return levels


@dataclass(frozen=True)
class Tile:
    """A part of a level that is run on its own.

    Attributes:
        rows, columns: its pixels.
        first: (row, column) of the level's map that the first position of the tile's map is.
    """

    rows: slice
    columns: slice
    first: tuple[int, int]


def level_tiles(level_hw: tuple[int, int], window_hw: tuple[int, int], stride: int, pass_pixels: int) -> list[Tile]:
    """Return the tiles of about `pass_pixels` that a level is run in; one tile where it fits.

    Neighbours overlap by the window less the stride, and a tile starts at a multiple of the stride, so a position sees
    the same pixels, pooled in the same places, as on the whole level. The last tile of an axis reaches to the level's
    end, beyond its last position: a net whose pooling rounds up sees what it sees there on the whole level.
    """
    height, width = level_hw
    if height * width <= pass_pixels:
        return [Tile(slice(0, height), slice(0, width), (0, 0))]
    side = math.isqrt(pass_pixels)
    down = _axis_tiles(height, window_hw[0], stride, max(side, pass_pixels // width))
    across = _axis_tiles(width, window_hw[1], stride, max(side, pass_pixels // height))
    return [Tile(rows, columns, (i, j)) for rows, i in down for columns, j in across]


def _axis_tiles(side_px: int, window_px: int, stride: int, most_px: int) -> list[tuple[slice, int]]:
    """Return (pixels, first position) of tiles of about equal length along one axis."""
    positions = (side_px - window_px) // stride + 1
    fitting = max(1, (most_px - window_px) // stride + 1)
    step = math.ceil(positions / math.ceil(positions / fitting))
    starts = range(0, positions, step)
    inner = [(slice(i * stride, (i + step - 1) * stride + window_px), i) for i in starts[:-1]]
    return [*inner, (slice(starts[-1] * stride, side_px), starts[-1])]


@dataclass(frozen=True)
class _Hits:
    """The positions of a level's map above the threshold, in the order of the map.

    Attributes:
        rows, columns: ``(N,)`` positions.
        scores: ``(N,)`` float32 probabilities.
        raw: ``(N, D)`` raw outputs by head.
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    scores: NDArray[np.float32]
    raw: Mapping[str, NDArray[np.float32]]

    @staticmethod
    def joined(parts: Sequence[_Hits]) -> _Hits:
        """Return the hits of a level's tiles as the whole level would have given them."""
        if len(parts) == 1:
            return parts[0]
        rows, columns = np.concatenate([p.rows for p in parts]), np.concatenate([p.columns for p in parts])
        order = np.lexsort((columns, rows))
        raw = {name: np.concatenate([p.raw[name] for p in parts])[order] for name in parts[0].raw}
        return _Hits(rows[order], columns[order], np.concatenate([p.scores for p in parts])[order], raw)

    def best(self, count: int) -> _Hits:
        """Return the `count` hits of the highest scores, still in the order of the map."""
        if len(self.scores) <= count:
            return self
        rows = np.sort(np.argsort(-self.scores, kind="stable")[:count])
        raw = {name: value[rows] for name, value in self.raw.items()}
        return _Hits(self.rows[rows], self.columns[rows], self.scores[rows], raw)


@register_stage("proposer")
class Proposer:
    """Dense proposals over a pyramid.

    Args:
        name, window_hw, net, heads: given by the framework.
        nms_on: suppress by the "windows" of the map (as MTCNN does) or by the regressed "boxes".
        whole_pixels: round windows down to whole pixels, as ports of MTCNN do; for comparison with them.
    """

    trainable = True
    version = 1

    def __init__(
        self,
        name: str,
        window_hw: tuple[int, int],
        net: Net,
        heads: Mapping[str, Head],
        nms_on: str = "windows",
        whole_pixels: bool = False,
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
        self._whole_pixels = whole_pixels

    def __call__(
        self, images: Sequence[Resampler], candidates: Sequence[Detections] | None, settings: StageSettings
    ) -> list[Detections]:
        by_size: dict[tuple[int, int], list[tuple[int, int]]] = {}
        found: list[list[tuple[int, Detections, NDArray[Any]]]] = [[] for _ in images]
        for index, image in enumerate(images):
            levels_hw = pyramid_levels(image.image_hw, self.window_hw, settings, self._whole_pixels)
            for position, level_hw in enumerate(levels_hw):
                by_size.setdefault(level_hw, []).append((index, position))
        for level_hw, members in by_size.items():
            step = max(1, _PASS_PIXELS // (level_hw[0] * level_hw[1]))
            for start in range(0, len(members), step):
                chosen = members[start : start + step]
                levels = [images[index].level(level_hw) for index, _ in chosen]
                for (index, position), hits in zip(chosen, self._scan(levels, settings), strict=True):
                    if self._whole_pixels:
                        windows = self._whole_windows(hits, settings, position)
                    else:
                        windows = self._windows(hits, images[index].image_hw, level_hw)
                    proposals, windows = self._propose(hits, windows, settings)
                    found[index].append((position, proposals, windows))
        return [self._merge(sorted(levels, key=lambda entry: entry[0]), settings) for levels in found]

    def _nothing(self, settings: StageSettings) -> Detections:
        """Return N = 0 proposals with every column that this stage fills."""
        crops, windows = np.zeros((0, *self.window_hw, 3), np.uint8), np.zeros((0, 4), np.float32)
        raw = self.runner.raw_of_crops(crops, settings.mean, settings.scale, settings.chunk)
        return self.runner.decode(raw, windows, np.zeros(0, np.float32))

    def _scan(self, levels: Sequence[NDArray[np.uint8]], settings: StageSettings) -> list[_Hits]:
        """Return the hits of each of these levels of one size; tile by tile, so that no whole map is ever held."""
        height, width = levels[0].shape[:2]
        found: list[list[_Hits]] = [[] for _ in levels]
        for tile in level_tiles((height, width), self.window_hw, self._stride, _PASS_PIXELS):
            pixels = np.stack([level[tile.rows, tile.columns] for level in levels])
            raw = self.runner.raw(pixels, settings.mean, settings.scale)
            for index, parts in enumerate(found):
                maps = {name: value[index] for name, value in raw.items()}
                parts.append(self._hits(maps, tile.first, settings.score))
        most = max(_MOST_HITS, settings.max_per_image)
        return [_Hits.joined(parts).best(most) for parts in found]

    def _hits(self, maps: Mapping[str, NDArray[np.float32]], first: tuple[int, int], threshold: float) -> _Hits:
        """Return what lies above the threshold in the maps ``(D, h', w')`` by head of one tile."""
        score_map = maps[self.runner.score_head]
        scores = self.runner.scores(score_map.reshape(1, -1).T)
        kept = np.flatnonzero(scores >= threshold)
        rows, columns = np.divmod(kept, score_map.shape[2])
        raw = {name: value[:, rows, columns].T for name, value in maps.items()}
        return _Hits(rows + first[0], columns + first[1], scores[kept], raw)

    def _windows(self, hits: _Hits, image_hw: tuple[int, int], level_hw: tuple[int, int]) -> NDArray[np.float32]:
        """Return the windows of hits ``(N, 4)`` in picture pixels."""
        corner = np.stack([hits.columns, hits.rows], axis=1) * float(self._stride)
        ratio = np.array([image_hw[1] / level_hw[1], image_hw[0] / level_hw[0]])
        far = corner + np.array([self.window_hw[1], self.window_hw[0]])
        return np.concatenate([corner * ratio, far * ratio], axis=1).astype(np.float32)

    def _whole_windows(self, hits: _Hits, settings: StageSettings, position: int) -> NDArray[np.float32]:
        """Return the windows of hits ``(N, 4)`` by their first and last pixel, counted from 1 and rounded down."""
        scale = np.float32(self.window_hw[0] / settings.min_object_px * settings.factor**position)
        corner = np.stack([hits.columns, hits.rows], axis=1).astype(np.float32) * self._stride
        far = corner + np.array([self.window_hw[1], self.window_hw[0]], np.float32)
        return np.concatenate([np.floor((corner + 1) / scale), np.floor(far / scale)], axis=1)

    def _propose(
        self, hits: _Hits, windows: NDArray[np.float32], settings: StageSettings
    ) -> tuple[Detections, NDArray[np.float32]]:
        """Return the detections of one level after its suppression, and their windows."""
        proposals = self.runner.decode(hits.raw, windows, hits.scores)
        on = windows if self._nms_on == "windows" else None
        keep = suppress(proposals, settings.nms, settings.nms_mode, on)
        return proposals[keep], windows[keep]

    def _merge(self, levels: Sequence[tuple[int, Detections, NDArray[Any]]], settings: StageSettings) -> Detections:
        if not levels:
            return self._nothing(settings)
        merged = Detections.concat([proposals for _, proposals, _ in levels])
        windows = np.concatenate([level_windows for _, _, level_windows in levels])
        on = windows if self._nms_on == "windows" else None
        keep = suppress(merged, settings.nms_across_levels, settings.nms_mode, on, settings.max_per_image)
        if self._whole_pixels:  # the first pixel's edge lies one before its number
            merged = merged.replace(boxes=merged.boxes - np.array([1, 1, 0, 0], np.float32))
        return merged[keep]

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        return self.runner.arrays()

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.runner.load_arrays(arrays)

    def to(self, device: str) -> None:
        self.runner.to(device)
