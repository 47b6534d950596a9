"""The FDDB protocol against figures by hand, a slow program that follows its text, and the official curves."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cascade_det.core.imaging import write_image
from cascade_det.errors import DataError
from cascade_det.evaluation.fddb import rate_at, roc_of, score_fddb
from cascade_det.evaluation.fddb_regions import mask_overlaps

NAMES = ("2002/08/11/big/img_1", "2002/08/11/big/img_2", "2003/01/02/big/img_1")
HW = (100, 120)
FACE = "20 10 0.5 60 50"  # radii, angle, centre
OTHER = "10.9 9.2 -1.2 20.4 30.5"
BOX = "44 36 32 28"  # about FACE
MISS = "90 70 20 20"
NO_DETECTION = "0 0 1.79769e+308\n"


def blocks(*regions: Sequence[str], names: Sequence[str] = NAMES) -> str:
    """Return a file with one block for each name; images without regions have an empty one."""
    own = [*regions, *[()] * (len(names) - len(regions))]
    return "".join("\n".join([name, str(len(rows)), *rows, ""]) for name, rows in zip(names, own, strict=True))


def truth_file(folder: Path, *regions: Sequence[str], names: Sequence[str] = NAMES) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "FDDB-fold-01-ellipseList.txt"
    path.write_text(blocks(*[[f"{row}  1" for row in rows] for rows in regions], names=names))
    return path


def sizes_file(folder: Path, names: Sequence[str] = NAMES) -> Path:
    path = folder / "sizes.csv"
    path.write_text("".join(["name,width,height\n", *(f"{name},{HW[1]},{HW[0]}\n" for name in names)]))
    return path


def written(folder: Path, text: str) -> Path:
    path = folder / "dets.txt"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("detections", "disc", "false_positives"),
    [
        (blocks(), NO_DETECTION, 0),
        (blocks([f"{BOX} 0.5"]), "0.5 0 0.5\n" + NO_DETECTION, 0),
        (blocks([f"{FACE} 0.5"]), "0.5 0 0.5\n" + NO_DETECTION, 0),  # an ellipse
        (blocks([f"{FACE} 0.5"], [f"{OTHER} 0.25"], [f"{FACE} 0.25"]), "1 1 0.25\n0.5 0 0.5\n", 1),
        (
            blocks([f"{MISS} 0.75", f"{BOX} 0.5", f"{BOX} 0.25"]),
            "0.5 2 0.25\n0.5 1 0.5\n0 1 0.75\n" + NO_DETECTION,  # the second on a face is false
            2,
        ),
        # of equal scores all count at once; a lower one in another image leaves this image's sum
        (blocks([f"{MISS} 0.5", f"{BOX} 0.5"], [f"{MISS} -2"]), "0.5 2 -2\n0.5 1 0.5\n" + NO_DETECTION, 2),
        (blocks([f"{BOX} 1234567.8"]), "0.5 0 1.23457e+06\n" + NO_DETECTION, 0),
        (blocks([f"{BOX} 0.5"]).replace("\n", "\r\n"), "0.5 0 0.5\n" + NO_DETECTION, 0),
        ("\n" + blocks([f"  {BOX}   0.5 "]).replace("\n", "\n\n"), "0.5 0 0.5\n" + NO_DETECTION, 0),
        (blocks(["-50 -50 20 20 0.5", "300 300 5 5 0.5"]), "0 2 0.5\n" + NO_DETECTION, 2),  # outside the image
    ],
)
def test_discrete_curve(detections: str, disc: str, false_positives: int, tmp_path: Path) -> None:
    truth = truth_file(tmp_path, [FACE], [OTHER])
    result = score_fddb(written(tmp_path, detections), truth, image_sizes=sizes_file(tmp_path))
    assert result.files["DiscROC.txt"] == disc
    rates, false = zip(*(map(float, line.split()[:2]) for line in disc.splitlines()), strict=True)
    assert result.figures["lowest_threshold"]["discrete"] == rates[0]
    assert result.figures["lowest_threshold"]["false_positives"] == false_positives
    assert result.figures["discrete_tpr_at"] == dict.fromkeys(("100", "500", "1000"), rates[0])
    continuous = [line.split() for line in result.files["ContROC.txt"].splitlines()]
    assert [float(row[1]) for row in continuous] == list(false)
    assert [(curve.kind, curve.name, curve.x.tolist()) for curve in result.curves] == [
        ("roc", name, list(false[::-1])) for name in ("discrete", "continuous")
    ]
    assert result.curves[0].y.tolist() == list(rates[::-1])
    assert result.curves[0].figure == f"TPR {rates[0]:.3f} at {false_positives} FP".replace(" 0.", " .")
    assert json.loads(json.dumps(result.figures, allow_nan=False)) == result.figures


def test_exact_detections_have_continuous_rate_1(tmp_path: Path) -> None:
    faces = [[FACE, OTHER], [FACE], [OTHER]]
    found = written(tmp_path, blocks(*[[f"{row} 0.5" for row in rows] for rows in faces]))
    result = score_fddb(found, truth_file(tmp_path, *faces), image_sizes=sizes_file(tmp_path))
    assert result.files == {"DiscROC.txt": "1 0 0.5\n", "ContROC.txt": "1 0\n"}


def test_no_faces(tmp_path: Path) -> None:
    found = written(tmp_path, blocks([f"{BOX} 0.5"]))
    result = score_fddb(found, truth_file(tmp_path), image_sizes=sizes_file(tmp_path))
    assert result.files == {"DiscROC.txt": "0 0 0.5\n" + NO_DETECTION, "ContROC.txt": "0 0\n0 0\n"}
    assert result.figures["discrete_tpr_at"] == dict.fromkeys(("100", "500", "1000"))
    assert result.figures["lowest_threshold"] == {"discrete": None, "continuous": None, "false_positives": 0}
    assert list(result.curves) == []


def box_mask(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.bool_]:
    mask = np.zeros((20, 30), bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


@pytest.mark.parametrize(
    ("rectangle", "mask"),
    [
        ((2, 3, 4, 5), box_mask(2, 3, 6, 8)),  # both corners belong to it
        ((2.5, 3.5, 4, 5), box_mask(2, 4, 6, 8)),  # halves go to even: 2, 4; 6.5 to 6, 8.5 to 8
        ((2.4, 3.6, 4.2, 5.3), box_mask(2, 4, 7, 9)),
        ((6, 8, -4, -5), box_mask(2, 3, 6, 8)),
        ((0.50000001, 0, 0, 0), box_mask(0, 0, 0, 0)),  # in float32 it is one half
        ((-3, -4, 5, 6), box_mask(0, 0, 2, 2)),  # what is outside does not exist
        ((28, 18, 50, 50), box_mask(28, 18, 29, 19)),
        ((-1e5, -1e5, 2e5, 2e5), box_mask(0, 0, 29, 19)),
        ((40, 3, 4, 5), np.zeros((20, 30), bool)),
        ((-9, 3, 8, 5), np.zeros((20, 30), bool)),  # ends at column -1
        ((-9, 3, 9, 5), box_mask(0, 3, 0, 8)),
    ],
)
def test_pixels_of_a_rectangle(rectangle: tuple[float, ...], mask: NDArray[np.bool_]) -> None:
    """The overlap with each single pixel is 1 / area inside and 0 outside."""
    y, x = np.mgrid[:20, :30].reshape(2, -1)
    pixels = np.stack([x, y, 0 * x, 0 * x, 0 * x], axis=1).astype(float)
    overlaps = mask_overlaps(np.asarray([[*rectangle, 0]], float), pixels, (20, 30))[0]
    np.testing.assert_allclose(overlaps, mask.ravel() / max(1, mask.sum()))


def drawn(rows: NDArray[np.float64], image_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return masks ``(N, H, W)`` of ellipses or rectangles, drawn by OpenCV in a picture for each."""
    masks = np.zeros((len(rows), *image_hw), np.uint8)
    for mask, row in zip(masks, rows, strict=True):
        whole = [int(np.rint(value)) for value in row.astype(np.float32)]
        if len(row) == 6:
            degrees = 180 - (math.pi - row[2]) * 180 / math.pi
            cv2.ellipse(mask, (whole[3], whole[4]), (int(row[0]), int(row[1])), degrees, 0, 360, 1, -1)
        else:
            end = np.rint((row[:2] + row[2:4]).astype(np.float32)).astype(int).tolist()
            cv2.rectangle(mask, (whole[0], whole[1]), end, 1, -1)
    return masks.astype(bool)


