"""Shards: the crops of consecutive pictures with their truth, as memory-mapped arrays.

A shard is a folder: ``crops.npy`` (n, h, w, 3) uint8, ``truth.npz`` (one array a column) and ``manifest.json``. Crops
keep the truth in their own frame, never the targets of a head, so that any head can be trained without mining again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.types import CropPlan, CropTruth, SampleRole
from cascade_det.data.atomic import atomic_dir
from cascade_det.errors import DataError

_TRUTH = ("role", "box", "has_box", "points", "points_known")
_PLACE = ("image", "view", "source", "window", "angle_deg", "mirror")
_EXTRA = "extra:"
_OTHER_FILES = 512  # that a process may hold open beside its shards


@dataclass(frozen=True)
class Crops:
    """M crops with their truth and where they were cut, so that they can be cut again at another size.

    Attributes:
        pixels: ``(M, h, w, 3)`` uint8 RGB.
        truth: in each crop's frame.
        image: ``(M,)`` int32, number of the picture in the training set.
        view: ``(M,)`` int16, 0 the picture itself, else 1 + the number of its view.
        source: ``(M,)`` int16, number of the source, which may narrow what a crop teaches.
        plan: the windows in the pixels of that view.
    """

    pixels: NDArray[np.uint8]
    truth: CropTruth
    image: NDArray[np.int32]
    view: NDArray[np.int16]
    source: NDArray[np.int16]
    plan: CropPlan


def write_shard(folder: Path, parts: Sequence[Crops], empty: Crops, facts: Mapping[str, Any]) -> None:
    """Write the crops of some pictures as one shard, beside its place and renamed.

    Args:
        folder: the shard.
        parts: crops of each picture in order.
        empty: M = 0 crops of the right shape, for a shard without any.
        facts: what else the manifest says (counts of the pictures, objects covered).
    """
    parts = list(parts) or [empty]
    pixels = np.concatenate([part.pixels for part in parts])
    columns = _columns(parts)
    counts = {role.name: int((columns["role"] == role).sum()) for role in SampleRole}
    manifest = {"rows": len(pixels), "roles": counts, **facts}
    manifest["digest"] = _digest(pixels, columns, manifest)
    with atomic_dir(folder) as beside:
        np.save(beside / "crops.npy", pixels)
        np.savez(beside / "truth.npz", **columns)  # type: ignore[arg-type]
        (beside / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _digest(pixels: NDArray[np.uint8], columns: Mapping[str, NDArray[Any]], manifest: Mapping[str, Any]) -> str:
    facts = {name: value for name, value in manifest.items() if name != "digest"}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    for name in sorted(columns):
        digest.update(f"{name}:{columns[name].dtype}:{columns[name].shape}".encode() + columns[name].tobytes())
    return digest.hexdigest()


def _columns(parts: Sequence[Crops]) -> dict[str, NDArray[Any]]:
    columns = {name: np.concatenate([getattr(part.truth, name) for part in parts]) for name in _TRUTH}
    columns |= {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "view", "source")}
    columns["window"] = np.concatenate([part.plan.boxes for part in parts])
    columns["angle_deg"] = np.concatenate([part.plan.angle_deg for part in parts])
    columns["mirror"] = np.concatenate([part.plan.mirror for part in parts])
    return columns | _extra_columns([part.truth.extras for part in parts], [len(part.truth) for part in parts])


def _extra_columns(extras: Sequence[Mapping[str, NDArray[Any]]], rows: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Stack attribute columns; rows of a picture that lacks one hold "", or NaN among numbers and truth values."""
    columns = {}
    for name in sorted({name for extra in extras for name in extra}):
        known = [np.asarray(extra[name]) for extra in extras if name in extra]
        known = [column.astype(str) if column.dtype == object else column for column in known]
        dtype = np.result_type(*known)
        if dtype.kind in "biu" and any(count and name not in extra for extra, count in zip(extras, rows, strict=True)):
            dtype = np.result_type(dtype, np.float64)
        unknown = np.nan if dtype.kind == "f" else np.zeros((), dtype)
        filled = []
        for extra, count in zip(extras, rows, strict=True):
            missing = np.full((count, *known[0].shape[1:]), unknown, dtype)
            filled.append(np.asarray(extra[name]).astype(dtype) if name in extra else missing)
        columns[_EXTRA + name] = np.concatenate(filled)
    return columns


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a shard; a `DataError` names a shard that is damaged."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}: not a readable shard ({error}); delete it and run the same command again."
        ) from error
    return manifest


