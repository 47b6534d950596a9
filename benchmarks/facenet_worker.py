"""facenet-pytorch behind standard input and output, for `detect.py` and `agreement.py`; in an environment of its own.

Each line in is ``[path, smallest face in px]``; each line out ``[wall seconds, process seconds, boxes x0 y0 x1 y1]``.
"""

from __future__ import annotations

import json
import sys
import time

import cv2
import torch
from facenet_pytorch import MTCNN

torch.set_num_threads(1)
cv2.setNumThreads(1)
_DETECTORS: dict[float, MTCNN] = {}


def timed(path: str, min_object_px: float) -> tuple[float, float, list[list[float]]]:
    """Detect in one picture that is decoded beforehand."""
    detector = _DETECTORS.setdefault(min_object_px, MTCNN(min_face_size=int(min_object_px), keep_all=True))
    image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    wall, process = time.perf_counter(), time.process_time()
    boxes, _ = detector.detect(image)
    spent = time.perf_counter() - wall, time.process_time() - process
    return *spent, [] if boxes is None else boxes.tolist()


for line in sys.stdin:
    print(json.dumps(timed(*json.loads(line))), flush=True)