def slow_overlaps(a: NDArray[np.float64], b: NDArray[np.float64], image_hw: tuple[int, int]) -> NDArray[np.float64]:
    masks = drawn(a, image_hw)[:, None], drawn(b, image_hw)[None]
    both, either = (masks[0] & masks[1]).sum(axis=(2, 3)), (masks[0] | masks[1]).sum(axis=(2, 3))
    return np.where(either > 0, both / np.maximum(either, 1), 0)


def regions(rng: np.random.Generator, count: int, ellipses: bool) -> NDArray[np.float64]:
    """Return regions in and around an image of 80 x 60 pixels."""
    centres, scores = rng.random((count, 2)) * [120, 100] - 20, rng.random((count, 1)).round(1)
    sides = rng.random((count, 2)) * rng.choice([2, 12, 40], (count, 1))
    if not ellipses:
        return np.concatenate([centres - sides / 2, sides, scores], axis=1)
    return np.concatenate([sides, rng.normal(0, 2, (count, 1)), centres, scores], axis=1)


@pytest.mark.parametrize("ellipses", [False, True])
@pytest.mark.parametrize("count", [0, 1, 60])
def test_overlaps_against_whole_masks(ellipses: bool, count: int) -> None:
    rng = np.random.default_rng(count)
    a, b = regions(rng, count, ellipses), regions(rng, 40, True)
    overlaps = mask_overlaps(a, b, (60, 80))
    np.testing.assert_array_equal(overlaps, slow_overlaps(a, b, (60, 80)))
    assert overlaps.shape == (count, 40)
    assert count < 60 or (overlaps > 0).sum() > 50


