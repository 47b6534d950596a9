"""The WIDER FACE protocol against figures by hand, a slow program that follows its text, and the official curves."""

from __future__ import annotations

import gzip
import json
import math
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray

from cascade_det.errors import DataError
from cascade_det.evaluation.wider import THRESHOLDS, average_precision, hit_boxes, score_levels, score_wider

Box = tuple[float, float, float, float]
A: Box = (10, 10, 19, 19)
IGNORED: Box = (100, 10, 19, 19)
B: Box = (10, 100, 19, 19)
MISS: Box = (300, 300, 19, 19)
OUTSIDE: Box = (-900.5, -900.5, 20, 20)
LEVELS = ("easy", "medium", "hard")
# image: boxes, and the numbers (from 1) of those that count; "c" has no face
TRUTH: Mapping[str, tuple[Sequence[Box], Sequence[int]]] = {
    "0--Parade/a": ([A, IGNORED], [1]),
    "0--Parade/b": ([B], [1]),
    "1--Riot/c": ([], []),
}


def cells(values: Sequence[Any]) -> NDArray[np.object_]:
    """Return a column of a MATLAB cell array."""
    column = np.empty((len(values), 1), object)
    for row, value in enumerate(values):
        column[row, 0] = value
    return column


def write_truth(folder: Path, truth: Mapping[str, tuple[Sequence[Box], Sequence[int]]] = TRUTH) -> Path:
    events = list(dict.fromkeys(name.split("/")[0] for name in truth))
    own = [[name for name in truth if name.startswith(f"{event}/")] for event in events]
    lists = {
        "event_list": cells(events),
        "file_list": cells([cells([name.split("/")[1] for name in names]) for names in own]),
        "face_bbx_list": cells(
            [cells([np.asarray(truth[n][0], np.int32).reshape(-1, 4) for n in names]) for names in own]
        ),
    }
    counted = cells([cells([np.asarray(truth[n][1], np.uint8).reshape(-1, 1) for n in names]) for names in own])
    folder.mkdir(exist_ok=True)
    scipy.io.savemat(folder / "wider_face_val.mat", lists)
    for level in LEVELS:
        scipy.io.savemat(folder / f"wider_{level}_val.mat", {**lists, "gt_list": counted})
    return folder


def lines(*rows: tuple[Box, float], count: int | None = None) -> str:
    """Return the text of a file of detections."""
    texts = [" ".join(map(str, (*box, score))) for box, score in rows]
    return "\n".join(["image", str(len(rows) if count is None else count), *texts, ""])


