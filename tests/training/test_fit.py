"""The fit of one stage: it learns, goes on after an interruption as if there had been none, and says why it failed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from cascade_det.core.recipe import build_stage, load_recipe, recipe_to_dict
from cascade_det.core.schema import Recipe
from cascade_det.errors import RunError
from cascade_det.training import fit, run_report
from cascade_det.training.module import StageModule

SHORT = ("stages.pnet.train.samples=8000", "stages.pnet.train.batch_size=200", "train.validations=4")


@pytest.fixture
def job(tiny: Any, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a job of the first stage (40 steps in 4 epochs) and returns its folder."""
    mined = tiny.folder / "pnet" / "mine"
    shards = sorted(str(path) for path in (mined / "shards").iterdir())
    val = sorted(str(path) for path in (mined / "val").iterdir())

    def write(name: str, *overrides: str, start: Path | None = None, val_shards: list[str] = val) -> Path:
        recipe = load_recipe(tiny.recipe, *SHORT, *overrides)
        folder = tmp_path / name
        folder.mkdir()
        values = {"recipe": recipe_to_dict(recipe), "stage": "pnet", "shards": shards, "val_shards": val_shards}
        (folder / "job.json").write_text(json.dumps({**values, "start": str(start) if start else None}))
        return folder

    return write


def weights(folder: Path) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = load_file(folder / "weights.safetensors")
    return found


