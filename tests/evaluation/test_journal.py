"""The journal of a run: what is finished comes back to the last bit, what is torn does not, another run is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cascade_det.core.types import Detections
from cascade_det.errors import RunError
from cascade_det.evaluation.journal import Journal, entries_of, pack, unpack

HEADER = {"MODEL": "abc", "--score": 0.05, "--scales": [1.0, 2.0], "--preset": None}
ENTRIES = [{"picture": f"ü{number}", "found": [number] * 5} for number in range(3)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a journal with three entries."""
    journal = Journal.begin(tmp_path / "j.jsonl", HEADER)
    for entry in ENTRIES:
        journal.append(entry)
    return journal.path


def test_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    assert entries_of(path) == []
    for journal in (Journal.begin(path, HEADER), Journal.resume(path, HEADER)):
        assert journal.entries == []
        assert not path.exists()  # before anything is finished nothing is written
        journal.remove()


def test_what_is_finished_comes_back(path: Path) -> None:
    assert entries_of(path) == Journal.resume(path, HEADER).entries == ENTRIES
    journal = Journal.begin(path, HEADER)
    assert entries_of(path) == ENTRIES  # a new run replaces it when it has finished something
    journal.append({"a": 1})
    journal.append({"a": 2})
    assert entries_of(path) == [{"a": 1}, {"a": 2}]
    journal.remove()
    assert not path.exists()


def test_a_line_that_was_torn_anywhere_is_done_again(path: Path) -> None:
    whole = path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut in range(1, last + 1):
        path.write_bytes(whole[: len(whole) - cut])
        journal = Journal.resume(path, HEADER)
        assert journal.entries == ENTRIES[:2]
        journal.append(ENTRIES[2])
        assert path.read_bytes() == whole


@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_later_entries_can_be_dropped(path: Path, count: int) -> None:
    journal = Journal.resume(path, HEADER)
    journal.keep(count)
    assert journal.entries == entries_of(path) == ENTRIES[:count]
    journal.append({"a": 1})
    assert entries_of(path) == [*ENTRIES[:count], {"a": 1}]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"MODEL": "xyz"}, 'had MODEL "abc", and now it is "xyz". Give the command that the run was begun with'),
        ({"--score": 0.5}, "had --score 0.05, and now it is 0.5"),
        ({"--scales": [1.0]}, r"had --scales \[1.0, 2.0\], and now it is \[1.0\]"),
        ({"--preset": "exact"}, 'had --preset null, and now it is "exact"'),
        ({"--flip": True}, "had --flip null, and now it is true"),
    ],
)
def test_another_run_is_refused_and_its_work_stays(path: Path, change: dict[str, object], told: str) -> None:
    before = path.read_bytes()
    with pytest.raises(RunError, match=told):
        Journal.resume(path, {**HEADER, **change})
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]\n", b"\xff\n", b"{}"])
def test_no_journal_at_all(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert entries_of(path) == []
    with pytest.raises(RunError, match=r"j\.jsonl: is no journal of an unfinished run\. Remove it"):
        Journal.resume(path, HEADER)


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("points", [None, 5])
def test_detections_to_the_last_bit(rows: int, points: int | None) -> None:
    rng = np.random.default_rng(rows)
    extras = {"mask": rng.random((rows, 2)), "name": np.array(["ü" * n for n in range(rows)], "<U9")}
    given = Detections(
        rng.normal(0, 1e6, (rows, 4)),
        rng.random(rows),
        None if points is None else rng.normal(0, 1, (rows, points, 2)),
        extras,
    )
    back = unpack(pack(given))
    assert back.boxes.tobytes() == given.boxes.tobytes()
    assert back.scores.tobytes() == given.scores.tobytes()
    assert (back.points is None) == (points is None)
    assert points is None or np.array_equal(back.points, given.points)
    assert list(back.extras) == list(extras)
    for name, column in extras.items():
        assert back.extras[name].dtype == column.dtype
        assert np.array_equal(back.extras[name], column)
    assert back.boxes.flags.writeable
