"""Detections as protocols take them: no digit is lost on the way through a file."""

from __future__ import annotations

import numpy as np

from cascade_det.core.types import Detections
from cascade_det.evaluation.submissions import fddb_text, named_block


def test_nothing_found() -> None:
    assert named_block("a/b", Detections.empty()) == "a/b\n0\n"
    assert fddb_text([]) == ""


def test_numbers_read_back_exactly() -> None:
    rng = np.random.default_rng(0)
    corner = rng.normal(300, 900, (200, 2)).astype(np.float32)
    boxes = np.concatenate([corner, corner + rng.uniform(0, 700, (200, 2)).astype(np.float32)], axis=1)
    found = Detections(boxes, rng.random(200) ** 30)  # scores down to 1e-60, which float32 holds as 0
    lines = named_block("x", found).splitlines()
    assert lines[:2] == ["x", "200"]
    values = np.array([[float(word) for word in line.split()] for line in lines[2:]])
    np.testing.assert_array_equal(values[:, 4].astype(np.float32), found.scores)
    np.testing.assert_array_equal(values[:, :2], boxes[:, :2])
    np.testing.assert_array_equal(values[:, :2] + values[:, 2:4], boxes[:, 2:])


def test_blocks_keep_their_order() -> None:
    one = Detections([[0, 0, 2, 3]], [0.25])
    text = fddb_text([("b", one), ("a", Detections.empty())])
    assert text == "b\n1\n0.0 0.0 2.0 3.0 0.25\na\n0\n"
