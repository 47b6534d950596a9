"""A later stage: it crops the candidates, runs a larger network on them and keeps fewer, better ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.geometry import fit_to_aspect, mirror_detections, widen
from cascade_det.core.imaging import Resampler, mirror_crops
from cascade_det.core.registry import register_stage
from cascade_det.core.types import Detections
from cascade_det.heads.base import Head
from cascade_det.nets.base import Net
from cascade_det.stages.base import StageSettings, suppress
from cascade_det.stages.network import NetworkRunner, StageNetwork, num_points_of

_POOL_PIXELS = 1 << 24  # pixels of crops held at once: 48 MiB of uint8, four times as much of float32 (`pooled`)


@register_stage("refiner")
class Refiner:
    """Scores and corrects candidates from crops of them.

    Args:
        name, window_hw, net, heads, flip_points: given by the framework.
        context: side of the crops as a multiple of their windows'; given by the framework. Boxes and points are still
            told relative to the window.
        nms_on: suppress by the regressed "boxes", or by the "windows" that were cropped.
        whole_pixels: take windows as one pixel less wide and high when they suppress each other, as ports of MTCNN do;
            for comparison with them.
        looks: how often the stage looks: from the second on at its own boxes. Boxes and points are the means of all
            looks, scores their geometric means; a look costs as much as there are boxes left. It is the refinement that
            Gidaris and Komodakis 2016 ("Attend Refine Repeat") do several times, with the weights of one stage.
        mirror_looks: every second look sees its crops mirrored, so that the mean has less of the error of either side.
        score_certainty: the probability of an object is multiplied by how sure its box is (`Head.certainty`), so that
            of two objects the one with the better box comes first. Scores fall by it: calibrate anew where it is
            switched.
    """

    trainable = True
    version = 2

    def __init__(
        self,
        name: str,
        window_hw: tuple[int, int],
        net: Net,
        heads: Mapping[str, Head],
        nms_on: str = "boxes",
        whole_pixels: bool = False,
        looks: int = 1,
        mirror_looks: bool = False,
        score_certainty: bool = False,
        flip_points: Sequence[int] = (),
        context: float = 1.0,
    ) -> None:
        if net is None:
            raise ValueError("a refiner needs a net and heads")
        if nms_on not in ("windows", "boxes"):
            raise ValueError(f"nms_on={nms_on!r} must be windows or boxes")
        if looks < 1:
            raise ValueError(f"looks={looks} must be at least 1")
        telling = [name for name, head in heads.items() if head.field == "boxes" and head.tells_certainty]
        if score_certainty and not telling:
            raise ValueError("score_certainty=True: no head tells how sure a box is; give box_offset `error: laplace`")
        self.name = name
        self.window_hw = window_hw
        self.num_points = num_points_of(heads)
        self.runner = NetworkRunner(StageNetwork(net, heads), heads)
        self._nms_on = nms_on
        self._less = np.array([1, 1, 0, 0], np.float32) * whole_pixels
        self._context = context
        self._looks = looks
        self._mirror_looks = mirror_looks
        self._certainty_head = telling[0] if score_certainty else None
        self._flip_points = np.array(flip_points or range(self.num_points or 0), np.intp)

    def __call__(
        self, images: Sequence[Resampler], candidates: Sequence[Detections] | None, settings: StageSettings
    ) -> list[Detections]:
        if candidates is None:
            raise ValueError("a refiner needs the candidates of the stage before")
        found = self._look(images, candidates, settings, looks_before=0)
        for looks in range(1, self._looks):
            found = self._look(images, found, settings, looks_before=looks)
        return found

    def _look(
        self, images: Sequence[Resampler], candidates: Sequence[Detections], settings: StageSettings, looks_before: int
    ) -> list[Detections]:
        windows = [fit_to_aspect(found.boxes, self.window_hw) for found in candidates]
        raw = self._raw(images, windows, settings, self._mirrored(looks_before))
        results, start = [], 0
        for before, rows in zip(candidates, windows, strict=True):
            outputs = {name: value[start : start + len(rows)] for name, value in raw.items()}
            results.append(self._keep(outputs, rows, before, looks_before, settings))
            start += len(rows)
        return results

    def _mirrored(self, looks_before: int) -> bool:
        return self._mirror_looks and looks_before % 2 == 1

    def _raw(
        self, images: Sequence[Resampler], windows: Sequence[NDArray[Any]], settings: StageSettings, mirrored: bool
    ) -> dict[str, NDArray[np.float32]]:
        """Return raw outputs ``(N, D)`` of all windows of all pictures, holding a bounded pool of crops at once."""
        limit = max(settings.chunk, _POOL_PIXELS // (self.window_hw[0] * self.window_hw[1]))
        limit -= limit % settings.chunk
        parts: list[dict[str, NDArray[np.float32]]] = []
        pool: list[NDArray[Any]] = []
        for image, rows in zip(images, windows, strict=True):
            for start in range(0, len(rows), limit):
                crops = image.crops(widen(rows[start : start + limit], self._context), self.window_hw)
                pool.append(mirror_crops(crops) if mirrored else crops)
                if sum(map(len, pool)) >= limit:
                    parts.append(self._run(np.concatenate(pool), settings))
                    pool = []
        if pool or not parts:
            empty = np.zeros((0, *self.window_hw, 3), np.uint8)
            parts.append(self._run(np.concatenate([*pool, empty]), settings))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, crops: NDArray[Any], settings: StageSettings) -> dict[str, NDArray[np.float32]]:
        return self.runner.raw_of_crops(crops, settings.mean, settings.scale, settings.chunk)

    def _keep(
        self,
        raw: Mapping[str, NDArray[np.float32]],
        windows: NDArray[np.float32],
        before: Detections,
        looks_before: int,
        settings: StageSettings,
    ) -> Detections:
        scores = self._scores(raw)
        if looks_before:
            scores = _geometric_mean(before.scores, scores, looks_before)
        above = np.flatnonzero(scores >= self._least(settings.score, looks_before + 1))
        chosen = {name: value[above] for name, value in raw.items()}
        refined = self.runner.decode(chosen, windows[above], scores[above])
        if self._mirrored(looks_before):
            refined = mirror_detections(refined, windows[above][:, [0, 2]].sum(axis=1), self._flip_points)
        if looks_before:
            refined = _mean_place(before[above], refined, looks_before)
        on = windows[above] + self._less if self._nms_on == "windows" else None
        return refined[suppress(refined, settings.nms, settings.nms_mode, on, settings.max_per_image)]

    def _scores(self, raw: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        scores = self.runner.scores(raw[self.runner.score_head])
        name = self._certainty_head
        return scores if name is None else scores * self.runner.heads[name].certainty(raw[name])

    def _least(self, score: float, looks: int) -> float:
        """Return the mean score of some looks from which that of all can still reach `score`: no look gives above 1.

        So a threshold asks for the same detections as a lower one does that is applied afterwards, which is how
        thresholds are calibrated and curves are drawn.
        """
        return float(score ** (self._looks / looks))

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        return self.runner.arrays()

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.runner.load_arrays(arrays)

    def to(self, device: str) -> None:
        self.runner.to(device)


def _geometric_mean(before: NDArray[np.float32], last: NDArray[np.float32], looks_before: int) -> NDArray[np.float32]:
    """Return the mean ``(N,)`` of all looks from that of the looks before and the last one."""
    share = np.float32(1 / (looks_before + 1))
    return before ** (1 - share) * last**share


def _mean_place(before: Detections, last: Detections, looks_before: int) -> Detections:
    """Return `last` with the means of the boxes and points of all looks."""
    share = np.float32(1 / (looks_before + 1))
    boxes = before.boxes + (last.boxes - before.boxes) * share
    if before.points is None or last.points is None:
        return last.replace(boxes=boxes)
    return last.replace(boxes=boxes, points=before.points + (last.points - before.points) * share)
