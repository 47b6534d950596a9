"""The three trunks of MTCNN (Zhang et al. 2016, figure 2), all convolutions valid, without heads.

The window may be any size that the layers reduce to 1x1 or more; the last convolution spans what is left, so another
window shape changes the last kernel and nothing else.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from cascade_det.core.registry import register_net
from cascade_det.nets.base import Activation, Net, conv_block, initialise, scaled_channels

_Layer = tuple[str, int, int]  # ("conv", kernel, channels) or ("pool", kernel, stride)

_P_LAYERS: list[_Layer] = [("conv", 3, 10), ("pool", 2, 2), ("conv", 3, 16)]
_R_LAYERS: list[_Layer] = [("conv", 3, 28), ("pool", 3, 2), ("conv", 3, 48), ("pool", 3, 2), ("conv", 2, 64)]
_O_LAYERS: list[_Layer] = [
    ("conv", 3, 32), ("pool", 3, 2), ("conv", 3, 64), ("pool", 3, 2), ("conv", 3, 64), ("pool", 2, 2), ("conv", 2, 128),
]  # fmt: skip


class _Trunk(Net):
    """Convolutions and pools from a table, then one convolution over the map that is left."""

    def __init__(
        self,
        layers: list[_Layer],
        last_channels: int,
        window_hw: tuple[int, int],
        alpha: float,
        activation: str,
        pool_first: bool,
        batch_norm: bool,
        ceil_pooling: bool,
        dense: bool,
    ) -> None:
        super().__init__()
        width = scaled_channels(alpha)
        kind = Activation(activation)
        blocks: list[nn.Module] = []
        behind_pool = 1 + batch_norm if pool_first else 0
        channels, (height, breadth), stride = 3, window_hw, 1
        for op, kernel, value in layers:
            if op == "conv":
                blocks += conv_block(channels, width(value), kernel, kind, batch_norm)
                channels, height, breadth = width(value), height - kernel + 1, breadth - kernel + 1
            else:
                blocks.insert(len(blocks) - behind_pool, nn.MaxPool2d(kernel, value, ceil_mode=ceil_pooling))
                if not ceil_pooling and ((height - kernel) % value or (breadth - kernel) % value):
                    raise ValueError(
                        f"window_hw={tuple(window_hw)}: a pool would cut off its last row or column, so that the dense "
                        "net differs from the net on crops; choose an even larger window"
                    )
                rounding = math.ceil if ceil_pooling else math.floor
                height = rounding((height - kernel) / value) + 1
                breadth = rounding((breadth - kernel) / value) + 1
                stride *= value
        if min(height, breadth) < 1:
            raise ValueError(f"window_hw={tuple(window_hw)} is too small for this net; choose a larger window")
        blocks += conv_block(channels, width(last_channels), (height, breadth), kind, batch_norm)
        self.layers = nn.Sequential(*blocks)
        self.out_channels = width(last_channels)
        self.stride = stride if dense else None
        self.dense_equals_crop = not (dense and ceil_pooling)
        initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.layers(images)
        return features


@register_net("mtcnn_pnet")
def mtcnn_pnet(
    window_hw: tuple[int, int],
    alpha: float = 1.0,
    activation: str = "prelu",
    pool_first: bool = True,
    batch_norm: bool = False,
    ceil_pooling: bool = False,
) -> Net:
    """P-Net: conv3 10, maxpool 2/2, conv3 16, conv3 32 (map 12-10-5-3-1); runs densely with stride 2.

    Args:
        window_hw: its window, 12x12 in the paper.
        alpha: width multiplier of all channels.
        activation: prelu (the paper's) or relu (faster).
        pool_first: pool before the activation: the same function for slopes >= 0, at half the cost on a CPU.
        batch_norm: normalise each layer over the batch before its activation, which the paper does not (Ioffe and
            Szegedy 2015). Of several devices each normalises its own part of the batch.
        ceil_pooling: let the pool round up, as the published weights were made with: on a level of odd size the map
            has one more row or column, whose windows reach beyond the picture.
    """
    return _Trunk(_P_LAYERS, 32, window_hw, alpha, activation, pool_first, batch_norm, ceil_pooling, dense=True)


@register_net("mtcnn_rnet")
def mtcnn_rnet(
    window_hw: tuple[int, int],
    alpha: float = 1.0,
    activation: str = "prelu",
    pool_first: bool = True,
    batch_norm: bool = False,
) -> Net:
    """R-Net: conv3 28, pool 3/2, conv3 48, pool 3/2, conv2 64, dense 128 (map 24-22-11-9-4-3-1).

    Args:
        window_hw: its window, 24x24 in the paper.
        alpha: width multiplier of all channels.
        activation: prelu (the paper's) or relu (faster).
        pool_first: pool before the activation: the same function for slopes >= 0, at half the cost on a CPU.
        batch_norm: normalise each layer over the batch before its activation, which the paper does not (Ioffe and
            Szegedy 2015). Of several devices each normalises its own part of the batch.
    """
    return _Trunk(_R_LAYERS, 128, window_hw, alpha, activation, pool_first, batch_norm, ceil_pooling=True, dense=False)


@register_net("mtcnn_onet")
def mtcnn_onet(
    window_hw: tuple[int, int],
    alpha: float = 1.0,
    activation: str = "prelu",
    pool_first: bool = True,
    batch_norm: bool = False,
) -> Net:
    """O-Net: conv3 32, pool 3/2, conv3 64, pool 3/2, conv3 64, pool 2/2, conv2 128, dense 256 (48-...-3-1).

    Args:
        window_hw: its window, 48x48 in the paper.
        alpha: width multiplier of all channels.
        activation: prelu (the paper's) or relu (faster).
        pool_first: pool before the activation: the same function for slopes >= 0, at half the cost on a CPU.
        batch_norm: normalise each layer over the batch before its activation, which the paper does not (Ioffe and
            Szegedy 2015). Of several devices each normalises its own part of the batch.
    """
    return _Trunk(_O_LAYERS, 256, window_hw, alpha, activation, pool_first, batch_norm, ceil_pooling=True, dense=False)
