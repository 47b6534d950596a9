"""Heads: decoding undoes encoding, the right rows teach, and losses are the literature's, empty batches included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from cascade_det.core.geometry import crop_truth
from cascade_det.core.registry import HEADS
from cascade_det.core.types import Annotations, CropPlan, CropTruth, SampleRole
from cascade_det.errors import RecipeError
from cascade_det.heads.base import Head, Reduction
from cascade_det.heads.losses import reduce_rows

quick = settings(deadline=None, max_examples=40)
K = 3
WIDTHS = {"classification": 1, "box_offset": 4, "points": 2 * K}  # D of each head
ROLES = list(SampleRole)
every_head = pytest.mark.parametrize("kind", list(WIDTHS))


def head_of(kind: str, **params: Any) -> Head:
    head: Head = HEADS.build(kind, params, "head", num_points=K)
    return head


def truth_of(rows: int, seed: int = 0, known: float = 1.0) -> CropTruth:
    """Return random truth with a box in every row and the roles in turn."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-0.5, 0.4, (rows, 2))
    has_points = rng.random((rows, K)) < known
    return CropTruth(
        (np.arange(rows) % 4).astype(np.int8),
        np.concatenate([low, low + rng.uniform(0.2, 1, (rows, 2))], axis=1),
        np.ones(rows, bool),
        np.where(has_points[..., None], rng.random((rows, K, 2)), 0),
        has_points,
    )


def test_the_heads_here_are_the_heads_there_are() -> None:
    assert set(WIDTHS) == set(HEADS.names())


@every_head
def test_no_rows(kind: str) -> None:
    head, truth = head_of(kind), truth_of(0)
    target = head.encode(truth)
    assert target.shape == (0, WIDTHS[kind])
    assert len(head.decode(target, np.zeros((0, 4), np.float32))) == 0
    mask = torch.from_numpy(head.teaches(truth))
    assert head.layer(5)(torch.zeros(0, 5, 1, 1)).shape == (0, WIDTHS[kind], 1, 1)
    loss = head.loss(torch.from_numpy(target), torch.from_numpy(target), mask)
    assert loss.shape == (0,)
    assert reduce_rows(loss, torch.zeros(0, dtype=torch.bool), head.reduction, 0.7) == 0


@every_head
def test_shapes_and_dtypes(kind: str) -> None:
    head, truth = head_of(kind), truth_of(8)
    target = head.encode(truth)
    assert (target.shape, target.dtype) == ((8, WIDTHS[kind]), np.float32)
    assert np.isfinite(target).all()
    assert head.teaches(truth).dtype == np.bool_
    assert head.decode(target, np.tile(np.float32([0, 0, 9, 9]), (8, 1))).dtype == np.float32
    assert head.layer(5)(torch.zeros(2, 5, 3, 4)).shape == (2, WIDTHS[kind], 3, 4)


@st.composite
def pictures(draw: st.DrawFn) -> tuple[CropPlan, Annotations]:
    """Return windows of one picture, some of them without area to speak of, and an object for each."""
    rows = draw(st.integers(0, 4))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    corner, side = rng.uniform(-50, 500, (2, rows, 2)), rng.uniform(8, 200, (2, rows, 2))
    windows, boxes = (np.concatenate([c, c + s], axis=1) for c, s in zip(corner, side, strict=True))
    known = np.ones((rows, K), bool)
    truth = Annotations(boxes, np.zeros(rows, bool), rng.uniform(0, 400, (rows, K, 2)), known)
    return CropPlan.upright(windows, SampleRole.positive, np.arange(rows)), truth


@quick
@given(pictures())
def test_decoding_undoes_encoding(picture: tuple[CropPlan, Annotations]) -> None:
    plan, truth = picture
    crops = crop_truth(plan, truth, np.arange(K))
    for kind, expected in (("box_offset", truth.boxes), ("points", truth.points)):
        head = head_of(kind)
        np.testing.assert_allclose(head.decode(head.encode(crops), plan.boxes), expected, atol=0.01)


@pytest.mark.parametrize("probability", [0.0, 1e-6, 0.25, 0.5, 0.99, 1.0])
def test_decoding_a_logit_gives_the_probability(probability: float) -> None:
    with np.errstate(divide="ignore"):
        logit = np.log(np.float64(probability)) - np.log(1 - np.float64(probability))
    raw = np.array([[logit]], np.float32)
    assert head_of("classification").decode(raw, np.zeros((1, 4)))[0] == pytest.approx(probability, abs=1e-6)


