"""`evaluate --format`: every format of annotated files is scored, and what is wrong is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cascade_det.cascade import Cascade
from cascade_det.cli.app import main
from cascade_det.core.imaging import write_image
from cascade_det.core.recipe import load_recipe

RECIPE = {
    "name": "small",
    "object": {"category": "face", "points": ["a", "b", "c", "d", "e"]},
    "stages": {
        "pnet": {
            "kind": "proposer",
            "window_hw": [12, 12],
            "net": {"kind": "mtcnn_pnet", "params": {"alpha": 0.2}},
            "heads": {"score": {"kind": "classification"}},
            "keep": {"max_per_image": 20},
            "samplers": {"windows": {"kind": "iou_bands"}},
        }
    },
}
BOX = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>21</xmax><ymax>22</ymax></bndbox>"
SETS: dict[str, tuple[dict[str, str], str]] = {  # texts by file, and what --annotations names
    "wider": ({"gt.txt": "p/1.jpg\n1\n1 2 20 20 0 0 0 0 0 0\np/2.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n"}, "gt.txt"),
    "fddb": ({"f/FDDB-fold-01-ellipseList.txt": "p/1\n1\n10 10 0 11 12 1\np/2\n0\n"}, "f"),
    "celeba": (
        {
            "list_bbox_celeba.txt": "2\nname\np/1.jpg 1 2 20 20\np/2.jpg 1 2 0 0\n",
            "list_landmarks_celeba.txt": "2\nname\np/1.jpg 1 2 3 4 5 6 7 8 9 9\np/2.jpg 1 2 3 4 5 6 7 8 9 9\n",
        },
        ".",
    ),
    "voc": (
        {
            "x/p/1.xml": f"<annotation><object><name>face</name>{BOX}</object></annotation>",
            "x/p/2.xml": "<annotation></annotation>",
        },
        "x",
    ),
    "yolo": ({"labels/p/1.txt": "0 0.275 0.4 0.5 0.6666666666666667\n"}, "labels"),
    "lists": ({"list.txt": "p/1.jpg 1 2 21 22\np/2.jpg\n"}, "list.txt"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of chance weights."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    Cascade.build(load_recipe(folder / "recipe.yaml")).save(folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.fixture
def evaluate(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that writes two pictures of 40 x 30 px and texts, and evaluates them from their folder."""
    monkeypatch.chdir(tmp_path)

    def run(data_format: str, *more: str) -> int:
        texts, annotations = SETS[data_format]
        for number in (1, 2):
            noise = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
            write_image(tmp_path / "pictures" / "p" / f"{number}.jpg", noise)
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        named = ["--format", data_format, "--images", "pictures", "--annotations", annotations]
        return main(["evaluate", str(model), *named, "--device", "cpu", *more])

    return run


@pytest.mark.parametrize("data_format", list(SETS))
def test_every_format_is_scored(data_format: str, evaluate: Callable[..., int], tmp_path: Path) -> None:
    assert evaluate(data_format, "--out", "scored") == 0
    truth: dict[str, Any] = json.loads((tmp_path / "scored" / "truth.json").read_text())
    left = 1 if data_format == "celeba" else 2  # there, a picture whose face has no area is left out
    assert [image["file_name"] for image in truth["images"]] == ["p/1.jpg", "p/2.jpg"][:left]
    assert [row["bbox"] for row in truth["annotations"]] == [pytest.approx([1, 2, 20, 20], abs=1e-5)]
    metrics = json.loads((tmp_path / "scored" / "metrics.json").read_text())
    assert metrics["settings"]["images"] == left
    assert 0 <= metrics["AP"] <= 1


def test_what_is_left_out_is_said(evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("celeba") == 0
    assert "left out: 1 pictures whose face has no area" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data_format", "more", "told"),
    [
        ("wider", ["--format", "widr"], "--format 'widr': did you mean 'wider'? Choices: celeba, coco, fddb, lists"),
        ("wider", ["--format", "synthetic"], "--format 'synthetic': Choices: celeba"),
        ("wider", ["--param", "levl=easy"], "--format wider.params.levl='easy': source 'wider' has no such parameter"),
        ("wider", ["--param", "level=eazy"], "level='eazy'; did you mean 'easy'"),
        ("wider", ["--param", "level"], "'level' is not of the form KEY=VALUE"),
        ("wider", ["--param", "level=easy"], "gt.txt knows no levels"),
        ("wider", ["--images", "gone"], "--images gone: no such folder"),
        ("celeba", ["--param", "split=train"], "list_eval_partition.txt: cannot be read"),
        ("voc", ["--param", "category=[dog]"], "it has no category 'dog'"),
    ],
)
def test_wrong_flags(
    data_format: str, more: list[str], told: str, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(data_format, *more) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err
