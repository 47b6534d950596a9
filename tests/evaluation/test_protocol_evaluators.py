"""The protocols as evaluators: the figures of `score` on files of the same detections, and what is said or refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray

from cascade_det.core.imaging import write_image
from cascade_det.core.registry import EVALUATORS
from cascade_det.core.types import Annotations, Detections
from cascade_det.data.formats.fddb import Fddb
from cascade_det.data.formats.wider import Wider
from cascade_det.data.sources import Picture, Source
from cascade_det.errors import DataError, RecipeError
from cascade_det.evaluation.base import ScoredSet
from cascade_det.evaluation.fddb import score_fddb
from cascade_det.evaluation.files import write_evaluation
from cascade_det.evaluation.miss_rate import Variant, score_miss_rate
from cascade_det.evaluation.points import Normaliser, score_points
from cascade_det.evaluation.submissions import fddb_text, named_block
from cascade_det.evaluation.wider import score_wider

HW = (60, 80)
EVENTS = {"0--Parade": ["a.b", "z"], "1--Riot": ["c", "d"], "2--Demo": ["e"]}
ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
NAMES = [f"2002/08/{day}/big/img_{number}" for day in ("11", "02") for number in (9, 10, 2)]  # in no order
EMPTY = ScoredSet([], [], [], [], "face")


def cells(values: Sequence[Any]) -> NDArray[np.object_]:
    """Return a column of a MATLAB cell array."""
    column = np.empty((len(values), 1), object)
    for row, value in enumerate(values):
        column[row, 0] = value
    return column


def write_toolbox(folder: Path) -> Path:
    """Write the toolbox's four files: up to five faces a picture, of which each level counts some."""
    rng = np.random.default_rng(0)
    faces = {
        event: [rng.integers(5, 30, (rng.integers(0, 6), 4), np.int32) for _ in names]
        for event, names in EVENTS.items()
    }
    lists: dict[str, Any] = {
        "event_list": cells(list(EVENTS)),
        "file_list": cells([cells(names) for names in EVENTS.values()]),
        "face_bbx_list": cells([cells(own) for own in faces.values()]),
    }
    for name in ATTRIBUTES:
        labels = [[np.zeros((len(boxes), 1), np.uint8) for boxes in own] for own in faces.values()]
        lists[f"{name}_label_list"] = cells([cells(own) for own in labels])
    folder.mkdir(parents=True)
    scipy.io.savemat(folder / "wider_face_val.mat", lists)
    for least, level in enumerate(("hard", "medium", "easy")):
        counted = [[np.arange(least, len(boxes))[:, None] + 1 for boxes in own] for own in faces.values()]
        scipy.io.savemat(folder / f"wider_{level}_val.mat", {**lists, "gt_list": cells(list(map(cells, counted)))})
    return folder


