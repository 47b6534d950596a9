"""Model files with faults, through `detect`: refused with the reason, nothing imported and nothing run."""

from __future__ import annotations

import copy
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file as save_torch_file

from cascade_det.cascade import Cascade
from cascade_det.cli.app import main
from cascade_det.core.imaging import write_image
from cascade_det.core.recipe import recipe_from_dict
from cascade_det.model_file import ModelContents, load_model, save_model

Data = dict[str, Any]
RECIPE: Data = {
    "presets": {"wrong_key": {"image.resampel": "area"}, "wrong_value": {"image.resample": "cubic"}, "number": 5},
    "stages": {
        "pnet": {
            "kind": "proposer",
            "window_hw": [12, 12],
            "net": {"kind": "mtcnn_pnet", "params": {"alpha": 0.2}},
            "heads": {"score": {"kind": "classification"}, "box": {"kind": "box_offset"}},
        },
        "rnet": {
            "kind": "refiner",
            "window_hw": [24, 24],
            "net": {"kind": "mtcnn_rnet", "params": {"alpha": 0.1}},
            "heads": {"score": {"kind": "classification"}},
        },
    },
}


class Model:
    """A model of chance weights to write with faults, and the verb that must refuse it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], good: ModelContents) -> None:
        self.path = folder / "model.safetensors"
        self._picture = folder / "picture.png"
        self._capsys = capsys
        write_image(self._picture, np.zeros((24, 24, 3), np.uint8))
        self.recipe: Data = copy.deepcopy(dict(good.recipe))
        self.thresholds: Data = {"pnet": {"detect": 0.5, "mine": 0.5}}
        self.arrays: dict[str, dict[str, Any]] = {stage: dict(arrays) for stage, arrays in good.arrays.items()}

    def write(self) -> bytes:
        save_model(self.path, ModelContents(self.recipe, self.thresholds, self.arrays))
        return self.path.read_bytes()

    def detect(self, *flags: str) -> tuple[int, str]:
        """Return the exit code and the last line of standard error."""
        code = main(["detect", str(self.path), str(self._picture), "--device", "cpu", *flags])
        out, err = self._capsys.readouterr()
        assert code == 0 or out == ""
        return code, err.strip().splitlines()[-1]

    def assert_refused(self, reason: str, *flags: str) -> None:
        code, error = self.detect(*flags)
        assert (code, error.split(":")[0]) == (2, "error")
        assert str(self.path) in error
        assert reason in error
        assert len(error) < 800 + len(str(self.path))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> ModelContents:
    path = tmp_path_factory.mktemp("good") / "model.safetensors"
    Cascade.build(recipe_from_dict(RECIPE, path.parent)).save(path)
    return load_model(path)


@pytest.fixture
def model(tmp_path: Path, capsys: pytest.CaptureFixture[str], good: ModelContents) -> Model:
    return Model(tmp_path, capsys, good)


def test_the_model_without_faults_runs(model: Model) -> None:
    model.write()
    assert model.detect()[0] == 0


def test_cut_short_anywhere(model: Model) -> None:
    content = model.write()
    for length in [*range(16), *range(16, len(content), len(content) // 60), len(content) - 1]:
        model.path.write_bytes(content[:length])
        model.assert_refused("")


def test_a_flipped_byte_anywhere(model: Model) -> None:
    content = model.write()
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(8), *range(8, header, 97), *range(header, len(content), len(content) // 40), len(content) - 1]
    assert len([place for place in places if place >= header]) > 20
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 0xFF
        model.path.write_bytes(flipped)
        model.assert_refused("")


def header_file(text: str) -> bytes:
    """Return a safetensors file without arrays and with this text as the metadata of this package."""
    header = json.dumps({"__metadata__": {"cascade_det": text}}).encode()
    return struct.pack("<Q", len(header)) + header


class Canary:
    """Its unpickling writes a file, as would any code hidden in a model."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self._mark, "executed")