def test_the_box_target_by_hand() -> None:
    """A window of 20 x 10 px: offsets count in its own width and height."""
    windows = np.array([[100, 50, 120, 60]], np.float32)
    truth = Annotations.of(np.array([[98, 51, 122, 65]]))
    crops = crop_truth(CropPlan.upright(windows, SampleRole.positive, 0), truth, np.arange(0))
    np.testing.assert_allclose(head_of("box_offset").encode(crops), [[-0.1, 0.1, 0.1, 0.5]], atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "params", "taught"),
    [
        ("classification", {}, {"negative": 0.0, "positive": 1.0}),
        ("box_offset", {}, ["part", "positive"]),
        ("points", {}, ["part", "positive", "points"]),
        ("points", {"roles": ["points"]}, ["points"]),
        ("points", {"roles": ["negative", "part"]}, ["negative", "part"]),
        ("points", {"roles": []}, []),
    ],
)
def test_who_teaches_what(kind: str, params: dict[str, Any], taught: Any) -> None:
    head, truth = head_of(kind, **params), truth_of(4)
    mask = head.teaches(truth)
    rows = mask if mask.ndim == 1 else mask.any(axis=1)
    assert [role.name for role in ROLES if rows[role]] == list(taught)
    if isinstance(taught, dict):
        for name, target in taught.items():
            assert head.encode(truth)[SampleRole[name], 0] == target


@every_head
def test_a_row_without_an_object_teaches_no_place(kind: str) -> None:
    truth = truth_of(4).replace(has_box=np.zeros(4, bool), points_known=np.zeros((4, K), bool))
    assert head_of(kind).teaches(truth).any() == (kind == "classification")


def test_a_row_teaches_the_points_that_are_known() -> None:
    known = np.array([[True, False, True], [False, False, False], [True, True, True], [False, True, False]])
    head, truth = head_of("points"), truth_of(4).replace(points_known=known)
    mask = head.teaches(truth)
    np.testing.assert_array_equal(mask[1:], known[1:])
    assert not mask[SampleRole.negative].any()
    error = torch.from_numpy(np.arange(1, 25, dtype=np.float32).reshape(4, 6))
    loss = head.loss(error, torch.zeros(4, 6), torch.from_numpy(mask))
    squares = (np.arange(1, 25).reshape(4, K, 2) ** 2).sum(axis=2)
    np.testing.assert_allclose(loss, (squares * mask).sum(axis=1))


@pytest.mark.parametrize(
    ("params", "message"),
    [({"num_points": 0}, "num_points=0"), ({"roles": ["part", "postive"]}, "postive"), ({"roles": "part"}, "roles")],
)
def test_points_refuses(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HEADS.get("points")(**{"num_points": K, **params})


@pytest.mark.parametrize(("error", "expected"), [({}, 14), ({"error": "squared"}, 14), ({"error": "absolute"}, 6)])
def test_the_box_loss_is_a_sum_over_the_edges(error: dict[str, str], expected: float) -> None:
    raw, target = torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 0]]), torch.tensor([[0.0, 2, 1, 7], [0, 0, 0, 0]])
    loss = head_of("box_offset", **error).loss(raw, target, torch.ones(2, dtype=torch.bool))
    assert loss.tolist() == [expected, 0]


def test_absolute_errors_of_known_points() -> None:
    raw, known = torch.tensor([[1.0, -2, 3, 4, -5, 6]]), torch.tensor([[True, False, True]])
    assert head_of("points", error="absolute").loss(raw, torch.zeros(1, 6), known).tolist() == [14]


@pytest.mark.parametrize(("kind", "known"), [("box_offset", torch.ones(1)), ("points", torch.ones(1, K))])
def test_laplace_errors_are_weighed_by_the_scale_that_is_told(kind: str, known: torch.Tensor) -> None:
    """|distance| / b + log b: least where b is the distance; a scale beyond its bounds counts as the bound."""
    head = head_of(kind, error="laplace")
    with torch.no_grad():
        width = head.layer(8)(torch.zeros(1, 8, 1, 1)).shape[1] // 2
    target, far = torch.zeros(1, width), torch.full((1, width), -0.25)
    costs = [
        float(head.loss(torch.cat([far, torch.full((1, width), scale).log()], dim=1), target, known.bool()))
        for scale in (1e-9, 0.005, 0.1, 0.25, 0.5, 2.0, 50.0)
    ]
    least, tiny, largest = np.log(0.25) + 1, np.exp(-5), np.exp(1)
    assert costs[2:6] == pytest.approx([width * (0.25 / b + np.log(b)) for b in (0.1, 0.25, 0.5, 2.0)], rel=1e-5)
    assert min(costs) == costs[3] == pytest.approx(width * least, rel=1e-5)
    assert costs[0] == costs[1] == pytest.approx(width * (0.25 / tiny - 5), rel=1e-4)
    assert costs[6] == pytest.approx(width * (0.25 / largest + 1), rel=1e-5)


