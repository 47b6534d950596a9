"""How well an imported model agrees with facenet-pytorch, box by box.

    cascade-det import facenet-pytorch DATA_FOLDER --out paper.safetensors
    python benchmarks/agreement.py paper.safetensors ANNOTATIONS.json --images FOLDER --peer PYTHON [--count 30]

PYTHON is the interpreter of an environment that has facenet-pytorch. Boxes are matched one to one so that the sum of
their IoU is largest; the preset `exact` is to agree at IoU .95, the defaults at .5.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from peer import Peer
from scipy.optimize import linear_sum_assignment
from timing import print_machine

from cascade_det import Cascade
from cascade_det.core.geometry import iou_matrix


def main() -> None:
    """Print a line for the defaults and one for the preset."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--min-object", type=float, default=20)
    given = parser.parse_args()
    print_machine("torch", "opencv-python-headless")
    names = [entry["file_name"] for entry in json.loads(given.annotations.read_text())["images"]]
    paths = [str(given.images / name) for name in names[:: max(1, len(names) // given.count)][: given.count]]
    peer = Peer(given.peer)
    theirs = [np.array(peer.detect(path, given.min_object)[2]).reshape(-1, 4) for path in paths]
    for preset, least_iou in ((None, 0.5), ("exact", 0.95)):
        cascade = Cascade.load(given.model, preset=preset, device="cpu")
        ours = [cascade(path, min_object_px=given.min_object).boxes for path in paths]
        matched = sum(_matches(a, b, least_iou) for a, b in zip(ours, theirs, strict=True))
        counts = sum(map(len, ours)), sum(map(len, theirs))
        print(
            f"{preset or 'defaults'}: {matched} of {max(counts)} matched at IoU {least_iou} "
            f"({matched / max(1, *counts):.1%}; ours {counts[0]}, theirs {counts[1]}, {len(paths)} pictures)"
        )


def _matches(a_xyxy: np.ndarray, b_xyxy: np.ndarray, least_iou: float) -> int:
    overlap = iou_matrix(a_xyxy, b_xyxy)
    rows, columns = linear_sum_assignment(-overlap)
    return int((overlap[rows, columns] >= least_iou).sum())


if __name__ == "__main__":
    main()
