"""The contract of a head: target, loss and decoding agree, and a row teaches only what it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cascade_det.core.geometry import mirror_truth
from cascade_det.core.types import CropTruth, SampleRole
from cascade_det.heads.base import Head, Reduction
from cascade_det.heads.losses import reduce_rows
from cascade_det.testing.contract import columns, difference, doing, require

_ROWS = 24
_WIDE = 7  # channels of the features that its layer is tried on


def check_head(
    head: Head,
    *,
    num_points: int = 5,
    flip_points: Sequence[int] | None = None,
    extras: Mapping[str, Sequence[Any]] | None = None,
    seed: int = 0,
) -> None:
    """Check a head on random truth.

    Args:
        head: such as ``MyHead()``.
        num_points: K of the truth's points.
        flip_points: which point each becomes in a mirror; by default the last becomes the first.
        extras: for a head that learns from columns of `CropTruth.extras`, as its own `extras` names them: the values
            that occur in each, such as ``{"glasses": ["yes", "no", ""]}``.
        seed: of the truth.

    Raises:
        ContractError: one of these does not hold:
            `field` is "scores", "boxes", "points" or another identifier, `reduction` a `Reduction`, `extras` names all
            columns that were passed;
            ``B = 0`` rows work everywhere; targets are ``(B, D)`` float32 and finite; arguments are left alone;
            a box or a point that a row does not know teaches nothing;
            ``decode(encode(x)) == x`` for boxes and points, also after a mirror, whatever outputs the layer has beyond
            the D of the targets, all of which the loss uses; a score is one logit, its probability
            rises with it and is higher for a positive's target than for a negative's;
            where the head tells its certainty it is ``(B,)``, in [0, 1];
            the layer is a 1x1 convolution (each position sees its own features alone);
            the loss is ``(B,)``, finite with finite gradients, of each row alone; rows and points that do not teach do
            not change it.
    """
    flip = np.array(flip_points if flip_points is not None else range(num_points)[::-1], np.intp)
    truth = _random_truth(num_points, extras or {}, np.random.default_rng(seed))
    before = columns(truth)
    _check_names(head)
    undeclared = sorted(set(extras or ()) - set(head.extras))
    require(not undeclared, f"the head does not name {undeclared} in its `extras`; a batch may lack such a column")
    outputs = _check_layer(head, seed)
    _check_targets(head, truth, outputs)
    changed = difference(before, columns(truth))
    require(not changed, f"the head changes the truth that it is given: {changed}")
    _check_no_rows(head, truth, outputs)
    _check_decode(head, truth, outputs)
    if head.tells_certainty:
        _check_certainty(head, outputs)
    if head.field in ("boxes", "points"):
        _check_inverse(head, truth, outputs, "")
        mirrored = mirror_truth(truth, np.ones(len(truth), bool), flip)
        _check_inverse(head, mirrored, outputs, " of mirrored crops")
    _check_loss(head, truth, outputs, seed)


def _random_truth(num_points: int, extras: Mapping[str, Sequence[Any]], rng: np.random.Generator) -> CropTruth:
    """Return rows of every role in turn: negatives know nothing, of the others one in four lacks a point or two."""
    role = (np.arange(_ROWS) % len(SampleRole)).astype(np.int8)
    has_box = role != SampleRole.negative
    low = rng.uniform(-0.4, 0.4, (_ROWS, 2))
    box = np.concatenate([low, low + rng.uniform(0.3, 0.9, (_ROWS, 2))], axis=1)
    known = (rng.random((_ROWS, num_points)) < 0.75) & has_box[:, None]
    points = np.where(known[..., None], rng.random((_ROWS, num_points, 2)), 0)
    drawn = {name: np.asarray(values)[rng.integers(len(values), size=_ROWS)] for name, values in extras.items()}
    return CropTruth(role, np.where(has_box[:, None], box, 0), has_box, points, known, drawn)


def _rows(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows a mask of rows or of entries teaches at all."""
    return mask if mask.ndim == 1 else np.asarray(mask.any(axis=1))


def _check_names(head: Head) -> None:
    require(isinstance(head, Head), f"a head is a cascade_det.heads.base.Head, this is a {type(head).__name__}")
    valid = isinstance(head.field, str) and head.field.isidentifier()
    require(valid, f"field={head.field!r} must be scores, boxes, points or the name of a further column")
    require(isinstance(head.reduction, Reduction), f"reduction={head.reduction!r} must be a Reduction")