@pytest.mark.parametrize("kind", ["box_offset", "points"])
def test_the_scale_of_an_error_moves_nothing(kind: str) -> None:
    rng = np.random.default_rng(0)
    plain, told = head_of(kind), head_of(kind, error="laplace")
    width = plain.encode(truth_of(4)).shape[1]
    raw, windows = rng.normal(size=(5, 2 * width)).astype(np.float32), np.tile(np.float32([[3, 4, 13, 24]]), (5, 1))
    np.testing.assert_array_equal(told.decode(raw, windows), plain.decode(raw[:, :width], windows))


@every_head
def test_certainty_is_told_or_refused(kind: str) -> None:
    with pytest.raises(NotImplementedError, match="does not tell how sure it is"):
        head_of(kind).certainty(np.zeros((1, 8), np.float32))


def test_a_box_is_the_surer_the_smaller_its_scales() -> None:
    head, scales = head_of("box_offset", error="laplace"), np.array([[0.1] * 4, [0.1, 0.1, 0.1, 0.5], [9] * 4])
    raw = np.concatenate([np.ones((3, 4)), np.log(scales)], axis=1).astype(np.float32)
    np.testing.assert_allclose(head.certainty(raw), np.exp([-0.1, -0.2, -np.e]), rtol=1e-5)
    assert head.certainty(raw[:0]).shape == (0,)


@pytest.mark.parametrize("kind", ["box_offset", "points"])
def test_an_error_that_there_is_not(kind: str) -> None:
    with pytest.raises(RecipeError, match="error='huber' is unknown; Choices: absolute, laplace, squared"):
        head_of(kind, error="huber")


@quick
@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30), st.booleans()), min_size=1, max_size=8))
def test_one_logit_is_the_difference_of_a_two_way_softmax(rows: list[tuple[float, float, bool]]) -> None:
    two = torch.tensor([row[:2] for row in rows])
    label = torch.tensor([int(row[2]) for row in rows])
    head, one = head_of("classification"), (two[:, 1] - two[:, 0])[:, None]
    got = head.decode(one.numpy(), np.zeros((len(rows), 4), np.float32))
    np.testing.assert_allclose(got, two.softmax(dim=1)[:, 1], atol=1e-6)
    loss = head.loss(one, label[:, None].float(), torch.ones(len(rows), dtype=torch.bool))
    np.testing.assert_allclose(loss, functional.cross_entropy(two, label, reduction="none"), rtol=1e-5, atol=1e-5)


LOSSES = [float(n) for n in range(10)]


@pytest.mark.parametrize(
    ("taught", "reduction", "share", "expected"),
    [
        ([], "mean", 0.7, 0.0),
        ([], "hardest", 0.7, 0.0),
        (range(10), "mean", 0.7, 4.5),
        (range(10), "hardest", 0.7, 6.0),  # the mean of 3..9
        (range(10), "hardest", 1.0, 4.5),
        (range(10), "hardest", 0.01, 9.0),  # at least one
        ([0, 4], "mean", 0.7, 2.0),  # divided by the rows that teach, not by the batch
        ([0, 1, 2, 3, 4], "hardest", 0.6, 3.0),  # 2..4; rows that do not teach are never hard
        ([5], "hardest", 0.7, 5.0),
    ],
)
def test_reduction(taught: Any, reduction: str, share: float, expected: float) -> None:
    losses = torch.tensor(LOSSES, requires_grad=True)
    mask = torch.zeros(10, dtype=torch.bool)
    mask[list(taught)] = True
    total = reduce_rows(losses, mask, Reduction(reduction), share)
    assert total.item() == pytest.approx(expected)
    total.backward()
    assert losses.grad is not None
    assert torch.isfinite(losses.grad).all()
    assert not losses.grad[~mask].any()
    assert losses.grad.sum().item() == pytest.approx(1.0 if len(taught) else 0.0)


@quick
@given(st.integers(1, 40), st.floats(0, 1), st.integers(0, 999))
def test_the_hardest_are_no_easier_than_the_mean(rows: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses, mask = torch.from_numpy(rng.exponential(1, rows)), torch.from_numpy(rng.random(rows) < 0.6)
    mean, hardest = (reduce_rows(losses, mask, reduction, share) for reduction in Reduction)
    taught = np.sort(losses[mask].numpy())[::-1]
    kept = taught[: max(1, int(share * len(taught)))]
    assert mean.item() == pytest.approx(taught.mean() if len(taught) else 0)
    assert hardest.item() == pytest.approx(kept.mean() if len(kept) else 0)
    assert hardest >= mean - 1e-12
