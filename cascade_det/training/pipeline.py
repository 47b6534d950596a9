"""Trains a cascade: for each stage mine, fit and calibrate, then evaluate; done work is kept, stale work redone.

A step is done when its folder holds ``done.json``, written last, with the fingerprint of all that the step depends on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cascade_det.cascade import Cascade
from cascade_det.core.recipe import recipe_to_yaml, stage_train
from cascade_det.core.registry import EVALUATORS
from cascade_det.core.schema import Recipe
from cascade_det.core.shipped import find_shipped
from cascade_det.data.atomic import write_json_atomic
from cascade_det.data.picture_set import PictureSet, calibration_split, refuse_overlap, remarks
from cascade_det.errors import RunError, choices
from cascade_det.evaluation.run import evaluate_sources, scored_pictures, summary_line
from cascade_det.training import mining_report
from cascade_det.training.backfill import backfill
from cascade_det.training.calibration import calibrate
from cascade_det.training.fingerprint import (
    changed_keys,
    evaluator_versions,
    file_digest,
    fingerprint,
    keys_of_step,
    part_versions,
)
from cascade_det.training.fit import run_fit
from cascade_det.training.mining import MiningJob, build_views, mine
from cascade_det.training.run_report import write_curves

ProgressBar = Callable[[str, int], contextlib.AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        stage: the stage, or "" for the evaluation.
        kind: mine, fit, calibrate or evaluate.
        round_number: 1, or more where a stage repeats on its own mistakes.
    """

    stage: str
    kind: str
    round_number: int = 1

    @property
    def folder_name(self) -> str:
        """Folder of the step within the stage's."""
        return self.kind if self.round_number == 1 else f"{self.kind}-{self.round_number}"

    def __str__(self) -> str:
        return f"{self.stage} {self.folder_name}" if self.stage else self.kind


@dataclass(frozen=True)
class StepState:
    """Where a step stands: done, stale (with the keys that changed), or missing."""

    step: Step
    state: str
    changes: list[str]


@contextlib.contextmanager
def _no_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


