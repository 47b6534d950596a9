"""Calibration: thresholds from recall and from false positives, and what counts as held, missed and false."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cascade_det.cascade import Cascade
from cascade_det.core.imaging import Resampler
from cascade_det.core.recipe import recipe_from_dict
from cascade_det.core.types import Annotations, Detections
from cascade_det.data.picture_set import PictureSet
from cascade_det.data.sources import Picture, Source
from cascade_det.errors import DataError
from cascade_det.stages.base import StageSettings
from cascade_det.training import calibration
from cascade_det.training.calibration import calibrate, fppi_threshold, recall_threshold

FLOOR = calibration._FLOOR
SCORES = st.lists(st.floats(0, 1, width=32), max_size=60)


def column(*scores: float) -> NDArray[np.float32]:
    return np.array(scores, np.float32)


class TestRecallThreshold:
    @pytest.mark.parametrize(
        ("best", "recall", "threshold"),
        [
            ((), 0.9, FLOOR),
            ((0.5,), 1.0, 0.5),
            ((0.5,), 0.0, 0.5),
            ((0.25, 0.5, 0.75, 1.0), 1.0, 0.25),
            ((1.0, 0.25, 0.75, 0.5), 0.75, 0.5),
            ((0.25, 0.5, 0.75, 1.0), 0.74, 0.5),
            ((0.25, 0.5, 0.75, 1.0), 0.76, 0.25),
            ((0.25, 0.5, 0.75, 1.0), 0.5, 0.75),
            ((0.5, 0.5, 0.5), 0.34, 0.5),
            ((0.0, 0.9), 0.5, 0.9),
            ((0.0, 0.9), 0.6, FLOOR),  # what was not found cannot be kept
            ((0.001, 0.002), 0.5, FLOOR),
        ],
    )
    def test_table(self, best: tuple[float, ...], recall: float, threshold: float) -> None:
        assert recall_threshold(column(*best), recall) == pytest.approx(threshold)

    @given(SCORES, st.floats(0, 1))
    def test_the_highest_that_keeps_the_share(self, best: list[float], recall: float) -> None:
        scores = column(*best)
        threshold = recall_threshold(scores, recall)
        assert threshold >= FLOOR
        if len(scores) and threshold > FLOOR:
            assert (scores >= threshold).mean() >= recall - 1e-6
            above = np.nextafter(np.float32(threshold), np.float32(2))
            assert (scores >= above).sum() < max(1, np.ceil(recall * len(scores) - 1e-9))


class TestFppiThreshold:
    @pytest.mark.parametrize(
        ("false_scores", "max_fppi", "left"),
        [
            ([], 0.1, 0),
            ([(), ()], 0.1, 0),
            ([(0.9,), ()], 0.5, 1),
            ([(0.9, 0.8), (0.7,)], 0.5, 1),
            ([(0.9, 0.8), (0.7,)], 1.0, 2),
            ([(0.9, 0.8), (0.7,)], 1.5, 3),
            ([(0.9, 0.8), (0.7,)], 0.1, 0),
            ([(0.9, 0.9), (0.9,)], 0.5, 0),  # of equal scores all go
            ([(0.5,)] * 100, 0.29, 0),
            ([(n / 200,) for n in range(50, 150)], 0.29, 29),  # .29 * 100 is a little under 29 in floats
        ],
    )
    def test_table(self, false_scores: list[tuple[float, ...]], max_fppi: float, left: int) -> None:
        columns = [column(*scores) for scores in false_scores]
        threshold = fppi_threshold(columns, max_fppi)
        assert sum(int((scores >= threshold).sum()) for scores in columns) == left

    @given(st.lists(st.lists(st.floats(0, 0.984375, width=32), max_size=5), min_size=1, max_size=12), st.floats(0, 3))
    def test_the_lowest_with_at_most_so_many(self, false_scores: list[list[float]], max_fppi: float) -> None:
        columns = [column(*scores) for scores in false_scores]
        threshold = fppi_threshold(columns, max_fppi)
        every = np.concatenate(columns)
        allowed = max_fppi * len(columns) + 1e-6
        if threshold > FLOOR:
            assert (every >= threshold).sum() <= allowed
            below = every[every < threshold]
            assert len(below) > 0
            assert (every >= below.max()).sum() > allowed - 1

    def test_it_never_rises_to_where_nothing_passes(self) -> None:
        assert fppi_threshold([column(1.0, 1.0)], 0.1) < 1


class Canned:
    """A stage that answers with what a table says, above its threshold."""

    trainable, window_hw, num_points = True, (12, 12), None

    def __init__(self, name: str, answers: Sequence[Detections]) -> None:
        self.name = name
        self._answers = answers

    def __call__(
        self, images: Sequence[Resampler], candidates: Sequence[Detections] | None, settings: StageSettings
    ) -> list[Detections]:
        found = [self._answers[int(image.image_hw[0]) - 1] for image in images]
        return [f[f.scores >= settings.score] for f in found]

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        return {}

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None: ...

    def to(self, device: str) -> None: ...


class Numbered(Source):
    """Pictures whose height tells their number; the negative ones cannot be read."""

    def __init__(self, truth: Sequence[Annotations], unreadable: Sequence[int] = ()) -> None:
        self._truth, self._unreadable = truth, unreadable

    @property
    def pictures(self) -> list[Picture]:
        return [Picture(n, str(n), (n + 1, 1)) for n in range(len(self._truth))]

    def annotations(self, index: int) -> Annotations:
        return self._truth[index]

    def read(self, index: int) -> NDArray[np.uint8]:
        if index in self._unreadable:
            raise DataError("unreadable")
        return np.zeros((index + 1, 1, 3), np.uint8)

    def content_hash(self, index: int) -> str:
        return str(index)

    def digest(self) -> str:
        return ""


def box(place: int, side: float = 40) -> list[float]:
    return [100 * place, 0, 100 * place + side, side]


def found(*rows: tuple[int, float]) -> Detections:
    """Return detections (place, score)."""
    return Detections(np.array([box(p) for p, _ in rows]).reshape(-1, 4), np.array([s for _, s in rows], np.float32))


def truth(*places: int, ignore: Sequence[int] = (), side: float = 40) -> Annotations:
    boxes = np.array([box(p, side) for p in places]).reshape(-1, 4)
    return Annotations.of(boxes, ignore=np.array([p in ignore for p in places], bool))


def run(
    stages: Sequence[Sequence[Detections]],
    truths: Sequence[Annotations],
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
    unreadable: Sequence[int] = (),
    max_object_px: float | None = None,
    **calibration_keys: float,
) -> calibration.Thresholds:
    """Calibrate the last of these stages of a cascade of three."""
    section = {"kind": "proposer", "calibrate": calibration_keys, "net": {"kind": "mtcnn_pnet"}}
    recipe = recipe_from_dict({"stages": dict.fromkeys("abc", section)}, None)  # type: ignore[arg-type]
    recipe.pyramid.max_object_px = max_object_px
    built = [Canned(name, answers) for name, answers in zip("abc", stages, strict=False)]
    pictures = PictureSet({"source": Numbered(truths, unreadable)})
    done: list[int] = []
    result = calibrate(Cascade(recipe, built, thresholds), pictures, range(len(truths)), done.append)
    assert sum(done) == len(truths)
    return result


class TestCalibrate:
    def test_no_pictures(self) -> None:
        got = run([[]], [])
        assert (got.detect, got.mine, got.reach, got.objects, got.candidates) == (FLOOR, FLOOR, 0, 0, 0)

    def test_pictures_without_objects(self) -> None:
        got = run([[found((0, 0.9)), found()]], [truth(), truth()])
        assert (got.detect, got.reach, got.objects, got.candidates) == (FLOOR, 0, 0, 0.5)

    @pytest.mark.parametrize(("share", "threshold"), [(1.0, 0.125), (0.75, 0.25), (0.5, 0.5)])
    def test_a_first_stage(self, share: float, threshold: float) -> None:
        answers = [found((0, 0.125), (0, 0.0625), (1, 0.5)), found((0, 0.25), (1, 0.75), (5, 1.0))]
        got = run([answers], [truth(0, 1), truth(0, 1)], detect_recall=share, mine_recall=1.0)
        assert got.detect == pytest.approx(threshold)
        assert got.mine == pytest.approx(0.125)
        assert got.reach == 1
        assert got.objects == 4
        assert got.candidates == sum((f.scores >= threshold).sum() for f in answers) / 2

    def test_recall_is_relative_to_what_the_stages_before_hold(self) -> None:
        truths = [truth(0, 1, 2, 3)]
        before = [found((0, 0.9), (1, 0.9), (2, 0.3), (7, 0.9))]  # holds two at its threshold, three when mining
        stage = [found((0, 0.75), (1, 0.5), (2, 0.25))]
        thresholds = {"a": {"detect": 0.5, "mine": 0.2}}
        got = run([before, stage], truths, thresholds, detect_recall=1.0, mine_recall=1.0)
        assert got.reach == 0.5
        assert got.objects == 2
        assert got.detect == pytest.approx(0.5)
        assert got.mine == pytest.approx(0.25)

    def test_mining_is_never_stricter_than_detecting(self) -> None:
        got = run([[found((0, 0.25), (1, 0.75))]], [truth(0, 1)], detect_recall=1.0, mine_recall=0.5)
        assert got.mine == got.detect == pytest.approx(0.25)

    @pytest.mark.parametrize(
        ("truths", "objects"),
        [(truth(0, 1), 2), (truth(0, 1, ignore=[1]), 1), (truth(0, 1, ignore=[0, 1]), 0), (truth(0, 1, side=19), 0)],
    )
    def test_counted_are_objects_that_matter_and_are_large_enough(self, truths: Annotations, objects: int) -> None:
        assert run([[found((0, 0.9), (1, 0.9))]], [truths]).objects == objects

    def test_objects_larger_than_those_sought_do_not_count(self) -> None:
        """Else the threshold of a first stage falls to its floor for objects that no level of the pyramid shows."""
        answers, truths = [found((0, 0.9))], [truth(0)]
        large = Annotations.of(np.array([box(3, side=90)]))
        both = [Annotations.of(np.concatenate([truths[0].boxes, large.boxes]))]
        assert run([answers], both, detect_recall=1.0).detect == FLOOR
        got = run([answers], both, max_object_px=60, detect_recall=1.0)
        assert (got.objects, got.detect) == (1, pytest.approx(0.9))

    def test_the_last_stage_takes_its_threshold_from_false_positives(self) -> None:
        pass_all = [found((0, 0.9), (1, 0.9))] * 4
        last = [
            found((0, 0.9), (5, 0.8)),
            found((0, 0.9), (5, 0.7), (6, 0.6)),
            found((0, 0.2), (1, 0.95)),  # 1 is ignored: neither right nor wrong
            found((2, 0.5)),
        ]
        truths = [truth(0), truth(0), truth(0, 1, ignore=[1]), truth()]
        both = {name: {"detect": 0.1, "mine": 0.1} for name in "ab"}
        for max_fppi, left in ((0.0, 0), (0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)):
            got = run([pass_all, pass_all, last], truths, both, max_fppi=max_fppi)
            false = [0.8, 0.7, 0.6, 0.5]
            assert sum(score >= got.detect for score in false) == left, max_fppi

    def test_unreadable_pictures_are_left_out(self) -> None:
        answers = [found((0, 0.9)), found((0, 0.5)), found((0, 0.7))]
        assert run([answers], [truth(0)] * 3, unreadable=[1], detect_recall=1.0).detect == pytest.approx(0.7)
        assert [run([answers], [truth(0)] * 3, unreadable=u).unreadable for u in ([], [1], [0, 2])] == [0, 1, 2]
        with pytest.raises(DataError, match="none of the 3 pictures kept for it can be read, such as 0;"):
            run([answers], [truth(0)] * 3, unreadable=[0, 1, 2])

    def test_more_pictures_than_one_batch(self) -> None:
        count = 2 * calibration._BATCH + 3
        answers = [found((0, 0.1 + 0.04 * n)) for n in range(count)]
        got = run([answers], [truth(0)] * count, unreadable=[0, count - 1], detect_recall=1.0)
        assert got.objects == count - 2
        assert got.detect == pytest.approx(0.14)
