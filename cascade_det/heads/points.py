"""Where the object's K points are, in units of the window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.registry import register_head
from cascade_det.core.types import CropTruth, SampleRole
from cascade_det.heads.base import Head
from cascade_det.heads.losses import known_error, offset_errors, outputs_per_offset

if TYPE_CHECKING:
    import torch
    from torch import nn

_ALL_ROLES = tuple(role.name for role in SampleRole)


@register_head("points")
class Points(Head):
    """K points (p - window corner) / window side; the known points teach it.

    Args:
        num_points: K, given by the recipe's ``object.points``.
        roles: which rows teach it; by default every row whose object has known points.
        error: what an offset from the truth costs: "squared" (the paper's), "absolute", or "laplace", where the net
            also learns how far off it may be and is taught the less by what it cannot know (see `offset_errors`).

    Source: Zhang et al. 2016, eq. 3, with visibility per point added.
    """

    field = "points"

    def __init__(
        self, num_points: int, roles: Sequence[str] = ("part", "positive", "points"), error: str = "squared"
    ) -> None:
        unknown = sorted(set(roles) - set(_ALL_ROLES))
        if unknown or num_points < 1:
            raise ValueError(f"num_points={num_points}, roles={list(roles)}: need K >= 1 and roles of {_ALL_ROLES}")
        self.num_points = num_points
        self.roles = tuple(roles)
        self.error = known_error(error)

    def teaches(self, truth: CropTruth) -> NDArray[np.bool_]:
        chosen = np.isin(truth.role, [SampleRole[name] for name in self.roles])
        return truth.points_known & chosen[:, None]

    def encode(self, truth: CropTruth) -> NDArray[np.float32]:
        return truth.points.reshape(len(truth), 2 * self.num_points)

    def decode(self, raw: NDArray[np.float32], windows_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        unit = raw[:, : 2 * self.num_points].reshape(len(raw), self.num_points, 2)
        corner, far = windows_xyxy[:, None, :2], windows_xyxy[:, None, 2:]
        return corner + unit * (far - corner)

    def layer(self, in_channels: int) -> nn.Module:
        from torch import nn

        return nn.Conv2d(in_channels, 2 * self.num_points * outputs_per_offset(self.error), kernel_size=1)

    def loss(self, raw: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        of_points = offset_errors(raw, target, self.error).reshape(len(raw), self.num_points, 2).sum(dim=2)
        return (of_points * mask).sum(dim=1)
