"""The network of a stage: a net with heads on it, run on pixels and decoded into detections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cascade_det.core.types import Detections
from cascade_det.errors import ModelError
from cascade_det.heads.base import Head
from cascade_det.heads.points import Points
from cascade_det.nets.base import Net


class StageNetwork(nn.Module):
    """A net with heads: normalised RGB ``(B, 3, h, w)`` -> raw output ``(B, D, h', w')`` by head name."""

    def __init__(self, net: Net, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.net = net
        self.heads = nn.ModuleDict({name: head.layer(net.out_channels) for name, head in heads.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.net(images)
        return {name: layer(features) for name, layer in self.heads.items()}


class NetworkRunner:
    """Runs a stage network on pixels and decodes its raw outputs; owns the device.

    Args:
        network: the net with its heads.
        heads: the heads by the same names; exactly one fills "scores".
    """

    def __init__(self, network: StageNetwork, heads: Mapping[str, Head]) -> None:
        self.network = network.eval()
        self.heads = dict(heads)
        self.device = torch.device("cpu")
        self.score_head = next(name for name, head in heads.items() if head.field == "scores")

    def to(self, device: str) -> None:
        """Move the network to a torch device."""
        self.device = torch.device(device)
        self.network.to(self.device)

    def raw(self, pixels: NDArray[Any], mean: float, scale: float) -> dict[str, NDArray[np.float32]]:
        """Return raw outputs ``(N, D, h', w')`` by head for pictures ``(N, h, w, 3)`` RGB,
        uint8 (`pooled`: float32, 0 to 255)."""
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device).permute(0, 3, 1, 2)
            outputs = self.network((images.float() - mean) * scale)
            return {name: value.float().cpu().numpy() for name, value in outputs.items()}

    def raw_of_crops(
        self, crops: NDArray[Any], mean: float, scale: float, chunk: int
    ) -> dict[str, NDArray[np.float32]]:
        """Return raw outputs ``(N, D)`` by head for crops ``(N, h, w, 3)`` as `raw` takes, `chunk`
        crops a forward pass."""
        starts = range(0, max(len(crops), 1), chunk)
        parts = [self.raw(crops[start : start + chunk], mean, scale) for start in starts]
        return {name: np.concatenate([part[name] for part in parts])[:, :, 0, 0] for name in self.heads}

    def scores(self, raw_score: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities ``(N,)`` of raw scores ``(N, 1)``."""
        windows = np.zeros((len(raw_score), 4), np.float32)
        return np.asarray(self.heads[self.score_head].decode(raw_score, windows), np.float32)

    def decode(
        self, raw: Mapping[str, NDArray[np.float32]], windows_xyxy: NDArray[np.float32], scores: NDArray[np.float32]
    ) -> Detections:
        """Return detections for raw outputs ``(N, D)`` by head; without a box head the window is the box."""
        columns = {h.field: h.decode(raw[n], windows_xyxy) for n, h in self.heads.items() if n != self.score_head}
        boxes = columns.pop("boxes", windows_xyxy)
        points = columns.pop("points", None)
        return Detections(boxes, scores, points, columns)

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return the weights by name."""
        return {name: value.detach().cpu().numpy() for name, value in self.network.state_dict().items()}

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take weights; raises `ModelError` with the first name or shape that does not fit."""
        wanted = {name: tuple(value.shape) for name, value in self.network.state_dict().items()}
        for name, shape in wanted.items():
            if name not in arrays:
                raise ModelError(f"the weights lack {name!r}; the model was made by another recipe.")
            if tuple(arrays[name].shape) != shape:
                raise ModelError(f"{name!r} has shape {tuple(arrays[name].shape)}, this net needs {shape}.")
        extra = sorted(set(arrays) - set(wanted))
        if extra:
            raise ModelError(
                f"the weights hold {extra[0]!r}, which this net lacks; the model was made by another recipe."
            )
        self.network.load_state_dict({name: torch.from_numpy(np.array(arrays[name])) for name in wanted})


def num_points_of(heads: Mapping[str, Head]) -> int | None:
    """Return K of the points that a stage with these heads fills, or None where no head fills points."""
    return next((int(head.num_points) for head in heads.values() if isinstance(head, Points)), None)
