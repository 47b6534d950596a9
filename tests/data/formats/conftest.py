"""Small pictures for the sources that read files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.core.imaging import write_image
from cascade_det.data.sources import Source

WritePictures = Callable[..., None]


@pytest.fixture
def write_pictures() -> WritePictures:
    """Return a function that writes pictures of 40 x 30 px (width x height), no two alike, below a folder."""

    def write(folder: Path, *names: str) -> None:
        for name in names:
            rng = np.random.default_rng(list(name.encode()))
            write_image(folder / name, rng.integers(0, 256, (30, 40, 3), np.uint8))

    return write


@pytest.fixture
def delivered() -> Callable[[Source], dict[str, Any]]:
    """Return a function that gives the boxes of each picture of a source by its name."""

    def collect(source: Source) -> dict[str, Any]:
        return {picture.name: source.annotations(row).boxes.tolist() for row, picture in enumerate(source.pictures)}

    return collect
