"""`detect --crops`: one picture an object, as its box or aligned, and the table beside them."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.cascade import Cascade
from cascade_det.cli.app import main
from cascade_det.core.imaging import read_image, write_image
from cascade_det.core.types import Detections
from cascade_det.visual.alignment import FACE_TEMPLATE, align


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    """Return a folder with two pictures of one name in different folders, and a damaged one."""
    folder = tmp_path / "in"
    write_image(folder / "a.png", read_image(photos / "pictures" / "00.png"))
    write_image(folder / "more" / "a.png", read_image(photos / "pictures" / "01.png"))
    (folder / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    return folder


def table(crops: Path) -> list[dict[str, str]]:
    with (crops / "crops.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def detect(model: Path, *arguments: object) -> int:
    return main(["detect", str(model), *map(str, arguments), "--device", "cpu"])


class Fixed:
    """Stands in for a cascade's answer: a good object, two whose points fix no turn, one outside the picture."""

    found = Detections(
        np.array([[10, 10, 50.2, 60.7], [-9, 20, 30, 40], [70, 50, 200, 99], [130, 10, 150, 30]], np.float32),
        np.array([0.9, 0.8, 0.7, 0.6], np.float32),
        np.stack([np.array(FACE_TEMPLATE) * 40 + 10, np.full((5, 2), 9), np.full((5, 2), np.nan), np.eye(5, 2) * 9]),  # type: ignore[arg-type]
    )

    def run(self, images: Any, **_: Any) -> list[Detections]:
        return [self.found for _ in images]


@pytest.mark.parametrize("flags", [[], ["--align"]])
def test_nothing_found(tiny: Any, folder: Path, tmp_path: Path, flags: list[str]) -> None:
    crops, out = tmp_path / "crops", tmp_path / "out"
    arguments = [folder / "a.png", "--score", 1, "--crops", crops, "--out", out, "--save-as", "csv", *flags]
    assert detect(tiny.model, *arguments) == 0
    assert [path.name for path in crops.iterdir()] == ["crops.csv"]
    header = (crops / "crops.csv").read_text().splitlines()
    assert len(header) == 1
    assert header[0].startswith("file,picture,score,x0,y0,x1,y1,left_eye_x,left_eye_y,")
    assert len((out / "detections.csv").read_text().splitlines()) == 1


