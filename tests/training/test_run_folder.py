"""A run directory: one process at a time, for one recipe, and what is said when it cannot be written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cascade_det.cli.app import main
from cascade_det.core.schema import ObjectSection, Recipe, StageSection
from cascade_det.data.picture_set import PictureSet
from cascade_det.errors import RunError
from cascade_det.training import run_folder
from cascade_det.training.pipeline import Run
from cascade_det.training.run_folder import at_work, claim, explanation, keep_recipe

HOLD = """
import sys, time
from pathlib import Path
from cascade_det.core.schema import Recipe
from cascade_det.training.run_folder import claim
with claim(Path(sys.argv[1]), Recipe(name="tiny")):
    print("held", flush=True)
    time.sleep(60)
"""

KEPT = "name: tiny\nobject: {category: face}\nstages: {pnet: {}, rnet: {}}\n"


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield another process that works in the run directory `new_run`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "new_run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


class TestTwoProcesses:
    def test_the_second_is_refused_and_told_who_owns_it(
        self,
        tiny_recipe: Callable[[], Path],
        tmp_path: Path,
        holder: subprocess.Popen[str],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(run_folder, "_WAIT_S", 0.1)
        recipe, folder = str(tiny_recipe()), tmp_path / "new_run"
        before = sorted(folder.iterdir())
        assert main(["train", recipe]) == 2
        err = capsys.readouterr().err
        assert f"error: run_dir={folder}: process {holder.pid} on " in err
        assert "choose another run_dir=" in err
        assert sorted(folder.iterdir()) == before

        assert main(["status", recipe, "--json", str(tmp_path / "s.json")]) == 0
        assert f"running: process {holder.pid} on" in capsys.readouterr().out
        assert str(holder.pid) in json.loads((tmp_path / "s.json").read_text())["running"]

    def test_the_lock_of_a_killed_process_is_free(self, tmp_path: Path, holder: subprocess.Popen[str]) -> None:
        holder.kill()
        holder.wait()
        assert at_work(tmp_path / "new_run") is None
        with claim(tmp_path / "new_run", Recipe(name="tiny")):
            assert str(os.getpid()) in str(at_work(tmp_path / "new_run"))
        assert at_work(tmp_path / "new_run") is None

    def test_a_new_folder_is_nobodys(self, tmp_path: Path) -> None:
        assert at_work(tmp_path / "none") is None
        assert not (tmp_path / "none").exists()


class TestForeignFolders:
    """A run replaces files of certain names, so a folder must be empty or hold a run."""

    def train(self, recipe: Path, folder: Path, files: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(KEPT if file == "recipe.yaml" else "")
        monkeypatch.setattr(Run, "_do", lambda *_, **__: None)
        return main(["train", str(recipe), f"run_dir={folder}"])

    @pytest.mark.parametrize(
        "files",
        [
            [],
            [".lock"],
            [".git/config", ".tmp-recipe.yaml-7"],
            [".lock", "recipe.yaml"],
            ["pnet/mine/started.txt"],
            ["pnet/mine/started.txt", "notes.txt"],
            ["first/fit-2/done.json", "recipe.yaml"],
        ],
    )
    def test_a_run_or_nothing(
        self, tiny_recipe: Callable[[], Path], tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.train(tiny_recipe(), tmp_path / "place", files, monkeypatch) == 0
        assert "mtcnn_pnet" in (tmp_path / "place" / "recipe.yaml").read_text()

    @pytest.mark.parametrize(
        ("files", "example"),
        [
            (["evaluation/figures.csv"], "evaluation"),
            (["evaluation/done.json"], "evaluation"),
            (["metrics.json", "model.safetensors"], "metrics.json"),
            (["recipe.yaml"], "recipe.yaml"),  # written by hand, for a run somewhere else
            (["recipe.yaml", "photos/1.jpg"], "photos"),
            (["tiny/evaluation/done.json", "tiny/recipe.yaml"], "tiny"),  # the folder of several runs
            (["tiny/pnet/mine/started.txt"], "tiny"),
            ([".lock", "model.safetensors"], "model.safetensors"),
        ],
    )
    def test_other_things_are_left_alone(
        self,
        tiny_recipe: Callable[[], Path],
        tmp_path: Path,
        files: list[str],
        example: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        folder = tmp_path / "place"
        assert self.train(tiny_recipe(), folder, files, monkeypatch) == 2
        err = capsys.readouterr().err
        assert f"error: run_dir={folder}: holds other things than a run, such as '{example}'" in err
        assert f"new or empty, such as run_dir={folder / 'tiny'}." in err
        assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == sorted(files)


def section(name: str = "tiny", category: str = "face", stages: str = "pnet rnet") -> Recipe:
    return Recipe(
        name=name, object=ObjectSection(category), stages={stage: StageSection("refiner") for stage in stages.split()}
    )


class TestAnotherRecipe:
    @pytest.mark.parametrize(
        "name", ["tiny", "2024-05-01", "007", "on", "null", "1e3", "face: v2", "a 'b' \"c\"", "gesicht ä", "#1"]
    )
    def test_the_same_name_goes_on_however_yaml_writes_it(self, tmp_path: Path, name: str) -> None:
        for _ in range(2):
            with claim(tmp_path, section(name)):
                keep_recipe(tmp_path, section(name))
        with pytest.raises(RunError, match="holds the run of another recipe"), claim(tmp_path, section(f"{name}2")):
            pass

    @pytest.mark.parametrize(
        ("here", "told"),
        [
            (section(), None),
            (section(stages="pnet rnet onet"), None),
            (section(stages="pnet"), None),
            (section(stages="first rnet"), None),
            (section(name="other"), "name is 'tiny' there and 'other' here"),
            (section(category="car"), "object.category is 'face' there and 'car' here"),
            (section(stages="near far"), "stages is 'pnet, rnet' there and 'near, far' here"),
        ],
    )
    def test_what_makes_it_another(self, tmp_path: Path, here: Recipe, told: str | None) -> None:
        keep_recipe(tmp_path, section())
        (tmp_path / ".lock").touch()
        if told is None:
            with claim(tmp_path, here):
                return
        with pytest.raises(RunError) as error, claim(tmp_path, here):
            pass
        assert f"run_dir={tmp_path}: holds the run of another recipe: {told}. " in str(error.value)
        assert "a name= of its own, choose another run_dir=" in str(error.value)

    @pytest.mark.parametrize("text", ["", "{", "- 1", "name: tiny", "stages: 5\nname: a\nobject: 3", "\0"])
    def test_a_damaged_record(self, tmp_path: Path, text: str) -> None:
        (tmp_path / ".lock").touch()
        (tmp_path / "recipe.yaml").write_text(text)
        with pytest.raises(RunError, match=r"recipe\.yaml: holds no recipe that can be"), claim(tmp_path, section()):
            pass

    def test_it_is_told_before_the_pictures_are_read(
        self, tiny_recipe: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[str] = []
        monkeypatch.setattr(PictureSet, "content_hashes", property(lambda self: read.append("") or []))
        monkeypatch.setattr(Run, "_do", lambda *_, **__: None)
        assert main(["train", str(tiny_recipe())]) == 0
        assert read
        read.clear()
        assert main(["train", str(tiny_recipe()), "object.category=car"]) == 2
        assert read == []


class TestRefusals:
    def test_another_recipe_in_it(self, tiny_copy: Any, capsys: pytest.CaptureFixture[str]) -> None:
        before = {path: path.read_bytes() for path in tiny_copy.folder.rglob("*") if path.is_file()}
        assert main(["train", str(tiny_copy.recipe), "name=another"]) == 2
        assert "holds the run of another recipe" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in tiny_copy.folder.rglob("*") if path.is_file()} == before

    def test_a_place_that_cannot_be_made(
        self, tiny_recipe: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("")
        assert main(["train", str(tiny_recipe()), f"run_dir={tmp_path / 'file' / 'run'}"]) == 2
        err = capsys.readouterr().err
        assert "Not a directory" in err
        assert "choose another run_dir=" in err

    def test_a_folder_that_is_read_only(
        self, tiny_copy: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def refuse(path: Path, text: str) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(run_folder, "write_text_atomic", refuse)  # root may write anywhere, so not by chmod
        assert main(["train", str(tiny_copy.recipe)]) == 2
        err = capsys.readouterr().err
        assert f"error: run_dir={tiny_copy.folder}: {tiny_copy.folder / 'recipe.yaml'}: Permission denied" in err
        assert "MiB are free there. Finished work is kept" in err

    def test_what_numpy_says_of_a_full_disk_has_no_number(self, tmp_path: Path) -> None:
        told = explanation("fit", tmp_path, OSError("12 requested and 0 written"))
        assert told.startswith("fit: 12 requested and 0 written; ")

    def test_a_run_error_within_goes_through(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="mine"), claim(tmp_path, Recipe(name="tiny")):
            raise RunError("mine")

    def test_an_error_within_is_not_hidden_by_one_of_the_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Path, missing_ok: bool = False) -> None:
            raise OSError(5, "Input/output error", str(path))

        with pytest.raises(RunError, match="mine"), claim(tmp_path, section()):
            monkeypatch.setattr(Path, "unlink", refuse)
            raise RunError("mine")
        monkeypatch.undo()
        assert at_work(tmp_path) is None  # the lock was given back all the same


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files by rlimit, as a full disk would")
class TestFullDisk:
    """No file may grow above a limit: the system's own refusal, in the process and in its children."""

    def train(self, recipe: Path, limit_kib: int, *more: str) -> subprocess.CompletedProcess[str]:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_kib << 10, limit_kib << 10))

        command = [sys.executable, "-m", "cascade_det", "train", str(recipe), *more]
        return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)

    @pytest.mark.parametrize(
        ("redone", "limit_kib", "told"),
        [
            ("pnet/mine", 64, "pnet mine"),  # a shard does not fit
            ("rnet/fit", 40, "fit of 'rnet'"),  # a checkpoint does not fit
            ("evaluation", 40, "evaluate"),  # the model does not fit
        ],
    )
    def test_it_is_said_and_finished_work_is_intact(
        self, tiny_copy: Any, redone: str, limit_kib: int, told: str
    ) -> None:
        model = tiny_copy.model.read_bytes()
        kept = {p: p.read_bytes() for p in tiny_copy.folder.rglob("*.safetensors") if redone not in str(p)}
        shutil.rmtree(tiny_copy.folder / redone)
        result = self.train(tiny_copy.recipe, limit_kib)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        line = next(line for line in result.stderr.splitlines() if line.startswith("error: ") and told in line)
        assert "Finished work is kept" in line
        assert {path: path.read_bytes() for path in kept} == kept
        assert not [path for path in tiny_copy.folder.rglob(".tmp*") if path.is_file()]
        assert main(["train", str(tiny_copy.recipe)]) == 0
        assert tiny_copy.model.read_bytes() == model
