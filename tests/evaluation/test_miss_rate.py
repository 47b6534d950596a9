"""Log-average miss rate: the official script's figures, edge cases by hand, and a plain-loop twin on random scenes."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cascade_det.errors import DataError
from cascade_det.evaluation.miss_rate import SETUPS, Variant, match_picture, score_miss_rate

WriteFiles = Callable[..., tuple[Path, Path]]
VECTORS = Path(os.environ.get("CASCADE_DET_DATA", "")) / "eval_vectors" / "coco" / "small"
A, B, MISS = [0, 0, 41, 100], [500, 0, 41, 100], [900, 900, 41, 100]
CROWD = [0, 500, 400, 400]
INSIDE = [10, 510, 41, 100]
BOTH = list(Variant)


def boxes(*rows: list[float]) -> NDArray[np.float64]:
    return np.asarray(rows, np.float64).reshape(-1, 4)


@pytest.mark.skipif(
    not os.environ.get("CASCADE_DET_DATA") or not VECTORS.is_dir(),
    reason="CASCADE_DET_DATA names no folder that holds eval_vectors/coco/small",
)
def test_figures_of_the_citypersons_script(tmp_path: Path) -> None:
    for name in ("dets", "gt"):
        (tmp_path / f"{name}.json").write_bytes(gzip.decompress((VECTORS / f"{name}.json.gz").read_bytes()))
    expected = json.loads((VECTORS / "expected.json").read_text())
    result = score_miss_rate(tmp_path / "dets.json", tmp_path / "gt.json")
    assert result.figures["mr2"] == pytest.approx(expected["log_average_miss_rate"], abs=1e-9)
    for name, miss_rates in expected["miss_rate_at_9_fppi"].items():
        recall = list(result.figures["recall_at_fppi"][name].values())
        assert recall == pytest.approx([1 - miss_rates[point] for point in (0, 4, 8)], abs=1e-9)
    assert result.warnings == []


# of one object, in pictures that a false positive adds 0.1 FPPI to: from which reference point on it is found
@pytest.mark.parametrize(
    ("found", "truth", "citypersons", "caltech"),
    [
        ([], [], -1, -1),  # nothing there: absent
        ([(1, A, 0.9)], [], -1, -1),  # pictures without objects
        ([(1, A, 0.9)], [(1, A, {"ignore": 1})], -1, -1),  # none that counts
        ([], [(1, A)], 1, 1),  # nothing found
        ([(1, A, 0.9)], [(1, A)], 0, 1e-10),  # no floor under the log, and one
        ([(1, A, 0.9)], [(1, A), (2, A)], 0.5, 0.5),
        ([(1, MISS, 0.9)], [(1, A)], 1, 1),
        ([(1, A, 0.9), (1, A, 0.8)], [(1, A)], 0, 1e-10),  # a double is false, but comes later
        # no point of the curve with FPPI <= 0.01 to 0.0562: the last point of all (found), or a miss rate of 1
        ([(1, MISS, 0.9), (1, A, 0.8)], [(1, A)], 0, 1e-10 ** (5 / 9)),
        ([(1, MISS, 0.9), (1, A, 0.8)], [(1, A), (2, A)], 0.5, 0.5 ** (5 / 9)),
        # the last point lies beyond the reference points: 0 by the script's index -1, though A is found at 2 FPPI alone
        ([(1, MISS, 0.9)] * 20 + [(1, A, 0.8)], [(1, A)], 0, 1),
        # constant scores: the order of the file decides, then that of the pictures
        ([(1, A, 0.5), (1, MISS, 0.5)], [(1, A), (2, A)], 0.5, 0.5),
        ([(1, MISS, 0.5), (1, A, 0.5)], [(1, A), (2, A)], 0.5, 0.5 ** (5 / 9)),
        ([(2, A, 0.5), (1, MISS, 0.5)], [(1, A), (2, A)], 0.5, 0.5 ** (5 / 9)),
        # ignored objects take any number of detections, which are then in no count
        ([(1, INSIDE, 0.9), (1, INSIDE, 0.8), (1, A, 0.7)], [(1, A), (1, CROWD, {"ignore": 1}), (2, A)], 0.5, None),
        ([(1, A, 0.9), (1, A, 0.8), (1, B, 0.7)], [(1, A, {"iscrowd": 1}), (1, B), (2, A)], 0.5, 0.5),
        # a counted object is taken before an ignored one with more overlap
        ([(1, A, 0.9)], [(1, A, {"ignore": 1}), (1, [0, 0, 41, 120]), (2, A)], 0.5, 0.5),
    ],
)
def test_edges(
    write_files: WriteFiles, found: list[Any], truth: list[Any], citypersons: float, caltech: float | None
) -> None:
    files = write_files(found, truth, images=10)
    for variant, expected in ((Variant.citypersons, citypersons), (Variant.caltech, caltech)):
        if expected is not None:
            figures = score_miss_rate(*files, variant=variant).figures
            assert figures["mr2"]["Reasonable"] == pytest.approx(expected, abs=1e-12)
            assert json.loads(json.dumps(figures, allow_nan=False)) == figures


@pytest.mark.parametrize(
    ("found", "truth", "recall", "score"),
    [
        ([], [], [-1, -1, -1], [None] * 3),
        ([], [(1, A)], [0, 0, 0], [None] * 3),
        ([(1, A, 0.9)], [(1, A)], [1, 1, 1], [0.9] * 3),
        # also for CityPersons a recall that no threshold gives at 0.01 is 0, whatever its MR-2 reads there
        ([(1, MISS, 0.9), (1, A, 0.8)], [(1, A)], [0, 1, 1], [None, 0.8, 0.8]),
        ([(1, A, 0.9), (1, MISS, 0.8), (1, B, 0.7)], [(1, A), (1, B)], [0.5, 1, 1], [0.9, 0.7, 0.7]),
        ([(1, MISS, 0.9)] * 11 + [(1, A, 0.2)], [(1, A)], [0, 0, 0], [None, 0.9, 0.9]),
    ],
)
@pytest.mark.parametrize("variant", BOTH)
def test_recall_and_its_threshold(
    write_files: WriteFiles, found: list[Any], truth: list[Any], recall: list[float], score: list[Any], variant: Variant
) -> None:
    figures = score_miss_rate(*write_files(found, truth, images=10), variant=variant).figures
    assert (
        list(figures["recall_at_fppi"]["Reasonable"]) == list(figures["score_at_fppi"]["All"]) == ["0.01", "0.1", "1"]
    )
    assert list(figures["recall_at_fppi"]["Reasonable"].values()) == recall
    assert list(figures["score_at_fppi"]["Reasonable"].values()) == score


@pytest.mark.parametrize(
    ("height", "visibility", "counted"),
    [
        (100, None, {"Reasonable", "All"}),  # without vis_ratio: 1
        (100, 1.0, {"Reasonable", "All"}),
        (50, 0.65, {"Reasonable", "Reasonable_small", "Reasonable_occ=heavy", "All"}),  # the ranges are closed
        (75, 0.65, {"Reasonable", "Reasonable_small", "Reasonable_occ=heavy", "All"}),
        (75.1, 0.7, {"Reasonable", "All"}),
        (49.9, 1.0, {"All"}),
        (20, 0.2, {"All"}),
        (19.9, 1.0, set()),
        (100, 0.2, {"Reasonable_occ=heavy", "All"}),
        (100, 0.19, set()),
    ],
)
def test_setups(write_files: WriteFiles, height: float, visibility: float | None, counted: set[str]) -> None:
    more = {"height": 1.0} | ({} if visibility is None else {"vis_ratio": visibility})  # the box's height decides
    figures = score_miss_rate(*write_files([], [(1, [0, 0, 10, height], more)])).figures
    assert {name for name, value in figures["mr2"].items() if value == 1} == counted
    assert all(value in (1, -1) for value in figures["mr2"].values())


@pytest.mark.parametrize(
    ("height", "kept"), [(39.9, False), (40, True), (93.74, True), (93.75, False)]  # [50 / 1.25, 75 * 1.25)
)  # fmt: skip
def test_detections_outside_of_the_range_are_left_out(write_files: WriteFiles, height: float, kept: bool) -> None:
    found = [(1, [900, 900, 10, height], 0.9), (1, [0, 0, 20, 60], 0.8)]
    recall = score_miss_rate(*write_files(found, [(1, [0, 0, 20, 60])])).figures["recall_at_fppi"]["Reasonable_small"]
    assert recall["0.1"] == (not kept)


def test_the_limit_of_citypersons_comes_before_the_range(write_files: WriteFiles) -> None:
    files = write_files([(1, [0, 0, 1, 1], 0.9)] * 1000 + [(1, A, 0.8)], [(1, A)])
    recall = {v: score_miss_rate(*files, variant=v).figures["recall_at_fppi"]["Reasonable"]["0.01"] for v in BOTH}
    assert recall == {Variant.citypersons: 0, Variant.caltech: 1}


def test_caltech_boxes_get_one_aspect(write_files: WriteFiles) -> None:
    files = write_files([(1, [40.5, 0, 19, 100], 0.9)], [(1, [0, 0, 100, 100])])  # of the same centre
    recall = {v: score_miss_rate(*files, variant=v).figures["recall_at_fppi"]["Reasonable"]["0.01"] for v in BOTH}
    assert recall == {Variant.citypersons: 0, Variant.caltech: 1}


@pytest.mark.parametrize(
    ("found", "truth", "ignored", "outcome"),
    [
        ([], [], [], []),
        ([A], [], [], [0]),
        ([], [A], [False], []),
        ([A, A], [A], [False], [1, 0]),
        ([A, A], [A], [True], [-1, -1]),
        ([[0, 0, 10, 10]], [[0, 0, 10, 20]], [False], [1]),  # IoU 0.5 matches
        ([[0, 0, 10, 10]], [[0, 0, 10, 20.1]], [False], [0]),
        ([[0, 0, 10, 10]], [[0, 0, 10, 99]], [True], [-1]),  # all of the detection lies inside
        ([[0, 0, 10, 99]], [[0, 0, 10, 49]], [True], [0]),  # less than half of it does
        ([A, A], [A, A], [False, True], [1, -1]),  # the ignored one only when no counted one is free
        ([A, A], [A, A], [True, False], [1, -1]),
        ([[0, 0, 0, 0], A], [A, [0, 0, 0, 0]], [False, False], [0, 1]),  # no area, no overlap
        # the best free object; the first detection would have left it to the second
        ([[0, 0, 10, 22], [0, 0, 10, 30]], [[0, 0, 10, 20], [0, 0, 10, 24]], [False, False], [1, 1]),
    ],
)
def test_match(found: Any, truth: Any, ignored: list[bool], outcome: list[int]) -> None:
    assert match_picture(boxes(*found), boxes(*truth), np.asarray(ignored, bool)).tolist() == outcome


def test_a_tie_goes_to_the_later_object() -> None:
    """Both overlap by 2/3; the second detection reaches the earlier one alone."""
    truth = boxes([0, 0, 10, 10], [4, 0, 10, 10])
    found = boxes([2, 0, 10, 10], [-2, 0, 10, 10])
    none = np.zeros(2, bool)
    assert match_picture(found, truth, none).tolist() == [1, 1]
    assert match_picture(found, truth[::-1], none).tolist() == [1, 0]


def test_curves(write_files: WriteFiles) -> None:
    found = [(1, A, 0.9), (1, MISS, 0.8), (2, A, 0.7)]
    result = score_miss_rate(*write_files(found, [(1, A), (2, A, {"vis_ratio": 0.3})], images=4))
    curves = {(curve.kind, curve.name): curve for curve in result.curves}
    assert set(curves) == {(kind, name) for kind in ("miss-rate", "precision-recall") for name in SETUPS} - {
        (kind, "Reasonable_small") for kind in ("miss-rate", "precision-recall")  # nothing counts there
    }  # fmt: skip
    every = curves["miss-rate", "All"]
    assert (every.x.tolist(), every.y.tolist()) == ([0, 0.25, 0.25], [0.5, 0.5, 0])
    every = curves["precision-recall", "All"]
    assert (every.x.tolist(), every.y.tolist()) == ([0.5, 0.5, 1], [1, 0.5, pytest.approx(2 / 3)])
    assert result.warnings == [
        f"{result.warnings[0].split(': ')[0]}: 1 of 2 objects have no vis_ratio, which counts as 1."
    ]


def test_categories_are_matched_apart_and_counted_together(write_files: WriteFiles) -> None:
    found = [(1, A, 0.9, {"category_id": 2}), (1, B, 0.8)]
    recall = score_miss_rate(*write_files(found, [(1, A), (1, B)], categories=[1, 2])).figures["recall_at_fppi"]["All"]
    assert recall == {"0.01": 0, "0.1": 0, "1": 0.5}


def test_a_wrong_visibility_is_told(write_files: WriteFiles) -> None:
    with pytest.raises(DataError, match="annotation 1 has vis_ratio 'low'"):
        score_miss_rate(*write_files([], [(1, A, {"vis_ratio": "low"})]))


def twin(found: list[Any], truth: list[Any], images: int, setup: Any, variant: Variant) -> float:
    """Return MR-2 by plain loops over the text of the protocol."""

    def narrowed(box: list[float]) -> list[float]:
        x, y, w, h = box
        return [x + w / 2 - 0.41 * h / 2, y, 0.41 * h, h] if variant is Variant.caltech else box

    rows, counted = [], 0
    for image in range(1, images + 1):
        objects = []
        for _, box, more in (row for row in truth if row[0] == image):
            inside = all(low <= value <= high for value, (low, high) in (
                (box[3], setup.height_px), (more["vis_ratio"], setup.visibility)
            ))  # fmt: skip
            objects.append([narrowed(box), bool(more["ignore"]) or not inside, False])
        counted += sum(not ignored for _, ignored, _ in objects)
        for _, box, score in sorted((row for row in found if row[0] == image), key=lambda row: -row[2]):
            if not setup.height_px[0] / 1.25 <= box[3] < setup.height_px[1] * 1.25:
                continue
            best, dropped = (0.5, None), False
            for item in objects:
                (ax, ay, aw, ah), (bx, by, bw, bh) = narrowed(box), item[0]
                common = max(0, min(ax + aw, bx + bw) - max(ax, bx)) * max(0, min(ay + ah, by + bh) - max(ay, by))
                if item[1]:
                    dropped |= common / (aw * ah) >= 0.5
                elif not item[2] and common / (aw * ah + bw * bh - common) >= best[0]:
                    best = (common / (aw * ah + bw * bh - common), item)
            if best[1] is not None:
                best[1][2] = True
                rows.append((score, 1))
            elif not dropped:
                rows.append((score, 0))
    if not counted:
        return -1
    rows.sort(key=lambda row: -row[0])
    points, hits, false = [], 0, 0
    for _, hit in rows:
        hits, false = hits + hit, false + 1 - hit
        points.append((false / images, 1 - hits / counted))
    if variant is Variant.citypersons:
        references = [0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0]
        beyond = points[-1][1] if points else 1
    else:
        references, beyond = [10 ** (-2 + 0.25 * n) for n in range(9)], 1
    at = [([m for fppi, m in points if fppi <= reference] or [beyond])[-1] for reference in references]
    floor = 1e-10 if variant is Variant.caltech else 0
    if min(at) == floor == 0:
        return 0
    return math.exp(sum(math.log(max(m, floor)) for m in at) / 9)


@pytest.mark.parametrize("variant", BOTH)
@pytest.mark.parametrize("seed", range(4))
def test_plain_loops_agree(write_files: WriteFiles, seed: int, variant: Variant) -> None:
    rng = np.random.default_rng(seed)
    images, truth, found = 25, [], []
    for image in range(1, images):  # one picture has nothing
        for _ in range(rng.integers(0, 9)):
            height = float(rng.choice([30, 55, 70, 100]))
            box = [*(rng.random(2) * 300).tolist(), height * float(rng.uniform(0.3, 0.6)), height]
            truth.append(
                (image, box, {"vis_ratio": float(rng.choice([0.1, 0.4, 0.65, 1])), "ignore": int(rng.random() < 0.1)})
            )
            for _ in range(rng.integers(0, 3)):
                shift = rng.normal(0, 6, 4)
                found.append((image, [box[0] + shift[0], box[1] + shift[1], box[2] + abs(shift[2]), height + shift[3]],
                              float(rng.integers(1, 8)) / 8))  # fmt: skip
        found += [(image, [*(rng.random(2) * 300).tolist(), 25, 60], float(rng.integers(1, 6)) / 8)] * int(
            rng.integers(0, 2)
        )
    figures = score_miss_rate(*write_files(found, truth, images=images), variant=variant).figures["mr2"]
    expected = {name: twin(found, truth, images, setup, variant) for name, setup in SETUPS.items()}
    assert figures == pytest.approx(expected, abs=1e-12)
    assert all(0 < value < 1 for value in figures.values())
