"""The contract of a stage: one picture's answer depends on that picture alone, and its state is complete."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.imaging import Resampler
from cascade_det.core.nms import NmsMode
from cascade_det.core.types import Detections
from cascade_det.errors import ModelError
from cascade_det.stages.base import Stage, StageSettings
from cascade_det.testing.contract import columns, difference, doing, require

SCORE_TOLERANCE, BOX_TOLERANCE_PX = 1e-5, 0.01

_SETTINGS = StageSettings(
    score=0.0, nms=0.5, nms_mode=NmsMode.union, nms_across_levels=0.7, max_per_image=60, min_object_px=16,
    max_object_px=None, factor=0.709, mean=127.5, scale=1 / 128,
)  # fmt: skip


def check_stage(
    stage: Stage,
    *,
    first: bool = False,
    pictures: Sequence[NDArray[np.uint8]] | None = None,
    settings: StageSettings | None = None,
    rebuild: Callable[[], Stage] | None = None,
) -> None:
    """Check a stage with any weights.

    Args:
        stage: such as ``MyStage("mine", (24, 24), net, heads)``; it is left as it was.
        first: whether it is a first stage, which gets no candidates.
        pictures: ``(H, W, 3)`` uint8 RGB of different sizes; noise by default. A stage that finds nothing in noise
            needs some in which it finds something.
        settings: what it runs with; by default everything is kept, so that there is something to compare.
        rebuild: makes the stage anew; with it the check also shows that `arrays` holds all that the stage needs.

    Raises:
        ContractError: one of these does not hold:
            no pictures give no results; a picture without candidates, or smaller than the window, gives N = 0 with the
            stage's columns; boxes and points are finite, scores lie in [0, 1], reach the threshold and fall, the cap
            holds; a picture's answer is the same (scores to 1e-5, boxes to .01 px) alone and in a batch, in any order
            of pictures and for any `chunk`; inputs are left alone; `arrays` taken by `load_arrays` give the same
            answers, and an array that lacks is a `ModelError`.
    """
    settings = settings or _SETTINGS
    images = list(pictures) if pictures is not None else _noise()
    candidates = None if first else _candidates(images)
    _check_attributes(stage)
    before = [image.copy() for image in images], [columns(c) for c in candidates or ()]
    found = _run(stage, images, candidates, settings)
    for number, (image, old) in enumerate(zip(images, before[0], strict=True)):
        require(np.array_equal(image, old), f"the stage changes the pixels of picture {number}")
    for number, (given, columns_before) in enumerate(zip(candidates or (), before[1], strict=True)):
        changed = difference(columns_before, columns(given))
        require(not changed, f"the stage changes the candidates of picture {number}: {changed}")
    _check_results(stage, found, settings)
    _check_nothing(stage, images, first, settings)
    _check_sameness(stage, images, candidates, settings, found)
    _check_state(stage, rebuild, images, candidates, settings, found)


def _noise() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((10, 14), (16, 12), (9, 9), (10, 14))]
    return [np.kron(image, np.ones((5, 5, 1), np.uint8)) for image in coarse]


def _candidates(images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
    """Return random boxes of each picture, crossing its border too; the second picture has none."""
    rng, result = np.random.default_rng(1), []
    for number, image in enumerate(images):
        count = 0 if number == 1 else 25
        size = np.array([image.shape[1], image.shape[0]])
        corner = rng.uniform(-0.1, 0.8, (count, 2)) * size
        boxes = np.concatenate([corner, corner + rng.uniform(0.15, 0.6, (count, 2)) * size], axis=1)
        result.append(Detections(boxes, rng.random(count, np.float32)).sorted())
    return result


def _run(
    stage: Stage,
    images: Sequence[NDArray[np.uint8]],
    candidates: Sequence[Detections] | None,
    settings: StageSettings,
    what: str = "the stage",
) -> list[Detections]:
    with doing(f"{what} on {len(images)} pictures"):
        found = stage([Resampler(image) for image in images], candidates, settings)
    fits = isinstance(found, list) and len(found) == len(images) and all(isinstance(f, Detections) for f in found)
    require(fits, f"{what} on {len(images)} pictures gives {found!r:.80}, it must give a list of Detections, one each")
    return found


def _check_attributes(stage: Stage) -> None:
    with doing("reading name, window_hw, trainable and num_points of the stage"):
        name, window_hw, trainable, count = stage.name, stage.window_hw, stage.trainable, stage.num_points
    require(isinstance(name, str), f"name={name!r} must be a text")
    fits = isinstance(window_hw, tuple) and [isinstance(side, int) and side > 0 for side in window_hw] == [True, True]
    require(fits, f"window_hw={window_hw!r} must be (height, width)")
    require(isinstance(trainable, bool), f"trainable={trainable!r} must be True or False")
    require(count is None or isinstance(count, int), f"num_points={count!r} must be a whole number or None")


def _check_results(stage: Stage, found: Sequence[Detections], settings: StageSettings) -> None:
    require(any(map(len, found)), "the stage lets nothing through of any picture; pass pictures= where it finds some")
    for number, results in enumerate(found):
        where = f"of picture {number}"
        require(bool(np.isfinite(results.boxes).all()), f"a box {where} is not finite")
        scores = results.scores
        inside = bool(np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all())
        require(inside, f"scores {where} go from {scores.min(initial=1)} to {scores.max(initial=0)}, not within [0, 1]")
        rises = np.flatnonzero(np.diff(scores) > 0)
        require(not len(rises), f"scores {where} are not sorted: they rise after row {rises[:1]}")
        many = len(results) <= settings.max_per_image
        require(many, f"{len(results)} results {where}, but max_per_image={settings.max_per_image}")
        low = float(scores.min(initial=1))
        require(low >= settings.score, f"a result {where} has score {low}, under the threshold {settings.score}")
        _check_points(stage, results, where)


def _check_points(stage: Stage, results: Detections, where: str) -> None:
    shape = None if results.points is None else results.points.shape
    wanted = None if stage.num_points is None else (len(results), stage.num_points, 2)
    require(shape == wanted, f"points {where} have the shape {shape}; num_points={stage.num_points} wants {wanted}")
    finite = results.points is None or bool(np.isfinite(results.points).all())
    require(finite, f"a point {where} is not finite")


def _check_nothing(stage: Stage, images: Sequence[NDArray[np.uint8]], first: bool, settings: StageSettings) -> None:
    require(_run(stage, [], None if first else [], settings) == [], "no pictures must give no results")
    speck = np.zeros((2, 3, 3), np.uint8)
    nothing = [Detections.empty(), Detections.empty(stage.num_points)]
    shown = [speck, speck] if first else [speck, images[0]]
    results = _run(stage, shown, None if first else nothing, settings, "a picture without candidates: the stage")
    for number, found in enumerate(results):
        if not first:
            require(len(found) == 0, f"a picture without candidates gives {len(found)} results, it must give none")
        _check_points(stage, found, f"of picture {number} that has no candidates")


def _check_sameness(
    stage: Stage,
    images: Sequence[NDArray[np.uint8]],
    candidates: Sequence[Detections] | None,
    settings: StageSettings,
    found: Sequence[Detections],
) -> None:
    numbers = list(range(len(images)))

    def again(chosen: Sequence[int], chunk: int = settings.chunk) -> list[Detections]:
        given = None if candidates is None else [candidates[number] for number in chosen]
        return _run(stage, [images[n] for n in chosen], given, dataclasses.replace(settings, chunk=chunk))

    _compare(found, again(numbers), "when it is run again")
    _compare(found, [again([number])[0] for number in numbers], f"between alone and in a batch of {len(images)}")
    _compare(found, again(numbers[::-1])[::-1], "when the pictures come in another order")
    for chunk in (1, 7):
        _compare(found, again(numbers, chunk), f"between chunk={settings.chunk} and chunk={chunk}")
    scores = np.sort(np.concatenate([results.scores for results in found]))
    middle = float(scores[len(scores) // 2])
    stricter = dataclasses.replace(settings, score=middle)
    _check_threshold(_run(stage, images, candidates, stricter), middle)


def _check_threshold(found: Sequence[Detections], threshold: float) -> None:
    low = min((float(results.scores.min(initial=1)) for results in found), default=1.0)
    # the threshold is a score that was found: rounding may put its own row on either side
    require(low >= threshold - SCORE_TOLERANCE, f"a result has score {low}, under the threshold {threshold}")


def _compare(found: Sequence[Detections], other: Sequence[Detections], when: str) -> None:
    for number, (one, two) in enumerate(zip(found, other, strict=True)):
        what = f"the answer for picture {number} differs {when}"
        require(len(one) == len(two), f"{what}: {len(one)} and {len(two)} results")
        if len(one) == 0:
            continue
        far = np.abs(one.boxes[:, None] - two.boxes[None]).max(axis=2) / BOX_TOLERANCE_PX
        far = np.maximum(far, np.abs(one.scores[:, None] - two.scores[None]) / SCORE_TOLERANCE)
        if one.points is not None and two.points is not None:
            apart = np.abs(one.points[:, None] - two.points[None]).max(axis=(2, 3))
            far = np.maximum(far, apart / BOX_TOLERANCE_PX)
        # by the nearest row: rows whose scores agree to rounding may change places
        row = int(far.min(axis=1).argmax())
        near = int(far[row].argmin())
        require(
            bool(far.min(axis=1).max() <= 1 and far.min(axis=0).max() <= 1),
            f"{what}: {one.boxes[row].tolist()} with score {one.scores[row]:.6f} has become "
            f"{two.boxes[near].tolist()} with score {two.scores[near]:.6f}",
        )


def _check_state(
    stage: Stage,
    rebuild: Callable[[], Stage] | None,
    images: Sequence[NDArray[np.uint8]],
    candidates: Sequence[Detections] | None,
    settings: StageSettings,
    found: Sequence[Detections],
) -> None:
    with doing("arrays"):
        arrays: dict[str, NDArray[Any]] = {name: np.array(array) for name, array in stage.arrays().items()}
    named = all(isinstance(name, str) and array.dtype != object for name, array in arrays.items())
    require(named, f"arrays gives {sorted(map(str, arrays))}; it must give plain arrays by name")
    with doing("a copy of the stage, or rebuild"):
        other = rebuild() if rebuild is not None else copy.deepcopy(stage)
    with doing("load_arrays of what arrays gave"):
        other.load_arrays({name: np.ones_like(array) for name, array in arrays.items()})
        taken = {name: np.array(array) for name, array in other.arrays().items()}
        other.load_arrays(arrays)
    for name in arrays:
        require(
            bool((taken[name] == 1).all()), f"load_arrays does not take {name!r}: arrays gives other values after it"
        )
    _compare(found, _run(other, images, candidates, settings), "after its arrays were saved and loaded")
    for name in list(arrays)[:1]:
        lacking = {key: array for key, array in arrays.items() if key != name}
        try:
            other.load_arrays(lacking)
        except ModelError:
            return
        except Exception as error:
            require(False, f"load_arrays without {name!r} raises {type(error).__name__}, it must raise ModelError")
        require(False, f"load_arrays without {name!r} raises nothing, it must raise ModelError")
