"""Every registered sampler passes its check, and each invariant is seen to fail on a sampler that breaks it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cascade_det.core.registry import SAMPLERS
from cascade_det.core.types import CropPlan, SampleRole
from cascade_det.samplers.base import Bands, Sampler
from cascade_det.samplers.from_cascade import FromCascade
from cascade_det.samplers.iou_bands import IouBands
from cascade_det.testing import ContractError, check_sampler

Make = Callable[[], Any]


def changed(part: Any, **replaced: Any) -> Any:
    """Return the part with some of its attributes or methods replaced."""
    for name, value in replaced.items():
        setattr(part, name, value)
    return part


@pytest.mark.parametrize("kind", SAMPLERS.names())
@pytest.mark.parametrize("num_points", [0, 5])
def test_every_sampler(kind: str, num_points: int) -> None:
    if kind == "point_windows" and num_points == 0:
        with pytest.raises(ContractError, match="no window at all"):
            check_sampler(SAMPLERS.build(kind, {}, "sampler"), num_points=0)
    else:
        check_sampler(SAMPLERS.build(kind, {}, "sampler"), num_points=num_points)


def test_global_random_state_is_left_as_it_was() -> None:
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    expected = random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    check_sampler(IouBands())
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected  # noqa: NPY002


def sampling(sample: Any, of: Sampler | None = None) -> Make:
    """Return a maker of a sampler whose plan is ``sample(own, image_hw, window_hw, truth, candidates, rng)``."""

    def make() -> Sampler:
        sampler = of or IouBands()
        own = type(sampler).sample.__get__(sampler)
        return changed(type(sampler)(), sample=lambda *arguments: sample(own, *arguments))

    return make


def planned(**columns: Any) -> Make:
    """Return a maker of a sampler whose plan has some columns replaced by a function of the plan."""

    def sample(own: Any, *arguments: Any) -> CropPlan:
        plan = own(*arguments)
        names = ("boxes", "role", "truth", "angle_deg", "mirror")
        return CropPlan(*(columns[name](plan) if name in columns else getattr(plan, name) for name in names))

    return sampling(sample)


def seeded_by(draw: Callable[[], int]) -> Make:
    return sampling(lambda own, hw, w, t, c, rng: own(hw, w, t, c, np.random.default_rng(draw() + rng.integers(9))))


def until_fifty(own: Any, image_hw: Any, window_hw: Any, truth: Any, candidates: Any, rng: Any) -> CropPlan:
    """Draw until there are 50 negatives, which an object that fills the picture never lets be."""
    plans: list[CropPlan] = []
    while sum(map(len, plans)) < 50:
        plan = own(image_hw, window_hw, truth, candidates, rng)
        plans.append(plan[plan.role == SampleRole.negative])
    return CropPlan.concat(plans)


def whole_numbers(own: Any, image_hw: Any, window_hw: Any, truth: Any, candidates: Any, rng: Any) -> CropPlan:
    rng.integers(12, min(image_hw) // 2)
    return own(image_hw, window_hw, truth, candidates, rng)


def needing_an_object(own: Any, image_hw: Any, window_hw: Any, truth: Any, candidates: Any, rng: Any) -> CropPlan:
    share = len(truth) / int((~truth.ignore).sum()) if len(truth) else 1
    return own(image_hw, window_hw, truth, candidates, rng) if share >= 1 else own


def taking_five(own: Any, image_hw: Any, window_hw: Any, truth: Any, candidates: Any, rng: Any) -> CropPlan:
    return own(image_hw, window_hw, truth, candidates[:5], rng)


def shifting(own: Any, image_hw: Any, window_hw: Any, truth: Any, candidates: Any, rng: Any) -> CropPlan:
    truth.boxes[:] += 1
    return own(image_hw, window_hw, truth, candidates, rng)


def shifting_candidates(own: Any, image_hw: Any, window_hw: Any, truth: Any, candidates: Any, rng: Any) -> CropPlan:
    if candidates is not None:
        candidates.scores[:] = 0
    return own(image_hw, window_hw, truth, candidates, rng)


def stating(bands: Bands | None, **params: Any) -> Make:
    """Return a maker of a sampler that works by `params` and states other bands."""

    def make() -> Sampler:
        inner = IouBands(**params)
        return changed(IouBands(), bands=bands, sample=inner.sample)

    return make


COUNTER = itertools.count()
to_role = {role: lambda plan, role=role: np.full(len(plan), role) for role in (*SampleRole, 7)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (object, "is a cascade_det.samplers.base.Sampler"),
        (sampling(lambda own, *a: own(*a).boxes), "gives a ndarray"),
        (sampling(lambda own, *a: own(*a)[:0]), "no window at all"),
        (sampling(lambda own, *a: own(*a[:4], np.random.default_rng(0))), "another stream gives the very same plan"),
        (seeded_by(lambda: np.random.randint(99)), "nothing but the arguments may matter"),  # noqa: NPY002
        (seeded_by(lambda: random.randint(0, 99)), "nothing but the arguments may matter"),
        (seeded_by(lambda: int(torch.randint(99, ()))), "nothing but the arguments may matter"),
        (seeded_by(lambda: next(COUNTER)), "remember nothing"),
        (sampling(until_fifty), "fills a picture of .* has not ended after 0.5 s"),
        (sampling(whole_numbers), "fills a picture of 1x1.* raises ValueError"),
        (sampling(lambda own, hw, w, t, *a: own(hw, w, t, *a) if len(t) else t.boxes[0]), "no objects.* IndexError"),
        (sampling(needing_an_object), "all objects ignored.* ZeroDivisionError"),
        (sampling(taking_five, FromCascade()), "without candidates.* TypeError"),
        (sampling(shifting), "changes its arguments .*boxes"),
        (sampling(shifting_candidates, FromCascade()), r"changes its arguments .*candidates\.scores"),
        (planned(boxes=lambda p: p.boxes[:, [2, 3, 0, 1]]), "finite and positive"),
        (planned(boxes=lambda p: p.boxes + np.inf), "finite and positive"),
        (sampling(lambda own, hw, w, *a: own(hw, (12, 12), *a)), r"not the aspect of window_hw=\(24, 16\)"),
        (planned(role=to_role[7]), r"role=\[7\]"),
        (planned(truth=lambda p: p.truth + 5), "truth names rows .* of 5 objects"),
        (planned(truth=lambda p: np.full(len(p), -1)), "is a positive of no row of truth"),
        (planned(truth=lambda p: np.where(p.truth < 0, -1, 4)), "object that is ignored|truth names rows"),
        (stating(None, ignore_overlap=1.0), "in the ignored box .* neither rewarded nor punished"),
        (stating(Bands(), positive=0.5), "is a positive with IoU 0.[56].* bands say 0.65 to 1"),
        (stating(Bands(), part=0.31), "is a part with IoU 0.3"),
        (stating(Bands(), negative=0.4), r"shows an object \(IoU 0.3"),
    ],
)  # fmt: skip
def test_a_broken_sampler(make: Make, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_sampler(make(), seconds=0.5)
