"""Where the object's box is, as offsets of the window's four edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.registry import register_head
from cascade_det.core.types import CropTruth, SampleRole
from cascade_det.heads.base import Head
from cascade_det.heads.losses import known_error, offset_errors, offset_scales, outputs_per_offset

if TYPE_CHECKING:
    import torch
    from torch import nn

_WINDOW = np.array([0, 0, 1, 1], np.float32)


@register_head("box_offset")
class BoxOffset(Head):
    """Four offsets (truth edge - window edge) / window side; positives and parts teach it.

    Args:
        error: what an offset from the truth costs: "squared" (the paper's), "absolute", or "laplace", where the net
            also learns how far off it may be and is taught the less by what it cannot know (see `offset_errors`).

    Source: Zhang et al. 2016, eq. 2; the target of the public training codes.
    """

    field = "boxes"

    def __init__(self, error: str = "squared") -> None:
        self.error = known_error(error)
        self.tells_certainty = error == "laplace"

    def teaches(self, truth: CropTruth) -> NDArray[np.bool_]:
        return truth.has_box & ((truth.role == SampleRole.positive) | (truth.role == SampleRole.part))

    def encode(self, truth: CropTruth) -> NDArray[np.float32]:
        return truth.box - _WINDOW

    def decode(self, raw: NDArray[np.float32], windows_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        sides = windows_xyxy[:, 2:] - windows_xyxy[:, :2]
        return windows_xyxy + raw[:, :4] * np.concatenate([sides, sides], axis=1)

    def certainty(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return exp(-b) ``(N,)``: b is the mean distance to expect of an edge, in window sides; "laplace" tells it."""
        if not self.tells_certainty:
            return super().certainty(raw)
        return np.exp(-offset_scales(raw, 4).mean(axis=1))

    def layer(self, in_channels: int) -> nn.Module:
        from torch import nn

        return nn.Conv2d(in_channels, 4 * outputs_per_offset(self.error), kernel_size=1)

    def loss(self, raw: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return offset_errors(raw, target, self.error).sum(dim=1)
