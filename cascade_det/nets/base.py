"""What a net is: a module that maps its window to a 1x1 map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum

import torch
from torch import nn


class Activation(str, Enum):
    """The non-linearity after each convolution."""

    prelu = "prelu"
    relu = "relu"


class Net(nn.Module, ABC):
    """``(B, 3, h, w)`` float32 -> ``(B, out_channels, h', w')``; exactly 1x1 at its window.

    Attributes:
        out_channels: channels of the map that heads stand on.
        stride: by how many input pixels neighbouring positions of the map are apart; None where the net may not run
            densely. With a stride, position (i, j) of the map equals the net on the crop at (i * stride, j * stride).
        dense_equals_crop: False for a net that runs densely although that does not hold (one imported with pools that
            round up).
    """

    version = 1
    out_channels: int
    stride: int | None = None
    dense_equals_crop: bool = True

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features ``(B, out_channels, h', w')`` of normalised RGB ``(B, 3, h, w)``."""


def scaled_channels(alpha: float) -> Callable[[int], int]:
    """Return the width multiplier as a function from the paper's channels to ours (at least 4)."""
    if not alpha > 0:
        raise ValueError(f"alpha={alpha}: the width multiplier must be positive")
    return lambda channels: max(4, round(channels * alpha))


def conv_block(
    in_channels: int, out_channels: int, kernel: int | tuple[int, int], activation: Activation, batch_norm: bool = False
) -> list[nn.Module]:
    """Return a valid convolution, the normalisation that is asked for and the activation."""
    non_linearity = nn.PReLU(out_channels) if activation == Activation.prelu else nn.ReLU(inplace=True)
    norm = [nn.BatchNorm2d(out_channels)] if batch_norm else []
    return [nn.Conv2d(in_channels, out_channels, kernel, bias=not batch_norm), *norm, non_linearity]


def initialise(module: nn.Module) -> None:
    """He initialisation of all convolutions, zero biases: signals keep their size through PReLU and ReLU layers."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=0.25, nonlinearity="leaky_relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