def test_a_pickle_is_not_run(model: Model, tmp_path: Path) -> None:
    hidden = pickle.dumps(Canary(tmp_path / "mark"))
    pickle.loads(hidden)
    assert (tmp_path / "mark").is_file()  # so it would tell
    (tmp_path / "mark").unlink()
    model.path.write_bytes(hidden)
    model.assert_refused("not a model file")
    torch.save(Canary(tmp_path / "mark"), model.path)
    model.assert_refused("not a model file")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "metadata is damaged"),
        ('{"format":1,"recipe":' + "[" * 3000 + "]" * 3000 + "}", "metadata is damaged"),
        ('{"format":1' + "0" * 5000 + "}", "metadata is damaged"),
        (json.dumps({"format": 1, "recipe": {}, "thresholds": {}, "digest": "", "stages": 5}), "metadata is damaged"),
        (json.dumps({"format": 1, "recipe": {}, "thresholds": {}, "digest": "", "stages": [[]]}), "metadata is dam"),
        (json.dumps({"format": 3}), "model format 3; this version reads format 1. Update cascade_det"),
        (json.dumps({"format": "x" * 9999}), "this version reads format 1"),
    ],
)
def test_metadata(model: Model, text: str, reason: str) -> None:
    model.path.write_bytes(header_file(text))
    model.assert_refused(reason)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_numbers_that_numpy_does_not_know(model: Model, dtype: torch.dtype) -> None:
    save_torch_file({"pnet/weight": torch.zeros(3).to(dtype)}, model.path, {"cascade_det": "{}"})
    model.assert_refused("not a readable model file")


def set_key(full_key: str, value: Any) -> Callable[[Model], object]:
    def change(model: Model) -> None:
        *sections, last = full_key.split(".")
        inner = model.recipe
        for section in sections:
            inner = inner[section]
        inner[last] = value

    return change


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("piramid", {}, "key 'piramid': there is no such key; did you mean 'pyramid'?"),
        ("stages.pnet.keep.nsm", 1, "key 'stages.pnet.keep.nsm': there is no such key; did you mean 'nms'?"),
        ("object", None, "key 'object'"),
        ("format", 2, "format=2; this version reads format 1"),
        ("image.resample", "cubic", "image.resample='cubic': Choices: area, linear"),
        ("border.mode", "mirror", "border.mode='mirror'"),
        ("pyramid.factor", 2, "pyramid.factor=2.0: must lie in (0, 1)"),
        ("pyramid.factor", float("nan"), "pyramid.factor=nan: must be a finite number"),
        ("pyramid.min_object_px", 0, "pyramid.min_object_px=0.0: must be greater than 0"),
        ("stages.pnet.keep.score", "high", "stages.pnet.keep.score='high'"),
        ("stages.pnet.keep.nms_mode", "max", "stages.pnet.keep.nms_mode='max'"),
        ("stages.pnet.window_hw", [12], "stages.pnet.window_hw=[12]"),
        ("stages.pnet.window_hw", [4_000_000, 4_000_000], "stages.pnet.net.params"),
        ("stages.pnet.kind", "propser", "stages.pnet.kind='propser'"),
        ("stages.pnet.net.kind", "mtcnn_qnet", "stages.pnet.net.kind='mtcnn_qnet'"),
        ("stages.pnet.net.params", {"alhpa": 1}, "stages.pnet.net.params.alhpa=1"),
        ("stages.rnet.heads", {"box": {"kind": "box_offset"}}, "exactly one head that fills scores"),
        ("plugins", "os", "plugins='os', which is no list of names"),
        ("plugins", 5, "plugins=5, which is no list of names"),
        ("plugins", [5], "plugins=[5], which is no list of names"),
    ],
)
def test_its_recipe(model: Model, key: str, value: Any, reason: str) -> None:
    set_key(key, value)(model)
    model.write()
    model.assert_refused(reason)


@pytest.mark.parametrize(
    ("preset", "reason"),
    [
        ("wrong_key", "key 'image.resampel'"),
        ("wrong_value", "image.resample='cubic': Choices: area, linear"),
        ("number", "presets.number=5: must map full keys to values"),
        ("wrong", "preset 'wrong' is not in"),
    ],
)
def test_its_presets(model: Model, preset: str, reason: str) -> None:
    model.write()
    model.assert_refused(reason, "--preset", preset)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 2, "0.5", None, [0.5], True])
