"""`compare` through the command line: tables, JSON and plot of runs, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest

from cascade_det.cli.app import main

FIGURES = {"AP": 0.5, "AP50": 0.75, "recall_at_fppi": {"0.1": 0.25, "1": -1}, "nme": None}


def write(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def row(out: str, name: str) -> list[str]:
    lines = [line.split() for line in out.splitlines()]
    return next(line[len(name.split()) :] for line in lines if line[: len(name.split())] == name.split())


def test_without_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [write(tmp_path / f"{name}.json", {"sources": {}}) for name in "ab"]
    assert main(["compare", *files, "--json", str(tmp_path / "c.json")]) == 0
    assert "a.json" in capsys.readouterr().out
    assert json.loads((tmp_path / "c.json").read_text()) == {"figures": {}, "recipe": {}}


def test_a_run_beside_its_evaluation_and_its_metrics(
    tiny_copy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(tiny_copy.folder), str(tiny_copy.folder / "evaluation"), str(tiny_copy.folder / "metrics.json")]
    assert main(["compare", *runs, "--json", str(tmp_path / "c.json")]) == 0
    out, err = capsys.readouterr()
    metrics = json.loads((tiny_copy.folder / "metrics.json").read_text())
    assert row(out, "AP50") == [f"{metrics['AP50']:.3f}"] * 3
    assert row(out, "candidates pnet") == [f"{metrics['funnel'][0]['candidates_out']:.3f}"] * 3
    seconds = sum(json.loads(f.read_text())["seconds"] for f in tiny_copy.folder.glob("*/*/done.json"))
    assert row(out, "training seconds") == [f"{seconds:.3f}", "-", "-"]
    assert "recipe" not in out
    assert "warning" not in err
    written = json.loads((tmp_path / "c.json").read_text())
    assert written["figures"]["AP50"]["metrics.json"] == metrics["AP50"]


def test_recipes_and_curves_of_two_runs(tiny_copy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "_other $x$"  # a legend is no formula, and leaves nothing out
    shutil.copytree(tiny_copy.folder, other)
    recipe = other / "recipe.yaml"
    text = re.sub(r"^seed: 0", "seed: 7", recipe.read_text(), flags=re.MULTILINE)
    text = re.sub(r"samples: 100000$", "samples: 5", text, flags=re.MULTILINE)
    recipe.write_text(text.replace(str(tiny_copy.folder), str(other)))
    arguments = ["compare", str(tiny_copy.folder), str(other), "--plot", str(tmp_path / "new" / "p.png")]
    assert main([*arguments, "--json", str(tmp_path / "c.json")]) == 0
    out = capsys.readouterr().out
    assert row(out, "seed") == ["0", "7"]
    keys = json.loads((tmp_path / "c.json").read_text())["recipe"]
    assert set(keys) == {"seed", "stages.pnet.train.samples"}
    assert keys["stages.pnet.train.samples"] == {tiny_copy.folder.name: 100_000, other.name: 5}
    plot = cv2.imread(str(tmp_path / "new" / "p.png"))
    assert plot is not None
    assert plot.shape[1] > 3 * 600  # precision, false positives, points


def test_equal_recipes_are_told(tiny_copy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tiny_copy.folder, tmp_path / "other")
    assert main(["compare", str(tiny_copy.folder), str(tmp_path / "other")]) == 0
    assert "the recipes are equal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("first", "second", "rows", "warning"),
    [
        (["x", "y"], ["y", "x"], ["x: AP50", "y: AP50"], ""),
        (["x"], ["x"], ["AP50"], ""),
        (["x"], ["z"], ["AP50"], "first of each: a.json 'x', b.json 'z'"),
        (["x", "y"], ["x"], ["AP50"], "the sources differ"),
    ],
)
def test_figures_by_source(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    first: list[str],
    second: list[str],
    rows: list[str],
    warning: str,
) -> None:
    files = [
        write(tmp_path / f"{name}.json", {**FIGURES, "sources": dict.fromkeys(sources, FIGURES)})
        for name, sources in zip("ab", (first, second), strict=True)
    ]
    assert main(["compare", *files]) == 0
    out, err = capsys.readouterr()
    assert [row(out, name) for name in rows] == [["0.750", "0.750"]] * len(rows)
    assert warning in err
    assert bool(warning) == ("warning" in err)


def test_figures_of_different_pictures_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [write(tmp_path / f"{n}.json", {**FIGURES, "settings": {"images": n}}) for n in (1, 2)]
    assert main(["compare", *files]) == 0
    assert "the numbers of pictures differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["good.json"], "good.json: one alone has nothing to stand beside; name two or more"),
        (["good.json", "good.json"], "good.json: is given twice"),
        (["good.json", "absent"], "absent: no such file or folder; name a run directory"),
        (["good.json", "empty"], r"empty: a folder without metrics.json.*cascade-det status"),
        (["good.json", "text.json"], r"text.json: cannot be read as JSON .* Name a metrics.json"),
        (["good.json", "list.json"], "list.json: holds no figures of an evaluation"),
        (["good.json", "other.json"], "other.json: holds no figures of an evaluation"),
        (["good.json", "a/metrics.json", "--plot", "p.png"], "--plot: .*good.json has no detections.json to draw"),
        (["good.json", "a/metrics.json", "--plot", "p.gif"], r"--plot .*p.gif: .*\.png"),
        (["good.json", "broken"], "recipe.yaml: not a readable YAML file"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    for name in ("good.json", "a/metrics.json", "broken/metrics.json"):
        write(tmp_path / name, FIGURES)
    for name, content in (("text.json", "{"), ("list.json", []), ("other.json", {"a": 1}), ("broken/recipe.yaml", "[")):
        write(tmp_path / name, content)
    (tmp_path / "empty").mkdir()
    words = [word if word.startswith("--") else str(tmp_path / word) for word in arguments]
    assert main(["compare", *words]) == 2
    told = capsys.readouterr().err
    assert re.search(message, told)
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "p.png").exists()
