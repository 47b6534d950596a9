"""A COCO file with faults, through the verbs: repaired with a count, or refused with file, id and value."""

from __future__ import annotations

import json
import re
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
from cascade_det.training.pipeline import Run

Data = dict[str, Any]
Change = Callable[[Data], object]
NAN, INFINITE, HUGE = float("nan"), float("inf"), 10**400
HEADS = {"score": {"kind": "classification"}, "points": {"kind": "points"}}
RECIPE: Data = {
    "name": "small",
    "object": {"category": "face", "points": ["left_eye", "right_eye"], "flip_points": [1, 0]},
    "stages": {
        "pnet": {
            "kind": "proposer",
            "window_hw": [12, 12],
            "net": {"kind": "mtcnn_pnet", "params": {"alpha": 0.2}},
            "heads": HEADS,
            "samplers": {"windows": {"kind": "iou_bands"}},
        }
    },
    "data": {
        split: {"faces": {"kind": "coco", "params": {"images": split, "annotations": f"{split}.json"}}}
        for split in ("train", "val")
    },
}


def truth() -> Data:
    """Return three pictures of 64 x 48 px with two faces each."""
    points = [8, 10, 2, 16, 10, 2]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in (1, 2, 3)],
        "annotations": [
            {"id": 10 * i + k, "image_id": i, "category_id": 1, "bbox": [30 * k, 6, 18, 20], "keypoints": points}
            for i in (1, 2, 3)
            for k in (0, 1)
        ],
        "categories": [{"id": 1, "name": "face"}],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pictures, a recipe, and a model of chance weights; tests write train.json anew."""
    folder = tmp_path_factory.mktemp("bad_annotations")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in (1, 2, 3):
            write_image(folder / split / f"{number}.png", rng.integers(0, 255, (48, 64, 3), np.uint8))
        (folder / f"{split}.json").write_text(json.dumps(truth()))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "run_dir": str(folder / "run")}, sort_keys=False))
    Cascade.build(load_recipe(folder / "recipe.yaml")).save(folder / "model.safetensors")
    return folder


@pytest.fixture(params=["check", "train", "evaluate"])
def verb(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the command line of a verb that reads train.json; `train` ends before its first step."""
    monkeypatch.setattr(Run, "_do", lambda *_, **__: None)
    if request.param == "evaluate":
        source = ["--images", str(folder / "train"), "--annotations", str(folder / "train.json")]
        return ["evaluate", str(folder / "model.safetensors"), *source, "--device", "cpu"]
    return [request.param, str(folder / "recipe.yaml")]


def write(folder: Path, change: Change) -> None:
    data = truth()
    changed = change(data)
    (folder / "train.json").write_text(json.dumps(changed if isinstance(changed, (list, str)) else data))


def an(**values: Any) -> Change:
    """Return a change of annotation 11."""
    return lambda data: data["annotations"][1].update(values)


def picture(**values: Any) -> Change:
    """Return a change of picture 2."""
    return lambda data: data["images"][1].update(values)


def other_category(data: Data) -> None:
    data["categories"].append({"id": 2, "name": "cat"})
    data["annotations"][1]["category_id"] = 2


def corner_without_area(data: Data) -> None:
    data["annotations"][0]["bbox"] = [0, 0, 0, 0]


def all_ignored(data: Data) -> None:
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 1


def without_annotations(data: Data) -> None:
    del data["annotations"]


def test_a_file_without_faults_says_nothing(folder: Path, verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, lambda data: None)
    assert main(verb) == 0
    out, err = capsys.readouterr()
    assert "left out" not in out + err
    assert "no objects" not in out + err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (an(bbox=[NAN, 6, 18, 20]), "1 boxes that are not finite"),
        (an(bbox=[30, 6, INFINITE, 20]), "1 boxes that are not finite"),
        (an(bbox=[30, 6, HUGE, 20]), "1 boxes that are not finite"),
        (an(bbox=[30, -HUGE, 18, 20]), "1 boxes that are not finite"),
        (an(bbox=[-1e308, 6, 1e308, 20]), "1 boxes outside their picture"),
        (an(bbox=[30, 6, -18, 20]), "1 boxes without area"),
        (an(bbox=[30, 6, 18, 0]), "1 boxes without area"),
        (an(bbox=[64, 6, 18, 20]), "1 boxes outside their picture"),
        (an(bbox=[30, -30, 18, 20]), "1 boxes outside their picture"),
        (an(bbox=[30, 6, 1e39, 20]), "1 boxes that reach too far"),
        (an(keypoints=[NAN, 10, 2, 16, 10, 2]), "1 points that are not finite"),
        (an(keypoints=[8, 10, NAN, 16, 10, 2]), "1 points that are not finite"),
        (an(keypoints=[1e300, 10, 2, 16, HUGE, 2]), "2 points that are not finite"),
        (corner_without_area, "1 boxes without area"),
        (other_category, "1 objects of other categories"),
    ],
)
def test_what_is_repaired_is_counted(
    folder: Path, verb: list[str], change: Change, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, change)
    assert main(verb) == 0
    out, err = capsys.readouterr()
    (line,) = [line for line in (out + err).splitlines() if "left out" in line]
    assert f"left out: {told}" in line
    assert "data.train.faces" in line or "train.json" in line