def write_predictions(folder: Path, files: Mapping[str, str | None]) -> Path:
    """Write a file of each image that has a text, byte by byte."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            (folder / f"{name}.txt").write_bytes(text.encode())
    return folder


ONLY_A = lines((A, 0.9), (MISS, 0.1))
HALF = 0.5  # one of two faces, and no false detection before it
BROKEN = "1 of 3 images count as without detections"
LONGER = "1 of 3 images have lines beyond the count"


@pytest.mark.parametrize(
    ("a", "b", "ap", "warning"),
    [
        (None, None, 0, "2 of 3 images have no file"),
        (lines(), lines(), 0, None),
        (lines((A, 0.9)), lines((B, 0.5)), 1, None),
        (ONLY_A, None, HALF, "1 of 3 images have no file"),
        (ONLY_A, lines((B, 0.8), count=2), HALF, BROKEN),  # more than there are
        (ONLY_A, lines((B, 0.8)).replace(" 0.8", ""), HALF, BROKEN),  # a short line
        (ONLY_A, lines((B, 0.8), (MISS, 0.1)).replace(" 0.1", ""), HALF, BROKEN),  # the line before it goes too
        (ONLY_A, lines((B, 0.8)).replace("0.8", "high"), HALF, BROKEN),
        (ONLY_A, lines((B, 0.8)).replace("\n1\n", "\none\n"), HALF, BROKEN),
        (ONLY_A, lines((B, 0.8), count=-1), HALF, BROKEN),
        (ONLY_A, "image", HALF, BROKEN),
        (ONLY_A, "", HALF, BROKEN),
        (ONLY_A, lines((B, 0.8), (MISS, 1), count=1), 1, LONGER),
        (ONLY_A, lines((B, 0.8)) + "1 2", 1, LONGER),  # what is unused may be short
        (ONLY_A, lines((B, 0.8), count=0), HALF, LONGER),
        (ONLY_A, lines((B, 0.8)) + "\n \n\n", 1, None),
        (ONLY_A.replace("\n", "\r\n"), lines((B, 0.8)).replace("\n", "\r\n"), 1, None),
        (ONLY_A, lines((B, 0.8)).replace("0.8", "8e-1 7 further"), 1, None),
        (lines((MISS, 0.1), (A, 0.9)), lines((B, 0.5)), 1, None),  # not sorted
        (lines((MISS, 0.9), (A, 0.5)), lines((B, 0.1)), 2 / 3, None),  # 1/2, then 2/3: the higher one counts before too
        (lines((A, 0.9), (A, 0.8)), lines((B, 0.1)), 0.5 + 0.5 * 2 / 3, None),  # a second one is false
        (lines((IGNORED, 0.9), (IGNORED, 0.8), (A, 0.5)), lines((B, 0.1)), 1, None),
        (lines((OUTSIDE, 0.9), (A, 0.5)), lines((B, 0.1)), 2 / 3, None),  # nothing is clipped
        (lines((A, 0.5)), lines((B, 0.5)), 0, "All 2 detections have the score 0.5"),  # 0/0
        (lines((A, -0.5)), lines((B, -0.5)), 1, None),  # not 0/0: the maximum is 0
        (lines((A, 0)), lines((B, 0)), 1, None),
        (lines((A, 7)), lines((B, -1e4)), 1, None),
    ],
)
def test_files(a: str | None, b: str | None, ap: float, warning: str | None, tmp_path: Path) -> None:
    files = {"0--Parade/a": a, "0--Parade/b": b, "1--Riot/c": lines()}
    found = write_predictions(tmp_path / "found", files)
    result = score_wider(found, write_truth(tmp_path / "truth"))
    assert result.figures == pytest.approx(dict.fromkeys(LEVELS, ap))
    assert [(c.kind, c.name, len(c.x), c.figure) for c in result.curves] == [
        ("precision-recall", level, 1000, f"AP {ap:.3f}".replace(" 0", " ")) for level in LEVELS
    ]
    assert len(result.warnings) == (warning is not None)
    assert (warning or "") in "".join(result.warnings)
    assert json.loads(json.dumps(result.figures, allow_nan=False)) == result.figures


def test_an_image_without_faces_has_no_false_detections_but_its_scores_count(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth")
    files = {"0--Parade/a": lines((A, 0.5)), "0--Parade/b": lines((B, 0.25)), "1--Riot/c": lines((MISS, 1), (A, 0))}
    result = score_wider(write_predictions(tmp_path / "found", files), truth)
    curve = result.curves[0]
    assert result.figures["hard"] == 1
    # normalised by the range 0 to 1, which only that image reaches
    assert np.flatnonzero(np.diff(curve.x, prepend=0)).tolist() == [499, 749]
    assert THRESHOLDS[[499, 749]].tolist() == [0.5, 0.25]


def test_a_level_without_faces_has_no_figure(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth", {"0--Parade/a": ([A], [])})
    result = score_wider(write_predictions(tmp_path / "found", {"0--Parade/a": lines((A, 1), (A, 0))}), truth)
    assert (result.figures, list(result.curves)) == (dict.fromkeys(LEVELS), [])


@pytest.mark.parametrize(
    ("scores", "first_rows"),
    [
        # all negative: from -.9 to (nearly) 0, so -.1 becomes .8/.9 = .8889 and -.9 becomes 0
        ((-0.1, -0.9), (112, 1000)),
        # in float32 .7 is less, in float64 it would reach the threshold of row 300
        ((0.7, 0.0, 1.0), (301, 1000)),
        ((3.0, 2.0, 5.0, 1.0), (500, 750)),
    ],
)
def test_row_at_which_a_score_passes(scores: Sequence[float], first_rows: tuple[int, int]) -> None:
    rows = [(*A, scores[0]), (*B, scores[1]), *[(*IGNORED, score) for score in scores[2:]]]
    level = score_levels([np.asarray([A, B, IGNORED])], {"hard": [np.arange(2)]}, [np.asarray(rows)])["hard"]
    assert (np.flatnonzero(np.diff(level.recall, prepend=0)) + 1).tolist() == list(first_rows)


@pytest.mark.parametrize(
    ("detection", "box", "hit"),
    [
        ((0, 0, 9, 4), (0, 0, 9, 9), True),  # 10 x 5 of 10 x 10 pixels: sides are one longer
        ((0, 0, 9, 3.99), (0, 0, 9, 9), False),
        ((0, 0, 10, 5), (0, 0, 10, 10), True),  # 66/121
        ((10, 0, 9, 9), (0, 0, 9, 9), False),  # one beside the other
        ((9, 9, -3, -3), (0, 0, 9, 9), False),
        ((5, 5, -1, -1), (5, 5, -1, -1), False),  # no extent, on no extent
        ((0, 0, 0, 0), (0, 0, 0, 0), True),  # one pixel
    ],
)
def test_overlap(detection: Box, box: Box, hit: bool) -> None:
    assert hit_boxes(np.asarray([detection], float), np.asarray([box], float)).tolist() == [0 if hit else -1]


def test_the_first_box_wins_a_tie_and_none_is_a_second_choice() -> None:
    boxes = np.asarray([MISS, A, A], float)
    assert hit_boxes(np.asarray([A, A, OUTSIDE], float), boxes).tolist() == [1, 1, -1]
    assert hit_boxes(np.zeros((0, 4)), boxes).tolist() == []
    assert hit_boxes(np.asarray([A], float), np.zeros((0, 4))).tolist() == [-1]


def test_no_images() -> None:
    level = score_levels([], {"hard": []}, [])["hard"]
    assert level.ap is None
    assert np.isnan(level.precision).all()


def slow_levels(
    boxes: Sequence[NDArray[Any]], counted: Sequence[Sequence[int]], found: Sequence[NDArray[Any]]
) -> tuple[list[float], list[float]]:
    """Return precision and recall of one level, step by step as the protocol tells it."""
    low = np.float32(min(3.4028235e38, *(row[4] for rows in found for row in rows)))
    high = np.float32(max(1.1754944e-38, *(row[4] for rows in found for row in rows)))
    proposals, recalled = [0] * 1000, [0] * 1000
    for own, counts, rows in zip(boxes, counted, found, strict=True):
        if len(own) == 0 or len(rows) == 0:
            continue
        rows = sorted(rows.tolist(), key=lambda row: -row[4])
        state, is_proposal, recalled_so_far = [0] * len(own), [], []
        for x, y, w, h, _ in rows:
            best, place = -1.0, -1
            for number, (bx, by, bw, bh) in enumerate(own.tolist()):
                iw, ih = min(x + w, bx + bw) - max(x, bx) + 1, min(y + h, by + bh) - max(y, by) + 1
                both = iw * ih
                overlap = both / ((w + 1) * (h + 1) + (bw + 1) * (bh + 1) - both) if iw > 0 and ih > 0 else 0
                if overlap > best:
                    best, place = overlap, number
            is_proposal.append(1)
            if best >= 0.5:
                if place not in counts:
                    state[place], is_proposal[-1] = -1, 0
                elif state[place] == 0:
                    state[place] = 1
            recalled_so_far.append(state.count(1))
        for t in range(1, 1001):
            passing = [
                number
                for number, row in enumerate(rows)
                if float((np.float32(row[4]) - low) / (high - low)) >= 1 - t / 1000
            ]
            if passing:
                proposals[t - 1] += sum(is_proposal[: passing[-1] + 1])
                recalled[t - 1] += recalled_so_far[passing[-1]]
    faces = sum(map(len, counted))
    return [r / p if p else math.nan for r, p in zip(recalled, proposals, strict=True)], [r / faces for r in recalled]


def slow_ap(precision: Sequence[float], recall: Sequence[float]) -> float:
    mrec, mpre = [0, *recall, 1], [0, *precision, 0]
    for i in range(len(mpre) - 2, -1, -1):
        if not mpre[i] >= mpre[i + 1]:  # NaN loses
            mpre[i] = mpre[i + 1]
    return sum((mrec[i + 1] - mrec[i]) * mpre[i + 1] for i in range(len(mrec) - 1) if mrec[i + 1] != mrec[i])


@pytest.mark.parametrize("seed", range(4))
def test_crowded_scenes_against_a_slow_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, counted, found = [], [], []
    for n in range(6):
        count = int(rng.integers(1, 15)) if n else 0
        own = np.concatenate([rng.integers(-10, 40, (count, 2)), rng.integers(0, 30, (count, 2))], axis=1)
        moved = np.repeat(own, 3, axis=0) + rng.normal(0, 2, (3 * count, 4))
        false = rng.random((5, 4)) * 40
        rows = np.concatenate([moved, false]) if n != 1 else np.zeros((0, 4))
        scores = rng.random((len(rows), 1)).round(2 if seed % 2 else 3) - seed / 4
        boxes.append(own.astype(float))
        counted.append(np.flatnonzero(rng.random(count) < 0.6))
        found.append(np.concatenate([rows, scores], axis=1))
    level = score_levels(boxes, {"hard": counted}, found)["hard"]
    precision, recall = slow_levels(boxes, [rows.tolist() for rows in counted], found)
    np.testing.assert_array_equal(level.precision, precision)
    np.testing.assert_array_equal(level.recall, recall)
    assert level.ap == pytest.approx(slow_ap(precision, recall), abs=1e-12)
    assert 0.1 < level.ap < 0.9
    assert average_precision(np.asarray(precision), np.asarray(recall)) == level.ap


def coco_files(folder: Path, images: Sequence[tuple[Any, str]], *found: tuple[Any, Box, float]) -> Path:
    """Write a COCO results file and the list of images beside it, given by (id, path)."""
    folder.mkdir(exist_ok=True)
    (folder / "images.json").write_text(json.dumps([{"id": n, "path": p, "width": 9, "height": 9} for n, p in images]))
    results = [{"image_id": n, "category_id": 1, "bbox": box, "score": score} for n, box, score in found]
    (folder / "detections.json").write_text(json.dumps(results))
    return folder / "detections.json"


@pytest.mark.parametrize(
    ("images", "warnings"),
    [
        ([(7, "/data/0--Parade/a.jpg"), (3, "WIDER\\0--Parade\\b.png"), (1, "1--Riot/c.jpg")], []),
        ([(7, "a.jpg"), (3, "b.jpg"), (1, "c.jpg")], []),  # as detected within the folder of an event
        ([(7, "0--Parade/a.jpg"), (3, "x/0--Parade/b.jpg")], ["1 of 3 images are not in"]),
        (
            [(7, "0--Parade/a.jpg"), (3, "0--Parade/b.jpg"), (9, "0--Parade/z.jpg"), (8, "1--Riot/a.jpg")],
            ["1 of 3 images are not in", "2 of 4 images in"],
        ),
    ],
)
def test_coco_results(images: Sequence[tuple[int, str]], warnings: Sequence[str], tmp_path: Path) -> None:
    file = coco_files(tmp_path, images, (3, B, 0.1), (7, MISS, 0.8), (7, A, 0.9))
    result = score_wider(file, write_truth(tmp_path / "truth"))
    assert result.figures["easy"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert len(result.warnings) == len(warnings)
    assert all(text in said for text, said in zip(warnings, result.warnings, strict=True))


def test_text_file_is_one_level(tmp_path: Path) -> None:
    text = "0--Parade/a.jpg\n2\n10 10 19 19 0 0 0 0 0 0 \n100 10 19 19 2 0 0 1 2 0 \n"
    text += "1--Riot/c.jpg\n0\n0 0 0 0 0 0 0 0 0 0 \n1--Riot/d.jpg\n1\n0 0 0 0 0 0 0 0 0 0 \n0--Parade/b.jpg\n1\n"
    text += "10 100 19 19 0 0 0 0 0 0 \n\n"
    (tmp_path / "gt.txt").write_text(text)
    files = {"0--Parade/a": lines((A, 0.9), (IGNORED, 0.5)), "0--Parade/b": lines((B, 0.1)), "1--Riot/c": lines()}
    result = score_wider(write_predictions(tmp_path / "found", files), tmp_path / "gt.txt")
    assert result.figures == {"all": pytest.approx(1)}  # three faces; what has no area is none
    assert ["have no file" in result.warnings[0], "has no levels" in result.warnings[1]] == [True, True]


def test_an_empty_folder_is_no_detection(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth")
    (tmp_path / "found").mkdir()
    result = score_wider(tmp_path / "found", truth)
    assert set(result.figures.values()) == {0.0}
    assert "have no file and count as without detections" in result.warnings[0]


def no_mats(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def changed_mat(name: str, **changes: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        truth = write_truth(folder / "truth")
        content = {key: value for key, value in scipy.io.loadmat(truth / name).items() if not key.startswith("__")}
        content = {key: value for key, value in {**content, **changes}.items() if value is not None}
        scipy.io.savemat(truth / name, content)
        return truth

    return write


def written(text: str, name: str = "gt.txt") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder / name

    return write


def damaged_mat(folder: Path) -> Path:
    truth = write_truth(folder / "truth")
    (truth / "wider_hard_val.mat").write_bytes(b"no matrix")
    return truth


OTHER_NAMES = cells([cells(["a", "d"]), cells(["c"])])
BEYOND = cells([cells([np.asarray([[3]]), np.asarray([[1]])]), cells([np.zeros((0, 1))])])


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (no_mats, "empty/wider_face_val.mat is missing"),
        (lambda folder: folder / "absent", "absent: cannot be read"),
        (lambda folder: write_truth(folder / "truth") / "wider_hard_val.mat", "give the folder that holds all"),
        (damaged_mat, "wider_hard_val.mat is no readable MATLAB file"),
        (changed_mat("wider_face_val.mat", face_bbx_list=None), "wider_face_val.mat has no face_bbx_list"),
        (changed_mat("wider_easy_val.mat", gt_list=None), "wider_easy_val.mat has no gt_list"),
        (changed_mat("wider_face_val.mat", face_bbx_list=np.zeros((5, 4))), "lists are not those of the toolbox"),
        (changed_mat("wider_face_val.mat", event_list=cells(["0--Parade"])), "lists are not those of the toolbox"),
        (changed_mat("wider_hard_val.mat", file_list=OTHER_NAMES), "wider_hard_val.mat lists other images"),
        (changed_mat("wider_hard_val.mat", gt_list=BEYOND), "0--Parade/a names box 3 .* has 2"),
        (written("\n"), "names no image"),
        (written("0--Parade/a.jpg\n2\n1 2 3 4 0 0 0 0 0 0\n"), "line 1: .* counts 2 faces, but the file ends after 1"),
        (written("0--Parade/a.jpg\n1\n1 2 3 4\n\nb.jpg\n"), "line 3: '1 2 3 4' has 4 fields, not 10 numbers"),
        (written("0--Parade/a.jpg\n0\n\nb.jpg\n"), "line 4: the file ends after 'b.jpg'"),
    ],
)
def test_unusable_truth(annotations: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    found = write_predictions(tmp_path / "found", {"0--Parade/a": lines()})
    path = annotations(tmp_path)
    with pytest.raises(DataError, match=message):
        score_wider(found, path)


def not_finite(folder: Path) -> Path:
    return write_predictions(folder / "found", {"0--Parade/a": lines((A, math.nan))})


def results_alone(folder: Path) -> Path:
    file = coco_files(folder, [(1, "a.jpg")])
    (folder / "images.json").unlink()
    return file


ONE = [(1, "0--Parade/a.jpg")]


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (
            lambda folder: written("x")(no_mats(folder)).parent,
            "a folder for none of the 2 events of the truth, such as 0--Parade",
        ),
        (lambda folder: folder / "absent", "absent: .*cannot be read"),
        (not_finite, "a.txt: a detection has a number that is not finite"),
        (written("0.9", "dets.txt"), "dets.txt holds no list of objects"),
        (written("image\n1\n", "dets.txt"), "dets.txt is no JSON file"),
        (results_alone, "images.json: .*cannot be read"),
        (lambda folder: coco_files(folder, []), "no path of an image ends in one of the 3 names .* lists none"),
        (lambda folder: coco_files(folder, [(1, "x/z.jpg")]), "such as 0--Parade/a .such as x/z.jpg"),
        (lambda folder: coco_files(folder, [*ONE, (1, "b.jpg")]), "two images have one id"),
        (lambda folder: coco_files(folder, [*ONE, (2, "a.png")]), "are both 0--Parade/a"),
        (lambda folder: coco_files(folder, [(None, "a.png")]), "needs an `id` and a `path`"),
        (lambda folder: coco_files(folder, ONE, (2, A, 0.5)), "entry 0 has image_id 2"),
        (lambda folder: coco_files(folder, ONE, (1, A, 0.5), (1, A[:3], 0.5)), "entry 1 is .*`bbox` of four numbers"),
        (lambda folder: coco_files(folder, ONE, (1, A, math.nan)), "entry 0 is .*all finite"),
    ],
)
def test_unusable_predictions(predictions: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    truth, path = write_truth(tmp_path / "truth"), predictions(tmp_path)
    with pytest.raises(DataError, match=message):
        score_wider(path, truth)


def test_the_official_curves(tmp_path: Path) -> None:
    data = os.environ.get("CASCADE_DET_DATA")
    if not data or not Path(data, "eval_vectors", "wider").is_dir():
        pytest.skip("CASCADE_DET_DATA names no folder with eval_vectors/wider")
    vectors = Path(data, "eval_vectors", "wider", "real_subset")
    with tarfile.open(vectors / "predictions.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    result = score_wider(tmp_path, Path(data, "data", "wider", "ground_truth"))
    expected = json.loads((vectors / "expected.json").read_text())["ap"]
    assert result.figures == pytest.approx(expected, rel=0, abs=1e-9)
    for curve in result.curves:
        with gzip.open(vectors / f"pr_{curve.name}.csv.gz") as file:
            rows = np.loadtxt(file, delimiter=",")
        # the file has 15 digits
        np.testing.assert_allclose(np.stack([curve.y, curve.x], axis=1), rows, rtol=1e-14, atol=0, equal_nan=True)
