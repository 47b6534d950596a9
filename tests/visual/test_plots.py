"""Plots: a readable file for any rows, empty ones included, and no global state of matplotlib."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cascade_det.evaluation.protocol import Curve
from cascade_det.visual.plots import SCORE_AXES, plot_funnel, plot_objects, plot_scores, plot_training_curves

NAN = float("nan")
STAGE = {"stage": "pnet", "candidates_out": 812.4, "recall": 0.98, "ms_per_image": 12.3}


def is_picture(path: Path) -> bool:
    image = cv2.imread(str(path))
    return image is not None and min(image.shape[:2]) > 200 and int(image.min()) < 100


CURVES: list[dict[str, Any]] = [
    {},
    {"loss": ([], [])},
    {"loss": ([0], [NAN])},
    {"loss": ([100], [0.5])},
    {"loss": ([0, 1, 2], [0.5, NAN, 0.3])},
    {
        "train_loss": ([0, 1], [1, 0.5]),
        "val_loss": ([1], [0.6]),
        "lr": ([0, 1], [1e-2, 1e-6]),
        "val/recall": ([1], [0]),
    },
]


@pytest.mark.parametrize("rows", CURVES)
def test_training_curves(tmp_path: Path, rows: dict[str, Any]) -> None:
    path = tmp_path / "new" / "curves.png"
    plot_training_curves(rows, path, "pnet")
    assert is_picture(path)


def test_quantities_of_training_and_validation_share_a_panel(tmp_path: Path) -> None:
    curve = ([0, 1], [1.0, 0.5])
    for name, rows in (("one", ["train_loss", "val_loss"]), ("two", ["loss", "lr"])):
        plot_training_curves(dict.fromkeys(rows, curve), tmp_path / f"{name}.png", "t")
    one, two = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("one", "two"))
    assert one is not None
    assert two is not None
    assert one.shape[1] < two.shape[1]


NONE = np.zeros(0)
KINDS = list(SCORE_AXES)


@pytest.mark.parametrize(
    "curves",
    [
        [],
        [Curve("precision-recall", "all", NONE, NONE, "AP -1")],
        [Curve("precision-recall", "all", np.linspace(0, 1, 5), np.array([NAN, 1, 0.9, NAN, 0]), "AP .5")],
        [Curve(kind, "one point", np.ones(1), np.ones(1), "1") for kind in KINDS],
        [Curve(kind, "from 0 to 0", np.array([0, 0, 0.5, 2]), np.array([1, 0.5, 0.5, 0]), "1") for kind in KINDS],
    ],
)
def test_scores(tmp_path: Path, curves: list[Curve]) -> None:
    plot_scores(curves, tmp_path / "new" / "scores.png", "faces")
    assert is_picture(tmp_path / "new" / "scores.png")


def test_curves_of_a_kind_share_a_panel(tmp_path: Path) -> None:
    line = np.linspace(0, 1, 5)
    for name, kinds in (("one", ["roc", "roc"]), ("two", ["roc", "ced"])):
        plot_scores([Curve(kind, kind, line, line, "1") for kind in kinds], tmp_path / f"{name}.png", "t")
    one, two = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("one", "two"))
    assert one is not None
    assert two is not None
    assert one.shape[1] < two.shape[1]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [STAGE],
        [STAGE, {**STAGE, "stage": "rnet", "candidates_out": 0, "recall": 0.0}],
        [{"stage": "pnet"}],
        [{"stage": "pnet", "candidates_out": None, "recall": NAN, "ms_per_image": None}],
        [{**STAGE, "stage": f"stage{n}", "candidates_out": 10**n} for n in range(6)],
    ],
)
def test_funnel(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    plot_funnel(rows, tmp_path / "funnel.png")
    assert is_picture(tmp_path / "funnel.png")


def test_suffix_chooses_the_format(tmp_path: Path) -> None:
    plot_funnel([STAGE], str(tmp_path / "funnel.svg"))
    assert "<svg" in (tmp_path / "funnel.svg").read_text()


def test_memory_gets_svg_that_names_no_address_to_load() -> None:
    drawn = io.BytesIO()
    plot_scores([Curve("roc", "_a $x$", np.ones(2), np.ones(2), "1")], drawn, "")
    text = drawn.getvalue().decode()
    assert "<svg" in text
    assert "purl.org" not in text
    assert set(re.findall(r'href="(.)', text)) == {"#"}


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scores.png"
    plot_scores([], path, "t")
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="full"):
        plot_scores([], path, "another")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["scores.png"]


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot_funnel([STAGE], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_no_global_state_and_no_import_before_use(tmp_path: Path) -> None:
    code = (
        "import sys; from cascade_det.visual import plots; assert 'matplotlib' not in sys.modules; "
        f"plots.plot_funnel([], {str(tmp_path / 'f.png')!r}); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(Path(__file__).parents[2])})


@pytest.mark.parametrize(
    "boxes",
    [
        {},
        {"train": np.zeros((0, 4))},
        {"train": np.array([[0, 0, 10, 20]])},
        {
            "train": np.array([[0, 0, 10, 20], [0, 0, 500, 300]]),
            "val": np.array([[2, 2, 4, 3]]),
            "no": np.zeros((0, 4)),
        },
    ],
)
def test_objects(tmp_path: Path, boxes: dict[str, Any]) -> None:
    path = tmp_path / "new" / "objects.png"
    plot_objects(boxes, path, 12)
    assert is_picture(path)
