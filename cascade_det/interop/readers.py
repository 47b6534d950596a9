"""One reader for each layout that MTCNN's weights are published in: bytes of a file -> arrays in the common layout.

None of them runs what a file could ask for. Readers raise whatever the file makes the libraries raise; who calls them
says which file it was.
"""

from __future__ import annotations

import io
import math
import tarfile
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.errors import ModelError
from cascade_det.interop.plain_pickle import PickledArray, PickledDtype, float_array, load_arrays, look_up
from cascade_det.interop.public_layout import wanted_shapes

_MOST_BYTES = 16 << 20  # of what an lz4 file may unpack to; the largest of MTCNN has 1.5 MiB

PublicArrays = dict[str, NDArray[Any]]


def read_facenet_pytorch(stage: str, data: bytes) -> PublicArrays:
    """Read a state dict of torch: tensors by name, already in the common layout."""
    import torch

    if tarfile.is_tarfile(io.BytesIO(data)):  # torch before 2.6 unpickles these in full, weights_only or not
        raise ModelError("is a tar archive of an early torch, not a state dict.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as one of an unusual protocol: here a file is taken or refused
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # its own message advises to load the file without the protection
        raise ModelError(
            f"is no torch file of tensors alone ({type(error).__name__}); nothing of it was run."
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and type(value) is torch.Tensor for name, value in state.items()
    ):
        raise ModelError(f"holds a {type(state).__name__}, not tensors by name (a state dict).")
    return {name: value.detach().numpy() for name, value in state.items()}


def read_mtcnn(stage: str, data: bytes) -> PublicArrays:
    """Read a joblib dump in an lz4 frame: a list of Keras arrays, kernels (height, width, in, out), box head first."""
    values = _load_joblib(_unpacked(data))
    names = _keras_names(stage)
    if not isinstance(values, list) or not all(isinstance(value, np.ndarray) for value in values):
        raise ModelError("holds no list of arrays.")
    if len(values) != len(names):
        raise ModelError(
            f"holds {len(values)} arrays, MTCNN's {stage} has {len(names)}; is it the file of another net?"
        )
    return {name: _from_keras(value) for name, value in zip(names, values, strict=True)}


def _keras_names(stage: str) -> list[str]:
    """Return the names of a stage's arrays in the order of its Keras model, whose heads are box, points, score."""
    names = list(wanted_shapes(stage))
    heads = [name for name in names if "_" in name]
    return [name for name in names if "_" not in name] + sorted(
        heads, key=lambda n: "231".index(n.partition(".")[0][-1])
    )


def _from_keras(value: NDArray[Any]) -> NDArray[Any]:
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.reshape(-1) if value.shape[:-1] == (1, 1) else value.T  # slopes, shared by all places


def _unpacked(data: bytes) -> bytes:
    try:
        import lz4.frame
    except ImportError as error:
        raise _missing_extra(error) from error
    frame = lz4.frame.LZ4FrameDecompressor()
    unpacked: bytes = frame.decompress(data, max_length=_MOST_BYTES)
    if not frame.eof:
        raise ModelError("is cut short, or far larger than the weights of MTCNN.")
    return unpacked


def _load_joblib(data: bytes) -> object:
    """Return what a joblib dump holds; joblib writes the bytes of an array behind the record that describes it."""
    try:
        from joblib import numpy_pickle
    except ImportError as error:
        raise _missing_extra(error) from error

    class ArrayRecord(numpy_pickle.NumpyArrayWrapper):  # type: ignore[misc]  # joblib has no types
        def read(self, unpickler: Any, *_of_newer_releases: object) -> NDArray[Any]:
            """Return the floats behind the record; joblib's own method would unpickle objects there."""
            file, dtype = unpickler.file_handle, self.dtype.numeric()
            if getattr(self, "numpy_array_alignment_bytes", None) is not None:
                file.read(file.read(1)[0])
            raw = file.read(math.prod(self.shape) * dtype.itemsize)
            return float_array(raw, self.shape, self.dtype, self.order)

    allowed = {
        ("joblib.numpy_pickle", "NumpyArrayWrapper"): ArrayRecord,
        ("numpy", "ndarray"): PickledArray,
        ("numpy", "dtype"): PickledDtype,
    }

    class Unpickler(numpy_pickle.NumpyUnpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            return look_up(allowed, module, name)

    return Unpickler("", io.BytesIO(data), None).load()


def _missing_extra(error: ImportError) -> ModelError:
    package = str(error.name).split(".")[0]
    return ModelError(
        f"needs the package {package!r} to be read, which is not installed: pip install 'cascade_det[pretrained]'."
    )


def read_npy(stage: str, data: bytes) -> PublicArrays:
    """Read det1.npy, det2.npy or det3.npy: a dict of layers, kernels (width, height, in, out) in upright terms."""
    layers = _load_npy(data)
    result: PublicArrays = {}
    for layer, parts in layers.items():
        for part, value in _mapping(parts, str(layer)).items():
            if not isinstance(value, PickledArray) or not isinstance(value.value, np.ndarray):
                raise ModelError(f"holds no array under {layer!r:.40}, {part!r:.40}.")
            array = value.value
            kernel = array.transpose(3, 2, 1, 0) if array.ndim == 4 else array.T
            result[_facenet_name(stage, str(layer), str(part))] = kernel
    return result


def _load_npy(data: bytes) -> Mapping[object, object]:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if shape != () or not dtype.hasobject:
        raise ModelError(f"holds an array of {dtype} with shape {shape}, not one dict of layers.")
    held = load_arrays(file)
    if not isinstance(held, PickledArray) or not isinstance(held.value, list) or len(held.value) != 1:
        raise ModelError("holds no dict of layers.")
    return _mapping(held.value[0], "")


def _mapping(value: object, layer: str) -> Mapping[object, object]:
    if not isinstance(value, dict):
        raise ModelError(
            f"holds {f'under {layer!r:.40} ' if layer else ''}no dict but a value of type {type(value).__name__}."
        )
    return value


def _facenet_name(stage: str, layer: str, part: str) -> str:
    """Return the common name of ("conv6-1", "weights"), ("PReLU1", "alpha") or a dense layer called conv4."""
    name = layer.lower().replace("-", "_")
    dense = name.replace("conv", "dense")
    if any(known.startswith(f"{dense}.") for known in wanted_shapes(stage)):
        name = dense
    return f"{name}.{ {'weights': 'weight', 'biases': 'bias', 'alpha': 'weight'}.get(part, part) }"
