"""`--resume`: a run that kill -9 ended goes on, and leaves the very files of a run that nothing disturbed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cascade_det.cascade import Cascade
from cascade_det.cli.app import main
from cascade_det.core.imaging import write_image
from cascade_det.core.recipe import recipe_from_dict

RECIPE: dict[str, Any] = {
    "name": "chance",
    "object": {"category": "face", "points": ["left_eye", "right_eye", "nose", "mouth_left", "mouth_right"]},
    "stages": {
        "first": {
            "kind": "proposer",
            "window_hw": [12, 12],
            "net": {"kind": "mtcnn_pnet", "params": {"alpha": 0.2}},
            "heads": {
                "score": {"kind": "classification"},
                "box": {"kind": "box_offset"},
                "points": {"kind": "points"},
            },
            "keep": {"nms": 0.3, "nms_across_levels": 0.3, "max_per_image": 6},
            "samplers": {"windows": {"kind": "iou_bands"}},
        }
    },
}
PICTURES = 26  # evaluate runs 8 at once
SAME = ["--device", "cpu", "--threads", "1"]  # here and in a process of its own: sums of other threads round otherwise
KILLED = """
import os, signal, sys
from cascade_det.cli.app import main
from cascade_det.evaluation.journal import Journal

append, done = Journal.append, []

def append_and_die(self, entry):
    append(self, entry)
    done.append(entry)
    if len(done) == 2:
        with self.path.open("a") as file:
            file.write('{"torn": [1, 2')
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

Journal.append = append_and_die
main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Give the process back the threads that `--threads` of these commands takes from it."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model of chance weights, pictures of noise (one of them empty) and their truth."""
    folder = tmp_path_factory.mktemp("data")
    torch.manual_seed(0)
    cascade = Cascade.build(recipe_from_dict(RECIPE, None, where="here"))
    cascade.thresholds = {"first": {"detect": 0.0, "mine": 0.0}}
    cascade.save(folder / "model.safetensors")
    cascade.stages[0].load_arrays({name: 0.5 * array for name, array in cascade.stages[0].arrays().items()})
    cascade.save(folder / "other.safetensors")
    rng, images, annotations = np.random.default_rng(0), [], []
    for number in range(PICTURES):
        name = f"{number:02d}.png"
        write_image(folder / "p" / name, rng.integers(0, 256, (40, 60, 3), np.uint8))
        images.append({"id": number, "file_name": name, "width": 60, "height": 40, "source": "ab"[number % 2]})
        x, y, size = rng.integers(0, 15, 3)
        box = {"bbox": [int(x), int(y), int(size) + 8, int(size) + 8], "category_id": 1, "iscrowd": 0}
        annotations.append({"id": number + 1, "image_id": number, **box})
    (folder / "p" / "03.png").write_bytes(b"")
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder


def killed(words: list[str]) -> None:
    """Run a command in a process of its own that kill -9 ends after its second note, within the third."""
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True, timeout=1200)
    assert done.returncode == -9, done.stderr


