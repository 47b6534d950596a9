"""Milliseconds a picture of a model on one thread, interleaved with facenet-pytorch where its Python is named.

    python benchmarks/detect.py PICTURE... [--model mtcnn_face] [--min-object 20 40] [--rounds 7] [--peer PYTHON]

PYTHON is the interpreter of an environment that has facenet-pytorch. Both get decoded pictures and the same smallest
face. Process time is compared, which a neighbour on the machine does not lengthen; the ratio is taken round by round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import cv2
import torch
from peer import Peer
from timing import print_machine, spread

from cascade_det import Cascade, read_image

Timing = tuple[float, float, int]


class Theirs(Peer):
    """The peer, its faces counted."""

    def __call__(self, path: str, min_object_px: float) -> Timing:
        wall, process, boxes = self.detect(path, min_object_px)
        return wall, process, len(boxes)


class Ours:
    """The cascade in this process."""

    def __init__(self, model: str) -> None:
        self._cascade = Cascade.load(model, device="cpu", threads=1)

    def __call__(self, path: str, min_object_px: float) -> Timing:
        image = read_image(path)
        wall, process = time.perf_counter(), time.process_time()
        found = self._cascade(image, min_object_px=min_object_px)
        return time.perf_counter() - wall, time.process_time() - process, len(found)


def main() -> None:
    """Print a table: one row a picture and smallest face."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--model", default="mtcnn_face")
    parser.add_argument("--min-object", type=float, nargs="+", default=[20, 40])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer", default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print_machine("torch", "opencv-python-headless")
    sides = {"ours": Ours(given.model)} | ({"peer": Theirs(given.peer)} if given.peer else {})
    for px in given.min_object:
        for path in given.pictures:
            height, width = read_image(path).shape[:2]
            rounds: dict[str, list[Timing]] = {name: [] for name in sides}
            for number in range(given.rounds + 1):
                for name, side in sides.items():
                    timing = side(path, px)
                    if number:
                        rounds[name].append(timing)
            texts = [
                f"{name} {spread([1000 * t[1] for t in times], 1)} ms, {times[0][2]} found"
                for name, times in rounds.items()
            ]
            if given.peer:
                pairs = zip(rounds["peer"], rounds["ours"], strict=True)
                texts.append(f"ratio {statistics.median(p[1] / o[1] for p, o in pairs):.2f}")
            print(f"{Path(path).name} {width}x{height}, from {px:g} px: " + "; ".join(texts))


if __name__ == "__main__":
    main()