@pytest.mark.parametrize(
    ("overlaps", "scores", "rows"),
    [
        ([], [], []),
        ([[]], [0.5], [(0.5, 0, 0, 0)]),  # a detection, no face: by the program's rule all zero
        ([[0.5]], [0.9], [(0.9, 0, 0.5, 1)]),  # exactly one half is a miss, yet its overlap counts
        ([[0.51]], [0.9], [(0.9, 1, 0.51, 0)]),
        ([[0.1, 0.0]], [0.9], [(0.9, 0, 0.1, 1)]),
        # the highest sum, not the best first: .6 + .7 instead of .8 + 0
        ([[0.8, 0.6], [0.7, 0.0]], [0.9, 0.8], [(0.8, 2, 1.3, 0), (0.9, 1, 0.8, 0)]),
        # and it may lose a face: .4 + .4 is more than .7
        ([[0.7, 0.4], [0.4, 0.0]], [0.9, 0.8], [(0.8, 0, 0.8, 2), (0.9, 1, 0.7, 0)]),
        # more detections than faces; file order is not order of scores
        ([[0.2], [0.9], [0.0]], [0.3, 0.6, 0.9], [(0.3, 1, 0.9, 2), (0.6, 1, 0.9, 1), (0.9, 0, 0, 1)]),
    ],
)
def test_assignment(overlaps: Any, scores: Any, rows: Any) -> None:
    if not scores:
        roc = roc_of([], [])
        assert (len(roc.scores), roc.faces, rate_at(roc, 100)) == (0, 0, None)
        return
    roc = roc_of([np.asarray(overlaps, float).reshape(len(scores), -1)], [np.asarray(scores, float)])
    found = np.stack([roc.scores, roc.discrete, roc.continuous, roc.false_positives], axis=1)
    np.testing.assert_allclose(found, rows, atol=1e-12)