def test_the_report_for_machines_counts_too(folder: Path, tmp_path: Path) -> None:
    write(folder, an(bbox=[30, 6, 18, 0]))
    assert main(["check", str(folder / "recipe.yaml"), "--json", str(tmp_path / "c.json")]) == 0
    facts = json.loads((tmp_path / "c.json").read_text())
    assert facts["data.train.faces"]["left_out"] == {"boxes without area": 1}
    assert facts["data.val.faces"]["left_out"] == {}


REFUSED: list[tuple[Change, str]] = [
    (an(bbox="30 6 18 20"), "annotation 11 needs 4 numbers as `bbox`, it has '30 6 18 20'"),
    (an(bbox=[30, 6, True, 20]), "annotation 11 needs 4 numbers as `bbox`, it has [30, 6, True, 20]"),
    (an(bbox={"x": 1}), "annotation 11 needs 4 numbers as `bbox`, it has {'x': 1}"),
    (an(keypoints=[8, 10, 2]), "annotation 11 has 1 keypoints, but the recipe's object has 2"),
    (an(keypoints=[8, 10, 2, 16]), "annotation 11 needs 6 numbers as `keypoints`, it has [8, 10, 2, 16]"),
    (an(keypoints=0), "annotation 11 needs 6 numbers as `keypoints`, it has 0"),
    (an(keypoints=""), "annotation 11 needs 6 numbers as `keypoints`, it has ''"),
    (an(category_id=9), "annotation 11 has category_id 9, but there is no category of this id. Its ids are 1"),
    (an(category_id=True), "annotation 11 has category_id True"),
    (an(image_id=99), "annotation 11 has image_id 99, but there is no picture of this id"),
    (an(image_id=True), "annotation 11 has image_id True"),
    (an(id=10), "two annotations have the id 10"),
    (an(id=False), "an annotation of picture 1 has the id False"),
    (an(iscrowd="no"), "annotation 11 has iscrowd 'no'. Choices: 0 (counts), 1 (ignored)"),
    (an(iscrowd=[0]), "annotation 11 has iscrowd [0]"),
    (an(ignore=NAN), "annotation 11 has ignore nan"),
    (an(ignore=2), "annotation 11 has ignore 2"),
    (picture(id=1), "two pictures have the id 1"),
    (picture(id="2"), "the picture '2.png' has the id '2'"),
    (picture(id=2.0), "the picture '2.png' has the id 2.0"),
    (picture(id=10**30), f"the picture '2.png' has the id {10**30}"),
    (picture(width="64"), "picture 2 has width '64'"),
    (picture(width=True), "picture 2 has width True"),
    (picture(height=INFINITE), "picture 2 has height inf"),
    (picture(height=HUGE), "picture 2 has height 1000"),
    (picture(file_name="../val/1.png"), "picture 2 has the file_name '../val/1.png', which leaves the folder"),
    (picture(file_name="a/../../val/1.png"), "picture 2 has the file_name 'a/../../val/1.png', which leaves"),
    (picture(file_name=".."), "picture 2 has the file_name '..', which leaves the folder"),
    (picture(file_name="/etc/passwd"), "picture 2 has the file_name '/etc/passwd', which leaves the folder"),
    (picture(file_name="a\0.png"), r"picture 2 has the file_name 'a\x00.png', which no file can have"),
    (picture(file_name="\ud800.png"), r"picture 2 has the file_name '\ud800.png', which no file can have"),
    (picture(file_name=5), "picture 2 has the file_name 5"),
    (without_annotations, "it has no `annotations`"),
    (lambda data: data.update(annotations=None), "its `annotations` is no list of objects"),
    (lambda data: data.update(annotations=[[1]]), "its `annotations` is no list of objects"),
    (lambda data: data.update(images={"1": {}}), "its `images` is no list of objects"),
    (lambda data: data.update(images=[], annotations=[]), "hold"),
    (lambda data: data["categories"].append({"id": 1, "name": "cat"}), "the category {'id': 1, 'name': 'cat'} needs"),
    (lambda data: data.update(categories=[{"id": True, "name": "face"}]), "the category {'id': True"),
    (lambda data: [data], "holds a list at its top"),
    (lambda data: "truth", "holds a str at its top"),
]


