"""The figures of a model card: by source and size, and under fixed distortions of the same pictures.

    python benchmarks/stress.py MODEL... --images FOLDER --annotations FILE [FILE ...] [--every 3] [--min-object 15]

A MODEL that ends on .onnx is a YuNet, run by OpenCV on whole pictures. Figures by source and size are of all pictures,
those under distortions of every third. A cell holds AP (of plain pictures alone), AP50, recall at 0.1 false positives a
picture and NME.

Each distortion is fixed by the picture's number, so every model sees the same pixels. Truth moves with them: a turned
box is that of the turned ellipse, a covered object stays an object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from timing import print_machine

from cascade_det import Annotations, Cascade, Detections
from cascade_det.core.schema import Part, View
from cascade_det.data.atomic import write_json_atomic
from cascade_det.data.augment import PictureView
from cascade_det.data.formats.coco import Coco
from cascade_det.data.sources import Picture, Source
from cascade_det.evaluation.base import ScoredSet
from cascade_det.evaluation.coco import Coco as CocoEvaluator
from cascade_det.evaluation.run import EVALUATION_SCORE, evaluate_source

Change = Callable[[Any, Annotations, np.random.Generator], tuple[Any, Annotations]]
CARD_KEYS = ("AP", "AP50", "AP75", "recall_at_fppi", "nme", "nme_matched", "nme_total")
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


def yunet(file: str, source: Source) -> ScoredSet:
    """Return what a YuNet finds in a source, down to the score at which cascades are evaluated."""
    network = cv2.FaceDetectorYN.create(file, "", (320, 320), EVALUATION_SCORE, 0.3, 5000)
    found = []
    for index in range(len(source.pictures)):
        image = source.read(index)
        network.setInputSize(image.shape[1::-1])
        rows = network.detect(image[..., ::-1].copy())[1]
        rows = np.zeros((0, 15), np.float32) if rows is None else rows
        boxes_xyxy = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        found.append(Detections(boxes_xyxy, np.clip(rows[:, 14], 0, 1), rows[:, 4:14].reshape(-1, 5, 2)).sorted())
    pictures = list(source.pictures)
    truth = [source.annotations(index) for index in range(len(pictures))]
    return ScoredSet(pictures, truth, found, ["left_eye", "right_eye", "nose", "mouth_left", "mouth_right"], "face")


def figures(model: str, source: Source, min_object_px: float, group_by: Sequence[str] = ()) -> dict[str, Any]:
    """Return the figures of a model on a source."""
    evaluator = CocoEvaluator(group_by=group_by)
    if model.endswith(".onnx"):
        return evaluator.evaluate(yunet(model, source))
    cascade = Cascade.load(model, device="cpu")
    return evaluate_source(cascade, source, {"coco": evaluator}, min_object_px=min_object_px).metrics


def row(title: str, cells: Iterable[Mapping[str, Any]], *, with_ap: bool = False) -> str:
    """Return a row of a table."""
    texts = [title]
    for cell in cells:
        nme = "-" if cell["nme"] is None else f"{cell['nme']:.1f} %"
        shares = [cell["AP"]] * with_ap + [cell["AP50"], cell["recall_at_fppi"]["0.1"]]
        texts.append(" / ".join([*(f"{share:.3f}" for share in shares), nme]))
    return "| " + " | ".join(texts) + " |"


def main() -> None:
    """Print two tables a file: plain figures by source and size, then the distortions."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", required=True)
    parser.add_argument("--annotations", nargs="+", required=True)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--min-object", type=float, default=15)
    parser.add_argument("--json", type=Path, help="all figures")
    parser.add_argument(
        "--card", type=Path, help="plain figures of the first model, as `cascade-det models` shows them"
    )
    given = parser.parse_args()
    print_machine("torch", "albumentations")
    result: dict[str, Any] = {}

    def record(name: str, cells: Sequence[dict[str, Any]]) -> None:
        result[name] = dict(zip(given.models, cells, strict=True))
        if given.json:
            given.json.write_text(json.dumps(result))

    card: dict[str, Any] = {}
    for file in given.annotations:
        source, name = Coco(images=given.images, annotations=file, num_points=5), Path(file).stem
        print(f"\n| {name} | " + " | ".join(given.models) + " |\n| --- |" + " --- |" * len(given.models))
        cells = [figures(model, source, given.min_object, ["source", "size"]) for model in given.models]
        record(name, cells)
        card[name] = {key: cells[0][key] for key in CARD_KEYS}
        if given.card:
            flags = f"--images IMAGES --annotations PICTURES.json --min-object {given.min_object:g}"
            content = {"command": f"cascade-det evaluate {given.models[0]} {flags}", "figures": card}
            write_json_atomic(given.card, content, indent=1)
        print(row("all", cells, with_ap=True))
        for group in cells[0]["groups"]:
            print(row(group, [cell["groups"][group] for cell in cells], with_ap=True), flush=True)
        print(f"| every {given.every}. picture |" + " |" * len(given.models))
        for title, change in DISTORTIONS.items():
            seen = Distorted(source, change, given.every)
            cells = [figures(model, seen, _least_px(title, given.min_object)) for model in given.models]
            record(f"{name}/{title}", cells)
            print(row(title, cells), flush=True)


def _least_px(distortion: str, min_object_px: float) -> float:
    return 12 if distortion.startswith("objects of 12") else min_object_px


if __name__ == "__main__":
    main()
