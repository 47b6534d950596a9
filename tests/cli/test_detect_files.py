"""What `detect` writes beside its results: it deletes nothing of others, and nothing that it cannot write ends it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.cascade import Cascade
from cascade_det.cli.app import main
from cascade_det.core.imaging import write_image
from cascade_det.core.types import Detections

GREY = np.full((40, 60, 3), 99, np.uint8)
ONE_FACE = Detections([[10, 5, 30, 30]], [0.9], np.full((1, 5, 2), 12))


@pytest.fixture(autouse=True)
def answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every picture hold one face, so that no network runs."""
    monkeypatch.setattr(Cascade, "run", lambda self, images, **_: [ONE_FACE for _ in images])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder with the pictures a and b."""
    for name in ("a", "b"):
        write_image(tmp_path / "in" / f"{name}.png", GREY)
    return tmp_path / "in"


def detect(*arguments: object) -> int:
    return main(["detect", "mtcnn_face", *map(str, arguments), "--device", "cpu"])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


HEADER = "file,picture,score,x0,y0,x1,y1"


class TestForeignCrops:
    """`--crops DIR` empties no folder that an earlier run did not fill."""

    @pytest.mark.parametrize(
        ("files", "told"),
        [
            ({"2021_beach_01.png": "photo"}, "holds other things than this verb's output, such as '2021_beach_01.png'"),
            ({"00001_a_000.png": "photo"}, "such as '00001_a_000.png'"),
            ({"crops.csv": "", "00001_a_000.png": "photo"}, "crops.csv is not one of this verb"),
            ({"crops.csv": "name,kind\n00001_a_000.png,x\n", "00001_a_000.png": "photo"}, "is not one of this verb"),
            ({"crops.csv": f"{HEADER}\n00001_a_000.png,a\n", "2021_b_01.png": "photo"}, "such as '2021_b_01.png'"),
            ({"crops.csv": f"{HEADER}\n*.png,a\n[0-9]*,a\n", "2021_b_01.png": "photo"}, "such as '2021_b_01.png'"),
            ({"crops.csv": f"{HEADER}\nnotes.txt,a\n", "notes.txt": "mine"}, "such as 'notes.txt'"),
        ],
    )
    def test_is_refused_and_stays(
        self, pictures: Path, tmp_path: Path, files: dict[str, str], told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        crops = tmp_path / "crops"
        crops.mkdir()
        for name, text in files.items():
            (crops / name).write_text(text)
        before = content(crops)
        assert detect(pictures, "--crops", crops) == 2
        assert told in capsys.readouterr().err
        assert content(crops) == before

    @pytest.mark.parametrize("listed", ["../photo.png", "more/../../photo.png", "TMP/photo.png", ""])
    def test_a_listed_path_outside_of_the_folder_stays(self, pictures: Path, tmp_path: Path, listed: str) -> None:
        crops, photo = tmp_path / "crops", tmp_path / "photo.png"
        crops.mkdir()
        photo.write_text("photo")
        (crops / "crops.csv").write_text(f"{HEADER}\n{listed.replace('TMP', str(tmp_path))},a\n")
        assert detect(pictures, "--crops", crops) == 0
        assert photo.read_text() == "photo"
        assert len(rows(crops / "crops.csv")) == 2

    def test_own_ones_are_replaced(self, pictures: Path, tmp_path: Path) -> None:
        crops = tmp_path / "crops"
        for named, count in ((pictures, 2), (pictures / "b.png", 1)):
            assert detect(named, "--crops", crops) == 0
            assert sorted(row[0] for row in rows(crops / "crops.csv")) == sorted(p.name for p in crops.glob("*.png"))
            assert len(rows(crops / "crops.csv")) == count

    def test_a_run_that_was_cut_off_is_replaced(
        self, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        crops, calls = tmp_path / "crops", iter([[ONE_FACE]])

        def once(self: Cascade, images: Any, **_: Any) -> list[Detections]:
            try:
                return next(calls)
            except StopIteration:
                raise KeyboardInterrupt from None

        with monkeypatch.context() as patch:
            patch.setattr(Cascade, "run", once)
            assert detect(pictures, "--crops", crops) == 130
        assert [path.name for path in crops.glob("*.png")] == ["00001_a_000.png"]
        assert detect(pictures / "b.png", "--crops", crops) == 0
        assert [path.name for path in crops.glob("*.png")] == ["00001_b_000.png"]


class TestSubmissions:
    """Files in the form of WIDER FACE and FDDB."""

    @pytest.fixture
    def events(self, tmp_path: Path) -> Path:
        """Return a folder with two events, of which the second holds a picture that cannot be read."""
        for name in ("2--Demo/a.b", "1--Parade/z"):
            write_image(tmp_path / "events" / f"{name}.png", GREY)
        (tmp_path / "events" / "2--Demo" / "bad.png").write_bytes(b"")
        return tmp_path / "events"

    def test_wider(self, events: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        for _ in range(2):  # its own output is no foreign file
            assert detect(events, "--out", out, "--save-as", "wider") == 1
        score = float(np.float32(0.9))
        assert content(out / "wider") == {
            "1--Parade/z.txt": f"z\n1\n10.0 5.0 20.0 25.0 {score!r}\n".encode(),
            "2--Demo/a.b.txt": f"a.b\n1\n10.0 5.0 20.0 25.0 {score!r}\n".encode(),
        }
        assert not (out / "fddb.txt").exists()
        assert detect(events / "1--Parade", "--out", out, "--save-as", "wider") == 0
        assert list(content(out / "wider")) == ["1--Parade/z.txt"]
        assert detect(events / "1--Parade", "--out", out) == 0
        assert not (out / "wider").exists()

    def test_fddb(self, events: Path, tmp_path: Path) -> None:
        out, lone = tmp_path / "out", events / "2--Demo" / "a.b.png"
        assert detect(events, "--out", out, "--save-as", "fddb") == 1
        face = f"1\n10.0 5.0 20.0 25.0 {float(np.float32(0.9))!r}\n"
        assert (out / "fddb.txt").read_text() == f"1--Parade/z\n{face}2--Demo/a.b\n{face}2--Demo/bad\n0\n"
        assert detect(lone, events / "1--Parade", "--out", out, "--save-as", "fddb") == 0
        assert (out / "fddb.txt").read_text() == f"{lone.with_suffix('')}\n{face}z\n{face}"
        assert detect(lone, "--out", out) == 0
        assert not (out / "fddb.txt").exists()

    @pytest.mark.parametrize("protocol", ["wider", "fddb"])
    def test_scores_as_the_results_in_coco_s_form(
        self, events: Path, tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rng, out = np.random.default_rng(3), tmp_path / "out"
        near = ONE_FACE.boxes + rng.normal(0, 3, (30, 4))
        found = Detections(near, rng.random(30), np.full((30, 5, 2), 12))
        monkeypatch.setattr(Cascade, "run", lambda self, images, **_: [found for _ in images])
        assert detect(events, "--out", out, "--save-as", protocol) == 1
        names = ("1--Parade/z", "2--Demo/a.b", "2--Demo/bad")
        face = "10 5 20 25 0 0 0 0 0 0" if protocol == "wider" else "12 10 1.5 20 17 1"
        suffix = ".png" if protocol == "wider" else ""
        (tmp_path / "truth.txt").write_text("".join(f"{name}{suffix}\n1\n{face}\n" for name in names))
        (tmp_path / "sizes.csv").write_text("name,width,height\n" + "".join(f"{name},60,40\n" for name in names))
        sizes = ["--image-sizes", str(tmp_path / "sizes.csv")] if protocol == "fddb" else []
        figures = []
        for given in (out / {"wider": "wider", "fddb": "fddb.txt"}[protocol], out / "detections.json"):
            command = ["score", protocol, "--predictions", str(given), "--annotations", str(tmp_path / "truth.txt")]
            assert main([*command, *sizes, "--json", str(tmp_path / "s.json")]) == 0
            figures.append(json.loads((tmp_path / "s.json").read_text()))
        assert figures[0] == figures[1]

    @pytest.mark.parametrize(
        ("save_as", "names", "told"),
        [
            ("wider", ("in/x/a.png", "in/y/x/a.png"), "would both be wider/x/a.txt; detect one"),
            ("fddb", ("in/a.png", "in/a.jpg"), "would both be a; detect one"),
            ("wide", ("in/a.png",), "--save-as 'wide': did you mean 'wider'? Choices: coco, csv, fddb, wider"),
        ],
    )
    def test_what_is_refused_before_a_picture_is_read(
        self, tmp_path: Path, save_as: str, names: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in names:
            write_image(tmp_path / name, GREY)
        assert detect(tmp_path / "in", "--out", tmp_path / "out", "--save-as", save_as) == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_a_folder_of_another_origin_stays(
        self, events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        photo = tmp_path / "out" / "wider" / "1--Parade" / "z.txt"
        photo.parent.mkdir(parents=True)
        photo.write_text("mine")
        for flags in ([], ["--save-as", "wider"]):
            assert detect(events, "--out", tmp_path / "out", *flags) == 2
            assert f"{photo} is not of an earlier run of this verb" in capsys.readouterr().err
        assert photo.read_text() == "mine"


class TestUnwritable:
    """A file that cannot be written is listed as a failure; all other results are there."""

    @pytest.fixture
    def long_name(self, pictures: Path) -> Path:
        path = pictures / ("ü" * 125 + ".png")
        write_image(path, GREY)
        return path

    @pytest.mark.parametrize("flags", [["--draw"], ["--crops", "TMP/crops"], ["--draw", "--crops", "TMP/crops"]])
    def test_a_long_name_is_cut_alike(self, long_name: Path, tmp_path: Path, flags: list[str]) -> None:
        out = tmp_path / "out"
        assert detect(long_name, "--out", out, *(flag.replace("TMP", str(tmp_path)) for flag in flags)) == 0
        for folder, ending in ((out / "drawn", ".jpg"), (tmp_path / "crops", "_000.png")):
            names = [path.name for path in folder.iterdir() if path.suffix != ".csv"] if folder.is_dir() else []
            assert names in ([], [f"00001_{'ü' * 60}{ending}"])
        assert (out / "drawn").is_dir() == ("--draw" in flags)

    @pytest.mark.parametrize(
        ("flags", "in_the_way", "reason"),
        [
            (["--draw"], "", "a picture of 65501 x 2 px cannot be written as .jpg"),
            (["--draw"], "out/drawn/00002_b.jpg", "Is a directory"),
            (["--crops", "TMP/crops"], "crops/00002_b_000.png", "Is a directory"),
        ],
    )
    def test_is_listed_and_the_rest_goes_on(
        self, pictures: Path, tmp_path: Path, flags: list[str], in_the_way: str, reason: str,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        out, named = tmp_path / "out", [pictures / "a.png", pictures / "b.png", pictures / "a.png"]
        if not in_the_way:
            write_image(pictures / "b.png", np.zeros((2, 65_501, 3), np.uint8))

        def run(self: Cascade, images: Any, **_: Any) -> list[Detections]:
            if in_the_way:  # only now: a folder that holds it from the start is refused
                (tmp_path / in_the_way).mkdir(parents=True, exist_ok=True)
            return [ONE_FACE for _ in images]

        monkeypatch.setattr(Cascade, "run", run)
        arguments = [flag.replace("TMP", str(tmp_path)) for flag in flags]
        assert detect(*named, "--out", out, *arguments, "--json", tmp_path / "d.json") == 1
        listed = rows(out / "errors.csv")
        assert [row[0] for row in listed] == [str(pictures / "b.png")]
        assert reason in listed[0][1]
        assert json.loads((tmp_path / "d.json").read_text())["pictures"] == 3
        assert len(json.loads((out / "detections.json").read_text())) == 3
        err = capsys.readouterr().err
        assert "3 objects in 3 pictures; 0 could not be read; 1 crops or drawn pictures could not be written" in err
        kept = out / "drawn" if "--draw" in flags else tmp_path / "crops"
        assert sorted(p.name[:7] for p in kept.iterdir() if p.is_file() and p.suffix != ".csv") == [
            "00001_a",
            "00003_a",
        ]
        if "--crops" in flags:
            assert [row[0][:7] for row in rows(kept / "crops.csv")] == ["00001_a", "00003_a"]


class TestAnEarlierRun:
    """Drawings and a table of an earlier run do not stand beside other results."""

    @pytest.mark.parametrize(
        ("then", "drawn", "table"),
        [
            (["a.png", "b.png", "--draw", "--save-as", "csv"], ["00001_a.jpg", "00002_b.jpg"], True),
            (["b.png", "--draw"], ["00001_b.jpg"], False),
            (["a.png"], None, False),
            (["a.png", "--save-as", "csv"], None, True),
        ],
    )
    def test_is_replaced(self, pictures: Path, tmp_path: Path, then: list[str], drawn: Any, table: bool) -> None:
        out = tmp_path / "out"
        assert detect(pictures, "--out", out, "--draw", "--save-as", "csv") == 0
        assert detect(*(pictures / word if word.endswith(".png") else word for word in then), "--out", out) == 0
        folder = out / "drawn"
        assert (sorted(path.name for path in folder.iterdir()) if folder.is_dir() else None) == drawn
        assert (out / "detections.csv").is_file() == table

    @pytest.mark.parametrize("images", [None, "", "{}", "[1]", '[{"id": "x", "path": "a"}]', '[{"id": 1}]'])
    def test_what_it_did_not_draw_stays(self, pictures: Path, tmp_path: Path, images: str | None) -> None:
        out = tmp_path / "out"
        photo = out / "drawn" / "00001_beach.jpg"
        write_image(photo, GREY)
        if images is not None:
            (out / "images.json").write_text(images)
        for _ in range(2):
            assert detect(pictures, "--out", out) == 0
            assert photo.is_file()

    def test_a_picture_that_is_read_stays(self, pictures: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert detect(pictures, "--out", out, "--draw") == 0
        assert detect(out / "drawn", "--out", out) == 0
        assert sorted(path.name for path in (out / "drawn").iterdir()) == ["00001_a.jpg", "00002_b.jpg"]
