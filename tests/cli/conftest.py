"""Pictures as files for the verbs that read files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cascade_det.core.imaging import write_image
from cascade_det.core.recipe import load_recipe
from cascade_det.data.picture_set import PictureSet


@pytest.fixture(scope="session")
def photos(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the validation pictures of the small run as files, and their truth in COCO's form."""
    folder = tmp_path_factory.mktemp("photos")
    pictures = PictureSet.of(load_recipe(tiny.recipe), "val")
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "face"}]}
    for number in range(len(pictures)):
        name = f"{number:02d}.png"
        write_image(folder / "pictures" / name, pictures.read(number))
        truth["images"].append(
            {"id": number, "file_name": name, "width": 128, "height": 96, "source": "ab"[number % 2]}
        )
        objects = pictures.annotations(number)
        for box, points, ignored in zip(objects.boxes.astype(float), objects.points, objects.ignore, strict=True):
            bbox = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
            keypoints = [v for xy in points.astype(float).tolist() for v in (*xy, 2)]
            row = {
                "image_id": number,
                "category_id": 7,
                "bbox": bbox,
                "iscrowd": int(ignored),
                "area": bbox[2] * bbox[3],
            }
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, **row, "keypoints": keypoints})
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder
