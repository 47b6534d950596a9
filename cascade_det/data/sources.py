"""What a source of annotated pictures is. Formats and the synthetic source implement it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.types import Annotations


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a source.

    Attributes:
        image_id: the id that detections and truth are written under; unique within its source.
        name: path relative to the source's folder, or a generated name.
        image_hw: height and width in pixels as annotated.
        fields: what else the annotation says about the picture (its origin, its weather, ...), to select and group by.
    """

    image_id: int
    name: str
    image_hw: tuple[int, int]
    fields: Mapping[str, Any] = field(default_factory=dict)


class Source(ABC):
    """Annotated pictures by index; reading is deterministic, so a picture can be read again at any time."""

    version = 1  # part of the fingerprint of mining: raise it when the same input gives other pictures or truth

    @property
    @abstractmethod
    def pictures(self) -> list[Picture]:
        """All pictures in a fixed order."""

    @abstractmethod
    def annotations(self, index: int) -> Annotations:
        """Return the truth of picture `index`."""

    @abstractmethod
    def read(self, index: int) -> NDArray[np.uint8]:
        """Return picture `index` as ``(H, W, 3)`` uint8 RGB.

        Raises:
            DataError: the picture cannot be read; the message names it.
        """

    def content_hash(self, index: int) -> str:
        """Return a short hash of the picture's content: of its pixels, unless a source knows one without decoding.

        Pictures that several sources share are found out where those sources hash alike.
        """
        pixels = self.read(index)
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]

    def digest(self) -> str:
        """Return a hash of all that the source delivers: it keys what was mined from it.

        This one reads every picture and its truth; a source that can tell a change by less overrides it.
        """
        digest = hashlib.sha256(str(self.version).encode())
        for index, picture in enumerate(self.pictures):
            truth = self.annotations(index)
            digest.update(repr((picture, self.content_hash(index), sorted(truth.extras))).encode())
            for column in (truth.boxes, truth.ignore, truth.points, truth.points_known):
                digest.update(column.tobytes())
            for name in sorted(truth.extras):
                digest.update(repr(truth.extras[name].tolist()).encode())
        return digest.hexdigest()

    def missing_files(self) -> list[str]:
        """Return the paths of pictures that are not on disk; empty for pictures that are no files."""
        return []

    def report(self) -> Mapping[str, int]:
        """Return counts of what was repaired or left out while reading annotations; empty where nothing was."""
        return {}


def left_out(source: Source) -> str:
    """Return what a source could not take of its annotations, as counts with their reasons; "" where it took all."""
    return ", ".join(f"{count:,} {what}" for what, count in source.report().items())