def test_a_threshold_that_is_no_probability(model: Model, value: Any) -> None:
    model.thresholds["pnet"]["detect"] = value
    model.write()
    model.assert_refused("the threshold pnet.detect=")


def change_arrays(model: Model, fault: str) -> None:
    pnet = model.arrays["pnet"]
    name = "heads.box.bias"
    if fault in ("nan", "infinite"):
        pnet[name] = np.where(np.arange(4) == 2, np.nan if fault == "nan" else -np.inf, pnet[name]).astype(np.float32)
    elif fault == "shape":
        pnet[name] = pnet[name][:3]
    elif fault == "missing":
        del pnet[name]
    elif fault == "superfluous":
        pnet["heads.box.more"] = np.zeros(1, np.float32)
    elif fault == "missing stage":
        del model.arrays["pnet"]
    elif fault == "stage without arrays":
        pnet.clear()
    else:
        model.arrays["onet"] = {"weight": np.zeros(1, np.float32)}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("nan", "the array 'pnet/heads.box.bias' holds NaN or infinite values"),
        ("infinite", "the array 'pnet/heads.box.bias' holds NaN or infinite values"),
        ("shape", "'heads.box.bias' has shape (3,), this net needs (4,)"),
        ("missing", "the weights lack 'heads.box.bias'"),
        ("superfluous", "the weights hold 'heads.box.more', which this net lacks"),
        ("missing stage", "holds weights of the stages ['rnet'], its recipe has ['pnet', 'rnet']"),
        ("stage without arrays", "the weights lack"),
        ("superfluous stage", "holds weights of the stages ['pnet', 'rnet', 'onet'], its recipe has ['pnet', 'rnet']"),
    ],
)
def test_its_arrays(model: Model, fault: str, reason: str) -> None:
    change_arrays(model, fault)
    model.write()
    model.assert_refused(reason)


class TestPlugins:
    @pytest.fixture
    def mark(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """Return the file that `canary`, a module beside the model and on the path, writes when it is imported."""
        import sys

        mark = tmp_path / "mark"
        (tmp_path / "canary.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
        monkeypatch.syspath_prepend(tmp_path)
        before = set(sys.modules)
        yield mark
        for name in set(sys.modules) - before:
            del sys.modules[name]

    @pytest.mark.parametrize("name", ["canary", "canary.py"])
    def test_it_is_named_and_imported_only_where_allowed(self, model: Model, mark: Path, name: str) -> None:
        model.recipe["plugins"] = [name]
        model.write()
        model.assert_refused(f"the model needs the plug-in {name!r}")
        assert not mark.exists()
        assert model.detect("--allow-plugins")[0] == 0
        assert mark.exists()

    @pytest.mark.parametrize("trick", ["../{folder}/canary.py", "{path}/canary.py", "a/../canary.py"])
    def test_a_path_that_leaves_the_folder(self, model: Model, mark: Path, tmp_path: Path, trick: str) -> None:
        name = trick.format(folder=tmp_path.name, path=tmp_path)
        model.recipe["plugins"] = [name]
        model.write()
        model.assert_refused(f"the model needs the plug-in {name!r}")
        model.assert_refused(f"the plug-in {name!r}, which lies outside of its folder", "--allow-plugins")
        assert not mark.exists()

    def test_its_base_dir_names_no_other_folder(self, model: Model, mark: Path, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (tmp_path / "canary.py").rename(elsewhere / "canary.py")
        model.recipe |= {"plugins": ["canary.py"], "base_dir": str(elsewhere)}
        model.write()
        code, error = model.detect("--allow-plugins")
        assert (code, "canary.py' was sought in" in error) == (2, True)
        assert not mark.exists()

    @pytest.mark.parametrize("name", ["", ".", "..", "canary/", "${oc.env:HOME}", "absent.py\0", "\ud800.py"])
    def test_a_name_that_is_none(self, model: Model, mark: Path, name: str) -> None:
        model.recipe["plugins"] = [name]
        model.write()
        model.assert_refused("the model needs the plug-in")
        code, error = model.detect("--allow-plugins")
        assert (code, error.split(":")[0]) == (2, "error")
        assert not mark.exists()
