"""Attributes: what is known teaches, what is unknown does not, and figures count the objects that were found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_det import Cascade
from cascade_det.cli.app import main
from cascade_det.core.registry import EVALUATORS, HEADS
from cascade_det.core.types import Annotations, CropTruth, Detections, SampleRole
from cascade_det.data.sources import Picture
from cascade_det.errors import RecipeError
from cascade_det.evaluation.base import ScoredSet
from cascade_det.testing import check_head

MASK = {"present": ["with_mask"], "absent": ["without_mask"]}
BOTH = {"mask": MASK, "old": {"present": [1], "absent": [0]}}


def head_of(of: Any = BOTH, **params: Any) -> Any:
    return HEADS.build("attributes", {"of": of, **params}, "head", num_points=5)


def truth_of(**extras: Any) -> CropTruth:
    """Return positives with these columns."""
    rows = len(next(iter(extras.values()))) if extras else 3
    boxes = np.tile(np.float32([0, 0, 1, 1]), (rows, 1))
    columns = {name: np.array(values) for name, values in extras.items()}
    points = np.zeros((rows, 0, 2))
    return CropTruth(np.full(rows, SampleRole.positive), boxes, np.ones(rows), points, points[..., 0], columns)


class TestHead:
    @pytest.mark.parametrize(
        "extras",
        [
            {"mask": ["with_mask", "without_mask", ""], "old": [0.0, 1.0, np.nan]},
            {"mask": ["with_mask", "without_mask"], "old": [False, True]},
        ],
    )
    def test_its_contract(self, extras: dict[str, list[Any]]) -> None:
        check_head(head_of(), extras=extras)

    def test_it_names_the_columns_that_it_learns_from(self) -> None:
        head = head_of(field="worn")
        assert (head.field, head.extras) == ("worn", ("mask", "old"))

    @pytest.mark.parametrize(
        ("extras", "known", "present"),
        [
            ({}, [0, 0, 0], [0, 0, 0]),
            ({"mask": ["with_mask", "without_mask", "mask_weared_incorrect"]}, [1, 1, 0], [1, 0, 0]),
            ({"mask": np.array(["", "without_mask"], object)}, [0, 1], [0, 0]),
            ({"mask": np.zeros(0, "<U1")}, [], []),
        ],
    )
    def test_other_values_are_unknown(self, extras: dict[str, Any], known: list[int], present: list[int]) -> None:
        truth, head = truth_of(**extras), head_of({"mask": MASK})
        assert head.teaches(truth)[:, 0].tolist() == known
        assert head.encode(truth)[:, 0].tolist() == present

    @pytest.mark.parametrize(
        "column",
        [
            [True, False],
            [1, 0],
            [1.0, 0.0],
            ["True", "False"],
            ["1", "0"],
        ],
    )
    @pytest.mark.parametrize("values", [(True, False), (1, 0), (1.0, 0.0), ("1", "0")])
    def test_a_truth_value_is_one_whatever_a_source_keeps_it_as(self, column: list[Any], values: Any) -> None:
        head = head_of({"old": {"present": values[:1], "absent": values[1:]}})
        assert head.teaches(truth_of(old=column)).all()
        assert head.encode(truth_of(old=column))[:, 0].tolist() == [1, 0]

    def test_unknown_attributes_do_not_teach(self) -> None:
        head = head_of()
        truth = truth_of(mask=["with_mask", "", "without_mask"], old=[1.0, 1.0, np.nan])
        target, mask = torch.from_numpy(head.encode(truth)), torch.from_numpy(head.teaches(truth))
        raw = torch.zeros(3, 2, requires_grad=True)
        loss = head.loss(raw, target, mask)
        torch.autograd.backward(loss.sum())
        assert raw.grad is not None
        assert (raw.grad != 0).tolist() == [[True, True], [False, True], [True, False]]
        assert loss.tolist() == pytest.approx([2 * np.log(2), np.log(2), np.log(2)])

    def test_a_crop_without_an_object_teaches_nothing(self) -> None:
        truth = truth_of(mask=["with_mask"], old=[1]).replace(has_box=np.zeros(1, bool))
        assert not head_of().teaches(truth).any()

    def test_its_column_is_probabilities(self) -> None:
        raw = np.float32([[-200, 0], [200, 1]])
        found = head_of().decode(raw, np.zeros((2, 4), np.float32))
        np.testing.assert_allclose(found, [[0, 0.5], [1, 1 / (1 + np.exp(-1))]], atol=1e-6)
        assert head_of().decode(raw[:0], np.zeros((0, 4), np.float32)).shape == (0, 2)

    @pytest.mark.parametrize(
        ("of", "message"),
        [
            ({}, r"of=\{\} must map names"),
            (["mask"], r"of=\['mask'\] must map names"),
            ({"mask": ["with_mask"]}, r"of\.mask=.* must be \{present: \[VALUES\], absent: \[VALUES\]\}"),
            ({"mask": {"present": ["a"]}}, r"of\.mask=.* must be"),
            ({"mask": {"present": "a", "absent": ["b"]}}, r"of\.mask=.* must be"),
            ({"mask": {"present": [], "absent": ["b"]}}, r"of\.mask=.* must be"),
            ({"old": {"present": [1], "absent": [True, 2]}}, r"of\.old=.*both present and absent"),
        ],
    )
    def test_refuses(self, of: Any, message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            head_of(of)


def boxes(*left: float) -> Any:
    return np.array([[x, 0, x + 10, 10] for x in left], np.float32).reshape(-1, 4)


def scored(truth: list[Annotations], found: list[Detections]) -> ScoredSet:
    pictures = [Picture(number, str(number), (10, 100)) for number in range(len(truth))]
    return ScoredSet(pictures, truth, found, [], "face")


def objects(*left: float, ignore: list[bool] | None = None, **extras: Any) -> Annotations:
    columns = {name: np.array(values) for name, values in extras.items()}
    return Annotations.of(boxes(*left), ignore=None if ignore is None else np.array(ignore)).replace(extras=columns)


def detected(*left: float, said: list[float], score: float = 0.9) -> Detections:
    column = np.array(said, np.float32).reshape(-1, 1)
    return Detections(boxes(*left), np.full(len(left), score), extras={"attributes": column})


def figures(truth: list[Annotations], found: list[Detections]) -> Any:
    return EVALUATORS.build("attributes", {"of": {"mask": MASK}}, "evaluate.a").evaluate(scored(truth, found))["mask"]


NOTHING = {"objects": 0, "matched": 0, "present": None, "accuracy": None, "AP": None}


class TestFigures:
    def test_no_pictures_and_no_objects(self) -> None:
        assert figures([], []) == NOTHING
        assert figures([Annotations.empty()], [detected(0, said=[0.5])]) == NOTHING

    def test_nothing_found(self) -> None:
        truth = [objects(0, 20, mask=["with_mask", "without_mask"])]
        assert figures(truth, [Detections.empty()]) == {**NOTHING, "objects": 2}

    def test_by_hand(self) -> None:
        """Three of four known objects are found, one of them is taken for masked; unknown and ignored ones are out."""
        truth = [
            objects(0, 20, 40, mask=["with_mask", "without_mask", "mask_weared_incorrect"]),
            objects(0, 20, 40, ignore=[False, False, True], mask=["without_mask", "with_mask", "without_mask"]),
        ]
        found = [detected(0, 20, 40, said=[0.6, 0.7, 0.9]), detected(0, 40, 41, said=[0.1, 0.9, 0.9])]
        got = figures(truth, found)
        assert got == {
            "objects": 4,
            "matched": 3,
            "present": pytest.approx(1 / 3),
            "accuracy": pytest.approx(2 / 3),
            "AP": pytest.approx(1 / 2),
        }

    def test_a_detection_of_low_score_is_none(self) -> None:
        truth = [objects(0, mask=["with_mask"])]
        assert figures(truth, [detected(0, said=[0.9], score=0.4)])["matched"] == 0

    def test_a_picture_may_lack_the_column(self) -> None:
        truth = [objects(0), objects(0, mask=["with_mask"])]
        assert figures(truth, [detected(0, said=[0.9])] * 2)["objects"] == 1

    def test_refuses(self) -> None:
        with pytest.raises(RecipeError, match=r"of\.mask: no object has this field; did you mean 'masks'\?"):
            figures([objects(0, masks=["with_mask"])], [Detections.empty()])
        with pytest.raises(RecipeError, match=r"field='attributes': no head of the last stage fills it"):
            figures([objects(0, mask=["with_mask"])], [Detections(boxes(0), np.ones(1))])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=12))
def test_average_precision_is_the_area_under_the_steps(rows: list[tuple[bool, int]]) -> None:
    """Against its definition: over all thresholds the precision times the objects gained; nothing depends on order."""
    present, said = np.array([p for p, _ in rows]), np.array([value / 5 for _, value in rows])
    if not present.any():
        return
    wanted, before = 0.0, 0
    for threshold in sorted(set(said.tolist()), reverse=True):
        above = said >= threshold
        hits = int((present & above).sum())
        wanted += (hits - before) / present.sum() * hits / above.sum()
        before = hits
    truth = [objects(*range(0, 20 * len(rows), 20), mask=["with_mask" if p else "without_mask" for p in present])]
    for order in (slice(None), slice(None, None, -1)):
        found = [detected(*range(0, 20 * len(rows), 20), said=said.tolist())[order]]
        assert figures(truth, found)["AP"] == pytest.approx(wanted)


DISCS = '''
"""Discs on noise: the object is the disc, its attribute whether it is red; of green ones nobody says."""

import cv2
import numpy as np

from cascade_det import Annotations, register_source
from cascade_det.data.sources import Picture, Source

TINTS = {"red": (230, 40, 40), "blue": (40, 40, 230), "": (40, 230, 40)}


@register_source("discs")
class Discs(Source):
    def __init__(self, *, images: int, seed: int) -> None:
        self.seed = seed
        self.pictures = [Picture(i, f"disc-{seed}-{i}", (64, 96)) for i in range(images)]

    pictures = None

    def _plan(self, index):
        rng = np.random.default_rng([self.seed, index])
        radius = rng.uniform(8, 14, 2)
        centre = np.stack([rng.uniform([16, 64], [32, 80]), rng.uniform(16, 48, 2)], axis=1)
        return rng, centre, radius, rng.choice(list(TINTS), 2)

    def annotations(self, index):
        _, centre, radius, tint = self._plan(index)
        boxes = np.concatenate([centre - radius[:, None], centre + radius[:, None]], axis=1)
        return Annotations.of(boxes).replace(extras={"tint": tint})

    def read(self, index):
        rng, centre, radius, tint = self._plan(index)
        image = rng.integers(90, 160, (64, 96, 3), np.uint8)
        for (x, y), r, name in zip(centre, radius, tint):
            middle = (round(x * 16 - 8), round(y * 16 - 8))
            cv2.circle(image, middle, round(r * 16), TINTS[str(name)], -1, cv2.LINE_AA, 4)
        return image
'''

RECIPE = """
format: 1
name: discs
run_dir: {folder}/run
plugins: [{plugin}, discs.py]
object: {{category: disc}}
pyramid: {{min_object_px: 16}}
stages:
  only:
    kind: proposer
    window_hw: [12, 12]
    net: {{kind: mtcnn_pnet, params: {{activation: relu}}}}
    heads:
      score: {{kind: classification}}
      box: {{kind: box_offset, weight: 0.5}}
      attributes: {{kind: attributes, params: {{of: &tints {{tint: {{present: [red], absent: [blue]}}}}}}}}
    keep: {{nms_across_levels: 0.4}}
    calibrate: {{max_fppi: 0.5}}
    samplers: {{windows: {{kind: iou_bands, params: {{negatives_per_image: 20}}}}}}
    train: {{samples: 60_000, batch_size: 256, lr: 1.0e-2}}
