"""What a run consists of: its steps, what each depends on, and where each stands.

A step is done when its folder holds ``done.json``, written last, with the fingerprint of all that the step depends on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cascade_det.core.schema import Recipe
from cascade_det.core.shipped import find_shipped
from cascade_det.data.picture_set import PictureSet, calibration_split
from cascade_det.errors import RunError
from cascade_det.training.fingerprint import (
    changed_keys,
    evaluator_versions,
    file_digest,
    fingerprint,
    keys_of_step,
    part_versions,
)

WEIGHTS = "weights.safetensors"  # what a fit leaves, in the folder of its step


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


class Plan:
    """The steps of a recipe in its run directory.

    Args:
        recipe: what to train.
        say: writes one line for people.
    """

    def __init__(self, recipe: Recipe, say: Callable[[str], None] = lambda line: None) -> None:
        self.recipe = recipe
        self.folder = Path(recipe.run_dir)
        self._say = say
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
            if step.stage:
                keys |= part_versions(self.recipe, step.kind, step.stage)
            if step.kind == "mine":
                keys |= self.train_pictures.digests("train")
            elif step.kind == "fit" and self.recipe.init:
                keys["init (file)"] = file_digest(self.init_file())
            elif step.kind == "evaluate":
                keys |= self.val_pictures.digests("val") | evaluator_versions(self.recipe)
            position = self.steps.index(step)
            if position:
                before = self.steps[position - 1]
                output = str((self.done(before) or {}).get("output", "missing"))
                keys["(the step before)"] = f"{before}: {fingerprint(self.keys(before))[:16]} {output[:16]}"
            self._keys[step] = keys
        return self._keys[step]

    def done(self, step: Step) -> dict[str, Any] | None:
        """Return the record of a finished step, None where there is none that can be read."""
        try:
            done: dict[str, Any] = json.loads((self.path(step) / "done.json").read_text())
        except (OSError, ValueError):
            return None
        return done if {"fingerprint", "keys", "output"} <= done.keys() else None

    def init_file(self) -> Path:
        """Return the model that `init` names, as a file or as a shipped model."""
        path = Path(self.recipe.base_dir or ".") / str(self.recipe.init)
        if path.is_file():
            return path
        shipped = find_shipped("models", str(self.recipe.init), ".safetensors")
        if shipped is None:
            raise RunError(f"init={self.recipe.init!r}: neither the file {path} nor a shipped model.")
        return shipped

    def state(self, step: Step) -> StepState:
        """Return where a step stands and, where it is stale, which keys changed."""
        done = self.done(step)
        if done is None:
            return StepState(step, "missing", [])
        keys = self.keys(step)
        if done["fingerprint"] != fingerprint(keys):
            return StepState(step, "stale", changed_keys(done["keys"], keys))
        if step.kind == "fit" and not self._weights_are(step, done["output"]):
            return StepState(step, "stale", [f"{self.path(step) / WEIGHTS}: missing or damaged since"])
        return StepState(step, "done", [])

    def _weights_are(self, step: Step, digest: str) -> bool:
        path = self.path(step) / WEIGHTS
        return path.is_file() and file_digest(path) == digest

    def forget(self) -> None:
        """Look at the folders anew: a step was done meanwhile."""
        self._keys.clear()

    def unreadable(self) -> int:
        """Return how many times the steps that are done had to skip a picture."""
        facts = [(self.done(step) or {}).get("facts", {}) for step in self.steps]
        return sum(fact.get("skipped_images", 0) + fact.get("unreadable", 0) for fact in facts)

    def seconds(self) -> dict[str, float]:
        """Return what each step took, 0 for one that is not done."""
        return {str(step): float((self.done(step) or {}).get("seconds", 0)) for step in self.steps}
