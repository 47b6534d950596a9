"""Every registered head passes its check, and each invariant is seen to fail on a head that breaks it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cascade_det.core.registry import HEADS
from cascade_det.core.types import CropTruth
from cascade_det.heads.base import Head
from cascade_det.heads.losses import OFFSET_ERRORS
from cascade_det.testing import ContractError, check_head


def changed(part: Any, **replaced: Any) -> Any:
    """Return the part with some of its attributes or methods replaced."""
    for name, value in replaced.items():
        setattr(part, name, value)
    return part


def test_an_error_is_one_sentence_and_an_assertion() -> None:
    with pytest.raises(AssertionError) as caught:
        check_head(changed(head_of("box_offset"), field="my boxes"))
    assert type(caught.value) is ContractError
    assert "field='my boxes'" in str(caught.value)
    assert "\n" not in str(caught.value)


K = 5


def head_of(kind: str, **params: Any) -> Head:
    head: Head = HEADS.build(kind, params, "head", num_points=K)
    return head


@pytest.mark.parametrize("kind", HEADS.names())
def test_every_head(kind: str) -> None:
    check_head(head_of(kind), num_points=K)


@pytest.mark.parametrize("kind", ["box_offset", "points"])
@pytest.mark.parametrize("error", OFFSET_ERRORS)
def test_every_error_of_an_offset(kind: str, error: str) -> None:
    check_head(head_of(kind, error=error), num_points=K)


class Attribute(Head):
    """Learns a truth value of the object, such as glasses."""

    field, extras = "glasses", ("glasses",)

    def teaches(self, truth: CropTruth) -> Any:
        return truth.has_box

    def encode(self, truth: CropTruth) -> Any:
        return truth.extras["glasses"].astype(np.float32)[:, None]

    def decode(self, raw: Any, windows_xyxy: Any) -> Any:
        return raw[:, 0] > 0

    def layer(self, in_channels: int) -> nn.Module:
        return nn.Conv2d(in_channels, 1, 1)

    def loss(self, raw: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(raw[:, 0], target[:, 0], reduction="none")


def test_a_head_of_an_attribute() -> None:
    check_head(Attribute(), extras={"glasses": [0, 1]})
    with pytest.raises(ContractError, match=r"does not name \['glasses'\] in its `extras`"):
        check_head(changed(Attribute(), extras=()), extras={"glasses": [0, 1]})
    with pytest.raises(ContractError, match="KeyError: 'glasses'"):
        check_head(Attribute())


def remembering(encode: Any) -> Any:
    known: dict[int, Any] = {}
    return lambda truth: known.setdefault(len(truth), encode(truth))


def taking_the_window_off(truth: CropTruth) -> Any:
    box = truth.box
    box -= np.float32([0, 0, 1, 1])  # in place
    return box.copy()


BOX, POINTS, SCORE = head_of("box_offset"), head_of("points"), head_of("classification")


@pytest.mark.parametrize(
    ("kind", "replaced", "message"),
    [
        ("box_offset", {"field": ""}, "field=''"),
        ("points", {"reduction": "mean"}, "reduction='mean'"),
        ("box_offset", {"layer": lambda c: nn.Conv2d(c, 4, 3, padding=1)}, "sees its neighbours"),
        ("box_offset", {"layer": lambda c: nn.Conv2d(c, 4, 3)}, r"it must give \(2, D, 3, 4\)"),
        ("classification", {"layer": lambda c: nn.Conv2d(c, 2, 1)}, "one logit.* 2 outputs"),
        ("box_offset", {"layer": lambda c: nn.Conv2d(c, 5, 1)}, r"reaches output \[4\] of the layer's 5"),
        ("box_offset", {"layer": lambda c: nn.Conv2d(c, 3, 1)}, "encode gives D = 4, the layer D = 3"),
        ("box_offset", {"decode": lambda r, w: w + r * (w[0, 2] - w[0, 0])}, "B = 0 rows raises IndexError"),
        ("box_offset", {"encode": lambda t: np.zeros((max(1, len(t)), 4), np.float32)}, "encode of B = 0 rows"),
        ("box_offset", {"encode": lambda t: t.box - np.float64([0, 0, 1, 1])}, "float64"),
        ("points", {"encode": lambda t: t.points}, r"\(24, 5, 2\)"),
        ("box_offset", {"encode": lambda t: t.box * np.float32(np.nan)}, "not finite"),
        ("classification", {"teaches": lambda t: np.ones((len(t), 1, 1), bool)}, "teaches gives"),
        ("classification", {"teaches": lambda t: np.zeros(len(t), bool)}, "no row of any role"),
        ("box_offset", {"teaches": lambda t: np.ones(len(t), bool)}, r"row \[0\] has no box"),
        ("points", {"teaches": lambda t: np.ones_like(t.points_known)}, r"row \[0\] .* does not know"),
        ("classification", {"decode": lambda r, w: r}, r"scores \(24, 1\)"),
        ("classification", {"decode": lambda r, w: r[:, 0]}, r"-100 to 100, they must lie in \[0, 1\]"),
        ("classification", {"decode": lambda r, w: 1 - SCORE.decode(r, w)}, "probability falls"),
        ("classification", {"encode": lambda t: 1 - SCORE.encode(t)}, "it must be higher"),
        ("box_offset", {"decode": lambda r, w: w + r * (w[:, 2:3] - w[:, :1])}, r"decode\(encode\(x\)\) is"),
        ("box_offset", {"decode": lambda r, w: w - BOX.decode(r, w)}, r"decode\(encode\(x\)\) is"),
        ("points", {"decode": lambda r, w: POINTS.decode(r, w)[:, ::-1]}, r"decode\(encode\(x\)\) .* points of row"),
        ("box_offset", {"encode": remembering(BOX.encode)}, "the boxes of row .* of mirrored crops"),
        ("points", {"encode": remembering(POINTS.encode)}, "the points of row .* of mirrored crops"),
        ("box_offset", {"loss": lambda r, t, m: (r - t).square().mean()}, r"loss of B = 0 rows gives \(\)"),
        ("box_offset", {"loss": lambda r, t, m: (r - t).square()}, r"loss gives \(24, 4\), it must give one a row"),
        ("box_offset", {"loss": lambda r, t, m: r.log().sum(dim=1)}, "must be finite"),
        ("box_offset", {"loss": lambda r, t, m: (r - r.data).abs().sqrt().sum(dim=1)}, "gradient .* not finite"),
        ("box_offset", {"loss": lambda r, t, m: (r.detach() - t + 0 * r).square().sum(dim=1)}, "no gradient .* row"),
        ("box_offset", {"loss": lambda r, t, m: BOX.loss(r, t, m) - r.mean()}, "rows that do not teach"),
        ("points", {"loss": lambda r, t, m: (r - t).square().sum(dim=1)}, "points that are not known"),
        ("classification", {"loss": lambda r, t, m: SCORE.loss(r, t, m) / m.sum()}, "alone and in a batch"),
        ("box_offset", {"encode": taking_the_window_off}, "changes the truth"),
    ],
)  # fmt: skip
def test_a_broken_head(kind: str, replaced: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_head(changed(head_of(kind), **replaced), num_points=K)


def test_outputs_beyond_the_targets_are_no_places() -> None:
    head = changed(head_of("points", error="laplace"), decode=lambda r, w: r.reshape(len(r), r.shape[1] // 2, 2))
    with pytest.raises(ContractError, match=r"decode gives \(24, 10, 2\) for points, it must give \(24, 5, 2\)"):
        check_head(head, num_points=K)


@pytest.mark.parametrize(
    ("certainty", "message"),
    [
        (lambda r: r[:, 4:], r"certainty gives \(24, 4\), it must give one a row"),
        (lambda r: r[:, 4], r"certainty gives -100 to 100, it must lie in \[0, 1\]"),
    ],
)
def test_a_certainty_is_a_share_of_each_row(certainty: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_head(changed(head_of("box_offset", error="laplace"), certainty=certainty), num_points=K)


def test_a_head_is_a_head() -> None:
    with pytest.raises(ContractError, match="this is a object"):
        check_head(object())  # type: ignore[arg-type]
