"""Every registered net passes its check, and each invariant of a net is seen to fail on a net that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cascade_det.core.registry import NETS
from cascade_det.nets.base import Net
from cascade_det.nets.mtcnn import mtcnn_pnet, mtcnn_rnet
from cascade_det.testing import ContractError, check_net

Make = Callable[[], Any]


def changed(part: Any, **replaced: Any) -> Any:
    """Return the part with some of its attributes or methods replaced."""
    for name, value in replaced.items():
        setattr(part, name, value)
    return part


WINDOWS = {"mtcnn_pnet": (12, 12), "mtcnn_onet": (48, 48)}  # of the others: 24x24


@pytest.mark.parametrize("kind", NETS.names())
def test_every_net(kind: str) -> None:
    window_hw = WINDOWS.get(kind, (24, 24))
    check_net(NETS.get(kind)(window_hw), window_hw)


def test_a_net_of_another_shape_of_window() -> None:
    check_net(mtcnn_pnet((24, 12)), (24, 12))


def test_the_net_is_left_as_it_was() -> None:
    net = mtcnn_rnet((24, 24)).train()
    net.append_norm = nn.BatchNorm2d(3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ContractError):
        check_net(net, (24, 24))  # nothing uses the layer
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


class ANet(Net):
    """A convolution over the whole window of 6x6, which runs densely; `before` and `after` change pixels and result."""

    def __init__(
        self, before: Any = None, after: Any = None, stride: Any = 1, out_channels: int = 4, last: Any = None
    ) -> None:
        super().__init__()
        self.before, self.after, self.stride, self.out_channels = before, after, stride, out_channels
        self.last = last or nn.Conv2d(3, 4, 6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.last(images if self.before is None else self.before(images))
        return features if self.after is None else self.after(features)


class ForgetfulNet(ANet):
    def load_state_dict(self, *arguments: Any, **options: Any) -> Any: ...


def frozen_net() -> Net:
    net = ANet(nn.Conv2d(3, 3, 1))
    net.before.requires_grad_(False)
    return net


def test_a_plain_net_passes() -> None:
    check_net(ANet(), (6, 6))
    check_net(ANet(nn.BatchNorm2d(3)), (6, 6))
    check_net(frozen_net(), (6, 6))
    check_net(ANet(nn.Conv2d(3, 3, 3, padding=1), stride=None), (6, 6))
    check_net(changed(ANet(nn.Conv2d(3, 3, 3, padding=1)), dense_equals_crop=False), (6, 6))


PADDED = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
POOLED = [nn.Conv2d(3, 4, 3)]  # the map that a pool 2/2 leaves of 6x6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(3, 4, 6), "is a Conv2d"),
        (lambda: ANet(stride=0), "stride=0"),
        (lambda: ANet(out_channels=5), r"gives \(4, 4, 1, 1\), not .*\(4, 5, 1, 1\)"),
        (lambda: ANet(last=nn.Conv2d(3, 4, 5)), r"gives \(4, 4, 2, 2\)"),
        (lambda: ANet(after=lambda x: x.view(len(x), -1, 1, 1)), "0 pictures .* raises RuntimeError"),
        (lambda: ANet(after=lambda x: x.double()), "float64"),
        (lambda: ANet(after=lambda x: x / 0), "not finite"),
        (lambda: ANet(before=lambda x: x.mul_(2)), "changes its input in place"),
        (lambda: ANet(after=lambda x: nn.functional.dropout(x, training=True)), "other features for the same pictures"),
        (lambda: ANet(nn.BatchNorm2d(3, track_running_stats=False)), "alone and in a batch"),
        (lambda: ANet(PADDED), r"7 pixels position \(\d, \d\) .* the crop at \(\d, \d\)"),
        (lambda: ANet(nn.MaxPool2d(2), last=POOLED[0], stride=1), "dense map is"),
        (lambda: ANet(nn.MaxPool2d(2, ceil_mode=True), last=POOLED[0], stride=2), "pool with floor"),
        (lambda: ANet(after=lambda x: x - x.mean(dim=(2, 3), keepdim=True) / 2), "differs by"),
        (lambda: changed(ANet(), scale=torch.ones(1)), "tensor 'scale' is no part of the net's state"),
        (ForgetfulNet, "after its state was saved and loaded"),
        (lambda: changed(ANet(), unused=nn.Linear(2, 2)), r"no gradient reaches the parameter 'unused\.weight'"),
        (lambda: ANet(nn.Conv2d(3, 3, 1), after=torch.Tensor.detach), "raises RuntimeError"),
    ],
)  # fmt: skip
def test_a_broken_net(make: Make, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_net(make(), (6, 6))
