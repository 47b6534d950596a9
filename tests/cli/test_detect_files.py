"""What `detect` writes beside its results: it deletes nothing of others, and nothing that it cannot write ends it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
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
