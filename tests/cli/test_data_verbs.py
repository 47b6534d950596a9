"""data check, data show, data convert: through the command line, on small files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cascade_det.cli.app import main
from cascade_det.core.imaging import read_image, write_image
from cascade_det.core.recipe import load_recipe
from cascade_det.core.registry import SOURCES
from cascade_det.core.types import Annotations
from cascade_det.data.formats.coco import Coco
from cascade_det.data.sources import Picture, Source
from cascade_det.evaluation.files import coco_set
from cascade_det.training.mining import Miner, MiningJob

RECIPE: dict[str, Any] = {
    "name": "small",
    "object": {"category": "face", "points": ["left_eye", "right_eye"]},
    "pyramid": {"min_object_px": 12, "factor": 0.7},
    "stages": {
        "pnet": {
            "kind": "proposer",
            "window_hw": [12, 12],
            "net": {"kind": "mtcnn_pnet"},
            "heads": {"score": {"kind": "classification"}},
            "samplers": {"windows": {"kind": "iou_bands"}},
        }
    },
    "data": {
        "train": {"a": {"kind": "lists", "params": {"images": "train", "annotations": "train.txt"}}},
        "val": {"b": {"kind": "coco", "params": {"images": "val", "annotations": "val.json"}}},
    },
}
TRAIN = "1.png 5 5 25 25 10 10 20 10\n1.png 1 1 11 7\n2.png\n3.png 10 4 30 28 -1 -1 20 10\ngone.png 1 1 9 9\n"
VAL = {
    "images": [{"id": n, "file_name": f"{n}.png", "width": 60, "height": 40} for n in (1, 2)],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 10, 20]}],
    "categories": [{"id": 1, "name": "face"}],
}


def noise(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Return a recipe with three pictures to train, one of them twice, and two to validate."""
    for number in (1, 2, 3):
        write_image(tmp_path / "train" / f"{number}.png", noise(min(number, 2)))
    for number in (1, 2):
        write_image(tmp_path / "val" / f"{number}.png", noise(10 + number))
    (tmp_path / "train.txt").write_text(TRAIN)
    (tmp_path / "val.json").write_text(json.dumps(VAL))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return tmp_path / "recipe.yaml"


