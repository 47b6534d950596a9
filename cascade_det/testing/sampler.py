"""The contract of a sampler: its plan depends on its arguments and its stream alone, is bounded and keeps the rules."""

from __future__ import annotations

import ctypes
import dataclasses
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cascade_det.core.geometry import box_area, box_sides, intersection_matrix, iou_matrix
from cascade_det.core.types import Annotations, CropPlan, Detections, SampleRole
from cascade_det.samplers.base import Bands, Sampler
from cascade_det.testing.contract import ContractError, columns, difference, doing, require

_SLACK = 1e-3  # of an IoU or a share: a window is stored in float32


@dataclass(frozen=True, eq=False)
class _Scene:
    name: str
    image_hw: tuple[int, int]
    truth: Annotations
    candidates: Detections | None


def check_sampler(
    sampler: Sampler,
    *,
    window_hws: Sequence[tuple[int, int]] = ((12, 12), (24, 16)),
    num_points: int = 5,
    seconds: float = 10.0,
) -> None:
    """Check a sampler on a picture full of objects and on the pictures at which samplers fail.

    Args:
        sampler: such as ``MySampler()``.
        window_hws: windows that it is asked for, (height, width).
        num_points: K of the truth's points; all are known.
        seconds: how long a plan may take.

    Raises:
        ContractError: one of these does not hold:
            the plan depends on the arguments and `rng` alone: neither the global random state nor what was sampled
            before matters, an equal stream gives an equal plan and another stream another one; the arguments are left
            alone; it ends on a picture without objects, one filled by an object, one of a single pixel and one whose
            objects are all ignored; windows are finite, have positive sides and the window's aspect; a row of truth
            that is named exists and is not ignored, and every row but a negative names one; no negative lies in an
            ignored box; where `bands` are stated, each role keeps them.
    """
    require(isinstance(sampler, Sampler), f"a sampler is a cascade_det.samplers.base.Sampler, not {type(sampler)}")
    scenes = list(_scenes(num_points, sampler.needs_candidates))
    for window_hw in window_hws:
        plans = []
        for scene in scenes:
            before = _arguments(scene)
            plan = _sample(sampler, scene, window_hw, seconds)
            changed = difference(before, _arguments(scene))
            require(not changed, f"the sampler changes its arguments ({scene.name}): {changed}")
            _check_plan(plan, scene, window_hw)
            if sampler.bands is not None:
                _check_bands(plan, scene, window_hw, sampler.bands)
            plans.append(plan)
        _check_chance(sampler, scenes, plans, window_hw, seconds)


def _scenes(num_points: int, with_candidates: bool) -> Iterator[_Scene]:
    """Yield the picture full of objects first, then what samplers fail at."""
    boxes = np.array(
        [[20, 20, 80, 90], [100, 30, 140, 84], [24, 150, 70, 200], [104, 160, 110, 166], [180, 60, 300, 190]]
    )
    usual = _annotated(boxes, [False, False, False, False, True], num_points)
    found = _candidates(boxes) if with_candidates else None
    yield _Scene("a picture of 240x320 with five objects, one of them ignored", (240, 320), usual, found)
    yield _Scene("objects without points", (240, 320), Annotations.of(boxes, ignore=usual.ignore), found)
    yield _Scene("no objects", (240, 320), Annotations.empty(num_points), found)
    everything = usual.replace(ignore=np.ones(len(usual), bool))
    yield _Scene("all objects ignored", (240, 320), everything, found)
    for height, width in ((100, 100), (40, 160), (1, 1)):
        frame = _annotated(np.array([[0, 0, width, height]]), [False], num_points)
        around = _candidates(frame.boxes) if with_candidates else None
        yield _Scene(f"an object that fills a picture of {height}x{width}", (height, width), frame, around)
    yield _Scene(
        "a picture of one pixel", (1, 1), Annotations.empty(num_points), Detections.empty() if with_candidates else None
    )
    if with_candidates:
        yield _Scene("no candidates", (240, 320), usual, Detections.empty())
        yield _Scene("a first stage, without candidates", (240, 320), usual, None)


def _annotated(boxes: NDArray[Any], ignore: Sequence[bool], num_points: int) -> Annotations:
    """Return objects with points spread over the middle of each box."""
    where = np.stack([np.linspace(0.35, 0.65, num_points), np.linspace(0.6, 0.4, num_points)], axis=1)
    points = boxes[:, None, :2] + where * (boxes[:, None, 2:] - boxes[:, None, :2])
    return Annotations(boxes, np.array(ignore), points, np.ones((len(boxes), num_points), bool))


def _candidates(boxes: NDArray[Any]) -> Detections:
    """Return boxes on, around and away from the objects, in all shapes; enough that a cap has to choose."""
    rng = np.random.default_rng(7)
    near = np.repeat(boxes, 60, axis=0)
    near = near + rng.normal(0, 0.08, near.shape) * np.tile(near[:, 2:] - near[:, :2], 2)
    stray = rng.random((300, 2)) * boxes[:, 2:].max(axis=0)
    strays = np.concatenate([stray, stray + rng.uniform(3, 60, (300, 2))], axis=1)
    found = np.concatenate([near, strays])
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 0.5)
    return Detections(found, rng.random(len(found), np.float32))


def _arguments(scene: _Scene) -> dict[str, NDArray[Any]]:
    found = columns(scene.candidates) if scene.candidates is not None else {}
    return columns(scene.truth) | {f"candidates.{name}": column for name, column in found.items()}


