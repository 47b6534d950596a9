"""The model file: what is damaged, foreign or too new is refused with a reason, never half loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file

from cascade_det.errors import ModelError
from cascade_det.model_file import ModelContents, load_model, save_model

CONTENTS = ModelContents(
    recipe={"name": "small", "pyramid": {"factor": 0.709, "min_object_px": 20}, "plugins": [], "init": None},
    thresholds={"first": {"detect": 0.25, "mine": 0.125}},
    arrays={
        "first": {"layers.0.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "layers.0.bias": np.ones(3)},
        "second": {},
        "third": {"weight": np.zeros((0, 2), np.float32), "count": np.array(7)},
    },
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_model(path, CONTENTS)
    return path.read_bytes()


def assert_equal(got: ModelContents, wanted: ModelContents) -> None:
    assert got.recipe == wanted.recipe
    assert list(got.recipe) == list(wanted.recipe)
    assert got.thresholds == wanted.thresholds
    assert list(got.arrays) == list(wanted.arrays)
    for stage, arrays in wanted.arrays.items():
        assert set(got.arrays[stage]) == set(arrays)
        for name, array in arrays.items():
            assert got.arrays[stage][name].dtype == array.dtype
            assert np.array_equal(got.arrays[stage][name], array)


class TestRoundTrip:
    @pytest.mark.parametrize("contents", [ModelContents({}, {}, {}), ModelContents({}, {}, {"a": {}}), CONTENTS])
    def test_contents_survive(self, tmp_path: Path, contents: ModelContents) -> None:
        path = tmp_path / "new" / "folder" / "model.safetensors"
        save_model(path, contents)
        assert_equal(load_model(path), contents)
        assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]

    def test_equal_contents_give_equal_bytes(self, tmp_path: Path, saved: bytes) -> None:
        shuffled = {stage: dict(reversed(arrays.items())) for stage, arrays in CONTENTS.arrays.items()}
        save_model(tmp_path / "again", ModelContents(CONTENTS.recipe, CONTENTS.thresholds, shuffled))
        assert (tmp_path / "again").read_bytes() == saved

    def test_an_old_file_is_replaced(self, tmp_path: Path, saved: bytes) -> None:
        path = tmp_path / "model"
        path.write_bytes(b"old" * 1000)
        save_model(path, CONTENTS)
        assert path.read_bytes() == saved

    def test_arrays_that_are_views_are_written_as_they_read(self, tmp_path: Path) -> None:
        array = np.arange(12.0).reshape(3, 4).T[::2]
        save_model(tmp_path / "m", ModelContents({}, {}, {"a": {"b": array}}))
        assert np.array_equal(load_model(tmp_path / "m").arrays["a"]["b"], array)


class TestDamage:
    @pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, -200, -17, -1])
    def test_cut_short(self, tmp_path: Path, saved: bytes, length: int) -> None:
        (tmp_path / "cut").write_bytes(saved[:length])
        with pytest.raises(ModelError, match=r"cut: (not a model file|not a readable model file)"):
            load_model(tmp_path / "cut")

    def test_something_behind_its_end(self, tmp_path: Path, saved: bytes) -> None:
        (tmp_path / "long").write_bytes(saved + b"\0")
        with pytest.raises(ModelError, match="long: not a readable model file"):
            load_model(tmp_path / "long")

    @pytest.mark.parametrize(
        ("what", "reason"),
        [
            (b'"__metadata__"', "not a readable"),
            (b"cascade_det", "lacks the recipe"),
            (b"format", "metadata is damaged"),
            (b"recipe", "metadata is damaged"),
            (b"thresholds", "metadata is damaged"),
            (b"stages", "does not match its checksum"),
            (b"digest", "metadata is damaged"),
            (b"small", "does not match its checksum"),
            (b"0.709", "does not match its checksum"),
            (b"0.125", "does not match its checksum"),
            (b"layers.0.weight", "does not match its checksum"),
        ],
    )
    def test_a_flipped_bit_in_the_header(self, tmp_path: Path, saved: bytes, what: bytes, reason: str) -> None:
        place = saved.index(what) + len(what) - 1
        (tmp_path / "flipped").write_bytes(flip(saved, place, 0))
        with pytest.raises(ModelError, match=reason):
            load_model(tmp_path / "flipped")

    @settings(max_examples=300, deadline=None)
    @given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
    def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(
        self, tmp_path_factory: pytest.TempPathFactory, saved: bytes, place: int, bit: int
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "flipped_anywhere"
        path.write_bytes(flip(saved, place % len(saved), bit))
        try:
            got = load_model(path)
        except ModelError as error:
            assert str(path) in str(error)
        else:
            assert_equal(got, CONTENTS)

    @pytest.mark.parametrize("from_end", range(1, 120, 7))
    def test_a_flipped_bit_in_the_weights(self, tmp_path: Path, saved: bytes, from_end: int) -> None:
        assert sum(a.nbytes for arrays in CONTENTS.arrays.values() for a in arrays.values()) == 80
        (tmp_path / "flipped").write_bytes(flip(saved, len(saved) - 1 - from_end % 80, from_end % 8))
        with pytest.raises(ModelError, match="does not match its checksum; the file is damaged"):
            load_model(tmp_path / "flipped")


def flip(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def header_file(header: object) -> bytes:
    """Return a safetensors file with this value as the metadata of this package."""
    text = json.dumps({"__metadata__": {"cascade_det": json.dumps(header)}}).encode()
    return struct.pack("<Q", len(text)) + text


class TestForeign:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "not a"),
            (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a model file"),
            (b"# a text file, and no model\n" * 10, "not a model file"),
            (bytes(100), "not a readable model file"),
            (struct.pack("<Q", 2) + b"{}", "lacks the recipe"),
            (struct.pack("<Q", 2) + b"[]", "not a readable model file"),
            (struct.pack("<Q", 2**63) + b"{}", r"header claims 9,223,372,036,854,775,808 bytes"),
            (struct.pack("<Q", 17 << 20) + b"{" * (18 << 20), "header claims 17,825,792 bytes"),
            (header_file([]), "metadata is damaged"),
            (header_file(None), "metadata is damaged"),
            (header_file({}), "metadata is damaged"),
            (header_file({"format": 1}), "metadata is damaged"),
            (header_file({"format": 1, "recipe": "x", "thresholds": {}, "digest": ""}), "metadata is damaged"),
            (header_file({"format": 1, "recipe": {}, "thresholds": {"a": 1}, "digest": ""}), "metadata is damaged"),
            (header_file({"format": 1, "recipe": {}, "thresholds": [], "digest": ""}), "metadata is damaged"),
            (header_file({"format": 1, "recipe": {}, "thresholds": {}, "digest": ""}), "does not match its checksum"),
            (header_file({"format": 2}), "model format 2; this version reads format 1. Update cascade_det"),
            (header_file({"format": "1"}), "model format 1; this version reads"),
        ],
    )
    def test_content(self, tmp_path: Path, content: bytes, reason: str) -> None:
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(ModelError, match=reason) as caught:
            load_model(tmp_path / "other")
        assert str(tmp_path / "other") in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "save",
        [
            lambda path: save_file({"weight": np.zeros(3)}, path),
            lambda path: save_file({"weight": np.zeros(3)}, path, metadata={"format": "pt"}),
            lambda path: save_torch_file({"weight": torch.zeros(3, dtype=torch.bfloat16)}, path),
        ],
    )
    def test_other_safetensors(self, tmp_path: Path, save: Callable[[Path], Any]) -> None:
        save(tmp_path / "other.safetensors")
        with pytest.raises(ModelError, match="a safetensors file, but no cascade_det model"):
            load_model(tmp_path / "other.safetensors")

    def test_no_file(self, tmp_path: Path) -> None:
        for path in (tmp_path / "nothing", tmp_path):
            with pytest.raises(ModelError, match="no such model file"):
                load_model(path)

    def test_a_checksum_of_the_weights_alone_is_still_read(self, tmp_path: Path) -> None:
        """The first models were written so; what protects their weights is not lost with that."""
        save_model(tmp_path / "new", ModelContents({"name": "old"}, {}, {"a": {"b": np.ones(2)}}))
        arrays = load_file(tmp_path / "new")
        # sha256 of "a/b:float64:(2,);" and of the 16 bytes of two ones
        digest = "0d9157742e751d04dd9e3fa3060719d01d2dc12ad83daf70673c575e7ec860b5"
        for value, ok in ((1, True), (2, False)):
            header = {"format": 1, "recipe": {"name": "old"}, "thresholds": {}, "digest": digest}
            save_file(
                {name: a * value for name, a in arrays.items()}, tmp_path / "old", {"cascade_det": json.dumps(header)}
            )
            if ok:
                assert load_model(tmp_path / "old").recipe == {"name": "old"}
            else:
                with pytest.raises(ModelError, match="does not match its checksum"):
                    load_model(tmp_path / "old")
