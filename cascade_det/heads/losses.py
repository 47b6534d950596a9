"""How far a raw output is from its target, and from the losses of rows to the loss of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cascade_det.errors import choices
from cascade_det.heads.base import Reduction

if TYPE_CHECKING:
    import torch


# The paper's; one that heeds wrong annotations less and small offsets more; and one that learns how much to heed each.
OFFSET_ERRORS = ("squared", "absolute", "laplace")
_LEAST_LOG_SCALE, _LARGEST_LOG_SCALE = -5.0, 1.0  # a scale of .007 to 2.7 window sides


def known_error(error: str) -> str:
    """Return an error's name if it is one of `OFFSET_ERRORS`.

    Raises:
        ValueError: it is none of them.
    """
    if error not in OFFSET_ERRORS:
        raise ValueError(f"error={error!r} is unknown; {choices(error, OFFSET_ERRORS)}")
    return error


def outputs_per_offset(error: str) -> int:
    """Return how many raw outputs tell an offset: "laplace" has its scale beside it."""
    return 2 if error == "laplace" else 1


def offset_scales(raw: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return how far off each offset may be, ``(N, width)`` in window sides: Laplace's b, the mean distance to expect.

    Args:
        raw: ``(N, 2 width)`` as "laplace" has it: offsets, then the logarithms of their scales.
        width: how many offsets a row has.
    """
    return np.exp(np.clip(raw[:, width:], _LEAST_LOG_SCALE, _LARGEST_LOG_SCALE))


def offset_errors(raw: torch.Tensor, target: torch.Tensor, error: str) -> torch.Tensor:
    """Return what each of the D offsets costs by its distance from the target, ``(B, D)``.

    Args:
        raw: ``(B, D)`` offsets or, for "laplace", ``(B, 2 D)``: then the logarithms of their scales b follow, and an
            offset costs |distance| / b + log b. So where the net cannot know a place, or its annotators did not, it
            says a large b and learns little. The cost of a small b is negative; beyond its bounds b has no gradient.
        target: ``(B, D)``.
        error: one of `OFFSET_ERRORS`.

    Source: the likelihood of Kendall and Gal 2017, "What Uncertainties Do We Need in Bayesian Deep Learning for
    Computer Vision?", eq. 5, with Laplace's distribution for Gauss's.
    """
    width = target.shape[1]
    distance = raw[:, :width] - target
    if error == "squared":
        return distance**2
    if error == "absolute":
        return distance.abs()
    log_scale = raw[:, width:].clamp(_LEAST_LOG_SCALE, _LARGEST_LOG_SCALE)
    return distance.abs() * (-log_scale).exp() + log_scale


def reduce_rows(
    row_losses: torch.Tensor, row_mask: torch.Tensor, reduction: Reduction, hardest_share: float
) -> torch.Tensor:
    """Return the mean loss over the rows that count; an empty mask gives 0, never NaN.

    Args:
        row_losses: ``(B,)`` as a head returns them.
        row_mask: ``(B,)`` bool, rows that teach the head.
        reduction: `mean` over the taught rows, or over the `hardest` of them.
        hardest_share: for `hardest`, which share of the taught rows with the largest losses is kept (at least one).

    Source: online hard sample mining, Zhang et al. 2016, section III-B.
    """
    import torch

    taught = int(row_mask.sum())
    if taught == 0:
        return row_losses.sum() * 0.0
    if reduction == Reduction.mean:
        return torch.where(row_mask, row_losses, row_losses.new_zeros(())).sum() / taught
    keep = max(1, int(hardest_share * taught))
    hardest = torch.where(row_mask, row_losses, row_losses.new_full((), -torch.inf)).topk(keep).values
    return hardest.mean()
