"""The contract of a net: 1x1 at its window, dense equals crop, deterministic, trainable, its state complete."""

from __future__ import annotations

import copy

import torch

from cascade_det.nets.base import Net
from cascade_det.testing.contract import doing, require

_CLOSE = 1e-5  # features of one picture may differ by this much, relative to their largest


def check_net(net: Net, window_hw: tuple[int, int], *, seed: int = 0) -> None:
    """Check a net at its window; the net itself is left as it was.

    Args:
        net: such as ``MyNet(window_hw=(24, 24))``, with fresh weights (weights of 0 pass no gradient on).
        window_hw: height and width of the window that it was built for.
        seed: of the pictures that it is shown, noise in [-1, 1].

    Raises:
        ContractError: one of these does not hold:
            the net maps ``(B, 3, h, w)`` at its window to ``(B, out_channels, 1, 1)`` float32, B = 0 included;
            with a `stride`, each position of the dense map equals the net on the crop at (i * stride, j * stride), for
            all sides from the window to the window + 2 strides (unless the net says ``dense_equals_crop = False``);
            in eval mode it gives the same twice, a picture gives the same alone as in a batch, the input is left alone;
            gradients reach every parameter that requires one; what it computes with is parameters and buffers, so that
            it can be saved, and saved weights give back the same function.
    """
    net, chance = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    require(isinstance(net, Net), f"a net is a cascade_det.nets.base.Net, this is a {type(net).__name__}")
    require(
        isinstance(net.stride, int) and net.stride > 0 if net.stride is not None else True,
        f"stride={net.stride!r} must be None or a positive whole number",
    )
    net.eval()
    images = _noise(4, window_hw, chance)
    with torch.no_grad():
        _check_window(net, images)
        _check_sameness(net, images)
        if net.stride is not None and net.dense_equals_crop:
            _check_dense(net, net.stride, window_hw, chance)
        _check_state(net, images)
    _check_gradients(net, _noise(8, window_hw, chance), chance)


def _noise(count: int, hw: tuple[int, int], chance: torch.Generator) -> torch.Tensor:
    return torch.rand(count, 3, *hw, generator=chance) * 2 - 1


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-3)) if one.numel() else 0.0


def _check_window(net: Net, images: torch.Tensor) -> None:
    for batch in (images, images[:0]):
        size = "x".join(str(side) for side in images.shape[2:])
        with doing(f"the net on {len(batch)} pictures of its window {size}"):
            features = net(batch)
        wanted = (len(batch), net.out_channels, 1, 1)
        require(
            tuple(features.shape) == wanted,
            f"at its window {size} the net gives {tuple(features.shape)}, not (B, out_channels, 1, 1) = {wanted}",
        )
    features = net(images)
    require(features.dtype == torch.float32, f"the net gives {features.dtype}, it must give float32")
    require(bool(torch.isfinite(features).all()), "the net gives values that are not finite on noise in [-1, 1]")


def _check_sameness(net: Net, images: torch.Tensor) -> None:
    shown = images.clone()
    first = net(shown)
    require(torch.equal(shown, images), "the net changes its input in place, by up to "
            f"{float((shown - images).abs().max()):.3g}; its first layer must not be an in-place one")  # fmt: skip
    far = _distance(first, net(images))
    require(far <= _CLOSE, f"in eval mode the net gives other features for the same pictures (by {far:.3g})")
    alone = torch.cat([net(images[row : row + 1]) for row in range(len(images))])
    far = _distance(first, alone)
    require(far <= _CLOSE, f"in eval mode a picture's features differ by {far:.3g} between alone and in a batch of 4")


def _check_dense(net: Net, stride: int, window_hw: tuple[int, int], chance: torch.Generator) -> None:
    sides = [range(side, side + 2 * stride + 1) for side in window_hw]
    for height, width in ((h, w) for h in sides[0] for w in sides[1]):
        image = _noise(1, (height, width), chance)
        with doing(f"the net on a picture of {height}x{width} pixels (its stride says that it runs densely)"):
            dense = net(image)
        rows, breadth = (height - window_hw[0]) // stride + 1, (width - window_hw[1]) // stride + 1
        require(
            tuple(dense.shape) == (1, net.out_channels, rows, breadth),
            f"at {height}x{width} pixels the dense map is {tuple(dense.shape)}; with stride {stride} it must be "
            f"{(1, net.out_channels, rows, breadth)}: pool with floor, convolve without padding, or set stride = None",
        )
        crops = image.unfold(2, window_hw[0], stride).unfold(3, window_hw[1], stride)
        alone = net(crops[0].permute(1, 2, 0, 3, 4).reshape(-1, 3, *window_hw))[:, :, 0, 0]
        for place, expected in enumerate(alone):
            row, column = divmod(place, breadth)
            far = _distance(expected, dense[0, :, row, column])
            require(
                far <= _CLOSE,
                f"at {height}x{width} pixels position ({row}, {column}) of the dense map differs by {far:.3g} from the "
                f"net on the crop at ({row * stride}, {column * stride}): pool with floor, convolve without padding, "
                "or set stride = None",
            )


def _check_state(net: Net, images: torch.Tensor) -> None:
    for name, module in net.named_modules():
        loose = [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)]
        place = ".".join(filter(None, [name, *loose[:1]]))
        require(not loose, f"the tensor {place!r} is no part of the net's state; make it a parameter or a buffer")
    wanted = net(images)
    with doing("the net's state as numpy arrays"):
        arrays = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    other = copy.deepcopy(net)
    for value in other.state_dict().values():
        value.copy_(torch.ones_like(value))
    with doing("load_state_dict of the net's own state"):
        other.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    far = _distance(wanted, other(images))
    require(far <= _CLOSE, f"after its state was saved and loaded the net gives other features (by {far:.3g})")


def _check_gradients(net: Net, images: torch.Tensor, chance: torch.Generator) -> None:
    net.train().zero_grad()
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), doing("a training step of the net"):
        features = net(images)
        (features * torch.rand(features.shape, generator=chance)).sum().backward()
    for name, parameter in net.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        require(
            reached or not parameter.requires_grad,
            f"no gradient reaches the parameter {name!r}, so it would never be trained; use it, or freeze it by "
            "requires_grad = False",
        )
