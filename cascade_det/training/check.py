"""What `check` tells about a recipe before it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cascade_det.core.geometry import aspect_reach, box_sides
from cascade_det.core.recipe import build_samplers, build_stage, stage_train
from cascade_det.core.schema import Recipe, window_of
from cascade_det.data.formats.picture_files import PictureFiles
from cascade_det.data.picture_set import PictureSet, refuse_missing, refuse_overlap
from cascade_det.data.sources import left_out
from cascade_det.errors import DataError
from cascade_det.stages.proposer import Proposer
from cascade_det.stages.refiner import Refiner
from cascade_det.training.plan import Plan
from cascade_det.training.preflight import check_parts, check_truth, rehearse_evaluation

_REACH_IOU = 0.65


@dataclass
class CheckReport:
    """Lines for people, facts for machines, and problems that a run would meet."""

    lines: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def check_recipe(recipe: Recipe, say: Callable[[str], None]) -> CheckReport:
    """Check data, reach of windows and pyramid, parameters and steps of a valid recipe.

    Raises:
        DataError: data is missing or wrong, or train and val share pictures.
    """
    report = CheckReport()
    check_parts(recipe)
    _count_parameters(report, recipe)  # builds every net: a value that it refuses is told before missing data
    train, val = PictureSet.of(recipe, "train"), PictureSet.of(recipe, "val")
    for split, pictures in (("train", train), ("val", val)):
        _check_data(report, split, pictures)
        if not pictures.names:
            report.problems.append(f"data.{split}: no source")
        elif len(pictures) and pictures.counted_objects() == 0:
            report.problems.append(f"data.{split}: no objects")
    if not report.problems:
        check_truth(recipe, train)
        refuse_overlap(train, val)
        rehearse_evaluation(recipe, val.sources)
    _check_reach(report, recipe, train)
    steps = Plan(recipe, say).steps
    report.lines.append("would run: " + ", ".join(map(str, steps)))
    report.lines.append(f"run directory: {recipe.run_dir}")
    report.facts["problems"] = report.problems
    return report


def _check_data(report: CheckReport, split: str, pictures: PictureSet) -> None:
    refuse_missing(pictures, split)
    for name, source in zip(pictures.names, pictures.sources, strict=True):
        missing, count = source.missing_files(), len(source.pictures)
        truth = [source.annotations(index) for index in range(count)]
        objects = sum(int((~t.ignore).sum()) for t in truth)
        ignored = sum(int(t.ignore.sum()) for t in truth)
        unused = left_out(source)
        report.lines.append(
            f"data.{split}.{name}: {count:,} pictures, {objects:,} objects, {ignored:,} ignored"
            + (f"; left out: {unused}" if unused else "")
        )
        facts = {"pictures": count, "objects": objects, "ignored": ignored, "left_out": dict(source.report())}
        report.facts[f"data.{split}.{name}"] = facts
        if missing:
            report.problems.append(
                f"data.{split}.{name}: {len(missing)} picture files are missing, such as {missing[0]}"
            )
        report.problems += [f"data.{split}.{name}: {why}" for why in _unreadable(pictures, name)]
        if count == 0:
            report.problems.append(f"data.{split}.{name}: no pictures")


def _unreadable(pictures: PictureSet, name: str) -> list[str]:
    number = pictures.names.index(name)
    source, faults = pictures.sources[number], []
    if not isinstance(source, PictureFiles):
        return []
    for index in range(len(source.pictures)):
        try:
            source.read(index)
        except DataError as error:
            faults.append(str(error))
    return faults[:20]


def _check_reach(report: CheckReport, recipe: Recipe, train: PictureSet) -> None:
    truth = [train.annotations(number) for number in range(len(train))]
    boxes = np.concatenate([t.boxes[~t.ignore] for t in truth]) if truth else np.zeros((0, 4))
    if len(boxes) == 0:
        return
    height = box_sides(boxes)[1]
    share = float((height >= recipe.pyramid.min_object_px).mean())
    report.facts["share_above_min_object_px"] = share
    report.lines.append(
        f"{share:.1%} of the objects are at least pyramid.min_object_px={recipe.pyramid.min_object_px:g} high"
    )
    for name, section in recipe.stages.items():
        window_hw = window_of(section)
        reach = float((aspect_reach(boxes, window_hw) >= _REACH_IOU).mean())
        report.facts[f"reach.{name}"] = reach
        report.lines.append(
            f"{name}: windows of {window_hw[0]}x{window_hw[1]} (h x w) reach IoU {_REACH_IOU} "
            f"on {reach:.1%} of the objects"
        )
        smallest = {
            getattr(getattr(s, "bands", s), "min_train_px", None) for s in build_samplers(recipe, name).values()
        }
        report.facts[f"min_train_px.{name}"] = sorted(v for v in smallest if v is not None)


def _count_parameters(report: CheckReport, recipe: Recipe) -> None:
    for name, section in recipe.stages.items():
        stage = build_stage(recipe, name)
        if isinstance(stage, (Proposer, Refiner)):
            count = sum(p.numel() for p in stage.runner.network.parameters())
            values = stage_train(recipe, name)
            report.facts[f"parameters.{name}"] = count
            report.lines.append(
                f"{name}: {section.net.kind}, {count:,} parameters, {values.samples:,} samples in batches "
                f"of {values.batch_size}"
            )
