"""facenet-pytorch behind standard input and output, for `detect.py`; runs in an environment of its own.

Each line in is ``[path, smallest face in px]``; each line out ``[wall seconds, process seconds, faces]``.
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


def timed(path: str, min_object_px: float) -> tuple[float, float, int]:
    """Detect in one picture that is decoded beforehand."""
    detector = _DETECTORS.setdefault(min_object_px, MTCNN(min_face_size=int(min_object_px), keep_all=True))
    image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    wall, process = time.perf_counter(), time.process_time()
    boxes, _ = detector.detect(image)
    return time.perf_counter() - wall, time.process_time() - process, 0 if boxes is None else len(boxes)


for line in sys.stdin:
    print(json.dumps(timed(*json.loads(line))), flush=True)