def slow_roc(
    overlaps: Sequence[NDArray[Any]], scores: Sequence[NDArray[Any]]
) -> list[tuple[float, float, float, float]]:
    """Return rows of score, both sums and false positives by trying every assignment at every threshold."""

    def best(matrix: NDArray[Any]) -> tuple[int, float]:
        small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        pairs = (
            small[np.arange(len(small)), list(columns)]
            for columns in itertools.permutations(range(small.shape[1]), len(small))
        )
        chosen = max(pairs, key=lambda values: float(values.sum()))
        return int((chosen > 0.5).sum()), float(chosen.sum())

    lists = []
    for matrix, own in zip(overlaps, scores, strict=True):
        entries = {float(np.finfo(float).max): (0, 0.0, 0)} if len(own) == 0 else {}
        for score in set(own.tolist()):
            found, total = best(matrix[own >= score])
            entries[score] = (found, total, int((own >= score).sum()) - found)
        lists.append(entries)
    rows = []
    for score in sorted({score for entries in lists for score in entries}):
        at = [entries[min(s for s in entries if s >= score)] for entries in lists if any(s >= score for s in entries)]
        rows.append((score, *np.sum(at, axis=0).tolist()))
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_crowded_scenes_against_a_slow_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    overlaps, scores = [], []
    for _ in range(8):
        shape = int(rng.integers(0, 6)), int(rng.integers(0, 6))
        overlaps.append(np.where(rng.random(shape) < 0.6, rng.random(shape), 0))
        scores.append(rng.random(shape[0]).round(1))
    roc = roc_of(overlaps, scores)
    found = np.stack([roc.scores, roc.discrete, roc.continuous, roc.false_positives], axis=1)
    np.testing.assert_allclose(found, slow_roc(overlaps, scores), rtol=1e-12, atol=1e-12)


def test_rate_at_false_positives() -> None:
    # falling: FP 2 at rate 0, FP 2 at 1/2, FP 3 at 1/2
    overlaps = np.asarray([[0, 0], [0, 0], [0.9, 0], [0, 0]], float)
    roc = roc_of([overlaps], [np.asarray([0.9, 0.9, 0.8, 0.7])])
    assert [rate_at(roc, k) for k in (0, 1, 2, 3, 100)] == [0, 0, 0.5, 0.5, 0.5]


def test_folders_of_folds_are_joined_by_number(tmp_path: Path) -> None:
    names = [f"a/img_{n}" for n in (1, 2, 10)]
    (tmp_path / "truth").mkdir()
    (tmp_path / "found").mkdir()
    for number, name in zip((1, 2, 10), names, strict=True):
        text = blocks([f"{FACE} 1"], names=[name])
        (tmp_path / "truth" / f"FDDB-fold-{number}-ellipseList.txt").write_text(text)
        (tmp_path / "truth" / f"FDDB-fold-{number}.txt").write_text(name)  # names alone, as beside the official lists
        (tmp_path / "found" / f"fold-{number}-out.txt").write_text(text)
    (tmp_path / "found" / "DiscROC.txt").write_text("1 0 1")
    result = score_fddb(tmp_path / "found", tmp_path / "truth", image_sizes=sizes_file(tmp_path, names))
    assert result.files["DiscROC.txt"] == "1 0 1\n"


