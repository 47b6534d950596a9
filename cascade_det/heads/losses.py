"""How far a raw output is from its target, and from the losses of rows to the loss of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade_det.errors import choices
from cascade_det.heads.base import Reduction

if TYPE_CHECKING:
    import torch


OFFSET_ERRORS = ("squared", "absolute")  # the paper's; one that heeds wrong annotations less and small offsets more


def known_error(error: str) -> str:
    """Return an error's name if it is one of `OFFSET_ERRORS`.

    Raises:
        ValueError: it is none of them.
    """
    if error not in OFFSET_ERRORS:
        raise ValueError(f"error={error!r} is unknown; {choices(error, OFFSET_ERRORS)}")
    return error


def offset_errors(raw: torch.Tensor, target: torch.Tensor, error: str) -> torch.Tensor:
    """Return what each of the outputs ``(B, D)`` costs by its offset from the target, ``(B, D)``."""
    offset = raw - target
    return offset**2 if error == "squared" else offset.abs()


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
