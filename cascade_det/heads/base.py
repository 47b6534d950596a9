"""What a head is: one output of a stage, with its target, its loss and its decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.types import CropTruth

if TYPE_CHECKING:
    import torch
    from torch import nn


class Reduction(str, Enum):
    """How the losses of a batch's rows become one number; only rows that teach the head count."""

    mean = "mean"
    hardest = "hardest"


class Head(ABC):
    """One output of a stage. A plain object: numpy alone, torch only inside `layer` and `loss`.

    Attributes:
        field: the column of `Detections` it fills: "scores" (exactly one head of a stage), "boxes", "points" or a
            name in `extras`.
        reduction: how its loss is reduced where the recipe does not say.
        extras: names of the columns of `CropTruth.extras` that it learns from. A batch has each of them, with "" in
            rows of pictures that say nothing of it (NaN among numbers); a run is refused where no picture has it.
        tells_certainty: whether `certainty` answers.
    """

    version = 1
    field: str
    extras: tuple[str, ...] = ()
    reduction: Reduction = Reduction.mean
    tells_certainty: bool = False

    @abstractmethod
    def teaches(self, truth: CropTruth) -> NDArray[np.bool_]:
        """Return which rows ``(B,)`` or, for a head that can learn from part of a row, which entries ``(B, K)``."""

    @abstractmethod
    def encode(self, truth: CropTruth) -> NDArray[np.float32]:
        """Return targets ``(B, D)`` in the units of the raw output; rows that teach nothing hold anything finite.

        Of boxes and points a layer may give more outputs: the first D are the place, the others the loss's own.
        """

    @abstractmethod
    def decode(self, raw: NDArray[np.float32], windows_xyxy: NDArray[np.float32]) -> NDArray[Any]:
        """Return the column of `Detections` for raw outputs ``(N, D)`` of windows ``(N, 4)`` in picture pixels.

        D is what the layer gives, which may be more than a target has.
        """

    def certainty(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how sure each row ``(N,)`` is of its place, in [0, 1], from raw outputs ``(N, D)``.

        Raises:
            NotImplementedError: the head does not say.
        """
        raise NotImplementedError(f"{type(self).__name__} does not tell how sure it is")

    @abstractmethod
    def layer(self, in_channels: int) -> nn.Module:
        """Return the 1x1 convolution (or more) that turns features ``(B, C, h, w)`` into ``(B, D, h, w)``."""

    @abstractmethod
    def loss(self, raw: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the loss of each row, ``(B,)``, not reduced; `mask` is what `teaches` returned."""
