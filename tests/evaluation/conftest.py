"""Detections and truth as COCO files, written from short rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

Row = tuple[Any, ...]
WriteFiles = Callable[..., tuple[Path, Path]]


@pytest.fixture
def write_files(tmp_path: Path) -> WriteFiles:
    """Return a function that writes detections and truth and returns the paths of both.

    A row of detections is (image_id, box, score) or (image_id, box, score, {further fields}); a row of truth is
    (image_id, box) or (image_id, box, {further fields}). Pictures have the ids 1 to `images`.
    """

    def write(
        found: Sequence[Row], truth: Sequence[Row], images: int = 1, categories: Sequence[int] = (1,)
    ) -> tuple[Path, Path]:
        results = [
            {"image_id": image, "category_id": 1, "bbox": box, "score": score, **dict(*more)}
            for image, box, score, *more in found
        ]
        annotations = [
            {"id": number, "image_id": image, "category_id": categories[0], "bbox": box, **dict(*more)}
            for number, (image, box, *more) in enumerate(truth, 1)
        ]
        content = {
            "images": [{"id": number} for number in range(1, images + 1)],
            "annotations": annotations,
            "categories": [{"id": key, "name": f"object {key}"} for key in categories],
        }
        paths = tmp_path / "detections.json", tmp_path / "truth.json"
        for path, data in zip(paths, (results, content), strict=True):
            path.write_text(json.dumps(data))
        return paths

    return write
