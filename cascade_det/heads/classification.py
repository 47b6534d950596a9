"""Is there an object in the window: one logit, cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.registry import register_head
from cascade_det.core.types import CropTruth, SampleRole
from cascade_det.heads.base import Head, Reduction

if TYPE_CHECKING:
    import torch
    from torch import nn


@register_head("classification")
class Classification(Head):
    """One logit z, probability sigmoid(z).

    It is the difference z1 - z0 of the two-way softmax of Zhang et al. 2016 (section III-B, eq. 1): the same
    probability and the same cross-entropy. Negatives teach 0 and positives 1; by default the hardest 70 % of the
    rows count (online hard sample mining, section III-B).
    """

    field = "scores"
    reduction = Reduction.hardest

    def teaches(self, truth: CropTruth) -> NDArray[np.bool_]:
        return (truth.role == SampleRole.negative) | (truth.role == SampleRole.positive)

    def encode(self, truth: CropTruth) -> NDArray[np.float32]:
        return (truth.role == SampleRole.positive).astype(np.float32)[:, None]

    def decode(self, raw: NDArray[np.float32], windows_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        logit = np.clip(raw[:, 0].astype(np.float32), -80, 80)  # exp stays finite in float32
        return (1 / (1 + np.exp(-logit))).astype(np.float32)

    def layer(self, in_channels: int) -> nn.Module:
        from torch import nn

        return nn.Conv2d(in_channels, 1, kernel_size=1)

    def loss(self, raw: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        return functional.binary_cross_entropy_with_logits(raw[:, 0], target[:, 0], reduction="none")
