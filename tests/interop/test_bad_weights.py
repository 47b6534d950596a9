"""Damaged, foreign and hostile files of weights: exit 2, one paragraph that names the file, nothing run or written.

A hostile file would make a folder when it is unpickled; each row first shows, with the loader that the packages
themselves use, that it is armed.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import lz4.frame
import numpy as np
import pytest
import torch

from cascade_det.cascade import Cascade
from cascade_det.cli.app import main
from cascade_det.data import atomic

FORMATS = ["facenet-pytorch", "mtcnn", "npy"]
every_format = pytest.mark.parametrize("format_name", FORMATS)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def refusal(format_name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Import, and return the one paragraph of the refusal; neither a new nor an old file at --out is touched."""
    out = folder / "new.safetensors"
    capsys.readouterr()
    assert main(["import", format_name, str(folder), "--out", str(out)]) == 2
    assert not out.exists()
    said = capsys.readouterr()
    old = folder / "old.safetensors"
    old.write_bytes(b"old")
    assert main(["import", format_name, str(folder), "--out", str(old)]) == 2
    assert old.read_bytes() == b"old"
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert len(line) < 700
    return line


def saved(value: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def objects(value: object) -> Any:
    array = np.empty(1, object)
    array[0] = value
    return array


def in_tar(data: bytes) -> bytes:
    """Return the oldest format of torch: a tar archive with pickles in it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle", "sys_info"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def untar(file: io.BytesIO) -> object:
    with tarfile.open(fileobj=file) as archive:
        inner = archive.extractfile("pickle")
        assert inner is not None
        return pickle.load(inner)


def load_lz4(file: io.BytesIO) -> object:
    return joblib.load(io.BytesIO(lz4.frame.decompress(file.read())))


def load_torch(file: io.BytesIO) -> object:
    return torch.load(file, weights_only=False)


def load_npy(file: io.BytesIO) -> object:
    return np.load(file, allow_pickle=True)


HOSTILE: dict[str, tuple[str, Callable[[Any, Any], bytes], Callable[[Any], object]]] = {
    "a tensor of a state dict": ("facenet-pytorch", lambda f, t: saved({"conv1.weight": t}), load_torch),
    "the older torch format": (
        "facenet-pytorch", lambda f, t: saved({"a": t}, _use_new_zipfile_serialization=False), load_torch),
    "the oldest torch format": ("facenet-pytorch", lambda f, t: in_tar(pickle.dumps(t)), untar),
    "a bare pickle for torch": ("facenet-pytorch", lambda f, t: pickle.dumps(t), pickle.load),
    "an item of the list": ("mtcnn", lambda f, t: f.joblib_bytes([np.zeros(3, "f4"), t]), load_lz4),
    "an array of objects": ("mtcnn", lambda f, t: f.joblib_bytes([objects(t)]), load_lz4),
    "a bare pickle for joblib": ("mtcnn", lambda f, t: lz4.frame.compress(pickle.dumps(t)), load_lz4),
    "the dict itself": ("npy", lambda f, t: f.npy_bytes(t), load_npy),
    "a layer": ("npy", lambda f, t: f.npy_bytes({"conv1": {"weights": t}}), load_npy),
    "an array in a layer": ("npy", lambda f, t: f.npy_bytes({"conv1": {"weights": objects(t)}}), load_npy),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("stage", ["pnet", "onet"])
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:joblib")
def test_nothing_of_a_hostile_file_runs(
    case: str, stage: str, fakes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    format_name, write, plain_loader = HOSTILE[case]
    made = tmp_path / "made_by_the_file"
    data = write(fakes, Trap(made))
    plain_loader(io.BytesIO(data))
    made.rmdir()  # it was there: the trap works
    folder = fakes.write(format_name, **{stage: data})
    assert str(folder / fakes.files[format_name][stage]) in refusal(format_name, folder, capsys)
    assert not made.exists()


class Reduced:
    """Is pickled as the call, with the state, that it is made of."""

    def __init__(self, *reduced: Any) -> None:
        self._reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


@pytest.mark.parametrize("code", ["O8", "V8", "i4", "U9", "f1", "f4,O", 3])
@pytest.mark.parametrize("order", ["<", "|"])
def test_a_dtype_that_is_no_float(code: Any, order: str, fakes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """numpy itself would take the bytes of such an array for addresses where the state says "no objects here"."""
    dtype = Reduced(np.dtype, (code, False, True), (3, order, None, None, None, -1, -1, 0))
    reconstruct = np.zeros(1).__reduce__()[0]
    array = Reduced(reconstruct, (np.ndarray, (0,), b"b"), (1, (1,), dtype, False, bytes(8)))
    line = refusal("npy", fakes.write("npy", pnet=fakes.npy_bytes({"conv1": {"weights": array}})), capsys)
    assert "det1.npy: " in line
    assert "floats are expected" in line or "no array under 'conv1'" in line or code == 3


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "a text": lambda data: b"not weights at all\n" * 9,
    "zeros": lambda data: bytes(500),
    "half of it": lambda data: data[: len(data) // 2],
    "all but its end": lambda data: data[:-40],
    "without its beginning": lambda data: data[9:],
    "far too large": lambda data: data + bytes(20 << 20),
}


@pytest.mark.parametrize("case", DAMAGED)
@every_format
def test_a_damaged_file(case: str, format_name: str, fakes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data = DAMAGED[case](fakes.to_bytes[format_name](fakes.weights["rnet"]))
    folder = fakes.write(format_name, rnet=data)
    assert f"{folder / fakes.files[format_name]['rnet']}: " in refusal(format_name, folder, capsys)


def changed(state: Any, name: str, value: Any) -> Any:
    return {key: value(array) if key == name else array for key, array in state.items()}


def with_nan(array: Any) -> Any:
    result = array.copy()
    result.flat[1] = np.nan
    return result


FOREIGN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another net": (lambda weights: weights["pnet"], "another net|lacks|holds|shape"),
    "one channel less": (lambda w: changed(w["rnet"], "conv2.weight", lambda a: a[:, 1:]), "shape"),
    "a bias too many": (lambda w: changed(w["rnet"], "conv2.bias", lambda a: np.append(a, a[:1])), "shape"),
    "a kernel without a side": (lambda w: changed(w["rnet"], "conv2.weight", lambda a: a[..., 0]), "shape"),
    "a dense layer without inputs": (lambda w: changed(w["rnet"], "dense4.weight", lambda a: a[:, :0]), "shape"),
    "NaN in a kernel": (lambda w: changed(w["rnet"], "conv2.weight", with_nan), "NaN"),
    "infinite slopes": (lambda w: changed(w["rnet"], "prelu4.weight", lambda a: a / np.float32(0)), "infinite"),
    "double precision": (lambda w: changed(w["rnet"], "dense5_1.weight", lambda a: a.astype(np.float64)), "float64"),
    "a layer less": (lambda w: {k: v for k, v in w["rnet"].items() if "conv3" not in k}, "conv3|arrays"),
    "a layer more": (lambda w: {**w["rnet"], "extra.weight": np.zeros(2, "f4")}, "extra|arrays"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
@every_format
def test_weights_of_another_net(case: str, format_name: str, fakes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    make, said = FOREIGN[case]
    with np.errstate(divide="ignore", invalid="ignore"):
        state = make(fakes.weights)
    folder = fakes.write(format_name, rnet=fakes.to_bytes[format_name](state))
    line = refusal(format_name, folder, capsys)
    assert f"{folder / fakes.files[format_name]['rnet']}: " in line
    assert any(word in line for word in said.split("|"))


@pytest.mark.parametrize(
    ("format_name", "value", "said"),
    [
        ("facenet-pytorch", [], "list"),
        ("facenet-pytorch", torch.zeros(3), "Tensor"),
        ("facenet-pytorch", {}, "nothing"),
        ("facenet-pytorch", {1: torch.zeros(3)}, "dict"),
        ("facenet-pytorch", {"conv1.weight": [1.0]}, "dict"),
        ("mtcnn", {}, "no list of arrays"),
        ("mtcnn", [], "0 arrays"),
        ("mtcnn", [1] * 13, "no list of arrays"),
        ("mtcnn", [np.zeros(3, "i4")] * 13, "floats are expected"),
        ("mtcnn", [np.zeros((1025, 1024), "f4")], "values, more than"),
        ("npy", [], "of type list"),
        ("npy", {}, "nothing"),
        ("npy", {"conv1": 3}, "conv1"),
        ("npy", {"conv1": {"weights": [1.0]}}, "weights"),
        ("npy", {"conv1": {"shape": np.zeros(3, "f4")}}, "lacks 'conv1.weight'"),
    ],
)
def test_a_file_that_holds_something_else(
    format_name: str, value: Any, said: str, fakes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write = {"facenet-pytorch": saved, "mtcnn": fakes.joblib_bytes, "npy": fakes.npy_bytes}[format_name]
    folder = fakes.write(format_name, pnet=write(value))
    line = refusal(format_name, folder, capsys)
    assert f"{folder / fakes.files[format_name]['pnet']}: " in line
    assert said in line


def test_plain_arrays_in_an_npy_file(fakes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = io.BytesIO()
    np.save(file, np.zeros((3, 3), np.float32))
    assert "float32 with shape (3, 3)" in refusal("npy", fakes.write("npy", pnet=file.getvalue()), capsys)


def test_an_lz4_file_that_unpacks_to_far_more(fakes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bomb = lz4.frame.compress(bytes(200 << 20))
    assert len(bomb) < 1 << 20
    assert "far larger" in refusal("mtcnn", fakes.write("mtcnn", pnet=bomb), capsys)


class TestWrongArguments:
    @pytest.mark.parametrize("stage", ["pnet", "rnet", "onet"])
    @every_format
    def test_a_missing_file(self, format_name: str, stage: str, fakes: Any, capsys: pytest.CaptureFixture[str]) -> None:
        folder = fakes.write(format_name, **{stage: None})
        line = refusal(format_name, folder, capsys)
        assert str(folder) in line
        assert f"no {fakes.files[format_name][stage]}" in line

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["facenet_pytorch"], "did you mean 'facenet-pytorch'"),
            (["npy", "{folder}/nowhere"], "nowhere: no such file or folder"),
            (["npy", "{folder}"], "has no det1.npy"),
            (["npy", "{folder}/pnet.pt"], "pnet.pt: is none of det1.npy"),
            (["facenet-pytorch", "{folder}/some.whl"], "zipfile -e some.whl"),
            (["facenet-pytorch", "{folder}", "--out", "{folder}"], "is a folder"),
            (["facenet-pytorch", "{folder}", "--out", "{folder}/pnet.pt"], "would be overwritten"),
            (["facenet-pytorch", "{folder}", "--out", "{folder}/pnet.pt/m"], "pnet.pt"),
        ],
    )
    def test_each(
        self, arguments: list[str], said: str, fakes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = fakes.write("facenet-pytorch")
        (folder / "some.whl").write_bytes(b"PK")
        before = (folder / "pnet.pt").read_bytes()
        words = [word.format(folder=folder) for word in arguments]
        words += [] if "--out" in words else ["--out", str(tmp_path / "new.safetensors")]
        assert main(["import", *words]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "new.safetensors").exists()
        assert (folder / "pnet.pt").read_bytes() == before

    @pytest.mark.parametrize("package", ["lz4", "joblib"])
    def test_a_package_that_is_not_installed(
        self, package: str, fakes: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = fakes.write("mtcnn")
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)
        assert "pip install 'cascade_det[pretrained]'" in refusal("mtcnn", folder, capsys)


def test_a_full_disk_leaves_the_old_file(
    fakes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    folder = fakes.write("npy")
    monkeypatch.setattr(atomic.os, "replace", fail)
    assert "no space left" in refusal("npy", folder, capsys)
    assert sorted(path.suffix for path in folder.iterdir()) == [".npy", ".npy", ".npy", ".safetensors"]


class TestOldPickles:
    """Public .npy files were written by Python 2, whose bytes and names are not those of today."""

    @pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
    @pytest.mark.parametrize("column_first", [False, True])
    def test_any_protocol(self, protocol: int, column_first: bool, fakes: Any, tmp_path: Path) -> None:
        layers = fakes.caffe_layers(fakes.weights["pnet"])
        if column_first:
            layers = {n: {p: np.asfortranarray(a) for p, a in parts.items()} for n, parts in layers.items()}
        data = self.npy(layers, lambda file, value: pickle.dump(value, file, protocol=protocol), fakes)
        self.same_as_today(data, fakes, tmp_path)

    def test_python_2(self, fakes: Any, tmp_path: Path) -> None:
        data = self.npy(fakes.caffe_layers(fakes.weights["pnet"]), lambda f, v: Python2Pickler(f, 2).dump(v), fakes)
        with pytest.raises(UnicodeError):  # as np.load without an encoding
            np.load(io.BytesIO(data), allow_pickle=True)
        self.same_as_today(data.replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"), fakes, tmp_path)

    def test_big_endian(self, fakes: Any, tmp_path: Path) -> None:
        layers = fakes.caffe_layers(fakes.weights["pnet"])
        turned = {n: {p: a.astype(">f4") for p, a in parts.items()} for n, parts in layers.items()}
        self.same_as_today(fakes.npy_bytes(turned), fakes, tmp_path)

    @staticmethod
    def npy(layers: Any, dump: Callable[[Any, Any], None], fakes: Any) -> bytes:
        header = fakes.npy_bytes({})
        holder = np.empty((), object)
        holder[()] = layers
        file = io.BytesIO()
        dump(file, holder)
        return header[: header.index(b"\n") + 1] + file.getvalue()

    @staticmethod
    def same_as_today(data: bytes, fakes: Any, tmp_path: Path) -> None:
        models = []
        for name, folder in (("old", fakes.write("npy", pnet=data)), ("new", fakes.write("npy"))):
            out = tmp_path / f"{name}.safetensors"
            assert main(["import", "npy", str(folder), "--out", str(out)]) == 0
            models.append(Cascade.load(out, device="cpu").stages[0].arrays())
        for name, array in models[1].items():
            np.testing.assert_array_equal(models[0][name], array)


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes bytes and text as Python 2 wrote its strings: without saying which of the two they are."""

    def save_string(self, value: str | bytes) -> None:
        data = value.encode() if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_string, str: save_string}  # type: ignore[attr-defined]  # noqa: RUF012