def test_sizes_of_pictures(tmp_path: Path) -> None:
    for name, extension in zip(NAMES, (".jpg", ".png", ".jpg"), strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_image((tmp_path / name).with_suffix(extension), np.zeros((*HW, 3), np.uint8))
    truth = truth_file(tmp_path, [FACE], [OTHER], [FACE])
    found = written(tmp_path, blocks([f"{BOX} 0.5", f"{MISS} 0.25"], [f"{BOX} 0.5"]))
    by_pictures = score_fddb(found, truth, images=tmp_path)
    by_table = score_fddb(found, truth, image_sizes=sizes_file(tmp_path))
    assert by_pictures.files == by_table.files
    assert by_pictures.figures == by_table.figures


def test_coco_results(tmp_path: Path) -> None:
    truth = truth_file(tmp_path, [FACE], [OTHER], [FACE])
    images = [{"id": 5, "path": f"/data/fddb/{NAMES[2]}.jpg"}, {"id": 6, "path": f"{NAMES[0]}.jpg"}]
    (tmp_path / "images.json").write_text(json.dumps(images))
    results = [{"image_id": 5, "bbox": [44, 36, 32, 28], "score": s, "category_id": 3} for s in (0.25, 0.5)]
    (tmp_path / "detections.json").write_text(json.dumps(results))
    result = score_fddb(tmp_path / "detections.json", truth, image_sizes=sizes_file(tmp_path))
    assert result.files["DiscROC.txt"] == "0.333333 1 0.25\n0.333333 0 0.5\n" + NO_DETECTION
    assert ["1 of 3 images are not in" in text for text in result.warnings] == [True]


def scored(folder: Path, detections: str) -> None:
    score_fddb(written(folder, detections), truth_file(folder, [FACE]), image_sizes=sizes_file(folder))


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        ("", "has 0 images, the truth 3"),
        (blocks(names=NAMES[:2]), "has 2 images, the truth 3"),
        (blocks(names=[*NAMES, "more"]), "has 4 images, the truth 3"),
        (blocks(names=NAMES[::-1]), f"names '{NAMES[2]}' as image 1, the truth '{NAMES[0]}'"),
        (blocks([f"{BOX} 0.5"]).replace("\n1\n", "\n3\n"), f"line 4: '{NAMES[1]}' should be left top"),
        (blocks([f"{BOX} 0.5"]).replace("\n1\n", "\n\n"), "line 1: .* followed by '44 36"),
        (NAMES[0], "line 1: .* followed by 'nothing' and 0 lines"),
        (f"{NAMES[0]}\n2\n{BOX} 0.5\n", "line 1: .* followed by '2' and 1 lines"),
        (blocks([BOX]), "line 3: '44 36 32 28' should be left top width height score or major_radius"),
        (blocks([f"{BOX} 1 2 3"]), "line 3: "),
        (blocks([f"{BOX} 0.5", f"{FACE} 0.5"]), "line 4: .* should be left top width height score, "),
        (blocks([f"{BOX} 0.5"], [f"{FACE} 0.5"]), "line 6: .* one kind"),
        (blocks([f"{BOX} high"]), "line 3: .*high"),
        (blocks([f"{BOX} nan"]), "line 3: .*finite"),
        (blocks(["44 36 inf 28 0.5"]), "line 3: .*finite"),
        (blocks(["-20 10 0.5 60 50 0.5"]), "line 3: .*no radius below 0"),
    ],
)
def test_unusable_detections(detections: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        scored(tmp_path, detections)


def twice(folder: Path) -> Path:
    truth_file(folder / "truth", [FACE])
    (folder / "truth" / "all-ellipseList.txt").write_text(blocks([f"{FACE} 1"]))
    return folder / "truth"


def no_file(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (no_file, "empty holds no file .ellipseList.txt"),
        (lambda folder: folder / "absent.txt", "absent.txt cannot be read"),
        (lambda folder: written(folder, ""), "names no image"),
        (lambda folder: written(folder, "".join(f"{name}\n" for name in NAMES)), "line 1: .* followed by '2002"),
        (lambda folder: written(folder, blocks([f"{BOX} 1"])), "line 3: .* should be major_radius minor_radius"),
        (twice, "names the image 2002/08/11/big/img_1 twice"),
    ],
)
def test_unusable_truth(annotations: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    path = annotations(tmp_path)
    (tmp_path / "found.txt").write_text(blocks())
    with pytest.raises(DataError, match=message):
        score_fddb(tmp_path / "found.txt", path, image_sizes=sizes_file(tmp_path))


def csv(text: str) -> Callable[[Path], dict[str, Path]]:
    def write(folder: Path) -> dict[str, Path]:
        (folder / "sizes.csv").write_text(text)
        return {"image_sizes": folder / "sizes.csv"}

    return write


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (lambda folder: {}, "neither of --image-sizes FILE.csv .* and --images DIR"),
        (lambda folder: {"image_sizes": folder, "images": folder}, "both of --image-sizes"),
        (lambda folder: {"image_sizes": folder / "absent.csv"}, "absent.csv cannot be read"),
        (lambda folder: {"images": folder}, f"has no picture {NAMES[0]}.jpg"),  # folds of other pictures
        (csv(""), "has no column name"),
        (csv("name,width\n"), "has no column height"),
        (csv(f"name,width,height\n{NAMES[0]},9,9\n"), f"lacks 2 of 3 images, such as {NAMES[1]}"),
        (csv(f"name,width,height\n{NAMES[0]},9\n"), f"{NAMES[0]} has width '9' and height None"),
        (csv(f"name,width,height\n{NAMES[0]},9.5,9\n"), "has width '9.5'"),
        (csv(f"name,width,height\n{NAMES[0]},0,9\n"), "has width '0'"),
        (csv(f"name,width,height\n{NAMES[0]},999999,999999\n"), "has width '999999'"),
    ],
)
def test_unusable_sizes(sizes: Callable[[Path], dict[str, Path]], message: str, tmp_path: Path) -> None:
    truth, found = truth_file(tmp_path, [FACE]), written(tmp_path, blocks())
    with pytest.raises(DataError, match=message):
        score_fddb(found, truth, **sizes(tmp_path))


