"""Depthwise separable trunks: the contract of a net, sizes, and parameters that no resolution changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cascade_det import Cascade
from cascade_det.cli.app import main
from cascade_det.core.recipe import build_stage, load_recipe
from cascade_det.core.registry import NETS
from cascade_det.errors import RecipeError
from cascade_det.nets.base import Net
from cascade_det.testing import check_net, check_stage

KINDS = ["mobilenet", "mobilenet_full"]
SMALL: dict[str, Any] = {"stem": 8, "blocks": [[12, 1], [16, 2]], "padded": False}


def net_of(kind: str, window_hw: tuple[int, int], **params: Any) -> Net:
    net: Net = NETS.build(kind, params, "net", window_hw=window_hw)
    return net


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("window_hw", "params"),
    [
        ((24, 24), {"alpha": 0.25}),
        ((27, 20), {"alpha": 0.25}),
        ((12, 12), {"stem": 8, "blocks": []}),
        ((13, 13), {"stem": 8, "blocks": [[16, 1], [24, 1]], "padded": False}),
        ((15, 19), SMALL),
    ],
)
def test_the_contract_of_a_net(kind: str, window_hw: tuple[int, int], params: dict[str, Any]) -> None:
    check_net(net_of(kind, window_hw, **params), window_hw)


@pytest.mark.parametrize("stage", ["pnet", "rnet"])
def test_stages_of_it(plugin: Path, stage: str) -> None:
    recipe = load_recipe(plugin.with_suffix(".yaml"))
    check_stage(build_stage(recipe, stage), first=stage == "pnet", rebuild=lambda: build_stage(recipe, stage))


@pytest.mark.parametrize(
    ("params", "stride"),
    [({}, None), ({"padded": True}, None), (SMALL, 4), ({"blocks": [[8, 1]], "padded": False}, 2)],
)
def test_without_padding_it_may_run_densely(params: dict[str, Any], stride: int | None) -> None:
    assert net_of("mobilenet", (15, 15), **params).stride == stride


def test_a_separable_block_costs_what_the_paper_says() -> None:
    """Parameters of the convolutions, k k M + M N against k k M N (section 3.1); batch norm adds 2 a channel."""
    expected = {"mobilenet": 9 * 32 + 32 * 64 + 2 * (32 + 64), "mobilenet_full": 9 * 32 * 64 + 2 * 64}
    for kind, count in expected.items():
        without, one_block = (size(net_of(kind, (24, 24), blocks=blocks)) for blocks in ([], [[64, 1]]))
        assert one_block - without == count


@pytest.mark.parametrize(("alpha", "channels"), [(1.0, 256), (0.5, 128), (0.01, 4)])
def test_the_width_multiplier(alpha: float, channels: int) -> None:
    assert net_of("mobilenet", (24, 24), alpha=alpha).out_channels == channels


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_parameters_is_equal_for_all_resolutions(plugin: Path, kind: str) -> None:
    networks = {}
    for rho in (1.0, 0.857, 0.714, 0.571):
        recipe = load_recipe(plugin.with_suffix(".yaml"), f"stages.onet.rho={rho}", f"stages.onet.net.kind={kind}")
        stage = build_stage(recipe, "onet")
        networks[stage.window_hw] = stage.runner.network
    assert list(networks) == [(48, 48), (41, 41), (34, 34), (27, 27)]
    assert len({size(network) for network in networks.values()}) == 1
    state = networks[48, 48].state_dict()
    for (height, width), network in networks.items():
        network.load_state_dict(state)  # weights of one resolution fit all others
        assert network(torch.zeros(1, 3, height, width))["score"].shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("window_hw", "params", "message"),
    [
        ((12, 12), {"padded": False, "blocks": [[8, 1]]}, r"side of 12 unseen.* 9, 11, 13"),
        ((15, 16), SMALL, r"strides \[2, 1, 2\] .*side of 16 unseen.* 15, 19"),
        ((3, 3), SMALL, r"side of 3 unseen.* 11, 15, 19"),
        ((24, 24), {"alpha": 0.0}, "alpha=0.0: the width multiplier must be positive"),
        ((24, 24), {"padded": 1}, "must be true or false"),
        ((24, 24), {"blocks": [[64, 1, 1]]}, "too many values to unpack"),
    ],
)
def test_refuses(window_hw: tuple[int, int], params: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        net_of("mobilenet", window_hw, **params)


RECIPE = """
format: 1
name: small_mobilenet
run_dir: {folder}/run
plugins: [{plugin}]
object: {{category: face}}
image: {{resample: area}}
pyramid: {{min_object_px: 24}}
stages:
  first:
    kind: proposer
    window_hw: [13, 13]
    net: {{kind: mobilenet, params: {{stem: 16, blocks: [[24, 1], [32, 1]], padded: false}}}}
    heads: &heads {{score: {{kind: classification}}, box: {{kind: box_offset, weight: 0.5}}}}
    keep: {{max_per_image: 60}}
    samplers: {{windows: {{kind: iou_bands, params: {{fit_truth: true, negatives_per_image: 30}}}}}}
    train: {{samples: 100_000, batch_size: 256, lr: 1.0e-2}}
  second:
    kind: refiner
    window_hw: [28, 28]
    rho: 0.857
    net: {{kind: mobilenet, params: {{alpha: 0.5, blocks: [[64, 1], [128, 2]]}}}}
    heads: *heads
    keep: {{nms: 0.4, max_per_image: 20}}
    calibrate: {{max_fppi: 0.5}}
    samplers: {{mined: {{kind: from_cascade, params: {{fit_truth: true, tries_per_box: 10}}}}}}
    train: {{samples: 20_000, batch_size: 96, lr: 4.0e-3}}
data:
  train: {{drawn: {{kind: synthetic, params: {{images: 80, seed: 1, size_hw: [96, 128], object_px: [28, 64]}}}}}}
  val: {{drawn: {{kind: synthetic, params: {{images: 16, seed: 2, size_hw: [96, 128], object_px: [28, 64]}}}}}}
mine: {{val_images: 4, workers: 1}}
train: {{validations: 2, trainer: {{accelerator: cpu, devices: 1}}}}
"""


def test_a_cascade_of_them_trains(plugin: Path, tmp_path: Path) -> None:
    """Batch norm and all: the model file gives what training saw."""
    recipe = tmp_path / "small_mobilenet.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path, plugin=plugin))
    assert main(["train", str(recipe)]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [row["stage"] for row in metrics["funnel"]] == ["first", "second"]
    assert metrics["funnel"][0]["recall"] > 0.75
    assert metrics["AP50"] > 0.35
    crops = tmp_path / "run" / "second" / "mine" / "shards" / "00000" / "crops.npy"
    assert np.load(crops, mmap_mode="r").shape[1:] == (24, 24, 3)

    cascade = Cascade.load(tmp_path / "run", plugins=[str(plugin)], device="cpu")
    networks = [stage.runner.network for stage in cascade.stages]
    assert all(int(module.num_batches_tracked) > 0 for net in networks for module in net.modules() if is_norm(module))


def is_norm(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.BatchNorm2d)