def write_pictures(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        write_image(folder / f"{name}.jpg", np.full((*HW, 3), 99, np.uint8))
    return folder


def near(truth: Annotations, rng: np.random.Generator) -> Detections:
    """Return detections about the objects and some false ones, with ties among their scores."""
    boxes = np.concatenate(
        [truth.boxes + rng.normal(0, 1.5, truth.boxes.shape), rng.random((3, 4)) * 10 + [0, 0, 9, 9]]
    )
    return Detections(boxes, rng.random(len(boxes)).round(1).astype(np.float32)).sorted()


def scored(source: Source, rows: Sequence[int] | None = None, num_points: int = 0) -> ScoredSet:
    """Return the set of these pictures, all by default, with detections that a picture's id decides."""
    rows = range(len(source.pictures)) if rows is None else rows
    pictures, truth = [source.pictures[row] for row in rows], [source.annotations(row) for row in rows]
    found = [near(own, np.random.default_rng(p.image_id)) for own, p in zip(truth, pictures, strict=True)]
    return ScoredSet(pictures, truth, found, ["p"] * num_points, "face", source)


def evaluated(name: str, what: ScoredSet, **params: Any) -> tuple[dict[str, Any], str]:
    """Return figures, which JSON can hold, and the warnings as one text."""
    figures = EVALUATORS.build(name, params, "evaluate").evaluate(what)
    json.dumps(figures, allow_nan=False)
    return {k: v for k, v in figures.items() if k != "warnings"}, " ".join(figures.get("warnings", []))


@pytest.mark.parametrize("name", ["wider", "miss-rate", "points"])
def test_no_pictures(name: str) -> None:
    assert evaluated(name, EMPTY)[0] in ({}, {"all": None})


class TestWider:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        write_toolbox(tmp_path / "ground_truth")
        names = [f"{event}/{name}" for event, own in EVENTS.items() for name in own]
        write_pictures(tmp_path / "WIDER_val" / "images", names)
        return tmp_path

    def source(self, folder: Path, **more: Any) -> Wider:
        return Wider(images=str(folder / "WIDER_val"), annotations=str(folder / "ground_truth"), **more)

    def submission(self, folder: Path, what: ScoredSet) -> Path:
        for picture, found in zip(what.pictures, what.detections, strict=True):
            path = (folder / "wider" / picture.name).with_suffix("")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f"{path.name}.txt").write_text(named_block(path.name, found))
        return folder / "wider"

    @pytest.mark.parametrize("rows", [None, [0, 2, 4], [1]])
    @pytest.mark.parametrize("level", [None, "easy"])
    def test_figures_are_those_of_the_submission(self, folder: Path, rows: Any, level: str | None) -> None:
        what = scored(self.source(folder, level=level), rows)
        figures, told = evaluated("wider", what)
        assert figures == score_wider(self.submission(folder, what), folder / "ground_truth").figures
        assert list(figures) == ["easy", "medium", "hard"]
        assert figures["hard"] > 0
        assert ("of 5 images are not on disk or cannot be read" in told) == (rows is not None)

    def test_pictures_that_are_not_on_disk_are_missed(self, folder: Path) -> None:
        whole = evaluated("wider", scored(self.source(folder)))[0]
        (folder / "WIDER_val" / "images" / "0--Parade" / "z.jpg").unlink()
        what = scored(self.source(folder))
        figures, told = evaluated("wider", what)
        assert figures == score_wider(self.submission(folder, what), folder / "ground_truth").figures != whole
        assert told.startswith("1 of 5 images are not on disk or cannot be read and count as without detections")
        assert "the first is 0--Parade/z" in told

    def test_what_was_not_asked_for_is_not_missed(self, folder: Path) -> None:
        part = scored(self.source(folder, where={"event": ["0--Parade", "2--Demo"]}))
        figures, told = evaluated("wider", part)
        assert told == "Figures are of the 3 of 5 images that `where` selects."
        lost = evaluated("wider", scored(self.source(folder), [0, 1, 4]))[0]
        assert figures["hard"] > lost["hard"]

    def test_the_text_file_has_one_level(self, folder: Path) -> None:
        text = "".join(
            f"{event}/{name}.jpg\n1\n10 10 20 20 0 0 0 0 0 0\n" for event, own in EVENTS.items() for name in own
        )
        (folder / "gt.txt").write_text(text)
        what = scored(Wider(images=str(folder / "WIDER_val"), annotations=str(folder / "gt.txt")))
        figures, told = evaluated("wider", what)
        assert figures == score_wider(self.submission(folder, what), folder / "gt.txt").figures
        assert list(figures) == ["all"]
        assert "gt.txt has no levels: every face counts" in told

    def test_any_other_truth_has_one_level(self) -> None:
        boxes = np.array([[10, 10, 29, 29], [50, 10, 69, 29]], np.float32)
        truth = Annotations.of(boxes, ignore=np.array([False, True]))
        found = Detections(boxes[::-1], [0.9, 0.5])  # the ignored one first: it is not false
        figures, told = evaluated("wider", ScoredSet([Picture(1, "a.png", HW)], [truth], [found], [], "face"))
        assert figures == {"all": 1.0}
        assert told.startswith("The truth has no levels of WIDER FACE")

    def test_real_annotation(self, tmp_path: Path) -> None:
        if "CASCADE_DET_DATA" not in os.environ:
            pytest.skip("CASCADE_DET_DATA is not set: the official annotation of WIDER FACE")
        truth = Path(os.environ["CASCADE_DET_DATA"], "data", "wider", "ground_truth")
        lists = scipy.io.loadmat(truth / "wider_face_val.mat", variable_names=["event_list", "file_list"])
        events = [event.item() for event in lists["event_list"].ravel()]
        images = [[name.item() for name in own.ravel()[:2]] for own in lists["file_list"].ravel()]
        names = [f"{event}/{name}" for event, own in zip(events, images, strict=True) for name in own]
        for name in names:
            write_image(tmp_path / "images" / f"{name}.jpg", np.full((1400, 1024, 3), 99, np.uint8))
        what = scored(Wider(images=str(tmp_path), annotations=str(truth)))
        assert len(what.pictures) == len(names) == 122
        figures, told = evaluated("wider", what)
        assert figures == score_wider(self.submission(tmp_path, what), truth).figures
        assert 0 < min(figures.values()) <= max(figures.values()) < 0.1
        assert "3,104 of 3,226 images are not on disk" in told


