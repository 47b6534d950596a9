"""The checkpoints of a fit: the last two are kept, and a damaged one falls back to the one before."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def checkpoint_callback(folder: Path) -> Any:
    """Return Lightning's callback that keeps the last two checkpoints, one at the end of each validation."""
    from pytorch_lightning.callbacks import ModelCheckpoint

    return ModelCheckpoint(folder, filename="{step:09d}", monitor="step", mode="max", save_top_k=2, every_n_epochs=1)


def newest_checkpoint(folder: Path, say: Callable[[str], None]) -> Path | None:
    """Return the newest whole checkpoint, None where there is none; damaged ones are said and removed."""
    for path in sorted(folder.glob("step=*.ckpt"), reverse=True):
        if _is_whole(path):
            return path
        say(f"{path}: the checkpoint is damaged; the fit goes on from the one before, or from its beginning")
        path.unlink()
    return None


def _is_whole(path: Path) -> bool:
    """Compare the checksums that a checkpoint, a zip archive, carries for each of its entries."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError):
        return False
