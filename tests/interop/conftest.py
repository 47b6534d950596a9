"""Fake files of public MTCNN weights: one set of random numbers, written in each of the public layouts."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import lz4.frame
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

State = dict[str, NDArray[np.float32]]  # arrays by name, as facenet-pytorch has them
Weights = dict[str, State]  # by stage

CONVOLUTIONS = {"pnet": (10, 16, 32), "rnet": (28, 48, 64), "onet": (32, 64, 64, 128)}
DENSE = {"rnet": 128, "onet": 256}
OUTPUTS = {"pnet": (2, 4), "rnet": (2, 4), "onet": (2, 4, 10)}
FILES = {
    "facenet-pytorch": {"pnet": "pnet.pt", "rnet": "rnet.pt", "onet": "onet.pt"},
    "mtcnn": {"pnet": "pnet.lz4", "rnet": "rnet.lz4", "onet": "onet.lz4"},
    "npy": {"pnet": "det1.npy", "rnet": "det2.npy", "onet": "det3.npy"},
}


def random_state(stage: str, rng: np.random.Generator) -> State:
    """Return random weights of a net, such that some windows of noise pass it."""
    state: State = {}

    def put(name: str, *shape: int) -> None:
        spread = (2 / np.prod(shape[1:])) ** 0.5
        state[f"{name}.weight"] = rng.normal(0, spread, shape).astype(np.float32)
        state[f"{name}.bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)

    channels, layers = 3, CONVOLUTIONS[stage]
    for number, wide in enumerate(layers, start=1):
        side = 2 if number == len(layers) and stage != "pnet" else 3
        put(f"conv{number}", wide, channels, side, side)
        state[f"prelu{number}.weight"] = rng.uniform(-0.5, 0.5, wide).astype(np.float32)
        channels = wide
    number = len(layers) + 1
    if stage in DENSE:
        put(f"dense{number}", DENSE[stage], 9 * channels)
        state[f"prelu{number}.weight"] = rng.uniform(-0.5, 0.5, DENSE[stage]).astype(np.float32)
        channels, number = DENSE[stage], number + 1
    kind, place = ("conv", (1, 1)) if stage == "pnet" else ("dense", ())
    for head, size in enumerate(OUTPUTS[stage], start=1):
        put(f"{kind}{number}_{head}", size, channels, *place)
        state[f"{kind}{number}_{head}.weight"] *= np.float32(0.3)
    if stage != "pnet":
        state[f"{kind}{number}_1.bias"] = np.array([-1, 1], np.float32)
    return state


def facenet_pytorch_bytes(state: State) -> bytes:
    """Return the older of torch's two file formats, which the package has."""
    file = io.BytesIO()
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def keras_arrays(state: State) -> list[NDArray[np.float32]]:
    """Return the arrays in the order of the Keras models: trunk, box, points, score."""
    ends = [int(name.split("_")[1][0]) if "_" in name else 0 for name in state]
    order = sorted(range(len(ends)), key=lambda row: [0, 3, 1, 2][ends[row]])
    return [_keras(name, state[name]) for name in (list(state)[row] for row in order)]


def _keras(name: str, value: NDArray[np.float32]) -> NDArray[np.float32]:
    if value.ndim == 4:
        return np.ascontiguousarray(np.einsum("oihw->hwio", value))
    if name.startswith("prelu") and value.size not in (128, 256):  # a slope for each channel, at all places
        return value[None, None]
    return np.ascontiguousarray(value.T) if value.ndim == 2 else value


def joblib_bytes(value: object) -> bytes:
    file = io.BytesIO()
    joblib.dump(value, file)
    return lz4.frame.compress(file.getvalue())


def caffe_layers(state: State) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Return layers by name, with kernels (width, height, in, out) in upright terms."""
    layers: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, value in state.items():
        layer, part = name.replace("dense", "conv").replace("_", "-").split(".")
        if layer.startswith("prelu"):
            layers["PReLU" + layer[5:] if len(state) == 13 else layer] = {"alpha": value}
        else:
            turned = np.einsum("oihw->whio", value) if value.ndim == 4 else value.T
            layers.setdefault(layer, {})[{"weight": "weights", "bias": "biases"}[part]] = np.ascontiguousarray(turned)
    return layers


def npy_bytes(value: object) -> bytes:
    holder = np.empty((), object)
    holder[()] = value
    file = io.BytesIO()
    np.save(file, holder, allow_pickle=True)
    return file.getvalue()


TO_BYTES: dict[str, Callable[[State], bytes]] = {
    "facenet-pytorch": facenet_pytorch_bytes,
    "mtcnn": lambda state: joblib_bytes(keras_arrays(state)),
    "npy": lambda state: npy_bytes(caffe_layers(state)),
}


class Fakes:
    """Writes fake weights; what a test needs of the above goes with it, since test modules cannot import this one."""

    files = FILES
    to_bytes = TO_BYTES
    keras_arrays = staticmethod(keras_arrays)
    caffe_layers = staticmethod(caffe_layers)
    joblib_bytes = staticmethod(joblib_bytes)
    npy_bytes = staticmethod(npy_bytes)

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(5)
        self.weights = {stage: random_state(stage, rng) for stage in CONVOLUTIONS}
        self._folder = folder

    def write(self, format_name: str, **changed: bytes | None) -> Path:
        """Write the three files into a new folder; bytes under a stage's name replace its file, None leaves it out."""
        folder = self._folder / f"{format_name}_{len(list(self._folder.iterdir()))}"
        folder.mkdir()
        for stage, name in FILES[format_name].items():
            data: Any = changed.get(stage, TO_BYTES[format_name](self.weights[stage]) if stage not in changed else None)
            if data is not None:
                (folder / name).write_bytes(data)
        return folder


@pytest.fixture
def fakes(tmp_path: Path) -> Fakes:
    """Return a writer of fake weights, all formats from one set of numbers."""
    return Fakes(tmp_path)