class Run:
    """The run directory of a recipe.

    Args:
        recipe: what to train.
        bar: makes a progress bar for (label, total).
        say: writes one line for people.
    """

    def __init__(
        self,
        recipe: Recipe,
        bar: ProgressBar = _no_bar,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ) -> None:
        self.recipe = recipe
        self.folder = Path(recipe.run_dir)
        self._bar, self._say = bar, say
        self._keys: dict[Step, dict[str, Any]] = {}

    @cached_property
    def steps(self) -> list[Step]:
        """All steps in order."""
        steps = []
        for name, section in self.recipe.stages.items():
            for number in range(1, section.rounds + 1):
                kinds = ("mine", "fit", "calibrate") if section.heads else ("calibrate",)
                steps += [Step(name, kind, number) for kind in kinds]
        return [*steps, Step("", "evaluate")]

    @cached_property
    def train_pictures(self) -> PictureSet:
        """The training pictures."""
        return PictureSet.of(self.recipe, "train")

    @cached_property
    def val_pictures(self) -> PictureSet:
        """The validation pictures."""
        return PictureSet.of(self.recipe, "val")

    @cached_property
    def split(self) -> tuple[list[int], list[int]]:
        """Numbers of the pictures to mine and of those to calibrate on."""
        pictures = self.train_pictures
        counted = [int((~pictures.annotations(number).ignore).sum()) for number in range(len(pictures))]
        mined, held = calibration_split(pictures.content_hashes, self.recipe.calibrate.share, counted)
        if mined == held:
            self._say("calibration: too few objects to keep some apart; thresholds come from all training pictures")
        return mined, held

    def path(self, step: Step) -> Path:
        """Return the folder of a step."""
        return self.folder / step.stage / step.folder_name if step.stage else self.folder / "evaluation"

    def keys(self, step: Step) -> dict[str, Any]:
        """Return all that a step depends on; the work of the step before enters by its fingerprint and output."""
        if step not in self._keys:
            keys = keys_of_step(self.recipe, step.kind, step.stage or None)
            if step.kind == "mine":
                keys |= self.train_pictures.digests("train") | part_versions(self.recipe, step.stage)
            elif step.kind == "fit" and self.recipe.init:
                keys["init (file)"] = file_digest(self._init_file())
            elif step.kind == "calibrate" and not self.recipe.stages[step.stage].heads:
                keys |= part_versions(self.recipe, step.stage)  # an untrainable stage has no step `mine` to hold them
            elif step.kind == "evaluate":
                keys |= self.val_pictures.digests("val") | evaluator_versions(self.recipe)
            position = self.steps.index(step)
            if position:
                before = self.steps[position - 1]
                output = str((self._done(before) or {}).get("output", "missing"))
                keys["(the step before)"] = f"{before}: {fingerprint(self.keys(before))[:16]} {output[:16]}"
            self._keys[step] = keys
        return self._keys[step]

    def _done(self, step: Step) -> dict[str, Any] | None:
        try:
            done: dict[str, Any] = json.loads((self.path(step) / "done.json").read_text())
        except (OSError, ValueError):
            return None
        return done

    def state(self, step: Step) -> StepState:
        """Return where a step stands and, where it is stale, which keys changed."""
        done = self._done(step)
        if done is None:
            return StepState(step, "missing", [])
        keys = self.keys(step)
        if done["fingerprint"] == fingerprint(keys):
            return StepState(step, "done", [])
        return StepState(step, "stale", changed_keys(done["keys"], keys))

    def train(self, stage: str | None = None, step: str | None = None, start: str | None = None) -> dict[str, Any]:
        """Do all steps that are missing or stale, and return the figures of the evaluation.

        Args:
            stage: do the steps of this stage only.
            step: do the steps of this kind only.
            start: do the steps of this stage and of all after it, even those that are done.
        """
        for value in (stage, start):
            if value is not None and value not in self.recipe.stages:
                raise RunError(f"there is no stage {value!r}; {choices(value, self.recipe.stages)}.")
        self._prepare()
        chosen = [s for s in self.steps if (stage is None or s.stage == stage) and (step is None or s.kind == step)]
        if start is not None:
            first = next(i for i, s in enumerate(self.steps) if s.stage == start)
            for redo in self.steps[first:]:
                for marker in ("done.json", "started.txt"):  # without the second its unfinished work is cleared too
                    (self.path(redo) / marker).unlink(missing_ok=True)
        for number, current in enumerate(chosen, start=1):
            self._do(current, f"[{number}/{len(chosen)}]")
        return self.metrics()

    def metrics(self) -> dict[str, Any]:
        """Return the figures of the last evaluation, or nothing where there is none."""
        path = self.folder / "metrics.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def seconds(self) -> dict[str, float]:
        """Return what each step took, 0 for one that is not done."""
        return {str(step): float((self._done(step) or {}).get("seconds", 0)) for step in self.steps}

    def _prepare(self) -> None:
        for pictures, split in ((self.train_pictures, "train"), (self.val_pictures, "val")):
            for line in remarks(pictures, split):
                self._say(line)
        refuse_overlap(self.train_pictures, self.val_pictures)
        build_views(self.recipe)  # a wrong transform is told here, not by a broken pool of processes
        self.folder.mkdir(parents=True, exist_ok=True)
        recipe_file = self.folder / "recipe.yaml"
        if recipe_file.is_file() and f"\nname: {self.recipe.name}\n" not in f"\n{recipe_file.read_text()}":
            raise RunError(
                f"run_dir={self.folder}: holds the run of another recipe (see its recipe.yaml). Choose another "
                "run_dir=, or delete the folder."
            )
        recipe_file.write_text(recipe_to_yaml(self.recipe))

    def _do(self, step: Step, label: str) -> None:
        self._keys.clear()
        state = self.state(step)
        if state.state == "done":
            self._say(f"{label} {step}: done before")
            return
        if state.state == "stale":
            self._say(f"{label} {step}: redone, since " + "; ".join(state.changes[:3]))
        else:
            self._say(f"{label} {step}")
        self._check_before(step)
        folder = self.path(step)
        print_of_step = fingerprint(self.keys(step))
        self._clear_stale(folder, print_of_step)
        begin = time.perf_counter()
        work = {"mine": self._mine, "fit": self._fit, "calibrate": self._calibrate, "evaluate": self._evaluate}
        output, facts = work[step.kind](step, folder)
        seconds = round(time.perf_counter() - begin, 1)
        done = {
            "fingerprint": print_of_step,
            "output": output,
            "seconds": seconds,
            "facts": facts,
            "keys": self.keys(step),
        }
        write_json_atomic(folder / "done.json", json.loads(json.dumps(done, default=str)), indent=1)
        self._say(f"{label} {step}: {seconds:.0f} s")

    def _check_before(self, step: Step) -> None:
        position = self.steps.index(step)
        for before in self.steps[:position]:
            state = self.state(before).state
            if state != "done":
                raise RunError(f"{step} needs {before}, which is {state}; run `train` without --stage or --step.")

    def _clear_stale(self, folder: Path, print_of_step: str) -> None:
        """Empty a folder that holds the unfinished work of another fingerprint; keep that of this one."""
        marker = folder / "started.txt"
        if folder.is_dir() and (not marker.is_file() or marker.read_text() != print_of_step):
            shutil.rmtree(folder)
        (folder / "done.json").unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(print_of_step)

    def _cascade(self, upto: str, round_number: int, thresholds_upto: str | None) -> Cascade:
        """Return the cascade up to a stage with the weights of a round, and the thresholds known so far."""
        from safetensors.numpy import load_file

        cascade = Cascade.build(self.recipe, upto=upto)
        for stage in cascade.stages:
            rounds = round_number if stage.name == upto else self.recipe.stages[stage.name].rounds
            if self.recipe.stages[stage.name].heads:
                stage.load_arrays(load_file(self.path(Step(stage.name, "fit", rounds)) / "weights.safetensors"))
            calibrated = self.path(Step(stage.name, "calibrate", rounds)) / "thresholds.json"
            if stage.name != thresholds_upto and calibrated.is_file():
                found = json.loads(calibrated.read_text())
                cascade.thresholds[stage.name] = {"detect": found["detect"], "mine": found["mine"]}
        return cascade

    def _job(self, step: Step, split: str, numbers: Sequence[int], model: Path | None) -> MiningJob:
        return MiningJob(self.recipe, step.stage, split, step.round_number, numbers, model)

    def _mine(self, step: Step, folder: Path) -> tuple[str, dict[str, Any]]:
        names = list(self.recipe.stages)
        position = names.index(step.stage)
        model: Path | None = None
        if step.round_number > 1 or position > 0:
            upto = step.stage if step.round_number > 1 else names[position - 1]
            rounds = step.round_number - 1 if step.round_number > 1 else self.recipe.stages[upto].rounds
            model = folder / "before.safetensors"
            self._cascade(upto, rounds, None).save(model)
        mined, _ = self.split
        job = self._job(step, "train", mined, model)
        with self._bar(f"mine {step.stage}", len(mined)) as tick:
            shards = mine(job, folder / "shards", tick)
        values = stage_train(self.recipe, step.stage)
        if step.round_number == 1 and self.recipe.mine.backfill:
            pools = [self._pool(Step(name, "mine")) for name in names[:position]]
            shards += backfill(job, folder / "shards", shards, pools, self.recipe.mine.backfill, self._say)
        chosen = self._val_numbers()
        val: list[Path] = []
        if chosen and step.round_number == 1:
            with self._bar(f"mine {step.stage} (val)", len(chosen)) as tick:
                val = mine(self._job(step, "val", chosen, model), folder / "val", tick)
        report = mining_report.mining_report(shards, values.batch_mix, values.samples or 0)
        write_json_atomic(folder / "report.json", report, indent=1)
        mining_report.write_sheet(folder / "mined.png", shards, step.stage, self.recipe.seed)
        for line in mining_report.lines(step.stage, report):
            self._say(line)
        if step.round_number == 1:
            mining_report.refuse_poor(step.stage, report, self.recipe)
        digests = [json.loads((p / "manifest.json").read_text())["digest"] for p in [*shards, *val]]
        return fingerprint({"shards": digests}), report

    def _val_numbers(self) -> list[int]:
        """Return evenly chosen pictures of each val source for validation windows."""
        chosen: list[int] = []
        places = self.val_pictures.places
        for source in range(len(self.val_pictures.names)):
            numbers = [number for number, (owner, _) in enumerate(places) if owner == source]
            count = min(self.recipe.mine.val_images, len(numbers))
            chosen += [numbers[int(i)] for i in np.linspace(0, len(numbers) - 1, count)] if count else []
        return chosen

    def _pool(self, step: Step) -> list[Path]:
        return sorted(p for p in (self.path(step) / "shards").iterdir() if (p / "manifest.json").is_file())

    def _fit(self, step: Step, folder: Path) -> tuple[str, dict[str, Any]]:
        rounds = range(1, step.round_number + 1)
        shards = [path for number in rounds for path in self._pool(Step(step.stage, "mine", number))]
        val_folder = self.path(Step(step.stage, "mine")) / "val"
        val = sorted(val_folder.iterdir()) if val_folder.is_dir() else []
        start = self._initial_weights(step, folder)
        figures = run_fit(self.recipe, step.stage, folder, shards, val, start)
        write_curves(folder, step.stage)
        return file_digest(folder / "weights.safetensors"), figures

    def _init_file(self) -> Path:
        path = Path(self.recipe.base_dir or ".") / str(self.recipe.init)
        if path.is_file():
            return path
        shipped = find_shipped("models", str(self.recipe.init), ".safetensors")
        if shipped is None:
            raise RunError(f"init={self.recipe.init!r}: neither the file {path} nor a shipped model.")
        return shipped

    def _initial_weights(self, step: Step, folder: Path) -> Path | None:
        if step.round_number > 1:
            return self.path(Step(step.stage, "fit", step.round_number - 1)) / "weights.safetensors"
        if not self.recipe.init:
            return None
        from cascade_det.training.initial import initial_weights

        return initial_weights(self.recipe, step.stage, self._init_file(), folder, self._say)

    def _calibrate(self, step: Step, folder: Path) -> tuple[str, dict[str, Any]]:
        _, held = self.split
        held = held[: self.recipe.calibrate.max_images]
        cascade = self._cascade(step.stage, step.round_number, step.stage).to("auto")
        with self._bar(f"calibrate {step.stage}", len(held)) as tick:
            found = calibrate(cascade, self.train_pictures, held, tick)
        facts = {name: float(value) for name, value in dataclasses.asdict(found).items()}
        write_json_atomic(folder / "thresholds.json", facts, indent=1)
        self._say(
            f"{step.stage}: threshold {found.detect:.3f} (mining {found.mine:.3f}); the stages before hold "
            f"{found.reach:.1%} of the objects and this one {found.kept:.1%} of those; "
            f"{found.candidates:.1f} candidates a picture"
        )
        wanted = self.recipe.stages[step.stage].calibrate.mine_recall
        if found.kept_mining < wanted - 1e-9:
            self._say(
                f"{step.stage}: even at the lowest threshold the stage keeps {found.kept_mining:.1%} of the objects, "
                f"less than stages.{step.stage}.calibrate.mine_recall={wanted}: fit longer, or lower the target"
            )
        return fingerprint(facts), facts

    def _evaluate(self, step: Step, folder: Path) -> tuple[str, dict[str, Any]]:
        last = list(self.recipe.stages)[-1]
        cascade = self._cascade(last, self.recipe.stages[last].rounds, None)
        cascade.save(self.folder / "model.safetensors")
        cascade.to("auto")
        named = zip(self.val_pictures.names, self.val_pictures.sources, strict=True)
        evaluators = {n: EVALUATORS.build(p.kind, p.params, f"evaluate.{n}") for n, p in self.recipe.evaluate.items()}
        sources = dict(named)
        with self._bar("evaluate", scored_pictures(list(sources.values()))) as tick:
            metrics, errors = evaluate_sources(cascade, sources, evaluators, folder, progress=tick)
        for name, reason in errors:
            self._say(f"evaluate: skipped {name}: {reason}")
        shutil.copyfile(folder / "metrics.json", self.folder / "metrics.json")
        for name, figures in metrics["sources"].items():
            self._say(summary_line(name, figures))
        return fingerprint({"metrics": metrics.get("AP")}), {"unreadable": len(errors)}
