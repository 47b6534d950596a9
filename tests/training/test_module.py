"""The module that fits a stage: the joint loss with its masks, the figures of validation, optimizer and schedule."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cascade_det.core.schema import Part
from cascade_det.core.types import CropTruth, SampleRole
from cascade_det.data.loader import head_targets
from cascade_det.errors import RecipeError
from cascade_det.heads.base import Head, Reduction
from cascade_det.heads.box_offset import BoxOffset
from cascade_det.heads.classification import Classification
from cascade_det.heads.points import Points
from cascade_det.nets.base import Net
from cascade_det.stages.network import StageNetwork
from cascade_det.training.module import HeadLoss, StageModule

HEADS: dict[str, Head] = {"score": Classification(), "box": BoxOffset(), "points": Points(2)}
SURE: dict[str, Head] = {
    "score": Classification(), "box": BoxOffset(error="laplace"), "points": Points(2, error="laplace"),
}  # fmt: skip
NEGATIVE, PART, POSITIVE, POINTS = (int(r) for r in SampleRole)


class Flat(Net):
    """The mean of red in the crop, once for each output."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1].mean(dim=(2, 3), keepdim=True)


def module(
    weights: Sequence[float] = (1, 1, 1),
    optimizer: Part | None = None,
    schedule: Part | None = None,
    heads: dict[str, Head] = HEADS,
    **values: Any,
) -> Any:
    """Return a module whose raw outputs are zero until its biases are set; what it logs is kept in `logged`."""
    network = StageNetwork(Flat(), heads)
    for value in network.parameters():
        torch.nn.init.zeros_(value)
    losses = {name: HeadLoss(w, Reduction.mean, 0.7) for name, w in zip(HEADS, weights, strict=True)}
    parts = (optimizer or Part("AdamW"), schedule or Part("none"))
    made: Any = StageModule(network, heads, losses, (0.0, 1 / 255), *parts, **{"lr": 0.1, "steps": 10, **values})
    made.logged = {}
    made.log = lambda name, value, **_: made.logged.__setitem__(name, float(value))
    made._trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda value, reduce_op: value))
    return made


def batch(roles: Sequence[int], box: Sequence[float] = (0, 0, 1, 1), known: Sequence[bool] = (True, True)) -> Any:
    """Return a batch of black crops of these roles; an object has this box and points at .25 .5."""
    rows, role = len(roles), np.array(roles, np.int8)
    has = role != NEGATIVE
    truth = CropTruth(
        role,
        np.where(has[:, None], np.tile(np.array(box, float), (rows, 1)), 0),
        has,
        np.tile(np.array([0.25, 0.5]), (rows, 2, 1)),
        has[:, None] & np.array(known),
    )
    targets = head_targets(HEADS, truth, {name: np.ones(rows, bool) for name in HEADS})
    return {"images": torch.zeros((rows, 3, 4, 4), dtype=torch.uint8), "targets": targets}


def set_bias(made: Any, head: str, values: Sequence[float]) -> None:
    with torch.no_grad():
        made.network.heads[head].bias.copy_(torch.tensor(values))


LOG2 = float(np.log(2))
POINT_LOSS = 2 * (0.25**2 + 0.5**2)