class TestFddb:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Return the layout of FDDB: two folds with up to three ellipses a picture."""
        rng = np.random.default_rng(1)
        for fold, names in enumerate((NAMES[:4], NAMES[4:]), start=1):
            lines = []
            for name in names:
                faces = [f"{rng.integers(6, 20)} 5.5 {rng.normal():.3f} {x} 30.2  1" for x in (15, 40, 65)]
                own = faces[: rng.integers(0, 4)]
                lines += [name, str(len(own)), *own]
            path = tmp_path / "FDDB-folds" / f"FDDB-fold-{fold:02d}-ellipseList.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join([*lines, ""]))
        write_pictures(tmp_path / "originalPics", NAMES)
        return tmp_path

    def source(self, folder: Path, **more: Any) -> Fddb:
        return Fddb(images=str(folder), annotations=str(folder / "FDDB-folds"), **more)

    def submission(self, folder: Path, what: ScoredSet) -> Path:
        """Write a block for every picture, as `detect --save-as fddb` does for those that it cannot read too."""
        found = {p.name.removesuffix(".jpg"): d for p, d in zip(what.pictures, what.detections, strict=True)}
        (folder / "fddb.txt").write_text(fddb_text((name, found.get(name, Detections.empty())) for name in NAMES))
        return folder / "fddb.txt"

    @pytest.mark.parametrize("rows", [None, [0, 3, 5]])
    def test_figures_are_those_of_the_submission(self, folder: Path, rows: Any) -> None:
        what = scored(self.source(folder), rows)
        figures, told = evaluated("fddb", what)
        images = folder / "originalPics"
        given = score_fddb(self.submission(folder, what), folder / "FDDB-folds", images=images)
        assert figures == given.figures
        assert figures["lowest_threshold"]["discrete"] > 0
        assert ("3 of 6 images are not on disk or cannot be read" in told) == (rows is not None)

    def test_pictures_that_are_not_on_disk_are_missed(self, folder: Path) -> None:
        sizes = folder / "sizes.csv"
        sizes.write_text("name,width,height\n" + "".join(f"{name},{HW[1]},{HW[0]}\n" for name in NAMES))
        (folder / "originalPics" / f"{NAMES[0]}.jpg").unlink()
        what = scored(self.source(folder))
        assert len(what.pictures) == 5
        figures, told = evaluated("fddb", what)
        given = score_fddb(self.submission(folder, what), folder / "FDDB-folds", image_sizes=sizes)
        assert figures == given.figures
        assert "1 of 6 images are not on disk" in told

    def test_a_fold(self, folder: Path) -> None:
        figures, told = evaluated("fddb", scored(self.source(folder, where={"fold": [2]})))
        assert told == "Figures are of the 2 of 6 images that `where` selects."
        one = Fddb(images=str(folder), annotations=str(folder / "FDDB-folds" / "FDDB-fold-02-ellipseList.txt"))
        # ids, and so the made detections, differ: the same in another way is that nothing is missed
        assert evaluated("fddb", scored(one))[1] == ""
        assert figures["lowest_threshold"]["false_positives"] >= 0

    @pytest.mark.parametrize("pictures", [[], [Picture(1, "a.png", HW)]])
    def test_it_needs_ellipses(self, pictures: list[Picture]) -> None:
        rows = len(pictures)
        what = ScoredSet(pictures, [Annotations.empty()] * rows, [Detections.empty()] * rows, [], "face")
        with pytest.raises(DataError, match=r"compares with FDDB's ellipses.* Use --format fddb"):
            evaluated("fddb", what)

    def test_real_annotation(self, tmp_path: Path) -> None:
        if "CASCADE_DET_DATA" not in os.environ:
            pytest.skip("CASCADE_DET_DATA is not set: the official annotation of FDDB")
        data = Path(os.environ["CASCADE_DET_DATA"], "data", "fddb")
        listed = (data / "FDDB-folds" / "FDDB-fold-01.txt").read_text().split()
        lines = [line.rsplit(",", 2) for line in (data / "image_sizes.csv").read_text().splitlines()[1:]]
        sizes = {name: (int(height), int(width)) for name, width, height in lines}
        for name in listed[:40]:
            write_image(tmp_path / f"{name}.jpg", np.full((*sizes[name], 3), 99, np.uint8))
        fold = data / "FDDB-folds" / "FDDB-fold-01-ellipseList.txt"
        what = scored(Fddb(images=str(tmp_path), annotations=str(fold)))
        assert len(what.pictures) == 40
        found = {p.name.removesuffix(".jpg"): d for p, d in zip(what.pictures, what.detections, strict=True)}
        (tmp_path / "f.txt").write_text(fddb_text((name, found.get(name, Detections.empty())) for name in listed))
        figures, _ = evaluated("fddb", what)
        assert figures == score_fddb(tmp_path / "f.txt", fold, image_sizes=data / "image_sizes.csv").figures
        assert figures["lowest_threshold"]["discrete"] > 0.05


def people(seed: int = 0, num_points: int = 5) -> ScoredSet:
    """Return pictures of pedestrians with visibilities, some ignored, some without any; and points."""
    rng = np.random.default_rng(seed)
    pictures, truth, found = [], [], []
    for number in range(6):
        count = number * 3
        low, height = rng.random((count, 2)) * 300, rng.random((count, 1)) * 90 + 30
        boxes = np.concatenate([low, low + height * [0.4, 1]], axis=1).astype(np.float32)
        points = (low[:, None] + rng.random((count, num_points, 2)) * height[:, None]).astype(np.float32)
        known = rng.random((count, num_points)) < 0.9
        visible = np.where(rng.random(count) < 0.2, np.nan, rng.random(count))
        columns = {"vis_ratio": visible, "name": np.array(["x"] * count, "<U1")}
        truth.append(Annotations(boxes, rng.random(count) < 0.2, np.where(known[..., None], points, 0), known, columns))
        moved = np.concatenate([boxes + rng.normal(0, 2, boxes.shape), boxes[:2] + 400])
        of_found = rng.normal(0, 2, (len(moved), num_points, 2))
        of_found[:count] += points
        found.append(Detections(moved, rng.random(len(moved)).round(2).astype(np.float32), of_found).sorted())
        pictures.append(Picture(90 - number, f"{number}.jpg", (500, 500)))
    return ScoredSet(pictures, truth, found, [f"p{k}" for k in range(num_points)], "person")


class TestOnFilesOfTheEvaluation:
    """`evaluate --out` leaves files that `score` gives the same figures of."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> tuple[Path, Path]:
        write_evaluation(tmp_path, people())
        return tmp_path / "detections.json", tmp_path / "truth.json"

    @pytest.mark.parametrize("variant", ["citypersons", "caltech"])
    def test_miss_rate(self, files: tuple[Path, Path], variant: str) -> None:
        figures, told = evaluated("miss-rate", people(), variant=variant)
        assert figures == score_miss_rate(*files, variant=Variant(variant)).figures
        assert 0 < figures["mr2"]["Reasonable"] < 1
        assert figures["mr2"]["Reasonable"] != figures["mr2"]["Reasonable_occ=heavy"]  # so visibility is read
        assert "objects have no vis_ratio, which counts as 1" in told

    @pytest.mark.parametrize("normaliser", ["eyes", "box", "diagonal"])
    def test_points(self, files: tuple[Path, Path], normaliser: str) -> None:
        figures, told = evaluated("points", people(), normaliser=normaliser)
        assert figures == score_points(*files, normaliser=Normaliser(normaliser)).figures
        assert figures["nme_matched"] > 5
        assert "objects have no detection" in told

    def test_a_truth_without_points(self) -> None:
        with pytest.raises(DataError, match=r"none of its objects has a known one\. Use a truth with points"):
            evaluated("points", people(num_points=0))

    def test_detections_without_points(self) -> None:
        what = people()
        bare = [found.replace(points=None) for found in what.detections]
        with pytest.raises(DataError, match="what the last stage finds has no points"):
            evaluated("points", ScoredSet(what.pictures, what.truth, bare, what.point_names, "person"))


@pytest.mark.parametrize(
    ("name", "params", "told"),
    [
        ("miss-rate", {"variant": "caltec"}, "did you mean 'caltech'"),
        ("points", {"normaliser": "eye"}, "is none of eyes, box, diagonal"),
        ("wider", {"level": "easy"}, "has no such parameter"),
    ],
)
def test_wrong_parameters(name: str, params: dict[str, Any], told: str) -> None:
    build: Callable[..., Any] = EVALUATORS.build
    with pytest.raises(RecipeError, match=told):
        build(name, params, "evaluate.x")
