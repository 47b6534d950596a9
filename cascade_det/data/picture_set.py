"""All training pictures under one number, and the split into those that are mined and those that calibrate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.recipe import build_source
from cascade_det.core.schema import Recipe, SourcePart
from cascade_det.core.types import Annotations
from cascade_det.data.sources import Picture, Source, left_out
from cascade_det.errors import DataError


class PictureSet:
    """The pictures of several sources in a fixed order.

    Args:
        sources: the sources by name, in the recipe's order.
        taught_points: by name of a source ``(K,)`` bool, which of object.points it teaches; all where absent.
    """

    def __init__(self, sources: Mapping[str, Source], taught_points: Mapping[str, NDArray[np.bool_]] = {}) -> None:
        self.names = list(sources)
        self.sources = list(sources.values())
        self._taught_points = dict(taught_points)

    @staticmethod
    def of(recipe: Recipe, split: str) -> PictureSet:
        """Build all sources of "train" or "val"."""
        parts: dict[str, SourcePart] = getattr(recipe.data, split)
        return PictureSet(
            {name: build_source(recipe, split, name) for name in parts},
            {
                name: np.isin(recipe.object.points, part.teaches_points)
                for name, part in parts.items()
                if part.teaches_points is not None
            },
        )

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """(number of the source, index in it) of each picture."""
        return [(number, i) for number, source in enumerate(self.sources) for i in range(len(source.pictures))]

    def __len__(self) -> int:
        return len(self.places)

    def picture(self, number: int) -> Picture:
        """Return the picture `number` without its pixels."""
        source, index = self.places[number]
        return self.sources[source].pictures[index]

    def annotations(self, number: int) -> Annotations:
        """Return the truth of picture `number`; points that its source does not teach are unknown."""
        source, index = self.places[number]
        truth = self.sources[source].annotations(index)
        taught = self._taught_points.get(self.names[source])
        return truth if taught is None else truth.replace(points_known=truth.points_known & taught)

    def read(self, number: int) -> NDArray[np.uint8]:
        """Return picture `number` as ``(H, W, 3)`` uint8 RGB; raises `DataError` where it cannot be read."""
        source, index = self.places[number]
        return self.sources[source].read(index)

    @cached_property
    def content_hashes(self) -> list[str]:
        """The content hash of each picture; "" where the file cannot be read."""
        hashes = []
        for source, index in self.places:
            try:
                hashes.append(self.sources[source].content_hash(index))
            except DataError:
                hashes.append("")
        return hashes

    def counted_objects(self) -> int:
        """Return how many objects all pictures hold, ignored ones left aside."""
        return sum(int((~self.annotations(number).ignore).sum()) for number in range(len(self)))

    def digests(self, split: str) -> dict[str, str]:
        """Return a hash of each source's content by its recipe key."""
        named = zip(self.names, self.sources, strict=True)
        return {f"data.{split}.{name} (files)": source.digest() for name, source in named}


def calibration_split(hashes: Sequence[str], share: float, objects: Sequence[int]) -> tuple[list[int], list[int]]:
    """Split picture numbers by content hash into (mined, calibrating).

    A picture's place depends on its content alone, so equal pictures never fall on both sides.

    Args:
        hashes: content hash of each picture.
        share: of the pictures that calibrate.
        objects: counted objects of each picture. Where the share would hold under 100 objects, all pictures serve
            for both, and the second list equals the first.
    """
    value = [int(hashlib.sha256(f"calibrate:{h}".encode()).hexdigest()[:8], 16) / 2**32 for h in hashes]
    calibrating = [number for number, v in enumerate(value) if v < share]
    everything = list(range(len(hashes)))
    if sum(objects[number] for number in calibrating) < 100:
        return everything, everything
    held = set(calibrating)
    return [number for number in everything if number not in held], calibrating


def refuse_overlap(train: PictureSet, val: PictureSet) -> None:
    """Raise a `DataError` where a picture of train is also in val, by content."""
    known = {h: number for number, h in enumerate(train.content_hashes) if h}
    shared = [(known[h], number) for number, h in enumerate(val.content_hashes) if h and h in known]
    if shared:
        first = f"{train.picture(shared[0][0]).name} and {val.picture(shared[0][1]).name}"
        raise DataError(
            f"data.train and data.val share {len(shared)} picture(s) of equal content, such as {first}. A model must "
            "not be scored on what it was trained on: remove them from one of the two."
        )


def refuse_missing(pictures: PictureSet, split: str) -> None:
    """Raise a `DataError` where no picture file of a source exists: a disk not there, or a wrong folder."""
    for name, source in zip(pictures.names, pictures.sources, strict=True):
        missing = source.missing_files()
        if missing and len(missing) == len(source.pictures):
            raise DataError(
                f"data.{split}.{name}: none of its {len(missing):,} picture files exists, such as {missing[0]}; "
                "check `images`, and that its disk is there."
            )


def remarks(pictures: PictureSet, split: str) -> list[str]:
    """Return what a run has to tell about the pictures of "train" or "val" before it begins.

    Raises:
        DataError: there are none, or no object to learn from, or all files of a source are missing.
    """
    refuse_missing(pictures, split)
    if len(pictures) == 0:
        what = f"the sources {pictures.names} hold no picture" if pictures.names else "there is no source"
        raise DataError(f"data.{split}: {what}. A run needs pictures to learn from and others to be scored on.")
    named = zip(pictures.names, map(left_out, pictures.sources), strict=True)
    lines = [f"data.{split}.{name}: left out: {what}" for name, what in named if what]
    if pictures.counted_objects() == 0:
        what = f"data.{split}: none of the {len(pictures):,} pictures holds an object that counts"
        if split == "train":
            raise DataError(f"{what}, so there is nothing to learn. Add annotations.")
        lines.append(f"{what}, so AP and recall will be -1")
    return lines
