"""`score` through the command line: what it prints and writes, and which options it refuses."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import cv2
import pytest

from cascade_det.cli.app import main

FACE = [20, 20, 30, 40]
OTHER = [200, 20, 30, 60]
POINTS = [(30, 30), (40, 30), (35, 40), (31, 50), (39, 50)]


def keypoints(shift: float = 0) -> list[float]:
    return [v for x, y in POINTS for v in (x + shift, y, 2)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a truth of two pictures, and detections: good ones, poor ones and none."""
    truth = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 400, "height": 300} for n in (1, 2)],
        "categories": [{"id": 7, "name": "face"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 7,
                "bbox": FACE,
                "area": 1200,
                "keypoints": keypoints(),
                "iscrowd": 0,
            },
            {"id": 2, "image_id": 2, "category_id": 7, "bbox": OTHER, "area": 1800, "vis_ratio": 0.9, "iscrowd": 0},
        ],
    }
    good = [
        {"image_id": 1, "category_id": 1, "bbox": FACE, "score": 0.9, "keypoints": keypoints(0.5)},
        {"image_id": 2, "category_id": 1, "bbox": OTHER, "score": 0.8, "keypoints": keypoints()},
    ]
    poor = [{**good[0], "bbox": [300, 200, 30, 60], "score": 0.95}, {**good[0], "keypoints": keypoints(3)}]
    files = {"truth": truth, "good": good, "poor": poor, "empty": []}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def score(folder: Path, protocol: str, *arguments: str, predictions: str = "good.json") -> int:
    named = [predictions] if predictions else []
    words = ["score", protocol, *(f"--predictions={folder / name}" for name in named)]
    return main(
        [*words, "--annotations", str(folder / "truth.json"), *(a.replace("TMP", str(folder)) for a in arguments)]
    )


FIGURES = {
    "coco": {"AP": 1.0, "AP50": 1.0, "AP_medium": 1.0, "AP_large": -1.0, "AR_1": 1.0},
    "miss-rate": {"mr2": {"Reasonable": 0.0, "Reasonable_small": 0.0, "Reasonable_occ=heavy": -1.0, "All": 0.0}},
    "points": {"nme": 5.0, "failure_rate": 0.0, "auc": 0.5, "nme_matched": 1, "nme_total": 1},
}
CURVES = {"coco": ["precision-recall"], "miss-rate": ["miss-rate", "precision-recall"], "points": ["ced"]}