data:
  train: {{drawn: {{kind: discs, params: {{images: 60, seed: 1}}}}}}
  val: {{drawn: {{kind: discs, params: {{images: 30, seed: 2}}}}}}
mine: {{val_images: 4, workers: 1}}
train: {{validations: 2, trainer: {{accelerator: cpu, devices: 1}}}}
evaluate: {{coco: {{kind: coco}}, tints: {{kind: attributes, params: {{of: *tints}}}}}}
"""


@pytest.fixture(scope="module")
def discs(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("discs")
    (folder / "discs.py").write_text(DISCS)
    (folder / "discs.yaml").write_text(RECIPE.format(folder=folder, plugin=plugin))
    return folder


def test_a_cascade_learns_an_attribute(discs: Path, plugin: Path) -> None:
    assert main(["train", str(discs / "discs.yaml")]) == 0
    metrics = json.loads((discs / "run" / "metrics.json").read_text())
    assert metrics["AP50"] > 0.8
    tint = metrics["tints"]["tint"]
    assert 0.25 < tint["present"] < 0.75
    assert tint["matched"] > 0.8 * tint["objects"] > 20
    assert tint["accuracy"] > 0.95
    assert tint["AP"] > 0.98

    plugins = [str(plugin), "discs.py"]
    cascade = Cascade.load(discs / "run", plugins=plugins, plugin_dir=discs, device="cpu")
    for found in cascade.batch([np.zeros((5, 5, 3), np.uint8), np.full((64, 96, 3), 128, np.uint8)]):
        assert found.extras["attributes"].shape == (len(found), 1)


def test_a_column_that_no_picture_has_is_told_before_the_first_step(
    discs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = "stages.only.heads.attributes.params.of={tnt: {present: [red], absent: [blue]}}"
    for verb in ("check", "train"):
        assert main([verb, str(discs / "discs.yaml"), f"run_dir={discs / 'refused'}", of]) == 2
        error = capsys.readouterr().err
        assert "stages.only.heads.attributes: learns from 'tnt' of the objects" in error
        assert "did you mean 'tint'?" in error
    assert not (discs / "refused").exists()
