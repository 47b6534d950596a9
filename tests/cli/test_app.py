"""The command line: its help, and what each verb prints and writes."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

from cascade_det.cascade import Cascade
from cascade_det.cli.app import main
from cascade_det.core.imaging import read_image, write_image
from cascade_det.core.recipe import load_recipe
from cascade_det.training.pipeline import Run

STEPS = ["pnet mine", "pnet fit", "pnet calibrate", "rnet mine", "rnet fit", "rnet calibrate", "evaluate"]
VERBS = ["train", "status", "check", "detect", "evaluate", "score", "compare", "data", "import", "parts", "models"]


def pycocotools_alone(folder: Path) -> float:
    """Return AP50 of the written files by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        run = COCOeval(truth, truth.loadRes(str(folder / "detections.json")), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[1])


class TestHelp:
    def test_no_verb_shows_what_there_is(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([]) == 2
        out, err = capsys.readouterr()
        assert "cascade-det train quickstart" in out
        assert all(verb in out for verb in VERBS)
        assert "error" not in err

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out.startswith("cascade_det 0.")

    @pytest.mark.parametrize("verb", VERBS)
    def test_every_verb_shows_an_example_that_names_it(self, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([verb, "--help"]) == 0
        out = capsys.readouterr().out
        assert "Example" in out
        assert f"cascade-det {verb}" in out.split("Example")[1]

    @pytest.mark.parametrize(
        ("arguments", "shown"),
        [
            (["parts"], ["proposer", "iou_bands", "box_offset", "mtcnn_onet", "synthetic", "coco"]),
            (["parts", "iou_bands"], ["iou_bands", "negatives_per_image = 50"]),
            (["parts", "head"], ["classification", "points"]),
            (["parts", "recipe"], ["stages.NAME.keep.nms", "[calibrate]"]),
            (["models"], ["mtcnn_face", "val: AP ", "val_wild: AP ", "at 1 FPPI, NME"]),
        ],
    )
    def test_what_is_there(self, arguments: list[str], shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert [text for text in shown if text not in out] == []


class TestTrain:
    def test_a_second_run_does_nothing(self, tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        files = [p for p in tiny.folder.rglob("*") if p.is_file() and p.name not in ("recipe.yaml", ".lock")]
        before = {path: path.stat().st_mtime_ns for path in files}
        assert main(["train", str(tiny.recipe), "--json", str(tmp_path / "out" / "metrics.json")]) == 0
        out, err = capsys.readouterr()
        assert [f"[{n}/7] {step}: done before" for n, step in enumerate(STEPS, start=1)] == err.splitlines()[-7:]
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert "AP50" in out
        assert str(tiny.model) in out
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert metrics == json.loads((tiny.folder / "metrics.json").read_text())

    def test_what_a_run_leaves(self, tiny: Any) -> None:
        assert {"recipe.yaml", "model.safetensors", "metrics.json", "evaluation", "pnet", "rnet"} <= {
            path.name for path in tiny.folder.iterdir()
        }
        for stage in ("pnet", "rnet"):
            for file in ("mine/mined.png", "mine/report.json", "fit/curves.png", "fit/weights.safetensors"):
                assert (tiny.folder / stage / file).stat().st_size > 0, file
            assert 0 < json.loads((tiny.folder / stage / "calibrate" / "thresholds.json").read_text())["detect"] < 1
        metrics = json.loads((tiny.folder / "metrics.json").read_text())
        assert set(metrics["sources"]) == {"drawn"}
        assert metrics["AP50"] == pytest.approx(pycocotools_alone(tiny.folder / "evaluation"), abs=1e-9)
        assert metrics["settings"]["score"] == 0.05
        assert [row["stage"] for row in metrics["funnel"]] == ["pnet", "rnet"]

    def test_the_written_recipe_is_the_recipe(self, tiny: Any) -> None:
        assert load_recipe(tiny.folder / "recipe.yaml") == load_recipe(tiny.recipe)

    def test_an_interruption_is_no_crash(
        self, tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def stop(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Run, "train", stop)
        assert main(["train", str(tiny.recipe)]) == 130
        assert "goes on where it stopped" in capsys.readouterr().err


class TestStatus:
    @pytest.mark.parametrize("by", ["recipe", "folder"])
    def test_all_done(self, tiny: Any, tmp_path: Path, by: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["status", str(getattr(tiny, by)), "--json", str(tmp_path / "s.json")]) == 0
        status = json.loads((tmp_path / "s.json").read_text())
        assert status["steps"] == [{"step": step, "state": "done", "changes": []} for step in STEPS]
        assert status["next"] is None
        assert status["run_dir"] == str(tiny.folder)
        assert "all done" in capsys.readouterr().out

    def test_what_a_change_would_redo(self, tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["status", str(tiny.folder), "stages.rnet.train.lr=1.0e-3", "--json", str(tmp_path / "s.json")]
        assert main(arguments) == 0
        status = json.loads((tmp_path / "s.json").read_text())
        assert [row["state"] for row in status["steps"]] == ["done"] * 4 + ["stale"] * 3
        assert status["next"] == "rnet fit"
        out = capsys.readouterr().out
        assert "stages.rnet.train.lr: 0.004 -> 0.001" in out
        assert "next: rnet fit" in out

    def test_a_run_that_was_never_started(self, tiny_recipe: Callable[[], Path], tmp_path: Path) -> None:
        assert main(["status", str(tiny_recipe()), "--json", str(tmp_path / "s.json")]) == 0
        status = json.loads((tmp_path / "s.json").read_text())
        assert {row["state"] for row in status["steps"]} == {"missing"}
        assert status["next"] == "pnet mine"
        assert not (tmp_path / "new_run").exists()


class TestCheck:
    def test_a_recipe_that_would_run(
        self, tiny_recipe: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["check", str(tiny_recipe()), "--json", str(tmp_path / "c.json")]) == 0
        facts = json.loads((tmp_path / "c.json").read_text())
        assert facts["problems"] == []
        assert facts["data.train.drawn"]["pictures"] == 80
        assert facts["share_above_min_object_px"] == 1
        assert 0.9 < facts["reach.rnet"] <= 1
        assert facts["parameters.pnet"] > 1000
        out = capsys.readouterr().out
        assert "would run: pnet mine, pnet fit" in out
        assert not (tmp_path / "new_run").exists()

    def test_problems_are_listed_with_exit_code_1(
        self, tiny_recipe: Callable[[], Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = tiny_recipe()
        val = f"{{kind: coco, params: {{images: {tmp_path}, annotations: {photos / 'truth.json'}}}}}"
        recipe.write_text(recipe.read_text().split("  val:\n")[0] + f"  val:\n    files: {val}\n")
        for number in range(15):  # the last is missing
            write_image(tmp_path / f"{number:02d}.png", read_image(photos / "pictures" / f"{number:02d}.png"))
        (tmp_path / "03.png").write_bytes(b"no picture")
        assert main(["check", str(recipe), "--json", str(tmp_path / "c.json")]) == 1
        problems = json.loads((tmp_path / "c.json").read_text())["problems"]
        assert any("1 picture files are missing" in p and "15.png" in p for p in problems)
        assert any("03.png" in p and "data.val.files" in p for p in problems)
        assert capsys.readouterr().out.count("problem: ") == len(problems)


class TestDetect:
    @pytest.fixture
    def folder(self, photos: Path, tmp_path: Path) -> Path:
        """Return a folder with two pictures, one of them in a folder of its own, a damaged one and another file."""
        folder = tmp_path / "in"
        write_image(folder / "a.png", read_image(photos / "pictures" / "00.png"))
        write_image(folder / "more" / "B.PNG", read_image(photos / "pictures" / "01.png"))
        (folder / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
        (folder / "notes.txt").write_text("")
        return folder

    def test_files(self, tiny: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "found"
        arguments = ["detect", str(tiny.folder), str(folder), "--out", str(out), "--score", "0.2"]
        arguments += ["--draw", "--save-as", "csv", "--json", str(tmp_path / "d.json"), "--device", "cpu"]
        for _ in range(2):  # its own output is no foreign file
            assert main(arguments) == 1
        names = {path.name for path in out.iterdir()}
        assert names == {"detections.json", "images.json", "errors.csv", "detections.csv", "drawn"}

        images = json.loads((out / "images.json").read_text())
        paths = [folder / "a.png", folder / "more" / "B.PNG"]
        assert images == [{"id": n, "path": str(p), "width": 128, "height": 96} for n, p in enumerate(paths, start=1)]
        with (out / "errors.csv").open(newline="") as file:
            errors = list(csv.DictReader(file))
        assert [row["path"] for row in errors] == [str(folder / "bad.jpg")]
        assert "not a readable picture" in errors[0]["reason"]

        cascade, rows = Cascade.load(tiny.model, device="cpu"), json.loads((out / "detections.json").read_text())
        for number, path in enumerate(paths, start=1):
            found = cascade(path, score=0.2)
            mine = [row for row in rows if row["image_id"] == number]
            assert len(mine) == len(found) > 0
            for row, box, score, points in zip(mine, found.boxes, found.scores, found.points, strict=True):  # type: ignore[arg-type]
                assert set(row) == {"image_id", "category_id", "bbox", "score", "keypoints"}
                assert row["category_id"] == 1
                assert row["bbox"] == pytest.approx([*box[:2], *(box[2:] - box[:2])], abs=0.01)
                assert row["score"] == pytest.approx(score, abs=1e-5)
                assert np.reshape(row["keypoints"], (-1, 3))[:, :2] == pytest.approx(points, abs=0.01)
                assert row["keypoints"][2::3] == [2] * 5

        summary = json.loads((tmp_path / "d.json").read_text())
        assert summary["pictures"] == 2
        assert summary["objects"] == len(rows)
        assert [path for path, _ in summary["errors"]] == [str(folder / "bad.jpg")]
        assert f"failed: {folder / 'bad.jpg'}" in capsys.readouterr().err

    def test_csv_and_drawn_pictures(self, tiny: Any, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "found"
        arguments = ["detect", str(tiny.folder), str(folder), "--out", str(out), "--score", "0.2"]
        assert main([*arguments, "--draw", "--save-as", "csv"]) == 1
        rows = json.loads((out / "detections.json").read_text())
        with (out / "detections.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        assert len(table) == len(rows)
        assert list(table[0])[:6] == ["path", "score", "x0", "y0", "x1", "y1"]
        assert float(table[0]["left_eye_x"]) == pytest.approx(rows[0]["keypoints"][0], abs=1e-3)
        drawn = sorted((out / "drawn").iterdir())
        assert [path.name for path in drawn] == ["00001_a.jpg", "00002_B.jpg"]
        assert read_image(drawn[0]).shape == (96, 128, 3)

    def test_a_table_without_out(self, tiny: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["detect", str(tiny.model), str(folder / "a.png"), "--score", "0.2"]) == 0
        lines = capsys.readouterr().out.splitlines()
        found = Cascade.load(tiny.model)(folder / "a.png", score=0.2)
        assert lines[0] == f"{folder / 'a.png'} (128 x 96 px): {len(found)} found"
        assert len(lines) == 2 + len(found)
        assert float(lines[2].split()[0]) == pytest.approx(float(found.scores[0]), abs=1e-3)

    def test_nothing_found_is_no_failure(self, tiny: Any, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "found"
        assert main(["detect", str(tiny.model), str(folder / "a.png"), "--out", str(out), "--score", "1"]) == 0
        assert json.loads((out / "detections.json").read_text()) == []
        assert (out / "errors.csv").read_text().split() == ["path,reason"]

    def test_min_object(self, tiny: Any, folder: Path, tmp_path: Path) -> None:
        counts = []
        for px in ("20", "90"):
            arguments = ["detect", str(tiny.model), str(folder / "a.png"), "--score", "0.05", "--min-object", px]
            main([*arguments, "--json", str(tmp_path / "d.json")])
            counts.append(json.loads((tmp_path / "d.json").read_text())["objects"])
        assert counts[0] > counts[1]


class TestEvaluate:
    def arguments(self, tiny: Any, photos: Path, *more: str) -> list[str]:
        data = ["--format", "coco", "--images", str(photos / "pictures"), "--annotations", str(photos / "truth.json")]
        return ["evaluate", str(tiny.folder), *data, *more]

    def test_pycocotools_alone_gives_the_same_figure(
        self, tiny: Any, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "scored"
        for _ in range(2):  # its own output is no foreign file
            assert main(self.arguments(tiny, photos, "--out", str(out), "--json", str(tmp_path / "e.json"))) == 0
        names = {"detections.json", "truth.json", "images.json", "metrics.json", "errors.csv"}
        assert {path.name for path in out.iterdir()} == names | {"pictures.png", "funnel.png", "report.html"}
        metrics = json.loads((out / "metrics.json").read_text())
        assert metrics == json.loads((tmp_path / "e.json").read_text())
        assert metrics["AP50"] == pytest.approx(pycocotools_alone(out), abs=1e-9)
        assert metrics["AP50"] > 0.2
        # the run evaluated the same pictures
        assert metrics["AP50"] == pytest.approx(
            json.loads((tiny.folder / "metrics.json").read_text())["AP50"], abs=0.01
        )
        assert metrics["settings"] == {
            "max_dets": 300, "score": 0.05, "min_object_px": 20, "upto": "rnet", "images": 16, "unreadable": 0
        }  # fmt: skip
        truth = json.loads((out / "truth.json").read_text())
        assert {row["category_id"] for row in truth["annotations"]} == {1}
        out_text, err = capsys.readouterr()
        assert "AP50" in out_text
        assert "kept down to a score of 0.05" in err

    def test_group_by(self, tiny: Any, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for field, groups in (("size", ["12-24", "24-48", "48-96", "96+"]), ("source", ["a", "b"])):
            arguments = self.arguments(tiny, photos, "--group-by", field, "--json", str(tmp_path / "e.json"))
            assert main(arguments) == 0
            metrics = json.loads((tmp_path / "e.json").read_text())
            assert list(metrics["groups"]) == groups
            out = capsys.readouterr().out
            assert all(f"  {group}: AP" in out for group in groups)
        assert sum(group["images"] for group in metrics["groups"].values()) == 16

    def test_upto_the_first_stage(self, tiny: Any, photos: Path, tmp_path: Path) -> None:
        results = {}
        for stage in ("pnet", "rnet"):
            path = tmp_path / f"{stage}.json"
            assert main(self.arguments(tiny, photos, "--upto", stage, "--score", "0.5", "--json", str(path))) == 0
            results[stage] = json.loads(path.read_text())
        assert [row["stage"] for row in results["pnet"]["funnel"]] == ["pnet"]
        assert results["pnet"]["settings"]["upto"] == "pnet"
        assert results["pnet"]["settings"]["score"] == results["pnet"]["funnel"][0]["score"] == 0.5
        assert results["pnet"]["funnel"][0]["candidates_out"] > results["rnet"]["funnel"][1]["candidates_out"]
        assert results["pnet"]["nme"] is None

    def test_an_unreadable_picture_is_listed_with_exit_code_1(
        self, tiny: Any, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for number in range(3):
            write_image(tmp_path / "p" / f"{number:02d}.png", read_image(photos / "pictures" / f"{number:02d}.png"))
        truth = json.loads((photos / "truth.json").read_text())
        truth["images"] = truth["images"][:3]
        truth["annotations"] = [row for row in truth["annotations"] if row["image_id"] < 3]
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        (tmp_path / "p" / "01.png").write_bytes(b"")
        arguments = ["evaluate", str(tiny.model), "--images", str(tmp_path / "p")]
        arguments += ["--annotations", str(tmp_path / "truth.json"), "--out", str(tmp_path / "out")]
        assert main(arguments) == 1
        assert "01.png: the file is empty" in capsys.readouterr().err
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert (metrics["settings"]["images"], metrics["settings"]["unreadable"]) == (2, 1)
        assert [row["id"] for row in json.loads((tmp_path / "out" / "truth.json").read_text())["images"]] == [0, 2]
        with (tmp_path / "out" / "errors.csv").open(newline="") as file:
            assert [row["path"] for row in csv.DictReader(file)] == ["01.png"]

    def test_where_no_picture_can_be_read_there_is_no_figure(
        self, tiny: Any, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["evaluate", str(tiny.model), "--images", str(tmp_path)]
        assert main([*arguments, "--annotations", str(photos / "truth.json"), "--out", str(tmp_path / "out")]) == 2
        assert "none of 16 pictures could be read" in capsys.readouterr().err
        assert not list((tmp_path / "out").iterdir())

    def test_many_failures_are_not_all_printed(
        self, tiny: Any, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_image(tmp_path / "p" / "03.png", read_image(photos / "pictures" / "03.png"))
        arguments = ["evaluate", str(tiny.model), "--images", str(tmp_path / "p"), "--out", str(tmp_path / "out")]
        assert main([*arguments, "--annotations", str(photos / "truth.json")]) == 1
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
        assert len(told) == 11
        assert told[-1] == f"failed: 5 more; all stand in {tmp_path / 'out' / 'errors.csv'}"
        assert len((tmp_path / "out" / "errors.csv").read_text().splitlines()) == 16
