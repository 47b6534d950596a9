"""The report through the command line: what it says of any evaluation, that it needs no other file, and its escapes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.cascade import Cascade
from cascade_det.cli.app import main
from cascade_det.core.imaging import write_image
from cascade_det.core.registry import EVALUATORS
from cascade_det.data.synthetic import Synthetic
from cascade_det.evaluation.run import evaluate_sources
from cascade_det.report.render import write_report

HOSTILE = """<img src=x onerror="alert(1)">&'{{ 7*7 }}.png"""
SCRIPT = "</td><script>alert(1)</script>"
ReadPage = Callable[[Path], Any]


def drawn(images: int, seed: int = 5) -> Synthetic:
    return Synthetic(images=images, seed=seed, size_hw=(96, 128), objects=(1, 2), object_px=(24, 64))


@pytest.fixture
def score(tiny: Any, tmp_path: Path, read_page: ReadPage) -> Callable[..., Any]:
    """Return a function that evaluates the small cascade on drawn pictures and reads the report."""

    def run(*flags: str, names: Sequence[str] = ("a.png",), objects: bool = True, points: bool = True) -> Any:
        source = drawn(len(names))
        truth: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "face"}]}
        for number, name in enumerate(names):
            write_image(tmp_path / "pictures" / f"{number}.png", source.read(number))
            (tmp_path / "pictures" / f"{number}.png").rename(tmp_path / "pictures" / name)
            picture = {"id": number, "file_name": name, "width": 128, "height": 96, "source": SCRIPT}
            truth["images"].append(picture)
            told = source.annotations(number)
            for box, known in zip(told.boxes.astype(float), told.points.astype(float), strict=True):
                record = {"id": len(truth["annotations"]) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
                record["bbox"] = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
                record["area"] = record["bbox"][2] * record["bbox"][3]
                if points:
                    record["keypoints"] = [v for xy in known.tolist() for v in (*xy, 2)]
                if objects:
                    truth["annotations"].append(record)
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        words = ["evaluate", str(tiny.model), "--images", str(tmp_path / "pictures")]
        words += ["--annotations", str(tmp_path / "truth.json"), "--out", str(tmp_path / "out"), *flags]
        assert main(words) == 0
        return read_page(tmp_path / "out" / "report.html")

    return run


CASES: dict[str, tuple[dict[str, Any], list[str], list[str], list[str]]] = {
    # arguments, flags, what the page says, what it does not say
    "no object, no detection": (
        {"objects": False}, ["--score", "1"],
        ["holds no object that counts", "Correct: 0", "Missed: 0", "False: 0", "None.", "recall –, precision –"],
        ["Precision over recall", "Recall by height"],
    ),
    "objects, no detection": (
        {}, ["--score", "1"],
        ["Nothing was detected", "Correct: 0", "lost by", "Recall by height"],
        ["ROC", "Missed: 0"],
    ),
    "no object, detections": ({"objects": False}, ["--score", "0"], ["holds no object", "Correct: 0", "Missed: 0"], []),
    "detections without points": (
        {}, ["--score", "0", "--upto", "pnet"],
        ["Precision over recall", "pnet 0.000 – "],
        ["Error of points", "rnet 0."],
    ),
    "truth without points": (
        {"points": False}, ["--score", "0"], ["Precision over recall", "ROC", "Miss rate"], ["Error of points"]
    ),
    "one picture": (
        {}, ["--score", "0", "--group-by", "size"],
        ["Error of points", "The funnel", "Recall by height", "By group", "12-24", "AP50", "Seed 0", "evaluate",
         "from a score of 0.000", "window_hw"],
        ["Training", "Beside published"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_a_report_says(case: str, score: Callable[..., Any]) -> None:
    arguments, flags, says, silent = CASES[case]
    page = score(*flags, **arguments)
    assert [text for text in says if text not in page.text] == []
    assert [text for text in silent if text in page.text] == []


def test_names_and_values_are_text(score: Callable[..., Any]) -> None:
    page = score("--score", "0", "--group-by", "source", names=[HOSTILE, "b.png"])
    assert HOSTILE in page.text
    assert HOSTILE in page.attributes("alt")
    assert SCRIPT in page.text
    assert "49" not in page.text.split(".png")[0][-20:]


def test_a_page_is_for_phones_and_printers(tiny: Any, read_page: ReadPage) -> None:
    page = read_page(tiny.folder / "report.html")
    assert page.html.lstrip().startswith("<!DOCTYPE html>")
    assert "width=device-width, initial-scale=1" in page.attributes("content")
    assert "@media print" in page.style
    assert "@media (max-width: 600px)" in page.style
    assert all(own.get("alt") for tag, own in page.tags if tag == "img")
    assert len(page.html) < 5e6


class TestRun:
    def test_what_the_report_of_a_run_says(self, tiny: Any, read_page: ReadPage) -> None:
        page = read_page(tiny.folder / "report.html")
        says = [
            "Training and evaluation tiny", "Windows mined for pnet", "Windows mined for rnet", "Windows: negative",
            "Fit of pnet", "Calibrated thresholds", "all steps", f"cascade-det train {tiny.recipe}",
            "Finds: face", "name: tiny", "Correct:", "Missed:",
        ]  # fmt: skip
        assert [text for text in says if text not in page.text] == []
        assert {"pnet: loss", "rnet: points_loss", "rnet: lr-AdamW"} <= set(page.attributes("alt"))
        metrics = json.loads((tiny.folder / "metrics.json").read_text())
        assert f"{metrics['AP50']:.3f}" in page.text

    def test_without_logs(self, tiny_copy: Any, read_page: ReadPage, capsys: pytest.CaptureFixture[str]) -> None:
        """A report that is missing is written again, of whatever is left of the run."""
        for stage in ("pnet", "rnet"):
            for log in (tiny_copy.folder / stage / "fit").glob("log-*"):
                shutil.rmtree(log)
            (tiny_copy.folder / stage / "mine" / "mined.png").unlink()
        (tiny_copy.folder / "report.html").unlink()
        assert main(["train", str(tiny_copy.recipe)]) == 0
        assert f"report: {tiny_copy.folder / 'report.html'}" in capsys.readouterr().err
        page = read_page(tiny_copy.folder / "report.html")
        assert "No training logs were found" in page.text
        assert "Windows mined for" not in page.text
        assert "Windows: negative" in page.text


def test_several_sources(tiny: Any, tmp_path: Path, read_page: ReadPage) -> None:
    cascade = Cascade.load(tiny.model)
    sources = {"near": drawn(2), SCRIPT.replace("/", ""): drawn(1, seed=6)}
    evaluators = {"coco": EVALUATORS.build("coco", {}, "evaluate")}
    metrics, _ = evaluate_sources(cascade, sources, evaluators, tmp_path)
    write_report(tmp_path / "report.html", cascade, sources, metrics)
    page = read_page(tmp_path / "report.html")
    assert [text for _, own in page.tags if (text := own.get("href"))][1:3] == ["#source-1", "#source-2"]
    assert all(f"Detections: {name}" in page.text for name in sources)
    assert "called from Python" in page.text


def test_no_sources(tiny: Any, tmp_path: Path, read_page: ReadPage) -> None:
    write_report(tmp_path / "report.html", Cascade.load(tiny.model), {}, {"sources": {}})
    assert "No annotated pictures were evaluated" in read_page(tmp_path / "report.html").text


def test_a_picture_that_is_gone_is_left_out(tiny: Any, tmp_path: Path, read_page: ReadPage) -> None:
    from cascade_det.errors import DataError

    class Gone(Synthetic):
        def read(self, index: int) -> np.ndarray[Any, Any]:
            raise DataError("gone")

    cascade, evaluators = Cascade.load(tiny.model), {"coco": EVALUATORS.build("coco", {}, "evaluate")}
    metrics, _ = evaluate_sources(cascade, {"a": drawn(1)}, evaluators, tmp_path, score=0.0)
    gone = Gone(images=1, seed=5, size_hw=(96, 128), objects=(1, 2), object_px=(24, 64))
    write_report(tmp_path / "report.html", cascade, {"a": gone}, metrics, score=0.0)
    page = read_page(tmp_path / "report.html")
    assert "jpeg" not in "".join(src[:20] for src in page.attributes("src"))
    assert "None." in page.text
