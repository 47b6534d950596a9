"""facenet-pytorch in a process and an environment of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path


class Peer:
    """Detections of facenet-pytorch, run by the interpreter `python` of an environment that has it."""

    def __init__(self, python: str) -> None:
        command = [python, str(Path(__file__).with_name("facenet_worker.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def detect(self, path: str, min_object_px: float) -> tuple[float, float, list[list[float]]]:
        """Return wall seconds, process seconds and boxes, as it reports them."""
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        print(json.dumps([path, min_object_px]), file=to, flush=True)
        wall, process, boxes = json.loads(back.readline())
        return wall, process, boxes
