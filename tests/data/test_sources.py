"""What a source has of its base class: hashes of what it delivers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cascade_det.core.types import Annotations
from cascade_det.data.sources import Picture, Source
from cascade_det.testing import check_source


class Arrays(Source):
    """Pictures and truth as they are given."""

    def __init__(self, *given: tuple[Picture, NDArray[np.uint8], Annotations]) -> None:
        self._given = given

    @property
    def pictures(self) -> list[Picture]:
        return [picture for picture, _, _ in self._given]

    def annotations(self, index: int) -> Annotations:
        return self._given[index][2]

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._given[index][1]


def one(value: int = 0, hw: tuple[int, int] = (4, 6), name: str = "a", **truth: Any) -> Arrays:
    """Return a source of one grey picture with one object."""
    fields = truth.pop("fields", {})
    told = Annotations.of(np.array([[0, 0, truth.pop("width", 3), 3]]), num_points=1).replace(**truth)
    return Arrays((Picture(1, name, hw, fields), np.full((*hw, 3), value, np.uint8), told))


def test_a_source_of_no_pictures() -> None:
    assert Arrays().digest() == Arrays().digest() != one().digest()


def test_the_checks_hold() -> None:
    given = [one(value, name=str(value))._given[0] for value in range(3)]
    numbered = [(Picture(n, str(n), (4, 6)), pixels, truth) for n, (_, pixels, truth) in enumerate(given)]
    check_source(Arrays(*numbered), others=[one(), Arrays(*numbered[:2])])


@pytest.mark.parametrize(
    ("other", "same_content"),
    [
        (one(value=1), False),
        (one(hw=(6, 4)), False),  # the same bytes in another shape
        (one(name="b"), True),
        (one(fields={"source": "x"}), True),
        (one(width=4), True),
        (one(ignore=np.ones(1, bool)), True),
        (one(points=np.ones((1, 1, 2))), True),
        (one(points_known=np.ones((1, 1), bool)), True),
        (one(extras={"age": np.array([3])}), True),
    ],
)
def test_what_differs_hashes_otherwise(other: Arrays, same_content: bool) -> None:
    assert one().digest() == one().digest() != other.digest()
    assert (one().content_hash(0) == other.content_hash(0)) == same_content


def test_another_version_is_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = one().digest()
    monkeypatch.setattr(Arrays, "version", 2)
    assert one().digest() != before
