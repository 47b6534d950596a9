"""Files and folders appear whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cascade_det.data.atomic import atomic_dir, write_json_atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("obj", "read_back"),
    [
        ([], []),
        ({"b": 1, "a": [None, True, "é"]}, {"b": 1, "a": [None, True, "é"]}),
        ([np.float32(0.5), np.int64(3), np.bool_(True)], [0.5, 3, True]),
    ],
)
def test_json_is_written(tmp_path: Path, obj: object, read_back: object) -> None:
    path = tmp_path / "file.json"
    write_json_atomic(path, [1] * 1000)
    write_json_atomic(path, obj)
    assert json.loads(path.read_text(encoding="utf-8")) == read_back
    assert names(tmp_path) == ["file.json"]


def test_floats_survive_exactly(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(100).astype(np.float32)
    write_json_atomic(tmp_path / "f.json", values.astype(float).tolist())
    assert np.array_equal(np.float32(json.loads((tmp_path / "f.json").read_text())), values)


@pytest.mark.parametrize(
    ("obj", "error"), [(float("nan"), ValueError), ([np.float32("inf")], ValueError), ({1, 2}, TypeError)]
)
def test_what_json_lacks_leaves_the_old_file(tmp_path: Path, obj: object, error: type[Exception]) -> None:
    path = tmp_path / "file.json"
    write_json_atomic(path, "old")
    with pytest.raises(error):
        write_json_atomic(path, obj)
    assert json.loads(path.read_text()) == "old"
    assert names(tmp_path) == ["file.json"]


def test_a_failed_rename_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_json_atomic(tmp_path / "taken", [])
    assert names(tmp_path) == ["taken"]


def test_folder_appears_at_the_end(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "step"
    with atomic_dir(final) as folder:
        assert folder.name == f".tmp-step-{os.getpid()}"
        assert folder.parent == final.parent
        (folder / "a").write_text("1")
        assert not final.exists()
    assert names(final) == ["a"]
    assert names(final.parent) == ["step"]


def test_folder_replaces_an_old_one(tmp_path: Path) -> None:
    final = tmp_path / "step"
    final.mkdir()
    (final / "old").write_text("")
    with atomic_dir(final) as folder:
        (folder / "new").write_text("")
        assert names(final) == ["old"]
    assert names(final) == ["new"]
    assert names(tmp_path) == ["step"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_folder_of_a_failed_step_is_removed(tmp_path: Path, error: type[BaseException]) -> None:
    final = tmp_path / "step"
    final.mkdir()
    (final / "old").write_text("")
    with pytest.raises(error), atomic_dir(final) as folder:
        (folder / "half").write_text("")
        raise error
    assert names(final) == ["old"]
    assert names(tmp_path) == ["step"]


def test_left_over_of_a_killed_process_is_cleared(tmp_path: Path) -> None:
    left_over = tmp_path / f".tmp-step-{os.getpid()}"
    left_over.mkdir()
    (left_over / "half").write_text("")
    with atomic_dir(tmp_path / "step") as folder:
        assert names(folder) == []
    assert names(tmp_path) == ["step"]


def test_a_failed_swap_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final = tmp_path / "step"
    final.mkdir()
    (final / "old").write_text("")
    rename = os.replace

    def fail_for_new(source: Path, target: Path) -> None:
        if source.name.startswith(".tmp-"):
            raise OSError("disk is gone")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fail_for_new)
    with pytest.raises(OSError, match="disk is gone"), atomic_dir(final):
        pass
    assert names(final) == ["old"]
    assert names(tmp_path) == ["step"]
