"""Every registered stage passes its check, and each invariant is seen to fail on a stage that breaks it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cascade_det.core.registry import HEADS, STAGES
from cascade_det.core.types import Detections
from cascade_det.heads.base import Head
from cascade_det.nets.mtcnn import mtcnn_pnet
from cascade_det.testing import ContractError, check_stage

K = 5


def head_of(kind: str) -> Head:
    head: Head = HEADS.build(kind, {}, "head", num_points=K)
    return head


COUNTER = itertools.count()

FIRST = {"proposer"}  # stages that take no candidates


def stage_of(kind: str, points: bool = True) -> Any:
    heads = {name: head_of(name) for name in ("classification", "box_offset", *["points"] * points)}
    given = {"name": "mine", "window_hw": (12, 12), "net": mtcnn_pnet((12, 12), activation="relu"), "heads": heads}
    return STAGES.build(kind, {}, "stages.mine", **given)


@pytest.mark.parametrize("kind", STAGES.names())
@pytest.mark.parametrize("points", [True, False])
def test_every_stage(kind: str, points: bool) -> None:
    check_stage(stage_of(kind, points), first=kind in FIRST, rebuild=lambda: stage_of(kind, points))


class AStage:
    """A refiner of which one thing is replaced."""

    trainable = True

    def __init__(self, **replaced: Any) -> None:
        self.inner, self.replaced = stage_of("refiner"), replaced
        self.name, self.window_hw, self.num_points = "mine", (12, 12), K
        for name in {"trainable", "num_points", "window_hw", "name"} & set(replaced):
            setattr(self, name, replaced[name])

    def __call__(self, images: Any, candidates: Any, settings: Any) -> Any:
        change = self.replaced.get("call")
        return change(self.inner, images, candidates, settings) if change else self.inner(images, candidates, settings)

    def arrays(self) -> Any:
        return self.replaced.get("arrays", lambda arrays: arrays)(self.inner.arrays())

    def load_arrays(self, arrays: Any) -> None:
        self.replaced.get("load", lambda inner, arrays: inner.load_arrays(arrays))(self.inner, arrays)

    def to(self, device: str) -> None: ...


def each(change: Callable[[Detections], Detections]) -> Any:
    return lambda inner, images, found, settings: [change(result) for result in inner(images, found, settings)]


ONE = Detections([[0, 0, 9, 9]], [0.5], np.zeros((1, K, 2)))


def batch_scores(inner: Any, images: Any, found: Any, settings: Any) -> Any:
    results = inner(images, found, settings)
    best = max((result.scores.max(initial=0) for result in results), default=1)
    return [result.replace(scores=result.scores / max(best, 1e-3)) for result in results]


def order_matters(inner: Any, images: Any, found: Any, settings: Any) -> Any:
    results = inner(images, found, settings)
    if len(images) > 2 and images[1].image_hw < images[2].image_hw:
        results = [result.replace(boxes=result.boxes + 1) for result in results]
    return results


def one_chunk(inner: Any, images: Any, found: Any, settings: Any) -> Any:
    return [result[: settings.chunk] for result in inner(images, found, settings)]


def painting(inner: Any, images: Any, found: Any, settings: Any) -> Any:
    for image in images:
        image.level(image.image_hw)[:] = 0
    return inner(images, found, settings)


def moving(inner: Any, images: Any, found: Any, settings: Any) -> Any:
    for candidates in found:
        candidates.boxes[:] += 1
    return inner(images, found, settings)


def lacking(inner: Any, arrays: Any) -> None:
    inner.load_arrays({**inner.arrays(), **arrays})


def by_key(inner: Any, arrays: Any) -> None:
    inner.load_arrays({name: arrays[name] for name in inner.arrays()})


def keeps_all(inner: Any, images: Any, found: Any, settings: Any) -> Any:
    return inner(images, found, dataclasses.replace(settings, score=0.0, max_per_image=9999))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"name": 3}, "name=3"),
        ({"window_hw": 12}, "window_hw=12 "),
        ({"window_hw": (12, 0)}, r"window_hw=\(12, 0\)"),
        ({"trainable": None}, "trainable=None"),
        ({"num_points": "5"}, "num_points='5'"),
        ({"call": lambda inner, *a: inner(*a)[:1]}, "on 4 pictures gives"),
        ({"call": lambda inner, *a: inner(*a) or [Detections.empty(K)]}, "on 0 pictures gives"),
        ({"call": each(lambda d: d[:0])}, "pass pictures="),
        ({"call": each(lambda d: d if len(d) else d.boxes[0])}, "raises IndexError"),
        ({"call": each(lambda d: d if len(d) else Detections.empty())}, "of picture 1 .* num_points=5"),
        ({"call": each(lambda d: d if len(d) else ONE)}, "gives 1 results"),
        ({"num_points": None}, "num_points=None"),
        ({"call": each(lambda d: d.replace(boxes=d.boxes * np.nan))}, "a box of picture 0 is not finite"),
        ({"call": each(lambda d: d.replace(points=d.points * np.nan))}, "a point of picture 0 is not finite"),
        ({"call": each(lambda d: d.replace(scores=d.scores + 1))}, r"not within \[0, 1\]"),
        ({"call": each(lambda d: d[::-1])}, "not sorted"),
        ({"call": each(lambda d: Detections.concat([d] * 9).sorted())}, "max_per_image=60"),
        ({"call": keeps_all}, "under the threshold"),
        ({"call": each(lambda d: d.replace(boxes=d.boxes + next(COUNTER)))}, "when it is run again"),
        ({"call": batch_scores}, "between alone and in a batch of 4"),
        ({"call": order_matters}, "come in another order"),
        ({"call": one_chunk}, "between chunk=256 and chunk=1"),
        ({"call": painting}, "changes the pixels of picture 0"),
        ({"call": moving}, "changes the candidates of picture 0: boxes"),
        ({"arrays": lambda arrays: list(arrays)}, "arrays raises AttributeError"),
        ({"arrays": lambda arrays: dict.fromkeys(arrays, None)}, "plain arrays by name"),
        ({"arrays": lambda a: {n: v for n, v in a.items() if n[:3] != "net"}, "load": lacking}, "saved and loaded"),
        ({"load": lambda inner, arrays: None}, "load_arrays does not take"),
        ({"load": lacking}, "raises nothing, it must raise ModelError"),
        ({"load": by_key}, "raises KeyError, it must raise ModelError"),
    ],
)  # fmt: skip
def test_a_broken_stage(replaced: dict[str, Any], message: str) -> None:
    stage = AStage(**replaced)
    with pytest.raises(ContractError, match=message):
        check_stage(stage, rebuild=lambda: AStage(**replaced))


def test_a_stage_that_is_whole_passes() -> None:
    check_stage(AStage())
