"""The shipped model on real photographs, where they are at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cascade_det.cli.app import main

FACES = Path(os.environ.get("CASCADE_DET_DATA", "")) / "data" / "faces"


@pytest.mark.skipif(
    not os.environ.get("CASCADE_DET_DATA") or not FACES.is_dir(),
    reason="CASCADE_DET_DATA names no folder that holds data/faces",
)
def test_mtcnn_face_finds_the_faces_of_photographs(tmp_path: Path) -> None:
    """Every 20th validation picture; far below what the whole set gives, far above what a broken cascade gives."""
    data = json.loads((FACES / "annotations" / "val.json").read_text())
    data["images"] = data["images"][::20]
    chosen = {entry["id"] for entry in data["images"]}
    data["annotations"] = [entry for entry in data["annotations"] if entry["image_id"] in chosen]
    (tmp_path / "some.json").write_text(json.dumps(data))
    given = ["--images", str(FACES), "--annotations", str(tmp_path / "some.json"), "--min-object", "15"]
    assert main(["evaluate", "mtcnn_face", *given, "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["AP50"] > 0.9
    assert figures["nme"] < 14
    assert [stage["recall"] > 0.95 for stage in figures["funnel"]] == [True, True, True]