@pytest.mark.parametrize("aligned", [False, True])
def test_every_object_is_a_file_and_a_row(
    tiny: Any, folder: Path, tmp_path: Path, aligned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    crops, flags = tmp_path / "new" / "crops", ["--align"] if aligned else []
    arguments = [folder, "--crops", crops, *flags, "--score", 0.2, "--json", tmp_path / "d.json"]
    assert detect(tiny.model, *arguments) == 1  # one picture is damaged, the rest goes on
    rows = table(crops)
    assert sorted(row["file"] for row in rows) == sorted(path.name for path in crops.glob("*.png"))
    cascade = Cascade.load(tiny.model, device="cpu")
    for number, path in enumerate((folder / "a.png", folder / "more" / "a.png"), start=1):
        image, found = read_image(path), cascade(path, score=0.2)
        mine = [row for row in rows if row["picture"] == str(path)]
        assert [row["file"] for row in mine] == [f"{number:05d}_a_{rank:03d}.png" for rank in range(len(found))]
        assert len(mine) > 0
        assert found.points is not None
        for rank, row in enumerate(mine):
            assert float(row["score"]) == pytest.approx(found.scores[rank], abs=1e-4)
            assert [float(row[name]) for name in ("x0", "y0", "x1", "y1")] == pytest.approx(found.boxes[rank], abs=1e-3)
            assert float(row["mouth_right_y"]) == pytest.approx(found.points[rank, 4, 1], abs=1e-3)
            (x0, y0), (x1, y1) = np.floor(found.boxes[rank, :2]), np.ceil(found.boxes[rank, 2:])
            cut = image[int(y0) : int(y1), int(x0) : int(x1)]
            wanted = align(image, found.points[rank], (112, 112)) if aligned else cut
            assert np.array_equal(read_image(crops / row["file"]), wanted)
    summary = json.loads((tmp_path / "d.json").read_text())
    assert (summary["crops"], summary["crops_left_out"]) == (len(rows), 0)
    out, err = capsys.readouterr()
    assert f"{len(rows)} crops in {crops}; 0 left out" in err
    assert "found" in out  # without --out the table is printed still


@pytest.mark.parametrize(
    ("flags", "ranks", "told"),
    [
        ([], [0, 1, 2], "3 crops in CROPS; 1 left out (no pixel inside the box)"),
        (["--align"], [0, 3], "2 crops in CROPS; 2 left out (points that fix no turn)"),
    ],
)
def test_what_has_no_crop_is_counted(
    tiny: Any, folder: Path, tmp_path: Path, flags: list[str], ranks: list[int], told: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(Cascade, "run", Fixed().run)
    crops = tmp_path / "crops"
    assert detect(tiny.model, folder / "a.png", "--crops", crops, *flags) == 0
    assert [row["file"] for row in table(crops)] == [f"00001_a_{rank:03d}.png" for rank in ranks]
    assert told.replace("CROPS", str(crops)) in capsys.readouterr().err
    if not flags:
        sizes = [read_image(crops / row["file"]).shape[:2] for row in table(crops)]
        assert sizes == [(51, 41), (20, 30), (46, 58)]  # whole pixels around the box, inside the picture of 96 x 128


def test_a_second_run_takes_the_place_of_the_first(tiny: Any, folder: Path, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    shots = []
    for score in (0.2, 0.999, 0.2):
        assert detect(tiny.model, folder, "--crops", crops, "--align", "--score", score) == 1
        shots.append({path.name: path.read_bytes() for path in crops.iterdir()})
    assert shots[0] == shots[2]
    assert len(shots[1]) < len(shots[0])
    assert len(table(crops)) == len(shots[2]) - 1


def test_a_folder_of_its_own_inside_that_of_out(tiny: Any, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for flags in (["--crops", out / "crops"], ["--crops", out / "crops"], []):
        assert detect(tiny.model, folder / "a.png", "--out", out, *flags) == 0


def test_a_long_name_does_not_outgrow_the_file_system(tiny: Any, folder: Path, tmp_path: Path) -> None:
    long = folder / ("ü" * 125 + ".png")
    write_image(long, read_image(folder / "a.png"))
    assert detect(tiny.model, long, "--crops", tmp_path / "crops", "--score", 0.2) == 0
    assert {row["picture"] for row in table(tmp_path / "crops")} == {str(long)}


class TestTemplate:
    @pytest.fixture
    def other(self, tiny: Any, tmp_path: Path) -> Any:
        """Return a function that writes the small model with another `object` section or with fewer stages."""

        def write(stages: int = 2, **changes: Any) -> Path:
            cascade = Cascade.load(tiny.model, device="cpu")
            section = dataclasses.replace(cascade.recipe.object, **changes)
            recipe = dataclasses.replace(cascade.recipe, object=section)
            path = tmp_path / "other.safetensors"
            Cascade(recipe, cascade.stages[:stages], cascade.thresholds).save(path)
            return path

        return write

    def test_the_recipes_wins(self, other: Any, folder: Path, tmp_path: Path) -> None:
        template = [[0.2, 0.2], [0.8, 0.2], [0.5, 0.5], [0.3, 0.9], [0.7, 0.9]]
        model, crops = other(align_template=template), tmp_path / "crops"
        assert detect(model, folder / "a.png", "--crops", crops, "--align", "--score", 0.2) == 0
        points = Cascade.load(model, device="cpu")(folder / "a.png", score=0.2).points
        assert points is not None
        wanted = align(folder / "a.png", points, (112, 112), template)
        assert len(wanted) > 0
        assert np.array_equal(np.stack([read_image(crops / row["file"]) for row in table(crops)]), wanted)
        assert not np.array_equal(align(folder / "a.png", points), wanted)

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"stages": 1}, "--align: the last stage 'pnet' finds no points to align by"),
            (
                {"points": list("abcde")},
                "object.align_template of the model's recipe is null, and there is no usual one",
            ),
        ],
    )
    def test_a_model_that_cannot_be_aligned(
        self, other: Any, folder: Path, tmp_path: Path, changes: Any, told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model, crops = other(**changes), tmp_path / "crops"
        assert detect(model, folder / "a.png", "--crops", crops, "--align") == 2
        assert told in capsys.readouterr().err
        assert list(crops.iterdir()) == []
        assert detect(model, folder / "a.png", "--crops", crops) == 0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--align", "--align turns the crops upright and needs --crops DIR"),
        ("--crops TMP/in/a.png", "a.png: is a file; name a folder."),
        ("--crops TMP/in", "--crops TMP/in: holds other things than this verb's output, such as 'a.png'"),
        ("--crops TMP/own", "--crops TMP/own: holds pictures to detect in; name another folder."),
        ("--crops TMP/new --out TMP/in/../new", "is the folder of --out; name another, such as"),
    ],
)
def test_refusals(
    tiny: Any, folder: Path, tmp_path: Path, flags: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own" / "00001_a_000.png"
    write_image(own, read_image(folder / "a.png"))
    (own.parent / "crops.csv").write_text("file,picture,score,x0,y0,x1,y1\n00001_a_000.png,a.png\n")
    flags, told = flags.replace("TMP", str(tmp_path)), told.replace("TMP", str(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    assert detect(tiny.model, folder / "a.png", own, *flags.split()) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert told in error
    assert "\n" not in error
    assert sorted(tmp_path.rglob("*")) == before  # nothing is made and nothing goes
