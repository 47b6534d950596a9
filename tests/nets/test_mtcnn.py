"""The three trunks: the paper's parameter counts, 1x1 at the window, and dense equal to crops for the proposer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cascade_det.core.registry import HEADS, NETS
from cascade_det.errors import RecipeError
from cascade_det.nets.base import Net

WINDOWS = {"mtcnn_pnet": (12, 12), "mtcnn_rnet": (24, 24), "mtcnn_onet": (48, 48)}
COUNTS = {"mtcnn_pnet": 6_929, "mtcnn_rnet": 101_339, "mtcnn_onet": 388_783}
CHANNELS = {"mtcnn_pnet": 32, "mtcnn_rnet": 128, "mtcnn_onet": 256}
every_net = pytest.mark.parametrize("kind", list(WINDOWS))


def net_of(kind: str, window_hw: tuple[int, int] | None = None, **params: Any) -> Net:
    torch.manual_seed(0)
    net: Net = NETS.build(kind, params, "net", window_hw=window_hw or WINDOWS[kind])
    return net.eval()


def pictures(rows: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (rows, 3, height, width)).astype(np.float32))


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@every_net
@torch.no_grad()
def test_no_pictures(kind: str) -> None:
    assert net_of(kind)(pictures(0, *WINDOWS[kind])).shape == (0, CHANNELS[kind], 1, 1)


@every_net
def test_parameter_counts_of_the_paper(kind: str) -> None:
    net = net_of(kind)
    heads = [HEADS.build(name, {}, "head", num_points=5) for name in ("classification", "box_offset", "points")]
    assert size(net) + sum(size(head.layer(net.out_channels)) for head in heads) == COUNTS[kind]
    assert net.out_channels == CHANNELS[kind]


@every_net
@pytest.mark.parametrize("scale", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize(
    "params", [{}, {"alpha": 0.5, "activation": "relu", "batch_norm": True}, {"alpha": 0.01, "pool_first": False}]
)
@torch.no_grad()
def test_the_window_gives_one_position(kind: str, scale: tuple[int, int], params: dict[str, Any]) -> None:
    window = (WINDOWS[kind][0] * scale[0], WINDOWS[kind][1] * scale[1])
    net = net_of(kind, window, **params)
    features = net(pictures(2, *window))
    assert features.shape == (2, net.out_channels, 1, 1)
    assert torch.isfinite(features).all()
    assert not torch.equal(features[0], features[1])


@every_net
@torch.no_grad()
def test_any_window_gives_one_position_or_is_refused(kind: str) -> None:
    taken = []
    for side in range(4, WINDOWS[kind][0] + 5):
        for window in ((side, side), (side, WINDOWS[kind][1])):
            try:
                net = net_of(kind, window, alpha=0.01)
            except RecipeError as error:
                assert str(window) in str(error)
                assert "larger window" in str(error)
            else:
                assert net(pictures(1, *window)).shape[2:] == (1, 1)
                taken.append(side)
    assert min(taken) == {"mtcnn_pnet": 8, "mtcnn_rnet": 14, "mtcnn_onet": 26}[kind]
    step = 2 if kind == "mtcnn_pnet" else 1  # an odd window would lose its last column in P-Net's pool
    assert set(range(min(taken), WINDOWS[kind][0] + 5, step)) == set(taken)


def test_only_the_proposers_net_runs_densely() -> None:
    assert {kind: net_of(kind).stride for kind in WINDOWS} == {"mtcnn_pnet": 2, "mtcnn_rnet": None, "mtcnn_onet": None}


@pytest.mark.parametrize("window", [(12, 12), (24, 12), (14, 16)])
@pytest.mark.parametrize(
    "params", [{}, {"alpha": 0.5, "activation": "relu", "pool_first": False}, {"batch_norm": True}]
)
@torch.no_grad()
def test_dense_equals_crop(window: tuple[int, int], params: dict[str, Any]) -> None:
    net = net_of("mtcnn_pnet", window, **params)
    stride = net.stride
    assert stride == 2
    for height in range(window[0], window[0] + 2 * stride + 1):
        for width in range(window[1], window[1] + 2 * stride + 1):
            picture = pictures(1, height, width, seed=height * 99 + width)
            dense = net(picture)
            rows, columns = (height - window[0]) // stride + 1, (width - window[1]) // stride + 1
            assert dense.shape[2:] == (rows, columns)
            crops = picture.unfold(2, window[0], stride).unfold(3, window[1], stride)
            alone = net(crops[0].permute(1, 2, 0, 3, 4).reshape(-1, 3, *window))
            expected = alone[:, :, 0, 0].T.reshape(-1, rows, columns)
            torch.testing.assert_close(dense[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(12, 12), (13, 12), (12, 15), (17, 21)])
@torch.no_grad()
def test_ceil_pooling_adds_what_an_odd_side_leaves_over(height: int, width: int) -> None:
    plain, ceiled = net_of("mtcnn_pnet"), net_of("mtcnn_pnet", ceil_pooling=True)
    assert (ceiled.stride, ceiled.dense_equals_crop) == (2, False)
    assert plain.dense_equals_crop
    picture = pictures(1, height, width)
    inner, whole = plain(picture), ceiled(picture)
    assert inner.shape[2:] == (height // 2 - 5, width // 2 - 5)
    assert whole.shape[2:] == ((height + 1) // 2 - 5, (width + 1) // 2 - 5)
    assert torch.isfinite(whole).all()
    torch.testing.assert_close(whole[:, :, : inner.shape[2], : inner.shape[3]], inner)


@pytest.mark.parametrize("alpha", [0.5, 0.75, 2.0])
@every_net
def test_alpha_scales_every_width(kind: str, alpha: float) -> None:
    plain, scaled = net_of(kind), net_of(kind, alpha=alpha)
    assert scaled.out_channels == round(CHANNELS[kind] * alpha)
    for one, other in zip(plain.modules(), scaled.modules(), strict=True):
        if isinstance(one, torch.nn.Conv2d):
            assert isinstance(other, torch.nn.Conv2d)
            assert other.kernel_size == one.kernel_size
            assert other.out_channels == max(4, round(one.out_channels * alpha))


@every_net
@pytest.mark.parametrize("pool_first", [True, False])
def test_batch_norm_stands_right_before_each_activation(kind: str, pool_first: bool) -> None:
    net = net_of(kind, batch_norm=True, pool_first=pool_first)
    layers = [type(layer).__name__ for layer in net.modules()]
    behind = [layers[row + 1] for row, name in enumerate(layers) if name == "BatchNorm2d"]
    assert behind == ["PReLU"] * layers.count("Conv2d")
    net.train()
    features = net(pictures(64, *WINDOWS[kind]) + 3)  # far from zero, as no layer's output stays
    negative = torch.where(features < 0, features / 0.25, features)  # undo the activation
    assert negative.mean(dim=0).abs().max() < 1e-3


def test_a_trunk_keeps_four_channels() -> None:
    assert net_of("mtcnn_pnet", alpha=0.001).out_channels == 4


@every_net
def test_relu_has_no_slopes(kind: str) -> None:
    net = net_of(kind, activation="relu")
    assert not any(isinstance(layer, torch.nn.PReLU) for layer in net.modules())
    assert sum(isinstance(layer, torch.nn.ReLU) for layer in net.modules()) == sum(
        isinstance(layer, torch.nn.PReLU) for layer in net_of(kind).modules()
    )
    assert size(net) < size(net_of(kind))


@pytest.mark.parametrize(("slope", "same"), [(0.0, True), (0.25, True), (1.0, True), (-0.5, False)])
@every_net
@torch.no_grad()
def test_pooling_first_is_the_papers_function_for_slopes_from_zero(kind: str, slope: float, same: bool) -> None:
    ours, paper = net_of(kind), net_of(kind, pool_first=False)
    for mine, theirs in zip(ours.parameters(), paper.parameters(), strict=True):
        theirs.copy_(mine)
    for net in (ours, paper):
        for layer in net.modules():
            if isinstance(layer, torch.nn.PReLU):
                layer.weight.fill_(slope)
    picture = pictures(2, *WINDOWS[kind])
    assert torch.allclose(ours(picture), paper(picture), atol=1e-6) == same
    kinds = [[type(layer).__name__ for layer in net.modules()] for net in (ours, paper)]
    assert kinds[0] != kinds[1]


@every_net
def test_biases_start_at_zero_and_weights_do_not(kind: str) -> None:
    for layer in net_of(kind).modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.bias is not None
            assert not layer.bias.any()
            fan_in = layer.weight[0].numel()
            assert layer.weight.std().item() == pytest.approx((2 / (1 + 0.25**2) / fan_in) ** 0.5, rel=0.2)


@pytest.mark.parametrize(
    ("params", "message"),
    [({"alpha": 0.0}, "alpha=0"), ({"alpha": -1.0}, "alpha=-1"), ({"alpha": float("nan")}, "alpha=nan"),
     ({"activation": "gelu"}, "gelu")],
)  # fmt: skip
@every_net
def test_refuses(kind: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NETS.get(kind)(WINDOWS[kind], **params)


@every_net
@pytest.mark.parametrize("window", [(4, 4), (6, 48), (48, 6)])
def test_a_window_that_is_too_small(kind: str, window: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"window_hw=\(\d+, \d+\) is too small .*larger window"):
        NETS.get(kind)(window)
