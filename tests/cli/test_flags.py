"""Flags of the verbs that run a model: values that would end in a traceback or without memory, plug-ins, Ctrl-C."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cascade_det.cascade import Cascade
from cascade_det.cli.app import main
from cascade_det.core.imaging import write_image
from cascade_det.data.synthetic import Synthetic
from cascade_det.errors import ModelError
from cascade_det.evaluation.files import coco_set


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    write_image(path, np.full((40, 60, 3), 99, np.uint8))
    return path


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--threads 0", "threads=0: must be at least 1"),
        ("--threads -3", "threads=-3: must be at least 1"),
        ("--min-object .1", "min_object_px=0.1 must be at least 1 pixel"),
        ("--min-object inf", "min_object_px=inf must be at least 1 pixel, and finite"),
        ("--plugin-dir parts", "--plugin-dir parts: no plug-in is imported without --allow-plugins"),
    ],
)
def test_wrong_values(picture: Path, flags: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "mtcnn_face", str(picture), "--device", "cpu", *flags.split()]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err


def test_a_level_beyond_the_cap_is_listed(tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = tmp_path / "large.png"
    write_image(large, np.zeros((1300, 1300, 3), np.uint8))  # 12 times as large: 243 million pixels
    assert main(["detect", "mtcnn_face", str(large), str(picture), "--device", "cpu", "--min-object", "1"]) == 1
    err = capsys.readouterr().err
    assert f"failed: {large}: a picture of 1300 x 1300 px, enlarged 12.0 times for objects of min_object_px=1" in err
    assert "in 1 pictures; 1 could not be read" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "quickstart"], "interrupted; the same command goes on where it stopped"),
        (["check", "quickstart"], "interrupted; nothing was finished"),
        (["detect", "mtcnn_face", "x.jpg"], "interrupted; nothing was finished"),
    ],
)
def test_interrupted(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cascade_det.core.recipe.load_recipe", interrupt)
    monkeypatch.setattr("cascade_det.cli.run_verbs._pictures", interrupt)
    assert main(words) == 130
    assert capsys.readouterr().err.strip() == told


def test_a_plug_in_is_sought_where_it_is_said_to_be(
    tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cascade = Cascade.load("mtcnn_face", device="cpu")
    cascade.recipe.plugins.append("my_parts.py")
    model = tmp_path / "run" / "model.safetensors"
    model.parent.mkdir()
    cascade.save(model)
    parts = tmp_path / "recipes" / "my_parts.py"
    parts.parent.mkdir()
    parts.write_text("")
    words = ["detect", str(model), str(picture), "--device", "cpu", "--allow-plugins"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert f"the plug-in 'my_parts.py' was sought in {model.parent} and is not there" in told
    assert "--plugin-dir DIR" in told
    assert main([*words, "--plugin-dir", str(parts.parent)]) == 0
    assert main([*words, "--plugin-dir", str(tmp_path)]) == 2
    with pytest.raises(ModelError, match="threads=0"):
        cascade.to("cpu", threads=0)


def test_pillows_own_cap_stays_for_others(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # far below the picture's 2,400
    assert main(["detect", "mtcnn_face", str(picture), "--device", "cpu"]) == 0
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(Image.DecompressionBombError):
        Image.open(picture)


def test_bootstrap_of_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = Synthetic(images=3, size_hw=[96, 128], object_px=[24, 80])
    for index, picture in enumerate(drawn.pictures):
        write_image(tmp_path / "in" / picture.name, drawn.read(index))
    (tmp_path / "truth.json").write_text(json.dumps(coco_set(drawn, "face", list("abcde"))))
    command = ["evaluate", "mtcnn_face", "--images", str(tmp_path / "in"), "--device", "cpu"]
    command += ["--annotations", str(tmp_path / "truth.json")]
    assert main([*command, "--bootstrap", "20", "--out", str(tmp_path / "out")]) == 0
    intervals = json.loads((tmp_path / "out" / "metrics.json").read_text())["intervals"]
    low, high = intervals["AP50"]
    assert f"[{low:.3f}, {high:.3f}], AP75" in capsys.readouterr().out.splitlines()[0]
    assert list(intervals["recall_at_fppi"]) == ["0.1", "1"]
    assert main([*command, "--bootstrap", "-1"]) == 2