def shard_fault(folder: Path) -> str | None:
    """Read a shard as a whole; return what is wrong with it (missing, unreadable, changed), or None if it is sound."""
    try:
        manifest = read_manifest(folder)
        pixels = np.load(folder / "crops.npy", mmap_mode="r")
        with (folder / "truth.npz").open("rb") as file, np.load(file) as archive:  # numpy leaves a bad one open
            columns = dict(archive)
        if _digest(pixels, columns, manifest) != manifest["digest"]:
            return "its content is not what was written"
    except DataError:
        return "its manifest is missing or cannot be read"
    except Exception as error:  # numpy and zipfile raise many kinds on damaged files
        return f"it cannot be read: {error}"
    return None


def shards_in(folder: Path) -> list[Path]:
    """Return the shards of a folder in order; what a killed process left beside its place is none."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _allow_open_files(count: int) -> None:
    """Raise the process's limit of open files where `count` more may exceed it: each mapped shard holds one."""
    try:
        import resource
    except ImportError:  # no such limit on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


class Pool:
    """The crops of many shards behind one row number.

    Args:
        shards: folders in order; equal lists give equal row numbers.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self.shards = list(shards)
        _allow_open_files(len(self.shards))
        counts = [int(read_manifest(folder)["rows"]) for folder in shards]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._pixels = [np.load(folder / "crops.npy", mmap_mode="r") for folder in shards]
        tables = [dict(np.load(folder / "truth.npz")) for folder in shards]
        extras = [{k.removeprefix(_EXTRA): v for k, v in t.items() if k.startswith(_EXTRA)} for t in tables]
        self._columns = {n: np.concatenate([t[n] for t in tables]) for n in (*_TRUTH, *_PLACE)} if tables else {}
        self._extras = {k.removeprefix(_EXTRA): v for k, v in _extra_columns(extras, counts).items()}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def role(self) -> NDArray[np.int8]:
        """Roles ``(M,)`` of all rows."""
        return self.column("role").astype(np.int8)

    def column(self, name: str) -> NDArray[Any]:
        """Return a column of all rows: role, image, view, source, window, angle_deg, mirror, box, ..."""
        return self._columns[name] if self._columns else np.zeros(0)

    def pixels(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Return crops ``(B, h, w, 3)`` of the given rows, in their order."""
        out = np.empty((len(rows), *self._pixels[0].shape[1:]), np.uint8)
        shard = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(shard, kind="stable")
        bounds = np.searchsorted(shard[order], np.arange(len(self.shards) + 1))
        for number in np.unique(shard):
            chosen = order[bounds[number] : bounds[number + 1]]
            out[chosen] = self._pixels[number][rows[chosen] - self._starts[number]]
        return out

    def truth(self, rows: NDArray[np.integer[Any]]) -> CropTruth:
        """Return the truth of the given rows."""
        columns = {name: self._columns[name][rows] for name in _TRUTH}
        return CropTruth(**columns, extras={name: column[rows] for name, column in self._extras.items()})

    def plan(self, rows: NDArray[np.integer[Any]]) -> CropPlan:
        """Return the windows of the given rows; the row of truth is not kept and reads -1."""
        columns = self._columns
        return CropPlan(
            columns["window"][rows],
            columns["role"][rows],
            np.full(len(rows), -1),
            columns["angle_deg"][rows],
            columns["mirror"][rows],
        )