def _check_layer(head: Head, seed: int) -> int:
    """Check the layer and return D, the number of its outputs."""
    features = torch.rand(2, _WIDE, 3, 4, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad(), torch.random.fork_rng(devices=[]), doing("the layer on features (2, C, 3, 4)"):
        layer = head.layer(_WIDE).eval()
        raw = layer(features)
        fits = raw.ndim == 4 and raw.shape[0] == 2 and tuple(raw.shape[2:]) == (3, 4)
        require(fits, f"the layer turns features (2, C, 3, 4) into {tuple(raw.shape)}, it must give (2, D, 3, 4)")
        alone = torch.cat([layer(features[:, :, i : i + 1, j : j + 1]) for i in range(3) for j in range(4)], dim=2)
        far = float((alone.reshape(raw.shape) - raw).abs().max())
        require(far < 1e-5, f"a position of the layer's map sees its neighbours (by {far:.3g}); use 1x1 convolutions")
    outputs = int(raw.shape[1])
    one = head.field != "scores" or outputs == 1
    require(one, f"a head that fills scores has one logit, the layer of this one gives {outputs} outputs")
    return outputs


def _check_no_rows(head: Head, truth: CropTruth, outputs: int) -> None:
    nothing, raw = truth[:0], torch.zeros(0, outputs)
    with doing("encode, teaches, decode, layer or loss of B = 0 rows"):
        target, mask = head.encode(nothing), head.teaches(nothing)
        found = head.decode(raw.numpy(), np.zeros((0, 4), np.float32))
        loss = head.loss(raw, torch.from_numpy(target), torch.from_numpy(mask))
        layer = head.layer(_WIDE)(torch.zeros(0, _WIDE, 1, 1))
    rows = {"encode": target, "teaches": mask, "decode": found, "loss": loss, "layer": layer}
    for name, value in rows.items():
        shape = tuple(np.shape(value))
        require(shape[:1] == (0,), f"{name} of B = 0 rows gives {shape}, it must give no row")


def _check_targets(head: Head, truth: CropTruth, outputs: int) -> None:
    with doing("encode or teaches"):
        target, mask = head.encode(truth), head.teaches(truth)
    fits = target.ndim == 2 and len(target) == len(truth) and target.dtype == np.float32
    require(fits, f"encode gives {target.shape} {target.dtype}, it must give ({len(truth)}, D) float32")
    enough = target.shape[1] <= outputs or head.field not in ("boxes", "points")
    require(enough, f"encode gives D = {target.shape[1]}, the layer D = {outputs}; it must give that many or more")
    require(bool(np.isfinite(target).all()), "encode gives targets that are not finite")
    fits = mask.dtype == np.bool_ and mask.ndim in (1, 2) and len(mask) == len(truth)
    require(fits, f"teaches gives {mask.shape} {mask.dtype}, it must give ({len(truth)},) or ({len(truth)}, K) bool")
    require(bool(mask.any()), "no row of any role teaches the head: teaches is False for all of them")
    if head.field == "boxes":
        wrong = np.flatnonzero(_rows(mask) & ~truth.has_box)
        require(not len(wrong), f"row {wrong[:1]} has no box, yet it teaches the head that fills boxes")
    if head.field == "points":
        taught = mask if mask.ndim == 2 else mask[:, None]
        wrong = np.flatnonzero((taught & ~truth.points_known).any(axis=1))
        require(not len(wrong), f"row {wrong[:1]} teaches the head that fills points a point that it does not know")


def _windows(rows: int) -> NDArray[np.float32]:
    """Return windows of many places, sizes and shapes in a picture."""
    start = np.arange(rows)[:, None] * np.array([[3.0, -2.0]])
    return np.concatenate([start, start + 20 + np.arange(2 * rows).reshape(rows, 2)], axis=1).astype(np.float32)


def _check_decode(head: Head, truth: CropTruth, outputs: int) -> None:
    raw = np.tile(np.linspace(-100, 100, _ROWS, dtype=np.float32)[:, None], outputs)
    with doing("decode"):
        found = np.asarray(head.decode(raw, _windows(_ROWS)))
    require(found.ndim >= 1 and len(found) == _ROWS, f"decode of {_ROWS} rows gives {found.shape}")
    if head.field != "scores":
        return
    require(found.shape == (_ROWS,), f"decode gives scores {found.shape}, it must give ({_ROWS},)")
    inside = bool(np.isfinite(found).all() and (found >= 0).all() and (found <= 1).all())
    require(inside, f"decode gives scores from {found.min():.4g} to {found.max():.4g}, they must lie in [0, 1]")
    falls = np.flatnonzero(np.diff(found) < 0)
    require(not len(falls), f"the probability falls from logit {raw[falls, 0]} on, it must rise with the logit")
    positive, negative = truth.role == SampleRole.positive, truth.role == SampleRole.negative
    seen = head.decode(head.encode(truth), _windows(len(truth)))
    high, low = float(seen[positive].min()), float(seen[negative].max())
    require(high > low, f"a positive's target decodes to {high:.4g}, a negative's to {low:.4g}; it must be higher")


def _check_certainty(head: Head, outputs: int) -> None:
    raw = np.tile(np.linspace(-100, 100, _ROWS, dtype=np.float32)[:, None], outputs)
    with doing("certainty"):
        sure = np.asarray(head.certainty(raw))
    require(sure.shape == (_ROWS,), f"certainty gives {sure.shape}, it must give one a row, ({_ROWS},)")
    inside = bool(np.isfinite(sure).all() and (sure >= 0).all() and (sure <= 1).all())
    require(inside, f"certainty gives {sure.min():.4g} to {sure.max():.4g}, it must lie in [0, 1]")


def _check_inverse(head: Head, truth: CropTruth, outputs: int, what: str) -> None:
    windows = _windows(len(truth))
    corner, side = windows[:, None, :2], (windows[:, 2:] - windows[:, :2])[:, None]
    with doing(f"decode of the targets{what}"):
        target = head.encode(truth)
        beyond = np.random.default_rng(0).random((len(truth), outputs - target.shape[1])).astype(np.float32)
        found = np.asarray(head.decode(np.concatenate([target, beyond], axis=1), windows))
    if head.field == "boxes":
        wanted, taught = corner + truth.box.reshape(-1, 2, 2) * side, np.repeat(truth.has_box[:, None], 2, axis=1)
    else:
        wanted, taught = corner + truth.points * side, truth.points_known
    fits = found.size == wanted.size
    require(fits, f"decode gives {found.shape} for {head.field}, it must give {wanted.shape}")
    mask = head.teaches(truth)
    taught = taught & (mask if mask.ndim == 2 and mask.shape == taught.shape else _rows(mask)[:, None])
    far = np.where(taught[..., None], np.abs(found.reshape(wanted.shape) - wanted), 0).max(axis=(1, 2))
    row = int(far.argmax())
    require(
        bool(far.max() <= 0.01),
        f"decode(encode(x)) is {found[row].tolist()} for x = {wanted[row].reshape(found[row].shape).tolist()}, "
        f"the {head.field} of row {row}{what}; it must give x back",
    )


def _check_loss(head: Head, truth: CropTruth, outputs: int, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    raw = torch.randn(len(truth), outputs, generator=chance).requires_grad_()
    target, mask = torch.from_numpy(head.encode(truth)), torch.from_numpy(head.teaches(truth))
    with doing("loss"):
        loss = head.loss(raw, target, mask)
        require(loss.shape == (len(truth),), f"loss gives {tuple(loss.shape)}, it must give one a row, ({len(truth)},)")
        require(bool(torch.isfinite(loss).all()), f"loss gives {loss.tolist()}, it must be finite")
        torch.autograd.backward(loss.sum())
    gradient = raw.grad if raw.grad is not None else torch.zeros_like(raw)
    require(bool(torch.isfinite(gradient).all()), "the gradient of the loss is not finite")
    taught = torch.from_numpy(_rows(mask.numpy()))
    still = torch.nonzero(taught & ~gradient.any(dim=1)).flatten().tolist()
    require(not still, f"no gradient of the loss reaches the raw output of row {still[:1]}, although it teaches")
    idle = torch.nonzero(~gradient.any(dim=0)).flatten().tolist() if head.field in ("boxes", "points") else []
    require(
        not idle,
        f"no gradient of the loss reaches output {idle[:1]} of the layer's {outputs}: use it in `loss`, or leave it "
        "out of `layer`",
    )
    with torch.no_grad():
        total = float(reduce_rows(loss, taught, head.reduction, 0.7))
        other = torch.where(taught[:, None], raw, raw + 3)
        _check_unmoved(total, head.loss(other, target, mask), taught, head, "raw outputs of rows that do not teach")
        junk = truth.replace(points=np.where(truth.points_known[..., None], truth.points, 9.0))
        moved = head.loss(raw, torch.from_numpy(head.encode(junk)), mask)
        _check_unmoved(total, moved, taught, head, "points that are not known")
        alone = torch.cat([head.loss(raw[i : i + 1], target[i : i + 1], mask[i : i + 1]) for i in range(len(truth))])
        far = float((alone - loss).abs().max())
        require(far < 1e-4, f"the loss of a row differs by {far:.3g} between alone and in a batch of {len(truth)}")


def _check_unmoved(total: float, loss: torch.Tensor, taught: torch.Tensor, head: Head, what: str) -> None:
    got = float(reduce_rows(loss, taught, head.reduction, 0.7))
    require(
        abs(got - total) <= 1e-4 * max(1, abs(total)), f"the loss goes from {total:.4g} to {got:.4g} with the {what}"
    )