@pytest.mark.parametrize("protocol", list(FIGURES))
def test_one_set_of_detections(folder: Path, protocol: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "scored"
    for _ in range(2):  # its own output is no foreign file
        arguments = ["--json", "TMP/new/figures.json", "--plot", "TMP/new/curves.png", "--out", "TMP/scored"]
        assert score(folder, protocol, *arguments) == 0
    figures = json.loads((folder / "new" / "figures.json").read_text())
    for name, value in FIGURES[protocol].items():
        assert figures[name] == pytest.approx(value, abs=1e-6), name
    assert json.loads((out / "figures.json").read_text()) == figures
    assert {path.name for path in out.iterdir()} == {"figures.json", "curves.csv"}
    with (out / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted({row["kind"] for row in rows}) == CURVES[protocol]
    assert all(0 <= float(row["y"]) <= 1 for row in rows)
    picture = cv2.imread(str(folder / "new" / "curves.png"))
    assert picture is not None
    assert picture.shape[1] == round(6.4 * 110) * len(CURVES[protocol])
    told = capsys.readouterr().out
    assert told.startswith(f"{protocol}: ")
    for name in figures:
        assert name in told


@pytest.mark.parametrize("protocol", list(FIGURES))
def test_no_detections(folder: Path, protocol: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(folder, protocol, "--json", "TMP/f.json", "--plot", "TMP/f.png", predictions="empty.json") == 0
    figures = json.loads((folder / "f.json").read_text())
    absent = {"coco": figures.get("AP50"), "miss-rate": figures.get("mr2"), "points": figures.get("nme")}[protocol]
    assert absent == {
        "coco": 0, "points": None,
        "miss-rate": {"Reasonable": 1, "Reasonable_small": 1, "Reasonable_occ=heavy": -1, "All": 1},
    }[protocol]  # fmt: skip
    assert (folder / "f.png").stat().st_size > 1000
    if protocol == "points":
        out, err = capsys.readouterr()
        assert re.search(r"nme +-\n|nme +- ", out)
        assert "warning: 1 of 1 objects have no detection and are left out of all figures." in err


def test_several_stand_side_by_side(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", "coco", "--annotations", str(folder / "truth.json"), "--out", str(folder / "scored")]
    words += ["--predictions", f"new net={folder / 'good.json'}", "--predictions", str(folder / "poor.json")]
    words += ["--json", str(folder / "f.json"), "--plot", str(folder / "f.svg")]
    for _ in range(2):
        assert main(words) == 0
    figures = json.loads((folder / "f.json").read_text())
    assert {name: values["AP50"] for name, values in figures.items()} == pytest.approx(
        {"new net": 1, "poor": 0.252475}, abs=1e-6
    )
    out = capsys.readouterr().out
    assert re.search(r"figure +new net +poor", out)
    assert re.search(r"AP50 +1.000000 +0.252475", out)
    scored = folder / "scored"
    assert {path.name for path in scored.iterdir()} == {"figures.json", "new net", "poor"}
    assert json.loads((scored / "figures.json").read_text()) == figures
    assert json.loads((scored / "poor" / "figures.json").read_text()) == figures["poor"]
    assert "poor,IoU 0.5" not in (scored / "poor" / "curves.csv").read_text()


def test_curves_of_several_are_called_by_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("cascade_det.visual.plots.plot_scores", lambda curves, path, title: drawn.append(curves))
    assert score(folder, "coco", "--plot", "TMP/f.png", "--predictions", "poor=TMP/poor.json") == 0
    assert [(c.name, c.figure) for c in drawn[0]] == [("good IoU 0.5", "AP50 1.000"), ("poor IoU 0.5", "AP50 .252")]
    assert score(folder, "coco", "--plot", "TMP/f.png") == 0
    assert [c.name for c in drawn[1]] == ["IoU 0.5"]


def test_a_path_with_an_equals_sign(folder: Path) -> None:
    (folder / "lr=1.json").write_text((folder / "good.json").read_text())
    assert score(folder, "coco", "--json", "TMP/f.json", "--predictions", "TMP/good.json", predictions="lr=1.json") == 0
    assert list(json.loads((folder / "f.json").read_text())) == ["lr=1", "good"]


def test_options_of_the_protocols(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(folder, "miss-rate", "--variant", "caltech", "--json", "TMP/f.json") == 0
    assert json.loads((folder / "f.json").read_text())["mr2"]["All"] == pytest.approx(1e-10)
    assert score(folder, "points", "--normaliser", "diagonal", "--json", "TMP/f.json") == 0
    assert json.loads((folder / "f.json").read_text())["nme"] == pytest.approx(1)
    assert score(folder, "coco", "--backend", "pycocotools") == 0
    out = capsys.readouterr().out
    titles = [
        "miss-rate: caltech",
        "points: error over diagonal",
        "coco: at most 1, 10 and 100 detections a picture; pycoco",
    ]
    assert all(title in out for title in titles)


def test_files_of_another_protocol_go(folder: Path) -> None:
    (folder / "scored").mkdir()
    (folder / "scored" / "DiscROC.txt").write_text("0.9 1 0.5\n")
    assert score(folder, "coco", "--out", "TMP/scored") == 0
    assert {path.name for path in (folder / "scored").iterdir()} == {"figures.json", "curves.csv"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("score", "Missing argument"),
        ("score coco --annotations TMP/truth.json", "Missing option '--predictions'"),
        ("score cocoa GOOD TRUTH", "score 'cocoa': there is no protocol of this name; did you mean 'coco'?"),
        (
            "score coco GOOD TRUTH --variant caltech",
            "--variant caltech: belongs to `score miss-rate`, not to `score coco`",
        ),
        ("score coco GOOD TRUTH --normaliser box", "--normaliser box: belongs to `score points`"),
        ("score wider GOOD TRUTH --images TMP", "--images TMP: belongs to `score fddb`, not to `score wider`"),
        ("score points GOOD TRUTH --image-sizes s.csv", "--image-sizes s.csv: belongs to `score fddb`"),
        ("score miss-rate GOOD TRUTH --backend pycocotools", "--backend pycocotools: belongs to `score coco`"),
        ("score miss-rate GOOD TRUTH --variant kitti", "--variant 'kitti': Choices: caltech, citypersons"),
        (
            "score points GOOD TRUTH --normaliser eye",
            "--normaliser 'eye': did you mean 'eyes'? Choices: box, diagonal, eyes",
        ),
        ("score coco GOOD TRUTH --backend hotcoco", "--backend 'hotcoco': "),
        ("score coco --predictions TMP/none.json TRUTH", "--predictions TMP/none.json: no such file or folder"),
        ("score coco --predictions a=TMP/none.json TRUTH", "--predictions TMP/none.json: no such file or folder"),
        ("score coco GOOD --predictions good=TMP/poor.json TRUTH", "a second one named 'good'; give each a name"),
        ("score coco GOOD --annotations TMP/none.json", "none.json: the annotation file cannot be read"),
        (
            "score coco GOOD --annotations TMP/good.json",
            "A list is a file of results; `annotations` must name the truth",
        ),
        ("score coco --predictions TMP/truth.json TRUTH", "truth.json holds a dict at its top, not a list"),
        ("score coco GOOD TRUTH --plot TMP/f.xls", "--plot TMP/f.xls: Choices: .pdf, .png, .svg"),
        ("score coco GOOD TRUTH --out TMP", "holds other things than this verb's output"),
        ("score coco GOOD TRUTH --out TMP/good.json", "good.json: is a file; name a folder"),
        (
            "score coco GOOD --predictions a/b=TMP/poor.json TRUTH --out TMP/new",
            "--predictions a/b=...: --out makes a folder",
        ),
        (
            "score coco GOOD --predictions ..=TMP/poor.json TRUTH --out TMP/new",
            "--predictions ..=...: --out makes a folder",
        ),
        ("score points --predictions TMP/boxes.json TRUTH", "boxes.json: entry 0 (the first is 0) needs 15 numbers"),
    ],
)
def test_wrong_input_is_told_in_one_paragraph(
    folder: Path, words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "boxes.json").write_text('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]')
    before = {path.name for path in folder.iterdir()}
    for name, text in (("GOOD", "--predictions TMP/good.json"), ("TRUTH", "--annotations TMP/truth.json")):
        words = words.replace(name, text)
    assert main(words.replace("TMP", str(folder)).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told.replace("TMP", str(folder)) in err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert {path.name for path in folder.iterdir()} == before


def test_an_own_folder_of_a_name_that_holds_other_things(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "scored" / "poor").mkdir(parents=True)
    (folder / "scored" / "poor" / "thesis.tex").write_text("")
    assert score(folder, "coco", "--predictions", "TMP/poor.json", "--out", "TMP/scored") == 2
    assert "scored/poor: holds other things than this verb's output, such as 'thesis.tex'" in capsys.readouterr().err
    assert (folder / "scored" / "poor" / "thesis.tex").exists()
