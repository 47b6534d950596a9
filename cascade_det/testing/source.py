"""The contract of a source: what it lists is what it delivers, every time and in every process."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np

from cascade_det.core.types import Annotations
from cascade_det.data.sources import Picture, Source
from cascade_det.testing.contract import columns, difference, doing, require


def check_source(source: Source, *, others: Sequence[Source] = (), most: int = 12) -> None:
    """Check a source of annotated pictures.

    Args:
        source: such as ``MySource(images="pictures")``; it needs at least one picture.
        others: sources that deliver something else, by other files or parameters: their digests must differ.
        most: how many pictures are read, spread over all of them.

    Raises:
        ContractError: one of these does not hold:
            pictures are listed with unique ids and positive sizes; a picture reads as uint8 RGB of the listed size, and
            reads the same twice; annotations are `Annotations` with finite boxes of positive sides, points that are
            finite, 0 where unknown, and K and extras that are the same for all pictures; content hashes repeat, and
            different pixels have different ones; the digest repeats, and differs from that of `others`; the report
            holds counts; a pickled copy, as worker processes get it, delivers the same.
    """
    require(isinstance(source, Source), f"a source is a cascade_det.data.sources.Source, not {type(source)}")
    with doing("pictures"):
        pictures = list(source.pictures)
    _check_list(pictures)
    chosen = np.unique(np.linspace(0, len(pictures) - 1, most).round().astype(int)).tolist()
    hashes: dict[str, int] = {}
    for index in chosen:
        _check_picture(source, pictures[index], index)
        _check_annotations(source, pictures[index], index, pictures[chosen[0]])
        _check_hash(source, pictures[index], index, hashes)
    _check_digest(source, others)
    with doing("report"):
        report = source.report()
    counts = all(isinstance(name, str) and isinstance(count, int) for name, count in report.items())
    require(counts, f"report gives {dict(report)!r}, it must give counts by reason")
    _check_copy(source, pictures, chosen)


def _check_list(pictures: Sequence[Picture]) -> None:
    require(len(pictures) > 0, "the source lists no picture, so there is nothing to check; give it one")
    seen: dict[int, str] = {}
    for picture in pictures:
        require(isinstance(picture, Picture), f"pictures lists {picture!r:.80}, it must list Picture")
        clash = seen.get(picture.image_id)
        require(clash is None, f"the pictures {clash!r} and {picture.name!r} share the image_id {picture.image_id}")
        seen[picture.image_id] = picture.name
        sides = len(picture.image_hw) == 2 and all(int(side) == side and side > 0 for side in picture.image_hw)
        require(sides, f"{picture.name}: image_hw={picture.image_hw!r} must be (height, width)")


def _check_picture(source: Source, picture: Picture, index: int) -> None:
    with doing(f"read({index}), {picture.name}"):
        image, again = source.read(index), source.read(index)
    right = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    got = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
    require(right, f"{picture.name} reads as {got}, it must read as (H, W, 3) uint8 RGB")
    stated = tuple(int(side) for side in picture.image_hw)
    require(
        image.shape[:2] == stated, f"{picture.name} is listed with image_hw={stated}, it reads as {image.shape[:2]}"
    )
    require(np.array_equal(image, again), f"{picture.name} reads differently the second time")


def _check_annotations(source: Source, picture: Picture, index: int, first: Picture) -> None:
    with doing(f"annotations({index}), {picture.name}"):
        truth, again, start = source.annotations(index), source.annotations(index), source.annotations(0)
    kind = type(truth).__name__
    require(isinstance(truth, Annotations), f"annotations of {picture.name} are a {kind}, they must be Annotations")
    boxes = truth.boxes
    sound = np.isfinite(boxes).all(axis=1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    for row in np.flatnonzero(~sound)[:1]:
        require(False, f"box {row} of {picture.name} is {boxes[row].tolist()}; sides must be finite and positive")
    require(bool(np.isfinite(truth.points).all()), f"a point of {picture.name} is not finite; make it unknown")
    loose = np.argwhere(~truth.points_known & (truth.points != 0).any(axis=2))
    require(not len(loose), f"point {loose[:1].tolist()} of {picture.name} is unknown, so it must hold 0")
    count, wanted = truth.points.shape[1], start.points.shape[1]
    require(count == wanted, f"{picture.name} has {count} points an object, {first.name} has {wanted}")
    own, those = sorted(truth.extras), sorted(start.extras)
    require(own == those, f"{picture.name} has the extras {own}, {first.name} has {those}")
    changed = difference(columns(truth), columns(again))
    require(not changed, f"the annotations of {picture.name} differ the second time: {changed}")


def _check_hash(source: Source, picture: Picture, index: int, hashes: dict[str, int]) -> None:
    with doing(f"content_hash({index}), {picture.name}"):
        value, again = source.content_hash(index), source.content_hash(index)
    require(isinstance(value, str) and value != "", f"content_hash of {picture.name} is {value!r}, it must be a text")
    require(value == again, f"content_hash of {picture.name} is {value} and then {again}")
    other = hashes.setdefault(value, index)
    same = other == index or np.array_equal(source.read(other), source.read(index))
    require(same, f"the pictures {other} and {index} differ, yet both have the content_hash {value}")


def _check_digest(source: Source, others: Sequence[Source]) -> None:
    with doing("digest"):
        value, again = source.digest(), source.digest()
        differing = [other.digest() for other in others]
    require(isinstance(value, str) and value != "", f"digest is {value!r}, it must be a text")
    require(value == again, f"digest is {value} and then {again}")
    for number, other in enumerate(differing):
        require(other != value, f"others[{number}] delivers something else, yet it has the same digest {value}")


def _check_copy(source: Source, pictures: Sequence[Picture], chosen: Sequence[int]) -> None:
    with doing("a pickled copy of the source, as a worker process gets it,"):
        twin: Source = pickle.loads(pickle.dumps(source))
        listed = [(picture.image_id, picture.name) for picture in twin.pictures]
        require(listed == [(p.image_id, p.name) for p in pictures], "a pickled copy of the source lists other pictures")
        require(twin.digest() == source.digest(), "a pickled copy of the source has another digest")
        for index in chosen:
            same = np.array_equal(twin.read(index), source.read(index))
            require(same, f"a pickled copy of the source reads other pixels of {pictures[index].name}")
            changed = difference(columns(source.annotations(index)), columns(twin.annotations(index)))
            require(not changed, f"a pickled copy of the source has other truth of {pictures[index].name}: {changed}")
