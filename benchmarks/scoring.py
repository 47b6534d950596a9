"""Seconds to score WIDER FACE val with 30 detections a face, complete FDDB, and COCO boxes.

    python benchmarks/scoring.py DATA [--rounds 3]

DATA holds `wider/ground_truth` and `fddb`. Detections are the truth with noise, read from files of the protocol's form.
COCO boxes are 3,000 images with 20 detections each by pycocotools and, if it is installed, by faster-coco-eval.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from timing import interleaved, print_machine, spread

from cascade_det.evaluation import fddb_files, wider_files
from cascade_det.evaluation.fddb import score_fddb
from cascade_det.evaluation.wider import score_wider

PER_FACE = 30
COCO_IMAGES, COCO_DETECTIONS = 3000, 20


def main() -> None:
    """Print one row a protocol, and the ratio of the two COCO programs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print_machine("scipy", "opencv-python-headless", "pycocotools")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        mats = given.data / "wider" / "ground_truth"
        count = write_wider(Path(name) / "wider", mats, rng)
        timed(f"WIDER FACE val, {count:,} detections", lambda: score_wider(Path(name) / "wider", mats))
        folds, sizes = given.data / "fddb" / "FDDB-folds", given.data / "fddb" / "image_sizes.csv"
        file = Path(name) / "fddb.txt"
        for kind in ("rectangles", "ellipses"):
            count = write_fddb(file, folds, rng, kind == "ellipses")
            timed(f"FDDB, {count:,} {kind}", lambda: score_fddb(file, folds, image_sizes=sizes))
    time_coco(given.rounds, rng)


def timed(what: str, call: Callable[[], Any]) -> None:
    """Print seconds by the clock and of the processor of one call that reads its files and scores them."""
    wall, processor = time.perf_counter(), time.process_time()
    figures = call().figures
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{what}: {wall:.1f} s, {processor:.1f} s of one core; {figures}", flush=True)


def write_wider(folder: Path, mats: Path, rng: np.random.Generator) -> int:
    """Write 30 noisy detections of each face in a random order; return how many."""
    truth = wider_files.read_truth(mats)
    for name, boxes in zip(truth.names, truth.boxes_xywh, strict=True):
        around = np.repeat(boxes, PER_FACE, axis=0)
        moved = around + rng.normal(0, 0.2, around.shape) * np.maximum(around[:, 2:].max(axis=1, keepdims=True), 1)
        rows = np.concatenate([moved, rng.random((len(moved), 1))], axis=1)
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{x:.2f} {y:.2f} {w:.2f} {h:.2f} {score:.4f}\n" for x, y, w, h, score in rows.tolist()]
        path.write_text(f"{name}\n{len(lines)}\n" + "".join(lines))
    return PER_FACE * sum(map(len, truth.boxes_xywh))


def write_fddb(file: Path, folds: Path, rng: np.random.Generator, ellipses: bool) -> int:
    """Write 30 noisy detections of each face; return how many."""
    truth = fddb_files.read_truth(folds)
    texts = []
    for name, faces in zip(truth.names, truth.rows, strict=True):
        around = np.repeat(faces, PER_FACE, axis=0)
        radii = np.abs(around[:, :2] * (1 + rng.normal(0, 0.2, (len(around), 2))))
        centres = around[:, 3:5] + rng.normal(0, 0.2, radii.shape) * radii
        scores = rng.random((len(around), 1)).round(4)
        corners = centres - radii[:, ::-1]  # faces are upright, so the major radius is the vertical one
        shape = [radii, around[:, 2:3], centres] if ellipses else [corners, 2 * radii[:, ::-1]]
        rows = np.concatenate([*shape, scores], axis=1)
        texts += [f"{name}\n{len(rows)}\n", *(" ".join(f"{v:.4f}" for v in row) + "\n" for row in rows.tolist())]
    file.write_text("".join(texts))
    return PER_FACE * sum(map(len, truth.rows))


def time_coco(rounds: int, rng: np.random.Generator) -> None:
    """Print seconds of evaluate and accumulate, and the ratio round by round."""
    truth, found = coco_set(rng)
    sides = {"pycocotools": lambda: run_pycocotools(truth, found)}
    if find_spec("faster_coco_eval"):
        sides["faster-coco-eval"] = lambda: run_faster(truth, found)
    seconds = interleaved(sides, rounds)
    for name, values in seconds.items():
        print(f"COCO boxes, {COCO_IMAGES:,} x {COCO_DETECTIONS} detections, {name}: {spread(values, 2)} s")
    if len(seconds) == 2:
        slow, fast = seconds.values()
        print(f"ratio: {spread([a / b for a, b in zip(slow, fast, strict=True)], 1)}")


def coco_set(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a COCO truth of 10 objects an image and noisy results."""
    annotations, results = [], []
    for image in range(1, COCO_IMAGES + 1):
        boxes = np.concatenate([rng.random((10, 2)) * 500, rng.random((10, 2)) * 120 + 8], axis=1)
        for box in boxes.tolist():
            number = len(annotations) + 1
            annotations.append(
                {"id": number, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
        moved = np.repeat(boxes, COCO_DETECTIONS // len(boxes), axis=0) + rng.normal(0, 4, (COCO_DETECTIONS, 4))
        scores = rng.random(COCO_DETECTIONS).tolist()
        results += [
            {"image_id": image, "category_id": 1, "bbox": box, "score": score}
            for box, score in zip(moved.tolist(), scores, strict=True)
        ]
    images = [{"id": image, "width": 640, "height": 640} for image in range(1, COCO_IMAGES + 1)]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "face"}],
        "info": {},
    }, results


def run_pycocotools(truth: dict[str, Any], found: list[dict[str, Any]]) -> None:
    """Index, evaluate and accumulate."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = truth
        data.createIndex()
        run = COCOeval(data, data.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()


def run_faster(truth: dict[str, Any], found: list[dict[str, Any]]) -> None:
    """Do the same with faster-coco-eval."""
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(truth)
        run = COCOeval_faster(data, data.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()


if __name__ == "__main__":
    main()