def equal(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


def curves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the points that are drawn of a fit."""
    drawn: list[Any] = []
    monkeypatch.setattr(run_report, "plot_training_curves", lambda values, *_, **__: drawn.append(values))
    run_report.write_curves(folder, "pnet")
    assert len(drawn[0]["train/loss"][0]) == 4
    return drawn[0]


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make training step number `step` fail as a killed process would."""
    whole = StageModule.training_step

    def stop(self: StageModule, batch: dict[str, Any], batch_index: int) -> Any:
        if self.trainer.global_step == step:
            raise RuntimeError("interrupted")
        return whole(self, batch, batch_index)

    monkeypatch.setattr(StageModule, "training_step", stop)


class TestFit:
    @pytest.mark.parametrize(
        ("overrides", "damaged", "goes_on_at"),
        [((), 0, 20), (("train.ema=0",), 0, 20), ((), 1, 10), ((), 2, 0)],
    )
    def test_an_interrupted_fit_ends_with_the_weights_of_an_undisturbed_one(
        self,
        job: Callable[..., Path],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        overrides: tuple[str, ...],
        damaged: int,
        goes_on_at: int,
    ) -> None:
        whole, stopped = job("whole", *overrides), job("stopped", *overrides)
        assert fit.main(whole) == 0
        with monkeypatch.context() as patch:
            interrupt_at(patch, 25)  # in the third epoch of ten steps
            with pytest.raises(RuntimeError, match="interrupted"):
                fit.main(stopped)
        checkpoints = sorted((stopped / "checkpoints").iterdir(), reverse=True)
        assert [path.name for path in checkpoints] == ["step=000000020.ckpt", "step=000000010.ckpt"]
        for path in checkpoints[:damaged]:
            flip_byte(path, path.stat().st_size // 2)
        assert not (stopped / "weights.safetensors").exists()
        steps: list[int] = []
        once = StageModule.training_step

        def counted(self: StageModule, batch: dict[str, Any], batch_index: int) -> Any:
            steps.append(self.trainer.global_step)
            return once(self, batch, batch_index)

        monkeypatch.setattr(StageModule, "training_step", counted)
        assert fit.main(stopped) == 0
        assert steps == list(range(goes_on_at, 40))
        assert capsys.readouterr().err.count("the checkpoint is damaged") == damaged
        assert equal(weights(whole), weights(stopped))
        figures = [json.loads((folder / "figures.json").read_text()) for folder in (whole, stopped)]
        assert figures[0] == figures[1]
        assert curves(stopped, monkeypatch) == curves(whole, monkeypatch)

    @pytest.mark.parametrize("overrides", [(), ("train.ema=0",)])
    def test_a_fit_that_was_cut_off_after_its_last_epoch(
        self, job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
    ) -> None:
        """Its last checkpoint stands, its weights do not: they are those of the average, as if nothing had happened."""
        folder = job("run", *overrides)
        assert fit.main(folder) == 0
        whole, figures = weights(folder), json.loads((folder / "figures.json").read_text())
        (folder / "weights.safetensors").unlink()
        (folder / "figures.json").unlink()
        monkeypatch.setattr(StageModule, "training_step", lambda *_: pytest.fail("nothing is left to fit"))
        assert fit.main(folder) == 0
        assert equal(weights(folder), whole)
        again = json.loads((folder / "figures.json").read_text())
        assert again == {name: value for name, value in figures.items() if name.startswith("val/")}
        assert again

    def test_a_fit_that_has_ended_is_not_entered_again(
        self, job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = job("run")
        assert fit.main(folder) == 0
        figures = json.loads((folder / "figures.json").read_text())
        monkeypatch.setattr(fit.subprocess, "run", lambda *_, **__: pytest.fail("entered"))
        assert fit.run_fit(recipe_of(folder), "pnet", folder, [], [], None) == figures

    def test_gradients_of_several_batches(self, job: Callable[..., Path]) -> None:
        """The schedule ends with the fit, however many batches make a step of the optimizer."""
        folder = job("run", "train.trainer.accumulate_grad_batches=4", "train.trainer.log_every_n_steps=1")
        assert fit.main(folder) == 0
        last = sorted((folder / "checkpoints").iterdir())[-1]
        state = torch.load(last, weights_only=True)
        assert state["global_step"] == 4 * 3  # ten batches an epoch
        assert state["lr_schedulers"][0]["total_steps"] == 4 * 3 + 1

    def test_it_learns(self, job: Callable[..., Path]) -> None:
        folder = job("run", "stages.pnet.train.samples=24000")
        assert fit.main(folder) == 0
        figures = json.loads((folder / "figures.json").read_text())
        assert figures["val/iou_after"] > figures["val/iou_before"]
        assert figures["val/f1"] > 0.5
        assert (folder / "log-1" / "metrics.csv").is_file()

    def test_another_seed_gives_other_weights(self, job: Callable[..., Path]) -> None:
        folders = [job(f"run{n}", f"seed={seed}", "train.logger=none") for n, seed in enumerate((0, 0, 1))]
        for folder in folders:
            assert fit.main(folder) == 0
        assert equal(weights(folders[0]), weights(folders[1]))
        assert not equal(weights(folders[0]), weights(folders[2]))

    def test_it_starts_from_given_weights(self, job: Callable[..., Path], tiny: Any, tmp_path: Path) -> None:
        start = tiny.folder / "pnet" / "fit" / "weights.safetensors"
        folder = job("run", "stages.pnet.train.lr=1.0e-12", "train.ema=0", start=start)
        assert fit.main(folder) == 0
        assert all(np.abs(weights(folder)[name] - value).max() < 1e-6 for name, value in load_file(start).items())

    def test_without_validation_windows(self, job: Callable[..., Path]) -> None:
        folder = job("run", val_shards=[])
        assert fit.main(folder) == 0
        figures = json.loads((folder / "figures.json").read_text())
        assert "train/loss" in figures
        assert not any(name.startswith("val/") for name in figures)

    def test_fewer_steps_than_validations(self, job: Callable[..., Path]) -> None:
        folder = job("run", "stages.pnet.train.samples=300", "train.validations=50")
        assert fit.main(folder) == 0
        assert set(weights(folder)) == set(build_stage(recipe_of(folder), "pnet").arrays())

    @pytest.mark.parametrize(
        ("override", "told"),
        [
            ("train.optimizer.kind=Adan", "error: train.optimizer.kind='Adan'"),
            ("train.optimizer.params.momentun=0.9", "error: train.optimizer.params={'momentun': 0.9}"),
            ("train.schedule={kind: StepLR, params: {}}", "error: train.schedule.params={}"),
            ("train.trainer.acelerator=cpu", "error: train.trainer="),
            ("train.trainer.accelerator=abacus", "error: train.trainer="),
        ],
    )
    def test_a_users_mistake_is_one_line_and_exit_code_2(
        self, job: Callable[..., Path], capsys: pytest.CaptureFixture[str], override: str, told: str
    ) -> None:
        assert fit.main(job("run", override)) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith(told)

    def test_weights_of_another_net_are_refused(self, job: Callable[..., Path], tmp_path: Path) -> None:
        save_file({"other": np.zeros(3)}, tmp_path / "other.safetensors")
        assert fit.main(job("run", start=tmp_path / "other.safetensors")) == 2


def recipe_of(folder: Path) -> Recipe:
    from cascade_det.core.recipe import recipe_from_dict

    return recipe_from_dict(json.loads((folder / "job.json").read_text())["recipe"], folder)


class TestChild:
    def test_a_child_that_fails_is_told_with_its_exit_code(
        self, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commands: list[list[str]] = []

        def run(command: list[str], **options: Any) -> Any:
            commands.append(command)
            return subprocess.CompletedProcess(command, 3)

        monkeypatch.setattr(subprocess, "run", run)
        with pytest.raises(
            RunError, match=r"fitting stage 'pnet' ended with exit code 3.*goes on from the last checkpoint"
        ):
            fit.run_fit(load_recipe(tiny.recipe), "pnet", tmp_path / "new", [tmp_path / "a"], [], None)
        assert commands[0][1:] == ["-m", "cascade_det.training.fit", str(tmp_path / "new")]
        job = json.loads((tmp_path / "new" / "job.json").read_text())
        assert (job["stage"], job["shards"], job["val_shards"], job["start"]) == (
            "pnet",
            [str(tmp_path / "a")],
            [],
            None,
        )
        assert dataclasses.asdict(recipe_of(tmp_path / "new")) == dataclasses.asdict(load_recipe(tiny.recipe))
