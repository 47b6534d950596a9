"""Makes a model of this package from the published weights of MTCNN, wherever they lie."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cascade_det.cascade import Cascade
from cascade_det.core.recipe import load_recipe
from cascade_det.errors import CascadeError, ModelError, choices
from cascade_det.interop.public_layout import STAGES, Arrays, checked, stage_arrays
from cascade_det.interop.readers import PublicArrays, read_facenet_pytorch, read_mtcnn, read_npy

RECIPE, PRESET = "mtcnn_paper", "published"
# What the packages detect with; the second, laxer, is for whoever mines a stage of his own from them.
THRESHOLDS = {
    "pnet": {"detect": 0.6, "mine": 0.3},
    "rnet": {"detect": 0.7, "mine": 0.3},
    "onet": {"detect": 0.7, "mine": 0.3},
}
_MOST_BYTES = 16 << 20  # of one file; the largest has 1.6 MB


@dataclass(frozen=True)
class PublicFormat:
    """A layout that the weights are published in.

    Attributes:
        files: names of the files of P-, R- and O-Net.
        read: from a stage's name and the bytes of its file to arrays in the common layout.
        package: the Python package that carries them, "" where none does.
        folder: where in the package.
        project: its name for pip.
    """

    files: tuple[str, str, str]
    read: Callable[[str, bytes], PublicArrays]
    package: str = ""
    folder: str = ""
    project: str = ""


FORMATS: Mapping[str, PublicFormat] = {
    "facenet-pytorch": PublicFormat(
        ("pnet.pt", "rnet.pt", "onet.pt"), read_facenet_pytorch, "facenet_pytorch", "data", "facenet-pytorch==2.6.0"
    ),
    "mtcnn": PublicFormat(
        ("pnet.lz4", "rnet.lz4", "onet.lz4"), read_mtcnn, "mtcnn", "assets/weights", "mtcnn==1.0.0"
    ),
    "npy": PublicFormat(("det1.npy", "det2.npy", "det3.npy"), read_npy),
}  # fmt: skip


def import_mtcnn(format_name: str, path: Path | None = None) -> tuple[Cascade, Path]:
    """Build the cascade of the recipe `mtcnn_paper` with published weights.

    Args:
        format_name: a key of `FORMATS`.
        path: the folder of the three files, one of them, or the folder that the package's wheel was unpacked into;
            without it the installed package is looked for, and not imported.

    Returns:
        The cascade, and the folder that its weights came from.

    Raises:
        ModelError: no such format, a file is missing, unreadable, holds anything but the arrays of its net, or a
            package that reads it is missing.
    """
    if format_name not in FORMATS:
        raise ModelError(f"import {format_name!r}: {choices(format_name, FORMATS)}.")
    source = FORMATS[format_name]
    folder = find_folder(format_name, path)
    arrays = {stage: _read(folder / name, source, stage) for stage, name in zip(STAGES, source.files, strict=True)}
    recipe = load_recipe(RECIPE, preset=PRESET)
    cascade = Cascade.build(dataclasses.replace(recipe, description=f"MTCNN, imported from {format_name}"), THRESHOLDS)
    for stage in cascade.stages:
        stage.load_arrays(stage_arrays(arrays[stage.name], stage.arrays()))
    return cascade, folder


def find_folder(format_name: str, path: Path | None) -> Path:
    """Return the folder that holds the three files of a format; see `import_mtcnn`."""
    source = FORMATS[format_name]
    places = _installed(format_name, source) if path is None else _named(format_name, source, path)
    for place in places:
        if all((place / name).is_file() for name in source.files):
            return place
    missing = next(name for name in source.files if not (places[0] / name).is_file())
    raise ModelError(f"{places[0]}: has no {missing}; {format_name} has {_list(source.files)} in one folder, name it.")


def _named(format_name: str, source: PublicFormat, path: Path) -> list[Path]:
    """Return the folders that a path may mean: itself, where a package has its data, or the one of a file."""
    if path.is_dir():
        return [path, *(path / inner for inner in _inside(source))]
    if not path.is_file():
        raise ModelError(f"{path}: no such file or folder; name the folder of {_list(source.files)}.")
    if path.name not in source.files:
        unpack = f" Unpack a wheel first: `python -m zipfile -e {path.name} FOLDER`." if path.suffix == ".whl" else ""
        raise ModelError(f"{path}: is none of {_list(source.files)}; name their folder.{unpack}")
    return [path.parent]


def _inside(source: PublicFormat) -> list[str]:
    """Return where the files lie from the package's folder, and from the folder that a wheel was unpacked into."""
    return [source.folder, f"{source.package}/{source.folder}"] if source.package else []


def _installed(format_name: str, source: PublicFormat) -> list[Path]:
    """Return the data folders of the installed package, without importing it."""
    if not source.package:
        raise ModelError(f"import {format_name}: no package carries these; name the folder of {_list(source.files)}.")
    spec = importlib.util.find_spec(source.package)
    roots = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not roots:
        raise ModelError(
            f"import {format_name}: the package is not installed here. Name the folder of {_list(source.files)}; to "
            f"get it without installing: `pip download --no-deps {source.project}`, then `python -m zipfile -e WHEEL "
            f"FOLDER`, then `cascade-det import {format_name} FOLDER --out FILE`."
        )
    return [Path(root) / source.folder for root in roots]


def _list(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _read(path: Path, source: PublicFormat, stage: str) -> Arrays:
    """Return the checked arrays of one file; every fault of the file is a `ModelError` that names it."""
    if path.stat().st_size > _MOST_BYTES:
        raise ModelError(f"{path}: is far larger than the weights of MTCNN; is it the right file?")
    try:
        return checked(stage, source.read(stage, path.read_bytes()))
    except CascadeError as error:
        raise ModelError(f"{path}: {error}") from error
    except Exception as error:  # a damaged or hostile file makes its library raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"{path}: cannot be read as weights of MTCNN's {stage} ({reason}); is it the right file, and whole?"
        ) from error