class TestLoss:
    @pytest.mark.parametrize(
        ("roles", "box", "known", "score", "boxes", "points"),
        [
            ([], (0, 0, 1, 1), (True, True), 0, 0, 0),
            ([NEGATIVE], (0, 0, 1, 1), (True, True), LOG2, 0, 0),
            ([POSITIVE], (0.1, 0, 1, 0.8), (True, True), LOG2, 0.05, POINT_LOSS),
            ([PART], (0.1, 0, 1, 0.8), (True, True), 0, 0.05, POINT_LOSS),
            ([POINTS], (0.1, 0, 1, 0.8), (True, True), 0, 0, POINT_LOSS),
            ([POINTS], (0, 0, 1, 1), (True, False), 0, 0, POINT_LOSS / 2),
            ([POSITIVE], (0, 0, 1, 1), (False, False), LOG2, 0, 0),
            ([NEGATIVE] * 9 + [PART], (0.1, 0, 1, 0.8), (True, True), LOG2, 0.05, POINT_LOSS),  # means of taught rows
        ],
    )
    def test_only_the_rows_that_teach_a_head_count(
        self,
        roles: list[int],
        box: tuple[float, ...],
        known: tuple[bool, bool],
        score: float,
        boxes: float,
        points: float,
    ) -> None:
        made = module((1.0, 0.5, 2.0))
        total = made.training_step(batch(roles, box, known), 0).detach()
        made.on_train_epoch_end()
        logged = {name: made.logged[f"train/{name}_loss"] for name in HEADS}
        assert logged == pytest.approx({"score": score, "box": boxes, "points": points}, abs=1e-6)
        assert float(total) == pytest.approx(score + 0.5 * boxes + 2 * points, abs=1e-6)
        assert made.logged["train/loss"] == pytest.approx(float(total))

    @pytest.mark.parametrize("roles", [[], [NEGATIVE], [PART], [POINTS], [POSITIVE, NEGATIVE]])
    def test_gradients_are_finite_and_only_where_something_teaches(self, roles: list[int]) -> None:
        made = module()
        made.training_step(batch(roles, (0.2, 0, 1, 1)), 0).backward()
        moved = {}
        for name in HEADS:
            grad = made.network.heads[name].bias.grad
            assert torch.isfinite(grad).all()
            moved[name] = bool((grad != 0).any())
        assert moved == {
            "score": bool({NEGATIVE, POSITIVE} & set(roles)) and roles != [POSITIVE, NEGATIVE],
            "box": bool({PART, POSITIVE} & set(roles)),
            "points": bool({PART, POSITIVE, POINTS} & set(roles)),
        }

    def test_a_weight_of_zero_switches_a_head_off(self) -> None:
        made = module((0, 1, 0))
        total = made.training_step(batch([POSITIVE], (0.1, 0, 1, 0.8)), 0).detach()
        assert float(total) == pytest.approx(0.05, abs=1e-6)

    def test_what_is_logged_is_the_mean_of_the_epochs_steps(self) -> None:
        made = module()
        losses = [
            float(made.training_step(batch(roles, (0.1, 0, 1, 0.8)), 0).detach()) for roles in ([NEGATIVE], [PART])
        ]
        assert made.logged == {}
        made.on_train_epoch_end()
        assert made.logged["train/loss"] == pytest.approx(np.mean(losses))
        last = float(made.training_step(batch([PART]), 0).detach())
        made.on_train_epoch_end()
        assert made.logged["train/loss"] == pytest.approx(last)  # the epoch before is forgotten

    def test_pixels_are_normalised(self) -> None:
        made = module()
        with torch.no_grad():
            made.network.heads["score"].weight.fill_(2)
        bright = batch([NEGATIVE])
        bright["images"] = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
        made.training_step(bright, 0)
        made.on_train_epoch_end()
        assert made.logged["train/score_loss"] == pytest.approx(float(np.log1p(np.exp(2))), abs=1e-5)


