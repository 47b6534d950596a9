"""All pictures under one number, the split for calibration, and pictures that are in train and val alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cascade_det.core.recipe import recipe_from_dict
from cascade_det.core.types import Annotations
from cascade_det.data.picture_set import PictureSet, calibration_split, refuse_overlap
from cascade_det.data.sources import Picture, Source
from cascade_det.errors import DataError


class Listed(Source):
    """Pictures of 1 px whose content is a text; None stands for a file that cannot be read."""

    def __init__(self, contents: Sequence[str | None]) -> None:
        self._contents = list(contents)

    @property
    def pictures(self) -> list[Picture]:
        return [Picture(100 + i, f"{text}-{i}.png", (1, 1)) for i, text in enumerate(self._contents)]

    def annotations(self, index: int) -> Annotations:
        return Annotations.of(np.full((index, 4), index))

    def read(self, index: int) -> NDArray[np.uint8]:
        self.content_hash(index)
        return np.full((1, 1, 3), index, np.uint8)

    def content_hash(self, index: int) -> str:
        text = self._contents[index]
        if text is None:
            raise DataError("unreadable")
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def digest(self) -> str:
        return repr(self._contents)


def pictures(**sources: Sequence[str | None]) -> PictureSet:
    return PictureSet({name: Listed(contents) for name, contents in sources.items()})


class TestNumbers:
    @pytest.mark.parametrize("whole", [pictures(), pictures(a=[]), pictures(a=[], b=[])])
    def test_no_pictures(self, whole: PictureSet) -> None:
        assert len(whole) == 0
        assert whole.places == []
        assert whole.content_hashes == []

    def test_sources_follow_each_other(self) -> None:
        whole = pictures(first=["a", "b"], none=[], second=["c"])
        assert whole.places == [(0, 0), (0, 1), (2, 0)]
        assert [whole.picture(n).name for n in range(3)] == ["a-0.png", "b-1.png", "c-0.png"]
        assert [len(whole.annotations(n)) for n in range(3)] == [0, 1, 0]
        assert [int(whole.read(n).max()) for n in range(3)] == [0, 1, 0]

    def test_an_unreadable_picture_has_no_hash(self) -> None:
        hashes = pictures(a=["x", None, "x"]).content_hashes
        assert hashes[1] == ""
        assert hashes[0] == hashes[2] != ""

    def test_digests_are_keyed_by_split_and_source(self) -> None:
        digests = pictures(a=["x"], b=[]).digests("train")
        assert digests == {"data.train.a (files)": "['x']", "data.train.b (files)": "[]"}

    def test_of_a_recipe(self) -> None:
        params = {"images": 3, "size_hw": [40, 40], "object_px": [10, 20], "num_points": 0}
        data = {"train": {"one": {"kind": "synthetic", "params": {**params, "seed": 1}}}, "val": {}}
        with pytest.raises(Exception, match=r"data\.train\.one"):  # num_points is given by the recipe's object
            PictureSet.of(recipe_from_dict({"data": data}, None), "train")  # type: ignore[arg-type]
        del params["num_points"]
        data["train"] = {name: {"kind": "synthetic", "params": {**params, "seed": n}} for n, name in enumerate("ab")}
        recipe = recipe_from_dict({"data": data}, None)  # type: ignore[arg-type]
        assert len(PictureSet.of(recipe, "train")) == 6
        assert len(PictureSet.of(recipe, "val")) == 0

    def test_points_that_a_source_does_not_teach_are_unknown(self) -> None:
        params = {"images": 2, "size_hw": [60, 60], "object_px": [20, 30], "objects": [1, 1], "seed": 1}
        plain = {"kind": "synthetic", "params": params}
        sources = {
            "all": plain,
            "some": {**plain, "teaches_points": ["c", "a"]},
            "none": {**plain, "teaches_points": []},
        }
        data = {"object": {"points": list("abcde")}, "data": {"train": sources, "val": {}}}
        whole = PictureSet.of(recipe_from_dict(data, None), "train")  # type: ignore[arg-type]
        known = [whole.annotations(number).points_known.any(axis=0).tolist() for number in range(len(whole))]
        assert known == [[True] * 5] * 2 + [[True, False, True, False, False]] * 2 + [[False] * 5] * 2
        assert whole.annotations(2).boxes.tolist() == whole.annotations(0).boxes.tolist()


class TestCalibrationSplit:
    def test_no_pictures(self) -> None:
        assert calibration_split([], 0.1, []) == ([], [])

    @given(
        contents=st.lists(st.integers(0, 60), max_size=300),
        share=st.floats(0, 1),
        objects=st.integers(0, 30),
    )
    def test_disjoint_by_content_or_everything(self, contents: list[int], share: float, objects: int) -> None:
        hashes = [str(c) for c in contents]
        mined, held = calibration_split(hashes, share, [objects] * len(hashes))
        everything = list(range(len(hashes)))
        if objects * len(held) < 100 or held == everything == mined:
            assert mined == held == everything
            return
        assert sorted([*mined, *held]) == everything
        assert {hashes[n] for n in mined}.isdisjoint(hashes[n] for n in held)

    @pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
    def test_about_the_share_is_held(self, share: float) -> None:
        hashes = [hashlib.sha256(str(n).encode()).hexdigest()[:16] for n in range(5000)]
        _, held = calibration_split(hashes, share, [1] * 5000)
        assert len(held) / 5000 == pytest.approx(share, rel=0.15)

    def test_a_picture_stays_on_its_side_when_others_come_or_go(self) -> None:
        hashes = [str(n) for n in range(2000)]
        _, held = calibration_split(hashes, 0.2, [1] * 2000)
        _, later = calibration_split(hashes[::-1][:1500], 0.2, [1] * 1500)
        assert {hashes[::-1][n] for n in later} == {h for h in (hashes[n] for n in held) if int(h) >= 500}

    @pytest.mark.parametrize(("each", "apart"), [(0, False), (99, False), (100, True), (101, True)])
    def test_under_a_hundred_objects_all_serve_for_both(self, each: int, apart: bool) -> None:
        hashes = [str(n) for n in range(50)]
        _, held = calibration_split(hashes, 0.3, [1000] * 50)
        objects = [0] * 50
        objects[held[0]] = each
        mined, calibrating = calibration_split(hashes, 0.3, objects)
        assert (mined != calibrating) == apart
        assert calibrating == (held if apart else list(range(50)))


class TestOverlap:
    @pytest.mark.parametrize(
        ("train", "val"),
        [
            ([], []),
            (["a"], []),
            (["a", "b"], ["c"]),
            (["a", None], [None, "c"]),  # two unreadable pictures are not one picture
        ],
    )
    def test_none(self, train: list[str | None], val: list[str | None]) -> None:
        refuse_overlap(pictures(s=train), pictures(s=val))

    def test_a_shared_picture_is_named(self) -> None:
        train, val = pictures(s=["a", "b"], t=["c"]), pictures(u=["x", "c", "a"])
        with pytest.raises(DataError, match=r"share 2 picture\(s\).*such as c-0\.png and c-1\.png.*remove them"):
            refuse_overlap(train, val)
