"""MobileNet trunks (Howard et al. 2017, arXiv:1704.04861): depthwise separable blocks, and the same in full ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from cascade_det import register_net
from cascade_det.nets.base import Net, initialise, scaled_channels

_KERNEL = 3
_STEM_STRIDE = 2
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1))  # (channels, stride): table 1 of the paper, to 256 channels


class _MobileNet(Net):
    """A stem, blocks, and the mean over the map that is left: no layer's size depends on the window's."""

    def __init__(
        self,
        window_hw: tuple[int, int],
        alpha: float,
        stem: int,
        blocks: Sequence[Sequence[int]],
        padded: bool,
        separable: bool,
    ) -> None:
        super().__init__()
        width, padding = scaled_channels(alpha), 1 if padded else 0
        strides = [_STEM_STRIDE, *(stride for _, stride in blocks)]
        height, breadth = (_side_of_map(side, strides, padding) for side in window_hw)
        if not padded:
            _refuse_inexact(window_hw, strides)
        channels = width(stem)
        layers = _convolution(3, channels, _STEM_STRIDE, padding)
        for wide, stride in blocks:
            block = _separable if separable else _convolution
            layers += block(channels, width(wide), stride, padding)
            channels = width(wide)
        self.layers = nn.Sequential(*layers, nn.AvgPool2d((height, breadth), stride=1))
        self.out_channels = channels
        self.stride = None if padded else math.prod(strides)
        initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.layers(images)
        return features


def _convolution(channels: int, wide: int, stride: int, padding: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, wide, _KERNEL, stride, padding, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(inplace=True),
    ]


def _separable(channels: int, wide: int, stride: int, padding: int) -> list[nn.Module]:
    """Return one filter a channel, then a 1x1 convolution, each with batch norm and ReLU (figure 3 of the paper)."""
    return [
        nn.Conv2d(channels, channels, _KERNEL, stride, padding, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, wide, 1, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(inplace=True),
    ]


def _side_of_map(side: int, strides: Sequence[int], padding: int) -> int:
    """Return the side of the map before the mean."""
    for stride in strides:
        side = (side + 2 * padding - _KERNEL) // stride + 1
    return side


def _exact(side: int, strides: Sequence[int]) -> bool:
    """Return whether no layer leaves pixels of the window unseen, without padding."""
    for stride in strides:
        if side < _KERNEL or (side - _KERNEL) % stride:
            return False
        side = (side - _KERNEL) // stride + 1
    return True


def _refuse_inexact(window_hw: tuple[int, int], strides: Sequence[int]) -> None:
    for side in window_hw:
        if not _exact(side, strides):
            fitting = [other for other in range(_KERNEL, 4 * side + 64) if _exact(other, strides)]
            near = sorted(sorted(fitting, key=lambda other: abs(other - side))[:3])
            raise ValueError(
                f"window_hw={tuple(window_hw)}: without padding the strides {list(strides)} leave pixels of a side of "
                f"{side} unseen, so that the dense net differs from the net on crops; sides near it that fit are "
                f"{', '.join(map(str, near))}"
            )


@register_net("mobilenet")
def mobilenet(
    window_hw: tuple[int, int],
    alpha: float = 1.0,
    stem: int = 32,
    blocks: Sequence[Sequence[int]] = _BLOCKS,
    padded: bool = True,
) -> Net:
    """Depthwise separable trunk: conv3 stride 2, blocks of depthwise conv3 and conv1, mean over the map.

    Each convolution is followed by batch norm and ReLU. The number of parameters does not depend on the window, so a
    stage's `rho` (the paper's resolution multiplier) changes cost alone.

    Args:
        window_hw: its window.
        alpha: width multiplier of all channels.
        stem: channels of the first convolution.
        blocks: [channels, stride] of each block.
        padded: pad each convolution by a pixel, as the paper does: for refiners. False: the net runs densely, so it
            can propose; the window must then come out even.
    """
    return _MobileNet(window_hw, alpha, stem, blocks, padded, separable=True)


@register_net("mobilenet_full")
def mobilenet_full(
    window_hw: tuple[int, int],
    alpha: float = 1.0,
    stem: int = 32,
    blocks: Sequence[Sequence[int]] = _BLOCKS,
    padded: bool = True,
) -> Net:
    """Its twin with a full conv3 for each block ("Conv MobileNet", the paper's table 4): what the blocks are worth.

    Args:
        window_hw, alpha, stem, blocks, padded: see `mobilenet`.
    """
    return _MobileNet(window_hw, alpha, stem, blocks, padded, separable=False)