class TestCheck:
    def test_sound_data(self, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        for _ in range(2):  # its own output is no foreign file
            assert main(["data", "check", str(recipe), "--out", str(out), "--json", str(tmp_path / "c.json")]) == 0
        facts = json.loads((out / "data.json").read_text())
        assert facts == json.loads((tmp_path / "c.json").read_text())
        train = facts["data.train.a"]
        assert {name: train[name] for name in ("pictures", "empty", "objects", "ignored", "missing", "unreadable")} == {
            "pictures": 3, "empty": 1, "objects": 3, "ignored": 0, "missing": 0, "unreadable": 0
        }  # fmt: skip
        assert train["left_out"] == {"pictures that are not on disk": 1}
        assert train["heights_px"] == {"0-12": 1, "12-24": 1, "24-48": 1, "48-96": 0, "96+": 0}
        assert train["below_min_object_px"] == pytest.approx(1 / 3)
        # 20 x 20 in a window of 17.1; 10 x 6 in one of 12: 60 / 144; 20 x 24 in one of 24.5: 480 / 600
        assert train["reach"] == {"0.5": pytest.approx(2 / 3), "0.65": pytest.approx(2 / 3)}
        assert facts["equal"] == {"train": [["2.png", "3.png"]], "val": [], "train and val": []}
        assert facts["problems"] == []
        assert read_image(out / "objects.png").shape[1] > 400
        printed = capsys.readouterr().out
        assert "data.train.a: 3 pictures (1 without an object that counts), 0 missing, 0 unreadable" in printed
        assert "data.train: 1 groups of equal pictures, such as 2.png and 3.png" in printed

    def test_problems(self, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_image(tmp_path / "val" / "1.png", noise(1))  # as the first to train
        (tmp_path / "val" / "2.png").unlink()
        whole = (tmp_path / "train" / "2.png").read_bytes()
        (tmp_path / "train" / "2.png").write_bytes(whole[: len(whole) // 2])  # its header is sound
        (tmp_path / "train" / "3.png").write_bytes(b"no picture")
        assert main(["data", "check", str(recipe), "--json", str(tmp_path / "c.json")]) == 1
        problems = json.loads((tmp_path / "c.json").read_text())["problems"]
        out = capsys.readouterr().out
        assert out.count("problem: ") == len(problems) == 4
        for told in (
            "train.a: .*3.png",
            "train.a: .*2.png",
            "val.b: .*2.png is missing",
            "share 1 pictures .*1.png and 1.png",
        ):
            assert [problem for problem in problems if re.search(told, problem)], told

    def test_a_wrong_annotation_is_told_before_anything_is_read(
        self, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "train.txt").write_text("1.png 1 2\n")
        assert main(["data", "check", str(recipe)]) == 2
        assert "train.txt, line 1: '1.png 1 2' has 2 fields" in capsys.readouterr().err

    def test_an_override(self, recipe: Path, tmp_path: Path) -> None:
        main(["data", "check", str(recipe), "pyramid.min_object_px=24", "--json", str(tmp_path / "c.json")])
        facts = json.loads((tmp_path / "c.json").read_text())
        assert facts["data.train.a"]["below_min_object_px"] == pytest.approx(2 / 3)


class TestShow:
    def test_a_sheet_of_each_source(self, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        for count in ("1", "40"):
            assert main(["data", "show", str(recipe), "--out", str(out), "--pictures", count]) == 0
            assert sorted(path.name for path in out.iterdir()) == ["train_a.png", "val_b.png", "windows_pnet.png"]
        assert read_image(out / "train_a.png").shape[1] > 3 * 320
        assert str(out / "val_b.png") in capsys.readouterr().out

    def test_what_cannot_be_read_is_listed(
        self, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "val" / "2.png").unlink()
        assert main(["data", "show", str(recipe), "--out", str(tmp_path / "out")]) == 1
        assert "failed: 2.png: " in capsys.readouterr().err
        assert (tmp_path / "out" / "val_b.png").is_file()

    def test_a_folder_with_other_things_is_refused(self, recipe: Path, tmp_path: Path) -> None:
        assert main(["data", "show", str(recipe), "--out", str(tmp_path / "train")]) == 2


class TestShowWindows:
    """Sheets of windows: of a run where there is one, else of a few pictures; the later stage has none before it."""

    @pytest.fixture
    def staged(self, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Return the recipe with a second stage, in the current folder."""
        stages = dict(RECIPE["stages"])
        stages["rnet"] = {
            **stages["pnet"],
            "kind": "refiner",
            "window_hw": [24, 24],
            "net": {"kind": "mtcnn_rnet"},
            "samplers": {"mined": {"kind": "from_cascade"}},
        }
        recipe.write_text(yaml.safe_dump({**RECIPE, "stages": stages}, sort_keys=False))
        monkeypatch.chdir(tmp_path)
        return recipe

    @staticmethod
    def mine(recipe: Path, stage: str, folder: Path) -> None:
        """Write the shard that a run would hold; without candidates for a later stage."""
        Miner(MiningJob(load_recipe(recipe), stage, "train", 1, [0, 1, 2], None)).mine_shard(0, folder)

    def test_a_first_stage_without_a_run(
        self, staged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["data", "show", str(staged), "--out", "out", "--stage", "pnet"]) == 0
        told = capsys.readouterr()
        assert "pnet: windows cut now from 3 of 3 pictures; nothing is mined in runs/small" in told.err
        assert told.out == "out/windows_pnet.png\n"
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["windows_pnet.png"]
        assert not (tmp_path / "runs").exists()

    def test_without_pictures_the_sheet_says_so(self, staged: Path, tmp_path: Path) -> None:
        (tmp_path / "train.txt").write_text("")
        assert main(["data", "show", str(staged), "--out", "out", "--stage", "pnet"]) == 0

    def test_stages_of_a_run(self, staged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.mine(staged, "rnet", tmp_path / "runs" / "small" / "rnet" / "mine" / "shards" / "00000")
        assert main(["data", "show", str(staged), "--out", "out"]) == 0
        err = capsys.readouterr().err
        assert "pnet: windows cut now" in err
        assert "rnet: windows from runs/small/rnet, 1 shards" in err
        # its windows come from the run: pictures that are gone since do not matter
        shutil.rmtree(tmp_path / "train")
        assert main(["data", "show", str(staged), "--out", "out", "--stage", "rnet"]) == 0

    def test_the_count_of_windows(self, staged: Path, tmp_path: Path) -> None:
        heights = []
        for count in ("1", "90"):  # 16 windows a row
            assert main(["data", "show", str(staged), "--out", "out", "--stage", "pnet", "--count", count]) == 0
            heights.append(read_image(tmp_path / "out" / "windows_pnet.png").shape[0])
        assert heights[1] > heights[0] + 3 * 64

    def test_a_later_stage_without_a_run(self, staged: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["data", "show", str(staged), "--out", "out"]) == 0  # the rest is shown
        assert "rnet: no sheet of windows: nothing is mined in runs/small/rnet" in capsys.readouterr().err
        assert main(["data", "show", str(staged), "--out", "other", "--stage", "rnet"]) == 2
        assert "--stage rnet: nothing is mined in runs/small/rnet" in capsys.readouterr().err
        assert not Path("other").exists()

    def test_an_unknown_stage(self, staged: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["data", "show", str(staged), "--out", "out", "--stage", "pent"]) == 2
        assert "--stage 'pent': there is no such stage; did you mean 'pnet'" in capsys.readouterr().err


def same(first: Source, second: Source) -> None:
    """Check that two sources deliver the same truth; COCO adds the area, and types of columns may differ."""
    assert [(p.image_id, p.name, p.image_hw, p.fields) for p in first.pictures] == [
        (p.image_id, p.name, p.image_hw, p.fields) for p in second.pictures
    ]
    for row in range(len(first.pictures)):
        one, two = first.annotations(row), second.annotations(row)
        for name in ("boxes", "ignore", "points", "points_known"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=f"{name} of {row}")
        assert {name: column.tolist() for name, column in one.extras.items() if name != "area"} == {
            name: column.tolist() for name, column in two.extras.items() if name != "area"
        }


class ASource(Source):
    """Objects at places that no short text holds, with points, ignored ones and attributes of every type."""

    def __init__(self) -> None:
        rng, self.truth = np.random.default_rng(5), []
        for count in (4, 0, 7):
            corner = rng.normal(20, 9, (count, 2)).astype(np.float32)
            boxes = np.concatenate([corner, corner + rng.uniform(3, 30, (count, 2)).astype(np.float32)], axis=1)
            known = rng.random((count, 2)) < 0.5
            points = np.where(known[..., None], rng.normal(20, 9, (count, 2, 2)), 0)
            extras = {
                "whole": rng.integers(0, 9, count),
                "real": rng.random(count),
                "flag": rng.random(count) < 0.5,
                "text": np.array(["", "a", "ü b"], str)[rng.integers(0, 3, count)],
            }
            self.truth.append(Annotations(boxes, rng.random(count) < 0.3, points, known, extras))

    @property
    def pictures(self) -> list[Picture]:
        return [Picture(3 * n + 1, f"{n}.png", (60, 70), {"night": bool(n), "place": "x"}) for n in range(3)]

    def annotations(self, index: int) -> Annotations:
        return self.truth[index]

    def read(self, index: int) -> Any:
        return np.zeros((60, 70, 3), np.uint8)


class TestConvert:
    def test_coco_reads_back_the_same_truth(self, tmp_path: Path) -> None:
        (tmp_path / "t.json").write_text(json.dumps(coco_set(ASource(), "face", ["a", "b"])))
        same(ASource(), Coco(images=".", annotations=str(tmp_path / "t.json"), num_points=2))

    @pytest.mark.parametrize(
        ("data_format", "texts", "flags"),
        [
            (
                "wider",
                {"gt": "p/1.png\n2\n1 2 9 9 1 0 0 1 2 0\n3 3 5 5 0 0 0 0 0 0\np/2.png\n0\n0 0 0 0 0 0 0 0 0 0\n"},
                [],
            ),
            ("fddb", {"gt": "p/1\n1\n9 5.5 0.7 20 20 1\np/2\n0\n"}, []),
            ("lists", {"gt": "p/1.png 1 2 9 9.25 3 4 -1 -1\np/2.png\n"}, ["--points", "a,b"]),
            ("yolo", {"gt/p/1.txt": "0 .5 .5 .3 .3\n1 .2 .2 .1 .1\n"}, ["--category", "0", "--param", "others=ignore"]),
            ("folder", {}, []),
        ],
    )
    def test_every_format(
        self, tmp_path: Path, data_format: str, texts: dict[str, str], flags: list[str], capsys: Any
    ) -> None:
        for number in (1, 2):
            write_image(tmp_path / "in" / "p" / f"{number}.png", noise(number))
        if data_format == "fddb":
            for path in (tmp_path / "in" / "p").glob("*.png"):
                path.rename(path.with_suffix(".jpg"))
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        truth = ["--annotations", str(tmp_path / "gt")] if texts else []
        out = tmp_path / "made" / "t.json"
        command = ["data", "convert", "--format", data_format, "--images", str(tmp_path / "in"), *truth, *flags]
        assert main([*command, "--out", str(out)]) == 0
        assert f"pictures are named relative to {tmp_path / 'in'}" in capsys.readouterr().out
        points = 2 if "--points" in flags else 0
        given = {"images": str(tmp_path / "in"), "num_points": points}
        extra = {"annotations": str(tmp_path / "gt")} if texts else {}
        if data_format == "yolo":
            extra |= {"category": "0", "others": "ignore"}
        make: Callable[..., Source] = SOURCES.get(data_format)
        same(make(**given, **extra), Coco(annotations=str(out), **given))

    def test_celeba_s_points_are_known(self, tmp_path: Path) -> None:
        write_image(tmp_path / "1.png", noise(1))
        (tmp_path / "list_bbox_celeba.txt").write_text("1\nx\n1.png 2 3 20 20\n")
        (tmp_path / "list_landmarks_celeba.txt").write_text("1\nx\n1.png 1 2 3 4 5 6 7 8 9 10\n")
        command = ["data", "convert", "--format", "celeba", "--images", str(tmp_path), "--annotations", str(tmp_path)]
        assert main([*command, "--out", str(tmp_path / "t.json")]) == 0
        data = json.loads((tmp_path / "t.json").read_text())
        assert data["categories"][0]["name"] == "face"
        assert data["categories"][0]["keypoints"][0] == "left_eye"
        assert data["annotations"][0]["keypoints"][:6] == [1, 2, 2, 3, 4, 2]

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["--format", "wide", "--annotations", "gt", "--out", "t.json"], "--format 'wide': did you mean 'wider'?"),
            (["--format", "wider", "--out", "t.json"], "source 'wider' needs annotations"),
            (
                ["--format", "wider", "--annotations", "gt", "--out", "t.txt"],
                "--out t.txt: name a file that ends in .json",
            ),
            (["--format", "wider", "--annotations", "gt", "--out", "t.json"], "gt: cannot be read"),
        ],
    )
    def test_wrong_flags(
        self,
        tmp_path: Path,
        words: list[str],
        told: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["data", "convert", "--images", str(tmp_path), *words]) == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize("verb", ["check", "show", "convert"])
def test_help_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", verb, "--help"]) == 0
    assert f"cascade-det data {verb}" in capsys.readouterr().out.split("Example")[1]