def _sample(sampler: Sampler, scene: _Scene, window_hw: tuple[int, int], seconds: float, stream: int = 0) -> CropPlan:
    what = f"sample ({scene.name})"
    rng = np.random.default_rng(stream)
    with doing(what), _at_most(seconds, what):
        plan = sampler.sample(scene.image_hw, window_hw, scene.truth, scene.candidates, rng)
    require(isinstance(plan, CropPlan), f"{what} gives a {type(plan).__name__}, it must give a CropPlan")
    return plan


class _Overdue(BaseException):
    """Ends a part that takes too long; no Exception, so that the part does not catch it."""


@contextmanager
def _at_most(seconds: float, what: str) -> Iterator[None]:
    """End the Python code that is called here once it takes longer, an endless loop too, on any system.

    A finaliser that happens to run swallows an exception, so it is raised again until the code has ended.
    """
    caller, ended = ctypes.c_ulong(threading.get_ident()), threading.Event()
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def watch() -> None:
        wait = seconds
        while not ended.wait(wait):
            raise_in(caller, ctypes.py_object(_Overdue))
            wait = 0.2

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            raise_in(caller, None)  # one that was raised in the very last moment
    except _Overdue:
        ended.set()
        raise ContractError(f"{what} has not ended after {seconds:g} s; every loop must be bounded") from None


def _check_plan(plan: CropPlan, scene: _Scene, window_hw: tuple[int, int]) -> None:
    name, truth = scene.name, scene.truth
    finite = np.isfinite(plan.boxes).all(axis=1, keepdims=True)
    width, height = box_sides(np.where(finite, plan.boxes, 0))
    for row in np.flatnonzero(~((width > 0) & (height > 0)))[:1]:
        raise ContractError(f"window {row} is {plan.boxes[row].tolist()} ({name}); sides must be finite and positive")
    wanted = window_hw[1] / window_hw[0]
    for row in np.flatnonzero(np.abs(width / height / wanted - 1) > 2e-3)[:1]:
        raise ContractError(
            f"window {row} is {width[row]:.4g} wide and {height[row]:.4g} high ({name}), which is not the aspect of "
            f"window_hw={tuple(window_hw)}"
        )
    roles = set(plan.role.tolist()) - {int(role) for role in SampleRole}
    require(not roles, f"role={sorted(roles)} is no SampleRole ({name})")
    low, high = int(plan.truth.min(initial=-1)), int(plan.truth.max(initial=-1))
    require(low >= -1 and high < len(truth), f"truth names rows {low} to {high} of {len(truth)} objects ({name})")
    for row in np.flatnonzero((plan.role != SampleRole.negative) & (plan.truth < 0))[:1]:
        raise ContractError(f"window {row} is a {SampleRole(plan.role[row]).name} of no row of truth ({name})")
    taught = plan.truth[plan.truth >= 0]
    require(not truth.ignore[taught].any(), f"a window teaches an object that is ignored ({name})")
    _check_ignored(plan, truth, name)


def _check_ignored(plan: CropPlan, truth: Annotations, name: str) -> None:
    windows, ignored = plan.boxes[plan.role == SampleRole.negative], truth.boxes[truth.ignore]
    share = intersection_matrix(windows, ignored) / np.maximum(box_area(windows)[:, None], 1e-12)
    for row, box in np.argwhere(share > 0.5)[:1]:
        raise ContractError(
            f"the negative {windows[row].tolist()} lies by {share[row, box]:.0%} in the ignored box "
            f"{ignored[box].tolist()} ({name}); an ignored object is neither rewarded nor punished"
        )


def _check_bands(plan: CropPlan, scene: _Scene, window_hw: tuple[int, int], bands: Bands) -> None:
    truth, reference = scene.truth, bands.reference_boxes(scene.truth, window_hw)
    for role, low, high in ((SampleRole.positive, bands.positive, 1.0), (SampleRole.part, bands.part, bands.positive)):
        rows = np.flatnonzero(plan.role == role)
        overlap = iou_matrix(plan.boxes[rows], reference)[np.arange(len(rows)), plan.truth[rows]]
        for row in np.flatnonzero((overlap < low - _SLACK) | (overlap > high + _SLACK))[:1]:
            raise ContractError(
                f"window {rows[row]} is a {role.name} with IoU {overlap[row]:.3f} to its object ({scene.name}), the "
                f"bands say {low} to {high}"
            )
    rows = np.flatnonzero(plan.role == SampleRole.negative)
    loose = dataclasses.replace(
        bands,
        negative=min(bands.negative + _SLACK, bands.part),
        max_coverage=bands.max_coverage + _SLACK,
        ignore_overlap=bands.ignore_overlap + _SLACK,
    )
    for row in rows[~loose.is_negative(plan.boxes[rows], truth, window_hw)][:1]:
        best = float(iou_matrix(plan.boxes[row : row + 1], truth.boxes).max())
        raise ContractError(
            f"the negative {plan.boxes[row].tolist()} shows an object (IoU {best:.3f}) or an ignored one "
            f"({scene.name}), the bands forbid that"
        )


def _check_chance(
    sampler: Sampler, scenes: Sequence[_Scene], plans: Sequence[CropPlan], window_hw: tuple[int, int], seconds: float
) -> None:
    first, usual = columns(plans[0]), scenes[0]
    require(len(plans[0]) > 0, f"the sampler gives no window at all ({usual.name})")
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - the state that must not matter
    try:
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            again = difference(first, columns(_sample(sampler, usual, window_hw, seconds)))
            require(
                not again,
                f"the same arguments and an equal stream give another plan: {again}; nothing but the arguments may "
                "matter, so draw all chance from rng and remember nothing",
            )
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.set_rng_state(kept[2])
    other = difference(first, columns(_sample(sampler, usual, window_hw, seconds, stream=1)))
    require(bool(other), f"another stream gives the very same plan of {len(plans[0])} windows; draw from rng")