@pytest.mark.parametrize(("change", "told"), REFUSED)
def test_what_is_refused_names_file_id_and_value(
    folder: Path, verb: list[str], change: Change, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, change)
    if told == "hold" and verb[0] == "check":  # a list of problems
        assert main(verb) == 1
        assert "problem: data.train.faces: no pictures" in capsys.readouterr().out
        return
    assert main(verb) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert told in error
    assert "train.json" in error or "data.train" in error
    assert len(error) < 600


@pytest.mark.parametrize(
    "content", [b"", b"no JSON", json.dumps(truth()).encode()[:-1], b"[" * 10**5, b'{"a": "\xff"}']
)
def test_what_is_no_json(folder: Path, verb: list[str], content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train.json").write_bytes(content)
    assert main(verb) == 2
    assert re.search(r"^error: \S*train\.json is no JSON file", capsys.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize("change", [lambda data: data.update(annotations=[]), all_ignored])
def test_without_an_object_that_counts(
    folder: Path, verb: list[str], change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, change)
    code = main(verb)
    out, err = capsys.readouterr()
    if verb[0] == "check":
        assert (code, "problem: data.train: no objects" in out) == (1, True)
    elif verb[0] == "train":
        assert (code, "data.train: none of the 3 pictures holds an object that counts" in err) == (2, True)
    else:
        assert (code, "train.json: none of its 3 pictures holds an object that counts" in err) == (0, True)


def test_nothing_to_score_on_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Run, "_do", lambda *_, **__: None)
    write(folder, lambda data: None)
    (folder / "none.json").write_text(json.dumps({**truth(), "annotations": []}))
    override = f"data.val.faces.params.annotations={folder / 'none.json'}"
    assert main(["check", str(folder / "recipe.yaml"), override]) == 1
    assert "problem: data.val: no objects" in capsys.readouterr().out
    assert main(["train", str(folder / "recipe.yaml"), override]) == 0
    assert "data.val: none of the 3 pictures holds an object that counts" in capsys.readouterr().err


def test_pictures_without_objects_among_others_are_no_fault(folder: Path, verb: list[str]) -> None:
    write(folder, lambda data: data.update(annotations=data["annotations"][:2]))
    assert main(verb) == 0


@pytest.mark.parametrize("name", ["gone.png", "sub/../gone.png", ".", "a" * 5000 + ".png"])
def test_a_missing_picture_is_listed(
    folder: Path, verb: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training goes on without it; its mining report counts it (tests/training/test_mining_report.py)."""
    write(folder, picture(file_name=name))
    code = main(verb)
    out, err = capsys.readouterr()
    if verb[0] == "check":
        assert (code, "problem: data.train.faces: 1 picture files are missing" in out) == (1, True)
    elif verb[0] == "evaluate":
        assert (code, f"failed: {name}: " in err) == (1, True)
    else:
        assert code == 0


def test_training_pictures_under_other_names_are_found_in_val(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, lambda data: None)
    for number in (1, 2):
        source = folder / "train" / f"{number}.png"
        (tmp_path / f"{number + 1}.png").write_bytes(source.read_bytes())
    (tmp_path / "1.png").write_bytes((folder / "val" / "1.png").read_bytes())
    same_file = f"data.val.faces.params={{images: train, annotations: {folder / 'train.json'}}}"
    same_content = f"data.val.faces.params={{images: {tmp_path}, annotations: val.json}}"
    for override, told in ((same_file, "share 3 picture(s)"), (same_content, "share 2 picture(s)")):
        for verb in ("check", "train"):
            assert main([verb, str(folder / "recipe.yaml"), override]) == 2
            assert told in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("verb", ["check", "train"])
def test_a_disk_that_is_not_there(
    tmp_path: Path, split: str, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Run, "_do", lambda *_, **__: None)
    for name, color in (("train", 10), ("val", 90)):
        for number in (1, 2, 3):
            if name != split:
                write_image(tmp_path / name / f"{number}.png", np.full((48, 64, 3), color + number, np.uint8))
        (tmp_path / f"{name}.json").write_text(json.dumps(truth()))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "run_dir": str(tmp_path / "run")}, sort_keys=False))
    assert main([verb, str(recipe)]) == 2
    err = capsys.readouterr().err
    assert f"data.{split}." in err
    assert "none of its 3 picture files exists, such as " in err
    assert not (tmp_path / "run").exists()