def test_the_official_curves(tmp_path: Path) -> None:
    data = os.environ.get("CASCADE_DET_DATA")
    if not data or not Path(data, "eval_vectors", "fddb").is_dir():
        pytest.skip("CASCADE_DET_DATA names no folder with eval_vectors/fddb")
    vectors, fddb = Path(data, "eval_vectors", "fddb", "real_mtcnn"), Path(data, "data", "fddb")
    found = tmp_path / "dets.txt"
    found.write_bytes(gzip.decompress((vectors / "dets.txt.gz").read_bytes()))
    result = score_fddb(found, fddb / "FDDB-folds", image_sizes=fddb / "image_sizes.csv")
    expected = {
        name: gzip.decompress((vectors / f"{name}.gz").read_bytes()).decode() for name in ("DiscROC.txt", "ContROC.txt")
    }
    assert result.files["DiscROC.txt"] == expected["DiscROC.txt"]
    own, official = (
        np.asarray([line.split() for line in text.splitlines()], float)
        for text in (result.files["ContROC.txt"], expected["ContROC.txt"])
    )
    np.testing.assert_array_equal(own[:, 1], official[:, 1])
    np.testing.assert_allclose(own[:, 0], official[:, 0], rtol=0, atol=2e-5)
    lowest = result.figures["lowest_threshold"]
    assert [lowest[key] for key in ("discrete", "continuous", "false_positives")] == pytest.approx(
        [0.896345, 0.674485, 249], abs=1e-6
    )
    at = json.loads((vectors / "expected.json").read_text())["rate_at_fp"]
    figures = {key: pytest.approx(at[key][0], abs=1e-6) for key in ("100", "500", "1000")}
    assert result.figures["discrete_tpr_at"] == figures
