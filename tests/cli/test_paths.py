"""Where relative paths start: of a recipe file at its folder, of a shipped recipe and KEY=VALUE at the current one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cascade_det.cli.app import main
from cascade_det.core.imaging import write_image
from cascade_det.core.recipe import load_recipe
from cascade_det.core.shipped import find_shipped
from cascade_det.training.plan import Plan


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder: data in `faces`, a model beside it, and another folder with a recipe of its own."""
    folder, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for number, place in enumerate((folder / "faces", elsewhere / "own", folder / "data" / "faces")):
        for split, count in (("train", 3), ("val", 2), ("val_wild", 2)):
            images = []
            for index in range(count):
                name = f"{split}{index}.png"
                write_image(place / name, np.full((40, 60, 3), number * 60 + len(split) * 5 + index, np.uint8))
                images.append({"id": index + 1, "file_name": name, "width": 60, "height": 40})
            (place / "annotations").mkdir(exist_ok=True)
            box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 30, 30], "iscrowd": 0, "area": 900}
            truth = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "face"}]}
            (place / "annotations" / f"{split}.json").write_text(json.dumps(truth))
    model, recipe = (find_shipped(kind, "mtcnn_face", suffix) for kind, suffix in
                     (("models", ".safetensors"), ("recipes", ".yaml")))  # fmt: skip
    assert model is not None
    assert recipe is not None
    (folder / "mine.safetensors").write_bytes(model.read_bytes())
    (elsewhere / "beside.safetensors").write_bytes(model.read_bytes())
    (elsewhere / "own.yaml").write_text(recipe.read_text().replace("${oc.env:FACES,data/faces}", "own"))
    (elsewhere / "env.yaml").write_text(recipe.read_text())
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FACES", raising=False)
    return folder


OVERRIDE = "data.train.faces.params.images"


@pytest.mark.parametrize(
    ("recipe", "faces", "overrides", "images", "init"),
    [
        ("mtcnn_face", None, [], "HERE/data/faces", None),
        ("mtcnn_face", "faces", [], "HERE/faces", None),
        ("mtcnn_face", "HERE/faces", [], "HERE/faces", None),
        ("mtcnn_face", "faces", ["init=mine.safetensors"], "HERE/faces", "HERE/mine.safetensors"),
        ("mtcnn_face", None, [f"{OVERRIDE}=faces"], "HERE/faces", None),
        ("mtcnn_face", None, [f"{OVERRIDE}=../elsewhere/own"], "HERE/../elsewhere/own", None),
        ("mtcnn_face", "faces", ["init=mtcnn_face"], "HERE/faces", "SHIPPED"),
        ("../elsewhere/own.yaml", "faces", [], "HERE/../elsewhere/own", None),
        ("../elsewhere/own.yaml", None, [f"{OVERRIDE}=faces"], "HERE/faces", None),
        ("../elsewhere/own.yaml", None, ["init=mine.safetensors"], "HERE/../elsewhere/own", "HERE/mine.safetensors"),
        ("../elsewhere/own.yaml", None, ["init=mtcnn_face"], "HERE/../elsewhere/own", "SHIPPED"),
        (
            "../elsewhere/own.yaml", None, ["init=beside.safetensors"], "HERE/../elsewhere/own",
            "HERE/../elsewhere/beside.safetensors",
        ),
        ("../elsewhere/env.yaml", "own", [], "HERE/../elsewhere/own", None),
    ],
)  # fmt: skip
def test_where_they_lead(
    here: Path, recipe: str, faces: str | None, overrides: list[str], images: str, init: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if faces is not None:
        monkeypatch.setenv("FACES", faces.replace("HERE", str(here)))
    loaded = load_recipe(recipe, *overrides)
    assert loaded.base_dir is not None
    params = loaded.data.train["faces"].params
    assert (Path(loaded.base_dir) / params["images"]).resolve() == Path(images.replace("HERE", str(here))).resolve()
    if init is not None:
        model = find_shipped("models", "mtcnn_face", ".safetensors")
        wanted = model if init == "SHIPPED" else Path(init.replace("HERE", str(here)))
        assert wanted is not None
        assert Plan(loaded).init_file().resolve() == wanted.resolve()


@pytest.mark.parametrize(
    "words",
    [
        ["mtcnn_paper", "init=mine.safetensors"],
        ["../elsewhere/own.yaml", "init=mine.safetensors"],
    ],
)
def test_check_finds_them(
    here: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FACES", "faces")
    main(["check", *words])
    out, err = capsys.readouterr()
    assert "no such" not in out + err
    assert "neither the file" not in out + err
    assert "does not exist" not in out + err


def test_a_runs_copy_leads_there_from_anywhere(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cascade_det.core.recipe import recipe_to_yaml

    monkeypatch.setenv("FACES", "faces")
    first = load_recipe("mtcnn_face", "init=mine.safetensors", f"{OVERRIDE}=../elsewhere/own")
    copy = tmp_path / "run" / "recipe.yaml"
    copy.parent.mkdir()
    copy.write_text(recipe_to_yaml(first))
    monkeypatch.chdir(tmp_path)
    assert load_recipe(copy) == first


def test_a_source_that_reads_no_files_keeps_its_texts(here: Path) -> None:
    (here / "face").mkdir()
    loaded = load_recipe("quickstart", "data.train.drawn.params.kind=face", "init=")
    assert loaded.data.train["drawn"].params["kind"] == "face"
    assert not loaded.init