def content(folder: Path) -> dict[str, Any]:
    """Return all files, metrics without what a clock says."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in [name for name in files if name.endswith("metrics.json")]:
        text = re.sub(r'"(ms_per_image|seconds|pictures_per_second)": [0-9.e-]+', r'"\1": 0', files[name].decode())
        files[name] = text.encode()
    for name in ("funnel.png", "report.html"):  # show milliseconds, and the command
        files.pop(name, None)
    return files


Words = Callable[..., list[str]]


class TestEvaluate:
    @pytest.fixture
    def words(self, data: Path) -> Words:
        def command(out: Path, *more: object, model: str = "model") -> list[str]:
            named = ["--images", data / "p", "--annotations", data / "truth.json", *SAME]
            return list(map(str, ["evaluate", data / f"{model}.safetensors", *named, "--out", out, *more]))

        return command

    def test_goes_on_and_leaves_the_same_files(
        self, words: Words, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        whole, stopped = tmp_path / "whole", tmp_path / "stopped"
        assert main(words(whole)) == 1  # for the picture that cannot be read
        err = capsys.readouterr().err
        assert "26 pictures in " in err
        assert " pictures a second" in err
        killed(words(stopped))
        assert [path.name for path in stopped.iterdir()] == ["unfinished.jsonl"]
        before = content(stopped)
        for more, model, told in (
            (["--score", "0.2"], "model", "had the threshold of the last stage (--score) 0.05, and now it is 0.2"),
            (["--min-object", "30"], "model", "had the smallest object in px (--min-object) 20.0, and now it is 30.0"),
            (["--flip"], "model", "had --flip false, and now it is true"),
            (["--scales", "1,2"], "model", "had --scales [1.0], and now it is [1.0, 2.0]"),
            ([], "other", "had MODEL (a hash of its file)"),
        ):
            assert main(words(stopped, "--resume", *more, model=model)) == 2
            err = capsys.readouterr().err
            assert told in err
            assert "Give the command that the run was begun with, leave --resume out to begin anew" in err
            assert content(stopped) == before
        changed = data / "p" / "20.png"
        kept = changed.read_bytes()
        changed.write_bytes(kept + b" ")
        assert main(words(stopped, "--resume")) == 2
        changed.write_bytes(kept)
        assert "had pictures and truth" in capsys.readouterr().err

        assert main(words(stopped, "--resume")) == 1
        assert "16 of 26 pictures are taken over from the run that was cut off" in capsys.readouterr().err
        assert content(stopped) == content(whole)
        assert main(words(stopped, "--resume", "--group-by", "source")) == 1  # a finished run has nothing to go on with
        assert "0 of 26 pictures are taken over" in capsys.readouterr().err

    def test_without_the_flag_it_begins_anew(
        self, words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        killed(words(tmp_path / "out"))
        assert main(words(tmp_path / "out", "--score", "0.2")) == 1
        assert (
            "16 pictures of a run that was cut off are done again; --resume takes them over" in capsys.readouterr().err
        )
        assert not (tmp_path / "out" / "unfinished.jsonl").exists()

    def test_it_needs_a_folder(self, words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = [word for word in words(tmp_path) if word not in ("--out", str(tmp_path))]
        assert main([*command, "--resume"]) == 2
        assert "--resume goes on with what stands in a folder and needs --out DIR" in capsys.readouterr().err


class TestDetect:
    @pytest.fixture
    def words(self, data: Path) -> Words:
        def command(out: Path, *more: object) -> list[str]:
            flags = ["--out", out / "found", "--crops", out / "crops", "--draw", "--save-as", "csv", "--score", "0"]
            return list(map(str, ["detect", data / "model.safetensors", data / "p", *SAME, *flags, *more]))

        return command

    def test_goes_on_and_leaves_the_same_files(
        self, words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        whole, stopped = tmp_path / "whole", tmp_path / "stopped"
        assert main(words(whole, "--json", tmp_path / "whole.json")) == 1
        assert json.loads((tmp_path / "whole.json").read_text())["crops"] > PICTURES
        killed(words(stopped))
        (stopped / "crops" / "00003_02_000.png").write_bytes(b"cut off")  # of the picture that was in work
        with (stopped / "crops" / "crops.csv").open("a") as table:
            table.write("00003_02_000.png,02.png\n")
        capsys.readouterr()
        for more, told in (
            (["--min-object", "30"], "had the smallest object in px (--min-object) 20.0, and now it is 30.0"),
            (["--crops", stopped / "more"], "had --crops"),
            (["--preset", "exact"], "preset"),
        ):
            assert main(words(stopped, "--resume", *more)) == 2
            assert told in capsys.readouterr().err
        assert main(words(stopped, "--resume", "--json", tmp_path / "stopped.json")) == 1
        err = capsys.readouterr().err
        assert "2 of 26 pictures are taken over from the run that was cut off" in err
        assert "24 pictures in " in err
        assert content(stopped / "found") == content(whole / "found")
        tables = [(folder / "crops" / "crops.csv").read_text() for folder in (stopped, whole)]
        assert tables[0] == tables[1]
        assert content(stopped / "crops") == content(whole / "crops")
        figures = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "stopped")]
        assert figures[0] == figures[1]

    @pytest.mark.parametrize("gone", ["found/drawn/00002_01.jpg", "crops/00002_01_*.png"])
    def test_a_picture_whose_files_are_gone_is_done_again(
        self, words: Words, tmp_path: Path, gone: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        killed(words(tmp_path))
        file = next(tmp_path.glob(gone))
        file.unlink()
        assert main(words(tmp_path, "--resume")) == 1
        assert "1 of 26 pictures are taken over" in capsys.readouterr().err
        assert file.is_file()

    def test_begun_anew_the_drawings_of_what_was_cut_off_go(
        self, words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        killed(words(tmp_path))
        command = [word for word in words(tmp_path) if word != "--draw"]
        assert main(command) == 1
        assert "2 pictures of a run that was cut off are done again" in capsys.readouterr().err
        assert not (tmp_path / "found" / "drawn").exists()
        assert not (tmp_path / "found" / "unfinished.jsonl").exists()

    def test_it_needs_a_folder(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["detect", str(data / "model.safetensors"), str(data / "p"), "--resume"]) == 2
        assert "--resume goes on with what stands in a folder and needs --out DIR" in capsys.readouterr().err
