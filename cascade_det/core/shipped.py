"""Finds shipped recipes and models by name, from a checkout and from an installed wheel alike."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder(kind: str) -> Path:
    """Return the folder of shipped "recipes" or "models": inside the package in a wheel, beside it in a checkout."""
    inside = _PACKAGE / f"_{kind}"
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def shipped_names(kind: str, suffix: str) -> list[str]:
    """Return the names of the shipped files of a kind, without their suffix."""
    return sorted(path.stem for path in shipped_folder(kind).glob(f"*{suffix}"))


def find_shipped(kind: str, name: str, suffix: str) -> Path | None:
    """Return the shipped file called `name`, or None."""
    path = shipped_folder(kind) / f"{name}{suffix}"
    return path if name and "/" not in name and path.is_file() else None
