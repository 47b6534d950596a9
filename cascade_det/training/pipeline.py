"""Trains a cascade: for each stage mine, fit and calibrate, then evaluate; done work is kept, stale work redone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascade_det.cascade import Cascade
from cascade_det.core.recipe import build_evaluators, silent_sources, stage_train
from cascade_det.core.schema import Recipe
from cascade_det.data.atomic import write_json_atomic, write_text_atomic
from cascade_det.data.picture_set import refuse_overlap, remarks
from cascade_det.data.shards import read_manifest, shard_fault, shards_in
from cascade_det.data.sources import Source
from cascade_det.errors import RunError, choices
from cascade_det.evaluation.run import EVALUATION_SCORE, evaluate_sources, scored_pictures
from cascade_det.evaluation.summary import protocol_lines, warnings_of
from cascade_det.report.render import REPORT, write_report
from cascade_det.report.training import read_training
from cascade_det.training import mining_report
from cascade_det.training.backfill import backfill
from cascade_det.training.calibration import calibrate
from cascade_det.training.fingerprint import file_digest, fingerprint
from cascade_det.training.fit import run_fit
from cascade_det.training.mining import MiningJob, mine
from cascade_det.training.plan import WEIGHTS, Plan, Step
from cascade_det.training.preflight import check_parts, check_truth, rehearse_evaluation
from cascade_det.training.run_folder import claim, explain_os_errors, keep_recipe
from cascade_det.training.run_report import write_curves

ProgressBar = Callable[[str, int], contextlib.AbstractContextManager[Callable[[int], None]]]


@contextlib.contextmanager
def _no_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


class Run:
    """The run directory of a recipe.

    Args:
        recipe: what to train.
        bar: makes a progress bar for (label, total).
        say: writes one line for people.
        command: what made the run, for its report; "" where it was no command.
    """

    def __init__(
        self,
        recipe: Recipe,
        bar: ProgressBar = _no_bar,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
        command: str = "",
    ) -> None:
        self.recipe = recipe
        self.folder = Path(recipe.run_dir)
        self.plan = Plan(recipe, say)
        self._bar, self._say, self._command = bar, say, command

    def train(self, stage: str | None = None, step: str | None = None, start: str | None = None) -> dict[str, Any]:
        """Do all steps that are missing or stale, and return the figures of the evaluation, if that is one of them.

        Args:
            stage: do the steps of this stage only.
            step: do the steps of this kind only.
            start: of those, do the steps of this stage and of all after it even where they are done.

        Raises:
            RunError: such a stage does not exist, a step that is needed first is not done, or the run directory cannot
                be used.
            DataError: the pictures are missing or wrong.
        """
        for value in (stage, start):
            if value is not None and value not in self.recipe.stages:
                raise RunError(f"there is no stage {value!r}; {choices(value, self.recipe.stages)}.")
        names = list(self.recipe.stages)
        if stage is not None and start is not None and names.index(stage) < names.index(start):
            raise RunError(
                f"--stage {stage} with --from {start}: {stage} comes before {start}, so nothing would be redone. Give "
                "one of the two, or --from a stage that is not after --stage."
            )
        chosen = [
            s for s in self.plan.steps if (stage is None or s.stage == stage) and (step is None or s.kind == step)
        ]
        redone = self.plan.steps[self._first(start) :] if start is not None else []
        self._check_before_all()
        with claim(self.folder, self.recipe):
            refuse_overlap(self.plan.train_pictures, self.plan.val_pictures)  # reads all pictures, so not sooner
            for first in chosen[:1]:
                self._check_before(first)
            keep_recipe(self.folder, self.recipe)
            self._do_all(chosen, [s for s in redone if s in chosen])
        return self.metrics() if self.plan.steps[-1] in chosen else {}

    def _first(self, stage: str) -> int:
        return next(number for number, step in enumerate(self.plan.steps) if step.stage == stage)

    def _do_all(self, chosen: Sequence[Step], redone: Sequence[Step]) -> None:
        for number, current in enumerate(chosen, start=1):
            label = f"[{number}/{len(chosen)}]"
            with explain_os_errors(f"{label} {current}", self.folder):
                self._do(current, label, again=current in redone)
        with explain_os_errors("report", self.folder):
            self._report()

    def _report(self) -> None:
        """Write the report of a run that is evaluated, unless there is one of this very evaluation."""
        page, done = self.folder / REPORT, self.plan.path(self.plan.steps[-1]) / "done.json"
        if not done.is_file() or (page.is_file() and page.stat().st_mtime >= done.stat().st_mtime):
            return
        if self.plan.state(self.plan.steps[-1]).state != "done":  # of another recipe than the weights by now
            return
        write_report(
            page,
            self._whole_cascade().to("auto"),
            self._val_sources(),
            self.metrics(),
            command=self._command,
            training=read_training(self.recipe),
            evaluation=done.parent,
        )
        self._say(f"report: {page}")

    def metrics(self) -> dict[str, Any]:
        """Return the figures of the last evaluation, or nothing where there is none."""
        path = self.folder / "metrics.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def _check_before_all(self) -> None:
        check_parts(self.recipe)
        for pictures, split in ((self.plan.train_pictures, "train"), (self.plan.val_pictures, "val")):
            for line in remarks(pictures, split):
                self._say(line)
        check_truth(self.recipe, self.plan.train_pictures)
        rehearse_evaluation(self.recipe, self.plan.val_pictures.sources)

    def _do(self, step: Step, label: str, *, again: bool = False) -> None:
        self.plan.forget()
        state = self.plan.state(step)
        if state.state == "done" and not again:
            self._say(f"{label} {step}: done before")
            return
        if state.state == "stale":
            self._say(f"{label} {step}: redone, since " + "; ".join(state.changes[:3]))
        else:
            self._say(f"{label} {step}")
        self._check_before(step)
        self._mend_pools(step, label)
        folder = self.plan.path(step)
        if again or state.state == "stale":  # damaged work has the fingerprint of the work that replaces it
            (folder / "started.txt").unlink(missing_ok=True)
        print_of_step = fingerprint(self.plan.keys(step))
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
            "keys": self.plan.keys(step),
        }
        write_json_atomic(folder / "done.json", json.loads(json.dumps(done, default=str)), indent=1)
        self._say(f"{label} {step}: {seconds:.0f} s")

    def _check_before(self, step: Step) -> None:
        position = self.plan.steps.index(step)
        for before in self.plan.steps[:position]:
            state = self.plan.state(before).state
            if state != "done":
                raise RunError(f"{step} needs {before}, which is {state}; run `train` without --stage or --step.")

    def _mend_pools(self, step: Step, label: str) -> None:
        """Mine again what a disk or a hand has damaged in the finished pools that a step reads."""
        names = list(self.recipe.stages)
        pools = [Step(step.stage, "mine", n) for n in range(1, step.round_number + 1)] if step.kind == "fit" else []
        if step.kind == "mine" and step.round_number == 1 and self.recipe.mine.backfill:
            pools = [Step(name, "mine") for name in names[: names.index(step.stage)] if self.recipe.stages[name].heads]
        for pool in pools:
            record, shards = self.plan.done(pool), self._shards(pool)
            faults = [f"{path} ({fault})" for path in shards if (fault := shard_fault(path))]
            if not faults and record is not None and record["output"] == _output(shards):
                continue
            self._say(f"{pool}: mined again where it is damaged: {', '.join(faults) or 'shards are missing'}")
            (self.plan.path(pool) / "done.json").unlink(missing_ok=True)
            self._do(pool, label)
        self.plan.forget()

    def _clear_stale(self, folder: Path, print_of_step: str) -> None:
        """Empty a folder that holds the unfinished work of another fingerprint; keep that of this one."""
        marker = folder / "started.txt"
        known = marker.read_text() if marker.is_file() else None
        if folder.is_dir() and known != print_of_step:
            shutil.rmtree(folder)
        (folder / "done.json").unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        if known != print_of_step:
            write_text_atomic(marker, print_of_step)

    def _cascade(self, upto: str, round_number: int, thresholds_upto: str | None) -> Cascade:
        """Return the cascade up to a stage with the weights of a round, and the thresholds known so far."""
        from safetensors.numpy import load_file

        cascade = Cascade.build(self.recipe, upto=upto)
        for stage in cascade.stages:
            rounds = round_number if stage.name == upto else self.recipe.stages[stage.name].rounds
            if self.recipe.stages[stage.name].heads:
                stage.load_arrays(load_file(self.plan.path(Step(stage.name, "fit", rounds)) / WEIGHTS))
            calibrated = self.plan.path(Step(stage.name, "calibrate", rounds)) / "thresholds.json"
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
        mined, _ = self.plan.split
        job = self._job(step, "train", mined, model)
        with self._bar(f"mine {step.stage}", len(mined)) as tick:
            shards = mine(job, folder / "shards", tick, self._say)
        values = stage_train(self.recipe, step.stage)
        if step.round_number == 1 and self.recipe.mine.backfill:
            pools = [self._pool(Step(name, "mine")) for name in names[:position] if self.recipe.stages[name].heads]
            shards += backfill(job, folder / "shards", shards, pools, self.recipe.mine.backfill, self._say)
        chosen = self._val_numbers()
        val: list[Path] = []
        if chosen and step.round_number == 1:
            with self._bar(f"mine {step.stage} (val)", len(chosen)) as tick:
                val = mine(self._job(step, "val", chosen, model), folder / "val", tick, self._say)
        report = mining_report.mining_report(shards, values.batch_mix, values.samples or 0)
        write_json_atomic(folder / "report.json", report, indent=1)
        mining_report.write_sheet(folder / "mined.png", shards, self.recipe, step.stage)
        for line in mining_report.lines(step.stage, report):
            self._say(line)
        if step.round_number == 1:
            mining_report.refuse_poor(step.stage, report, self.recipe)
        return _output([*shards, *val]), report

    def _val_numbers(self) -> list[int]:
        """Return evenly chosen pictures of each val source for validation windows."""
        chosen: list[int] = []
        places = self.plan.val_pictures.places
        for source in range(len(self.plan.val_pictures.names)):
            numbers = [number for number, (owner, _) in enumerate(places) if owner == source]
            chosen += _evenly(numbers, self.recipe.mine.val_images)
        return chosen

    def _pool(self, step: Step) -> list[Path]:
        return shards_in(self.plan.path(step) / "shards")

    def _shards(self, step: Step) -> list[Path]:
        """Return all shards of a mining step: those to learn from, then those to validate on."""
        return [*self._pool(step), *shards_in(self.plan.path(step) / "val")]

    def _fit(self, step: Step, folder: Path) -> tuple[str, dict[str, Any]]:
        rounds = range(1, step.round_number + 1)
        shards = [path for number in rounds for path in self._pool(Step(step.stage, "mine", number))]
        val = shards_in(self.plan.path(Step(step.stage, "mine")) / "val")
        start = self._initial_weights(step, folder)
        figures = run_fit(self.recipe, step.stage, folder, shards, val, start)
        write_curves(folder, step.stage)
        return file_digest(folder / WEIGHTS), figures

    def _initial_weights(self, step: Step, folder: Path) -> Path | None:
        if step.round_number > 1:
            return self.plan.path(Step(step.stage, "fit", step.round_number - 1)) / WEIGHTS
        if not self.recipe.init:
            return None
        from cascade_det.training.initial import initial_weights

        return initial_weights(self.recipe, step.stage, self.plan.init_file(), folder, self._say)

    def _calibrate(self, step: Step, folder: Path) -> tuple[str, dict[str, Any]]:
        held = self._calibrating(step.stage)
        cascade = self._cascade(step.stage, step.round_number, step.stage).to("auto")
        with self._bar(f"calibrate {step.stage}", len(held)) as tick:
            found = calibrate(cascade, self.plan.train_pictures, held, tick)
        facts = {name: float(value) for name, value in dataclasses.asdict(found).items()}
        write_json_atomic(folder / "thresholds.json", facts, indent=1)
        self._say(
            f"{step.stage}: threshold {found.detect:.3f} (mining {found.mine:.3f}); the stages before hold "
            f"{found.reach:.1%} of the objects and this one {found.kept:.1%} of those; "
            f"{found.candidates:.1f} candidates a picture"
        )
        if found.unreadable:
            self._say(f"{step.stage}: thresholds leave out {found.unreadable} of {len(held)} pictures: not readable")
        wanted = self.recipe.stages[step.stage].calibrate.mine_recall
        mined_from = any(after.kind == "mine" for after in self.plan.steps[self.plan.steps.index(step) :])
        if mined_from and found.kept_mining < wanted - 1e-9:
            self._say(
                f"{step.stage}: even at the lowest threshold the stage keeps {found.kept_mining:.1%} of the objects, "
                f"less than stages.{step.stage}.calibrate.mine_recall={wanted}: fit longer, or lower the target"
            )
        return fingerprint(facts), facts

    def _whole_cascade(self) -> Cascade:
        last = list(self.recipe.stages)[-1]
        return self._cascade(last, self.recipe.stages[last].rounds, None)

    def _val_sources(self) -> dict[str, Source]:
        return dict(zip(self.plan.val_pictures.names, self.plan.val_pictures.sources, strict=True))

    def _calibrating(self, stage: str) -> list[int]:
        """Return the pictures to calibrate a stage on, evenly chosen of sources that teach its score, if any do."""
        pictures, (_, held) = self.plan.train_pictures, self.plan.split
        silent = silent_sources(self.recipe, stage)
        telling = [number for number in held if pictures.names[pictures.places[number][0]] not in silent]
        return _evenly(telling or held, self.recipe.calibrate.max_images)

    def _evaluate(self, step: Step, folder: Path) -> tuple[str, dict[str, Any]]:
        cascade = self._whole_cascade()
        cascade.save(self.folder / "model.safetensors")
        cascade.to("auto")
        sources = self._val_sources()
        evaluators = build_evaluators(self.recipe)
        self._say(f"evaluate: detections are kept down to a score of {EVALUATION_SCORE} so that AP is not cut short")
        with self._bar("evaluate", scored_pictures(list(sources.values()))) as tick:
            metrics, errors = evaluate_sources(cascade, sources, evaluators, folder, progress=tick)
        for name, reason in errors:
            self._say(f"evaluate: skipped {name}: {reason}")
        write_json_atomic(self.folder / "metrics.json", metrics, indent=1)
        for name, figures in metrics["sources"].items():
            for line in (*protocol_lines(name, figures), *warnings_of(figures)):
                self._say(line)
        return fingerprint({"metrics": metrics.get("AP")}), {"unreadable": len(errors)}


def _evenly(numbers: Sequence[int], most: int) -> list[int]:
    """Return at most so many of `numbers`, evenly chosen, in their order."""
    count = min(most, len(numbers))
    return [numbers[int(place)] for place in np.linspace(0, len(numbers) - 1, count)] if count else []


def _output(shards: Sequence[Path]) -> str:
    """Return the hash of what a mining step made, from the digests of its shards."""
    return fingerprint({"shards": [read_manifest(path)["digest"] for path in shards]})
