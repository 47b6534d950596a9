"""Public MTCNN weights become a model that computes what their packages compute, whichever format they come in."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from cascade_det.cascade import Cascade
from cascade_det.cli.app import main
from cascade_det.core.imaging import write_image
from cascade_det.core.recipe import load_recipe, recipe_to_dict
from cascade_det.interop.public_layout import stage_arrays
from cascade_det.model_file import load_model

FORMATS = ["facenet-pytorch", "mtcnn", "npy"]
POOLS = {"pnet": [2], "rnet": [3, 3], "onet": [3, 3, 2]}  # kernel of the pool behind each convolution; stride 2
WINDOWS = {"pnet": 12, "rnet": 24, "onet": 48}
every_format = pytest.mark.parametrize("format_name", FORMATS)


def imported(fakes: Any, format_name: str, out: Path) -> Cascade:
    assert main(["import", format_name, str(fakes.write(format_name)), "--out", str(out)]) == 0
    return Cascade.load(out, device="cpu")


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


# What each package computes, from its own arrays: two logits, box, points where it has any. Crops are upright.
def tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}


def trunk(x: torch.Tensor, kernels: list[Any], biases: list[Any], slopes: list[Any], pools: list[int]) -> torch.Tensor:
    """Run convolutions ``(out, in, height, width)`` with PReLU and, as far as there are any, pools with ceil."""
    for number, (kernel, bias, slope) in enumerate(zip(kernels, biases, slopes, strict=True)):
        x = F.prelu(F.conv2d(x, kernel, bias), slope.reshape(-1))
        if number < len(pools):
            x = F.max_pool2d(x, pools[number], 2, ceil_mode=True)
    return x


def as_facenet_pytorch(fakes: Any, stage: str, crops: torch.Tensor) -> list[torch.Tensor]:
    t = tensors(fakes.weights[stage])
    count = sum(name.startswith("conv") and "_" not in name for name in t) // 2
    numbers = range(1, count + 1)
    x = trunk(
        crops, [t[f"conv{n}.weight"] for n in numbers], [t[f"conv{n}.bias"] for n in numbers],
        [t[f"prelu{n}.weight"] for n in numbers], POOLS[stage],
    )  # fmt: skip
    if stage == "pnet":
        return [F.conv2d(x, t[f"conv4_{n}.weight"], t[f"conv4_{n}.bias"]).flatten(1) for n in (1, 2)]
    x = x.permute(0, 3, 2, 1).reshape(len(x), -1)
    last = count + 1
    x = F.prelu(F.linear(x, t[f"dense{last}.weight"], t[f"dense{last}.bias"]), t[f"prelu{last}.weight"])
    heads = [name for name in t if name.startswith(f"dense{last + 1}_") and name.endswith("weight")]
    return [F.linear(x, t[name], t[name.replace("weight", "bias")]) for name in heads]


def as_mtcnn(fakes: Any, stage: str, crops: torch.Tensor) -> list[torch.Tensor]:
    """Keras: channels last on upright pictures; before the dense layer its map is permuted to (width, height)."""
    values = [torch.from_numpy(value) for value in fakes.keras_arrays(fakes.weights[stage])]
    count = {"pnet": 3, "rnet": 3, "onet": 4}[stage]
    kernels = [value.permute(3, 2, 0, 1) for value in values[: 3 * count : 3]]
    x = trunk(crops, kernels, values[1 : 3 * count : 3], values[2 : 3 * count : 3], POOLS[stage])
    x, rest = x.permute(0, 2, 3, 1).permute(0, 2, 1, 3).reshape(len(x), -1), values[3 * count :]
    if stage != "pnet":
        x, rest = F.prelu(x @ rest[0] + rest[1], rest[2]), rest[3:]
    box, *points, score = [
        x @ kernel.reshape(-1, len(bias)) + bias for kernel, bias in zip(rest[::2], rest[1::2], strict=True)
    ]
    return [score, box, *points]


def as_npy(fakes: Any, stage: str, crops: torch.Tensor) -> list[torch.Tensor]:
    """TensorFlow: channels last on transposed pictures, the last map flattened as it is."""
    layers = {name: tensors(parts) for name, parts in fakes.caffe_layers(fakes.weights[stage]).items()}
    chain = [layers[name] for name in layers if "-" not in name and "conv" in name]
    slopes = [layers[name]["alpha"] for name in layers if "relu" in name.lower()]
    convolutions = [layer for layer in chain if layer["weights"].ndim == 4]
    count = len(convolutions)
    x = trunk(
        crops.transpose(2, 3), [layer["weights"].permute(3, 2, 0, 1) for layer in convolutions],
        [layer["biases"] for layer in convolutions], slopes[:count], POOLS[stage],
    )  # fmt: skip
    x = x.permute(0, 2, 3, 1).reshape(len(x), -1)
    for layer, slope in zip(chain[count:], slopes[count:], strict=True):
        x = F.prelu(x @ layer["weights"] + layer["biases"], slope)
    heads = [layers[name] for name in layers if "-" in name]
    return [x @ head["weights"].reshape(x.shape[1], -1) + head["biases"] for head in heads]


PRESCRIBED = {"facenet-pytorch": as_facenet_pytorch, "mtcnn": as_mtcnn, "npy": as_npy}


@every_format
@torch.no_grad()
def test_each_net_computes_what_its_package_prescribes(format_name: str, fakes: Any, tmp_path: Path) -> None:
    cascade = imported(fakes, format_name, tmp_path / "m.safetensors")
    assert [stage.name for stage in cascade.stages] == list(WINDOWS)
    for stage, side in WINDOWS.items():
        crops = torch.from_numpy(noise(20, 3, side, side).astype(np.float32) - 127.5) / 128
        logits, box, *points = PRESCRIBED[format_name](fakes, stage, crops)
        network: Any = cascade.stages[list(WINDOWS).index(stage)]
        ours = {name: value.flatten(1) for name, value in network.runner.network(crops).items()}
        close = {"atol": 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(torch.sigmoid(ours["score"][:, 0]), torch.softmax(logits, 1)[:, 1], **close)
        torch.testing.assert_close(ours["box"], box, **close)
        assert logits.std(dim=0).min() > 0.1  # the crops are told apart
        assert set(ours) == {"score", "box", *(["points"] if stage == "onet" else [])}
        for values in points:  # x1..x5 y1..y5
            x, y = ours["points"][:, 0::2], ours["points"][:, 1::2]
            torch.testing.assert_close(torch.cat([x, y], dim=1), values, **close)


@torch.no_grad()
def test_levels_of_odd_size_are_proposed_as_with_ceil_pooling(fakes: Any, tmp_path: Path) -> None:
    stage: Any = imported(fakes, "npy", tmp_path / "m.safetensors").stages[0]
    t = tensors(fakes.weights["pnet"])
    level = torch.from_numpy(noise(1, 3, 31, 44).astype(np.float32) - 127.5) / 128
    layers = [[t[f"{kind}{n}.{part}"] for n in (1, 2, 3)] for kind, part in
              (("conv", "weight"), ("conv", "bias"), ("prelu", "weight"))]  # fmt: skip
    box = F.conv2d(trunk(level, *layers, [2]), t["conv4_2.weight"], t["conv4_2.bias"])
    torch.testing.assert_close(stage.runner.network(level)["box"], box, atol=1e-5, rtol=1e-5)
    assert box.shape[2:] == (11, 17)


def test_all_formats_give_one_model(fakes: Any, tmp_path: Path) -> None:
    pictures = [noise(40, 53, 3), noise(3, 3, 3)]
    found = {}
    for format_name in FORMATS:
        out = tmp_path / f"{format_name}.safetensors"
        cascade = imported(fakes, format_name, out)
        found[format_name] = (load_model(out), cascade.batch(pictures, min_object_px=12))
    first, (detections, nothing) = found.pop("facenet-pytorch")
    assert len(detections) > 3
    assert detections.points is not None
    assert len(nothing) == 0
    for contents, (other, _) in found.values():
        assert contents.thresholds == first.thresholds
        for stage, arrays in first.arrays.items():
            assert list(contents.arrays[stage]) == list(arrays)
            for name, array in arrays.items():
                np.testing.assert_array_equal(contents.arrays[stage][name], array)
        np.testing.assert_array_equal(other.boxes, detections.boxes)
        np.testing.assert_array_equal(other.scores, detections.scores)
        np.testing.assert_array_equal(other.points, detections.points)


@pytest.mark.parametrize("logits", [(0, 0), (3, -2), (-40, 41), (1e4, 1e4 + 1)])
def test_one_logit_is_the_difference_of_two(logits: tuple[float, float], fakes: Any) -> None:
    """Whatever the features are: the bias alone is looked at here, and any weight on them above."""
    state = {**fakes.weights["rnet"], "dense5_1.bias": np.array(logits, np.float32)}
    names = [f"net.{number}" for number in range(sum("_" not in name for name in state))]
    (one,) = stage_arrays(state, names)["heads.score.bias"].astype(np.float64)
    two = torch.softmax(torch.tensor(logits, dtype=torch.float64), 0)[1].item()
    assert 1 / (1 + np.exp(-one)) == pytest.approx(two, abs=1e-12)


class TestTheRecipe:
    def test_a_model_is_that_of_the_recipe_with_the_papers_thresholds(self, fakes: Any, tmp_path: Path) -> None:
        out = tmp_path / "m.safetensors"
        cascade = imported(fakes, "npy", out)
        assert [settings.score for settings in cascade.settings()] == [0.6, 0.7, 0.7]
        laxer = [settings.score for settings in cascade.settings(purpose="mine")]
        assert all(0 < mine < 0.6 for mine in laxer)
        held, recipe = load_model(out).recipe, recipe_to_dict(load_recipe("mtcnn_paper", preset="published"))
        assert {key: held[key] for key in ("stages", "image", "border", "pyramid", "object")} == {
            key: recipe[key] for key in ("stages", "image", "border", "pyramid", "object")
        }

    def test_it_runs_as_the_published_code(self) -> None:
        recipe = load_recipe("mtcnn_paper")
        settings = Cascade.build(recipe).settings()
        assert [(s.nms, s.nms_mode.value) for s in settings] == [(0.5, "union"), (0.7, "union"), (0.7, "minimum")]
        assert settings[0].nms_across_levels == 0.7
        assert (settings[0].min_object_px, settings[0].max_object_px, settings[0].factor) == (20, None, 0.709)
        assert min(s.max_per_image for s in settings) >= 1000
        assert (recipe.image.resample, recipe.border.mode) == ("area", "clip")
        on = [section.params.get("nms_on", "boxes") for section in recipe.stages.values()]
        assert on == ["windows", "windows", "boxes"]

    @pytest.mark.parametrize(
        ("preset", "inclusive", "whole"),
        [("published", False, [True, False, False]), ("exact", True, [True, True, False])],
    )
    def test_presets_of_the_published_code(self, preset: str, inclusive: bool, whole: list[bool]) -> None:
        recipe = load_recipe("mtcnn_paper", preset=preset)
        assert (recipe.image.resample, recipe.image.clip_boxes) == ("pooled", False)
        assert recipe.image.inclusive_boxes is inclusive
        assert [section.params.get("whole_pixels", False) for section in recipe.stages.values()] == whole

    def test_check_says_what_is_missing(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("FACES", str(tmp_path))
        assert main(["check", "mtcnn_paper"]) == 2
        assert str(tmp_path / "annotations" / "train.json") in capsys.readouterr().err


class TestWhereTheFilesAre:
    @pytest.mark.parametrize("inner", ["", "pnet.lz4", "onet.lz4"])
    def test_their_folder_or_one_of_them(self, inner: str, fakes: Any, tmp_path: Path) -> None:
        assert main(["import", "mtcnn", str(fakes.write("mtcnn") / inner), "--out", str(tmp_path / "m")]) == 0

    @pytest.mark.parametrize(
        ("format_name", "package", "data"),
        [("facenet-pytorch", "facenet_pytorch", "data"), ("mtcnn", "mtcnn", "assets/weights")],
    )
    def test_the_package(
        self,
        format_name: str,
        package: str,
        data: str,
        fakes: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Unpacked or installed; importing it would fail here, and must not be tried."""
        root, out = tmp_path / "site" / package, tmp_path / "m.safetensors"
        (root / data).parent.mkdir(parents=True)
        fakes.write(format_name).rename(root / data)
        (root / "__init__.py").write_text("raise RuntimeError('imported')")
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
        for path in ([], [str(tmp_path / "site")], [str(root)]):
            out.unlink(missing_ok=True)
            assert main(["import", format_name, *path, "--out", str(out)]) == 0
            assert out.is_file()
            assert str(root / data) in capsys.readouterr().out
        assert package not in sys.modules

    def test_no_package(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        for format_name, said in (("facenet-pytorch", "pip download"), ("mtcnn", "pip download"), ("npy", "det1.npy")):
            assert main(["import", format_name, "--out", str(tmp_path / "x.safetensors")]) == 2
            assert said in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


def test_it_says_what_it_made_and_what_comes_next(
    fakes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = tmp_path / "deeper" / "m.safetensors", fakes.write("npy")
    assert main(["import", "npy", str(folder), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "pnet: mtcnn_pnet, 6,599 parameters, score >= 0.6",
        "rnet: mtcnn_rnet, 100,049 parameters, score >= 0.7",
        "onet: mtcnn_onet, 388,783 parameters, score >= 0.7",
    ]
    assert [line.split()[1] for line in lines[3:5]] == [str(folder), str(out)]
    command = lines[5].split("cascade-det ")[1].split()
    picture = tmp_path / "photo.jpg"
    write_image(picture, noise(40, 40, 3))
    assert main([str(picture) if word == "photo.jpg" else word for word in command]) == 0