class TestValidation:
    def figures(self, made: Any, *batches: Any) -> dict[str, float]:
        made.logged.clear()
        with torch.no_grad():
            made.on_validation_epoch_start()
            for number, each in enumerate(batches):
                made.validation_step(each, number)
            made.on_validation_epoch_end()
        return dict(made.logged)

    def test_no_batches(self) -> None:
        assert self.figures(module()) == {}

    def test_no_rows(self) -> None:
        assert self.figures(module(), batch([])) == {"val/f1": 0}

    @pytest.mark.parametrize(
        ("bias", "roles", "figures"),
        [
            (1, [POSITIVE, POSITIVE, NEGATIVE, NEGATIVE], {"val/recall": 1, "val/precision": 0.5, "val/f1": 2 / 3}),
            (-1, [POSITIVE, NEGATIVE], {"val/recall": 0, "val/f1": 0}),
            (1, [NEGATIVE], {"val/precision": 0, "val/f1": 0}),
            (1, [POSITIVE, PART], {"val/recall": 1, "val/precision": 1, "val/f1": 1}),
        ],
    )
    def test_score(self, bias: float, roles: list[int], figures: dict[str, float]) -> None:
        made = module()
        set_bias(made, "score", [bias])
        got = self.figures(made, batch(roles))
        assert {n: v for n, v in got.items() if n in ("val/recall", "val/precision", "val/f1")} == pytest.approx(
            figures
        )

    def test_boxes_before_and_after(self) -> None:
        made = module()
        got = self.figures(made, batch([POSITIVE, NEGATIVE], (0, 0, 0.5, 1)))
        assert got["val/iou_before"] == got["val/iou_after"] == pytest.approx(0.5)
        set_bias(made, "box", [0, 0, -0.5, 0])
        got = self.figures(made, batch([POSITIVE, NEGATIVE], (0, 0, 0.5, 1)))
        assert (got["val/iou_before"], got["val/iou_after"]) == pytest.approx((0.5, 1))
        set_bias(made, "box", [2, 0, -2, 0])  # an inverted box has no area
        assert self.figures(made, batch([PART], (0, 0, 0.5, 1)))["val/iou_after"] == 0

    def test_points(self) -> None:
        made = module()
        set_bias(made, "points", [0.25, 0.5, 0.55, 0.9])
        got = self.figures(made, batch([POSITIVE]), batch([POINTS, NEGATIVE], known=(True, False)))
        assert got["val/point_error"] == pytest.approx(0.5 / 3)

    def test_how_sure_an_offset_is_moves_no_figure(self) -> None:
        plain, sure = module(), module(heads=SURE)
        set_bias(plain, "box", [0, 0, -0.4, 0])
        set_bias(sure, "box", [0, 0, -0.4, 0, 1, -2, 3, -4])
        set_bias(plain, "points", [0.25, 0.5, 0.55, 0.9])
        set_bias(sure, "points", [0.25, 0.5, 0.55, 0.9, -4, 3, -2, 1])
        shown = [batch([POSITIVE, PART, NEGATIVE], (0, 0, 0.5, 1)), batch([POINTS], known=(True, False))]
        assert self.figures(sure, *shown) == self.figures(plain, *shown)

    def test_a_second_validation_starts_anew(self) -> None:
        made = module()
        set_bias(made, "score", [1])
        self.figures(made, batch([NEGATIVE]))
        assert self.figures(made, batch([POSITIVE]))["val/precision"] == 1


class TestOptimizer:
    def test_parameters_reach_their_classes(self) -> None:
        made = module(
            optimizer=Part("SGD", {"momentum": 0.5}), schedule=Part("StepLR", {"step_size": 3, "gamma": 0.1}), lr=0.25
        )
        made = made.configure_optimizers()
        assert type(made["optimizer"]).__name__ == "SGD"
        group = made["optimizer"].param_groups[0]
        assert (group["lr"], group["momentum"]) == (0.25, 0.5)
        assert made["lr_scheduler"]["interval"] == "step"
        assert made["lr_scheduler"]["scheduler"].step_size == 3

    def test_without_a_schedule(self) -> None:
        assert isinstance(module().configure_optimizers(), torch.optim.AdamW)

    @pytest.mark.parametrize("kind", ["OneCycleLR", "CosineAnnealingLR"])
    def test_schedules_that_need_the_length_get_it(self, kind: str) -> None:
        made = module(schedule=Part(kind), lr=0.5, steps=40).configure_optimizers()
        optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
        rates = []
        for _ in range(40):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert max(rates) == pytest.approx(0.5, rel=0.02)
        assert optimizer.param_groups[0]["lr"] < 0.1 * max(rates)

    @pytest.mark.parametrize(
        ("optimizer", "schedule", "message"),
        [
            ("Adan", "none", r"train\.optimizer\.kind='Adan'.*did you mean 'Adam'"),
            ("adam", "none", r"train\.optimizer\.kind='adam'"),
            ("Adam", "OneCycle", r"train\.schedule\.kind='OneCycle'.*did you mean 'OneCycleLR'"),
        ],
    )
    def test_unknown_names(self, optimizer: str, schedule: str, message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            module(optimizer=Part(optimizer), schedule=Part(schedule)).configure_optimizers()
