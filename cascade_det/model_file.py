"""One ``.safetensors`` file holds a whole cascade: the stages' arrays, the recipe and the calibrated thresholds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.data.atomic import write_bytes_atomic
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
        arrays: per stage its named arrays; a stage without any has an empty mapping.
    """

    recipe: Mapping[str, Any]
    thresholds: Mapping[str, Mapping[str, float]]
    arrays: Mapping[str, Mapping[str, NDArray[Any]]]


def save_model(path: Path, contents: ModelContents) -> None:
    """Write a model file beside `path` and rename it; equal contents give equal bytes."""
    from safetensors.numpy import save

    flat = {f"{s}/{n}": np.asarray(a, order="C") for s, arrays in contents.arrays.items() for n, a in arrays.items()}
    header = {
        "format": FORMAT,
        "recipe": contents.recipe,
        "thresholds": contents.thresholds,
        "stages": list(contents.arrays),
    }
    header["digest"] = _digest(flat, header)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(path, save(flat, metadata={_METADATA_KEY: json.dumps(header, sort_keys=False)}))


def load_model(path: Path) -> ModelContents:
    """Read a model file. Nothing is executed or imported.

    Raises:
        ModelError: missing, truncated, not a model of this package, damaged, of a newer format, or with values that
            no training gives (weights that are not finite, thresholds that are no probabilities).
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
            names = file.keys() if text is not None else ()
            flat = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:  # the last two: odd dtypes
        raise ModelError(f"{path}: not a readable model file ({error}).") from error
    if text is None:
        raise ModelError(f"{path}: a safetensors file, but no cascade_det model (its metadata lacks the recipe).")
    return _contents(path, text, flat)


def _contents(path: Path, text: str, flat: Mapping[str, NDArray[Any]]) -> ModelContents:
    try:
        header = json.loads(text)
        if header["format"] != FORMAT:
            newer = f"model format {str(header['format'])[:20]}; this version reads format {FORMAT}"
            raise ModelError(f"{path}: {newer}. Update cascade_det.")
        recipe, digest = dict(header["recipe"]), header.pop("digest")
        thresholds = {stage: dict(values) for stage, values in header["thresholds"].items()}
        arrays: dict[str, dict[str, NDArray[Any]]] = {stage: {} for stage in header.get("stages", ())}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: the model's metadata is damaged ({error}).") from error
    if digest not in (_digest(flat, header), _digest(flat)):  # the first models have a checksum of the weights alone
        raise ModelError(f"{path}: the content does not match its checksum; the file is damaged, get it again.")
    for name, array in flat.items():
        stage, _, inner = name.partition("/")
        arrays.setdefault(stage, {})[inner] = array
    _check_values(path, recipe, thresholds, flat)
    return ModelContents(recipe, thresholds, arrays)


def _check_values(
    path: Path, recipe: Mapping[str, Any], thresholds: Mapping[str, Mapping[str, Any]], flat: Mapping[str, NDArray[Any]]
) -> None:
    plugins = recipe.get("plugins", [])
    if not isinstance(plugins, list) or not all(isinstance(name, str) for name in plugins):
        raise ModelError(f"{path}: its recipe has plugins={plugins!r}, which is no list of names.")
    for stage, values in thresholds.items():
        for purpose, value in values.items():
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise ModelError(f"{path}: the threshold {stage}.{purpose}={value!r} must lie in [0, 1].")
    for name, array in flat.items():
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise ModelError(f"{path}: the array {name!r} holds NaN or infinite values; train it again, at a lower lr.")


def _digest(flat: Mapping[str, NDArray[Any]], header: Mapping[str, Any] | None = None) -> str:
    digest = hashlib.sha256(b"" if header is None else json.dumps(header).encode())
    for name in sorted(flat):
        array = np.asarray(flat[name], order="C")
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
