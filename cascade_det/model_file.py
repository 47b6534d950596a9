"""One ``.safetensors`` file holds a whole cascade: the stages' arrays, the recipe and the calibrated thresholds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.errors import ModelError

FORMAT = 1
_METADATA_KEY = "cascade_det"  # one key only: safetensors does not keep the order of several
_MAX_HEADER = 16 << 20


@dataclass(frozen=True)
class ModelContents:
    """What a model file holds.

    Attributes:
        recipe: the recipe as nested plain values.
        thresholds: per stage ``{"detect": t, "mine": t}``, probabilities.
        arrays: per stage its named arrays.
    """

    recipe: Mapping[str, Any]
    thresholds: Mapping[str, Mapping[str, float]]
    arrays: Mapping[str, Mapping[str, NDArray[Any]]]


def save_model(path: Path, contents: ModelContents) -> None:
    """Write a model file beside `path` and rename it; equal contents give equal bytes."""
    from safetensors.numpy import save_file

    flat = {f"{s}/{n}": np.ascontiguousarray(a) for s, arrays in contents.arrays.items() for n, a in arrays.items()}
    header = {
        "format": FORMAT,
        "recipe": contents.recipe,
        "thresholds": contents.thresholds,
        "digest": _digest(flat),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    save_file(flat, beside, metadata={_METADATA_KEY: json.dumps(header, sort_keys=False)})
    os.replace(beside, path)


def load_model(path: Path) -> ModelContents:
    """Read a model file. Nothing is executed or imported.

    Raises:
        ModelError: missing, truncated, not a model of this package, damaged, or of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"{path}: no such model file.")
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > min(_MAX_HEADER, path.stat().st_size):
        raise ModelError(f"{path}: not a model file (its header claims {header_bytes:,} bytes); was it cut short?")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY)
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: not a readable model file ({error}).") from error
    if text is None:
        raise ModelError(f"{path}: a safetensors file, but no cascade_det model (its metadata lacks the recipe).")
    return _contents(path, text, flat)


def _contents(path: Path, text: str, flat: Mapping[str, NDArray[Any]]) -> ModelContents:
    try:
        header = json.loads(text)
        version, recipe, thresholds = header["format"], dict(header["recipe"]), dict(header["thresholds"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: the model's metadata is damaged ({error}).") from error
    if version != FORMAT:
        raise ModelError(f"{path}: model format {version}; this version reads format {FORMAT}. Update cascade_det.")
    if header.get("digest") != _digest(flat):
        raise ModelError(f"{path}: the weights do not match their checksum; the file is damaged, get it again.")
    arrays: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in flat.items():
        stage, _, inner = name.partition("/")
        arrays.setdefault(stage, {})[inner] = array
    return ModelContents(recipe, thresholds, arrays)


def _digest(flat: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(flat):
        array = np.ascontiguousarray(flat[name])
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
