"""Figures of models under fixed distortions of the same pictures: what a validation set alone does not tell.

    python benchmarks/stress.py MODEL... --images FOLDER --annotations FILE [FILE ...] [--every 3] [--min-object 15]

Each distortion is fixed by the picture's number, so every model sees the same pixels. Truth moves with them: a turned
box is that of the turned ellipse, a covered object stays an object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timing import print_machine

from cascade_det import Annotations, Cascade
from cascade_det.core.schema import Part, View
from cascade_det.data.augment import PictureView
from cascade_det.data.formats.coco import Coco
from cascade_det.data.sources import Picture, Source
from cascade_det.evaluation.coco import Coco as CocoEvaluator
from cascade_det.evaluation.run import evaluate_source

Change = Callable[[Any, Annotations, np.random.Generator], tuple[Any, Annotations]]
_FLIP = np.array([1, 0, 2, 4, 3])


def by_transform(kind: str, **params: Any) -> Change:
    """Return a distortion by one of albumentations' transforms."""
    return PictureView(View(1.0, None, Part(kind, params)), "distortion", _FLIP)


def half_covered(
    image: NDArray[np.uint8], truth: Annotations, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Annotations]:
    """Cover a half of each object, upper, lower, left or right, with the picture's mean colour."""
    covered, colour = image.copy(), image.mean(axis=(0, 1))
    for x0, y0, x1, y1 in truth.boxes[~truth.ignore]:
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        halves = [(x0, y0, x1, y), (x0, y, x1, y1), (x0, y0, x, y1), (x, y0, x1, y1)]
        left, top, right, bottom = np.clip(np.round(halves[rng.integers(4)]), 0, None).astype(int)
        covered[top:bottom, left:right] = colour
    return covered, truth


def dark(
    image: NDArray[np.uint8], truth: Annotations, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Annotations]:
    """A fifth of the light, with the noise of a sensor."""
    noisy = image * 0.2 + rng.normal(0, 4, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), truth


DISTORTIONS: Mapping[str, Change | None] = {
    "plain": None,
    "objects of 12 to 24 px": PictureView(View(1.0, [12, 24], None), "distortion", _FLIP),
    "motion blur": by_transform("MotionBlur", blur_limit=[9, 9]),
    "defocus": by_transform("Defocus", radius=[4, 4], alias_blur=[0.1, 0.1]),
    "turned by 30 degrees": by_transform("Affine", rotate=[30, 30]),
    "turned by -30 degrees": by_transform("Affine", rotate=[-30, -30]),
    "half covered": half_covered,
    "low light": dark,
    "JPEG at quality 8": by_transform("ImageCompression", quality_range=[8, 8]),
}


class Distorted(Source):
    """Every `every`-th picture of a source under a distortion."""

    def __init__(self, inner: Source, change: Change | None, every: int) -> None:
        self._inner, self._change = inner, change
        self._indices = range(0, len(inner.pictures), every)

    def _shown(self, index: int) -> tuple[NDArray[np.uint8], Annotations]:
        number = self._indices[index]
        image, truth = self._inner.read(number), self._inner.annotations(number)
        if self._change is None:
            return image, truth
        return self._change(image, truth, np.random.default_rng(number))

    @property
    def pictures(self) -> list[Picture]:
        return [self._inner.pictures[number] for number in self._indices]

    def annotations(self, index: int) -> Annotations:
        return self._shown(index)[1]

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._shown(index)[0]

    def content_hash(self, index: int) -> str:
        return self._inner.content_hash(self._indices[index])

    def digest(self) -> str:
        return self._inner.digest()


def main() -> None:
    """Print a table: a row a distortion, AP50, recall at 0.1 false positives a picture and NME of each model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", required=True)
    parser.add_argument("--annotations", nargs="+", required=True)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--min-object", type=float, default=15)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print_machine("torch", "albumentations")
    result: dict[str, Any] = {}
    for file in given.annotations:
        source = Coco(images=given.images, annotations=file, num_points=5)
        print(f"\n{Path(file).stem}, every {given.every}. picture\n| distortion | " + " | ".join(given.models) + " |")
        print("| --- |" + " --- |" * len(given.models))
        for name, change in DISTORTIONS.items():
            cells = []
            for model in given.models:
                cascade = Cascade.load(model, device="cpu")
                seen = Distorted(source, change, given.every)
                figures = evaluate_source(
                    cascade, seen, {"coco": CocoEvaluator()}, min_object_px=_least_px(name, given.min_object)
                ).metrics
                result[f"{Path(file).stem}/{name}/{model}"] = figures
                nme = "-" if figures["nme"] is None else f"{figures['nme']:.1f} %"
                cells.append(f"{figures['AP50']:.3f} / {figures['recall_at_fppi']['0.1']:.3f} / {nme}")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
            if given.json:
                given.json.write_text(json.dumps(result))


def _least_px(distortion: str, min_object_px: float) -> float:
    return 12 if distortion.startswith("objects of 12") else min_object_px


if __name__ == "__main__":
    main()
