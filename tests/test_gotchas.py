"""Twenty-one mistakes that public trainings of such cascades make, each seen not to happen here, numbered as known.

Not tested, since nothing here could make the mistake yet:

- 14, in part: three dialects of WIDER's annotations. There is no reader of WIDER; boxes without area and pictures
  without objects are tested.
- 15: wrong labels in CelebA, a matter of the data set. What a source teaches can be narrowed (`teaches`), see 4.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cascade_det.cascade import Cascade
from cascade_det.core.geometry import crop_truth, fit_to_aspect, iou_matrix
from cascade_det.core.imaging import Border, Resampler, write_image
from cascade_det.core.recipe import load_recipe
from cascade_det.core.registry import HEADS, SAMPLERS
from cascade_det.core.schema import JitterSection, Part
from cascade_det.core.types import Annotations, CropPlan, CropTruth, Detections, SampleRole
from cascade_det.data.augment import jitter_batch
from cascade_det.data.batch_plan import BatchPlan
from cascade_det.data.formats.coco import Coco
from cascade_det.data.loader import head_targets
from cascade_det.data.picture_set import PictureSet, refuse_overlap
from cascade_det.data.shards import Crops, Pool, read_manifest, write_shard
from cascade_det.data.synthetic import Synthetic
from cascade_det.errors import DataError
from cascade_det.heads.base import Head, Reduction
from cascade_det.interop.public_layout import stage_arrays
from cascade_det.nets.mtcnn import mtcnn_pnet
from cascade_det.samplers.base import Bands
from cascade_det.samplers.from_cascade import FromCascade
from cascade_det.samplers.iou_bands import IouBands
from cascade_det.stages.network import StageNetwork
from cascade_det.testing import check_sampler
from cascade_det.training.backfill import backfill
from cascade_det.training.mining import Miner, MiningJob
from cascade_det.training.module import HeadLoss, StageModule

FLIP = np.array([1, 0, 2, 4, 3])
NEGATIVE, PART, POSITIVE, POINTS = SampleRole
OFF = JitterSection(mirror=0, brightness=0, contrast=0)


def heads() -> dict[str, Head]:
    kinds = {"score": "classification", "box": "box_offset", "points": "points"}
    return {name: HEADS.build(kind, {}, name, num_points=5) for name, kind in kinds.items()}


def truth_of(*roles: int) -> CropTruth:
    """Return rows that know everything, except that a negative knows nothing."""
    role = np.array(roles, np.int8)
    has, rows = role != NEGATIVE, len(roles)
    points = np.tile(np.linspace(0.1, 0.9, 10).reshape(5, 2), (rows, 1, 1))
    return CropTruth(
        role,
        np.where(has[:, None], [[0.1, 0.2, 0.8, 0.7]], 0),
        has,
        points * has[:, None, None],
        np.repeat(has[:, None], 5, axis=1),
    )


def batch_of(truth: CropTruth) -> dict[str, Any]:
    targets = head_targets(heads(), truth, {name: np.ones(len(truth), bool) for name in heads()})
    return {"images": torch.randint(256, (len(truth), 3, 12, 12), dtype=torch.uint8), "targets": targets}


def module() -> Any:
    """Return a module that fits a small net; what it logs is kept in `logged`."""
    losses = {name: HeadLoss(1.0, Reduction.hardest, 0.7) for name in heads()}
    network = StageNetwork(mtcnn_pnet((12, 12)), heads())
    made: Any = StageModule(network, heads(), losses, (127.5, 1 / 128), Part("AdamW"), Part("none"), 0.1, 10)
    made.logged = {}
    made.log = lambda name, value, **_: made.logged.__setitem__(name, float(value))
    made._trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda value, reduce_op: value))
    return made


def annotated(*boxes: list[float], ignore: list[bool] | None = None) -> Annotations:
    """Return objects whose five points lie well inside."""
    array = np.array(boxes, np.float32).reshape(-1, 4)
    points = array[:, None, :2] + np.linspace(0.4, 0.6, 5)[:, None] * (array[:, None, 2:] - array[:, None, :2])
    hidden = np.array(ignore if ignore is not None else [False] * len(array))
    return Annotations(array, hidden, points, np.ones((len(array), 5), bool))


def sampled(sampler: Any, truth: Annotations, found: NDArray[Any] | None = None, seed: int = 0) -> CropPlan:
    candidates = None if found is None else Detections(found, np.ones(len(found), np.float32))
    plan: CropPlan = sampler.sample((240, 320), (12, 12), truth, candidates, np.random.default_rng(seed))
    return plan


@pytest.mark.parametrize("roles", [(), (NEGATIVE,) * 4, (PART,) * 4, (POINTS,) * 4])
def test_01_an_empty_mask_is_not_nan(roles: tuple[int, ...]) -> None:
    """A batch without a landmark or without a positive has a finite loss and finite gradients."""
    made = module()
    loss = made.training_step(batch_of(truth_of(*roles)), 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)
    assert (loss.item() == 0) == (len(roles) == 0)


def test_02_a_mirror_moves_the_targets() -> None:
    """Offsets (dx0, dx1) become (-dx1, -dx0), points 1 - x with left and right swapped."""
    truth, pixels = truth_of(POSITIVE), np.zeros((1, 12, 12, 3), np.uint8)
    _, moved = jitter_batch(pixels, truth, JitterSection(mirror=1), FLIP, np.random.default_rng(0))
    before, after = (heads()["box"].encode(t)[0] for t in (truth, moved))
    np.testing.assert_allclose(after, [-before[2], before[1], -before[0], before[3]], atol=1e-6)
    before, after = (heads()["points"].encode(t).reshape(5, 2) for t in (truth, moved))
    np.testing.assert_allclose(after, (before * [-1, 1] + [1, 0])[FLIP], atol=1e-6)


def test_03_no_crop_is_turned_upside_down() -> None:
    """Neither the jitter of crops nor a turned window shows a face on its head."""
    pixels = np.zeros((64, 12, 12, 3), np.uint8)
    pixels[:, 6:], pixels[:, :, 6:, 0] = 120, 255
    jitter = JitterSection(mirror=0.5, grey=0.2, blur=0.2, colour=0.1)
    shown, _ = jitter_batch(pixels, truth_of(*[NEGATIVE] * 64), jitter, FLIP, np.random.default_rng(0))
    assert (shown[:, 8:, :, 1:].mean(axis=(1, 2, 3)) > shown[:, :4, :, 1:].mean(axis=(1, 2, 3))).mean() == 1
    left_is_bright = shown[:, :, :4, 0].mean(axis=(1, 2)) > shown[:, :, 8:, 0].mean(axis=(1, 2))
    assert 10 < left_is_bright.sum() < 54  # left to right it does flip
    for kind in SAMPLERS.names():
        plan = sampled(SAMPLERS.build(kind, {}, kind), annotated([50, 50, 120, 120]), np.array([[50.0, 50, 120, 120]]))
        assert (np.abs(plan.angle_deg) < 90).all()


def test_04_a_label_enters_only_the_losses_that_it_teaches() -> None:
    """Landmark rows stay out of the class and box losses, negatives out of boxes and points, parts out of the class."""
    rows = truth_of(NEGATIVE, PART, POSITIVE, POINTS)
    masks = {name: mask for name, (_, mask) in batch_of(rows)["targets"].items()}
    assert masks["score"].tolist() == [True, False, True, False]
    assert masks["box"].tolist() == [False, True, True, False]
    assert masks["points"].any(dim=1).tolist() == [False, True, True, True]
    narrowed = head_targets(
        heads(), rows, {"score": np.zeros(4, bool), "box": np.zeros(4, bool), "points": np.ones(4, bool)}
    )
    assert [bool(mask.any()) for _, mask in narrowed.values()] == [False, False, True]  # a source of landmarks alone


def test_05_no_negative_holds_a_whole_object() -> None:
    """IoU < .3 is true of a window around a whole object, and unlabelled faces of a crowd are no background."""
    truth = annotated([100, 100, 140, 140], [200, 20, 300, 120], ignore=[False, True])
    around = np.array([[85, 85, 155, 155], [80, 80, 160, 160], [220, 40, 260, 80], [5, 5, 60, 60]], np.float32)
    assert iou_matrix(around, truth.boxes).max() < 0.33
    for bands in (Bands(), Bands(fit_truth=True)):
        assert bands.is_negative(around, truth, (12, 12)).tolist() == [False, False, False, True]
    plan = sampled(FromCascade(), truth, around)
    assert plan.boxes[plan.role == NEGATIVE].tolist() == [[5, 5, 60, 60]]


def test_06_windows_do_not_lie_on_a_grid() -> None:
    """Box targets of one object take many values over the whole range of the bands."""
    truth = annotated([100, 100, 140, 140])
    plan = sampled(IouBands(tries_per_box=400), truth)
    plan = plan[plan.truth == 0]
    offsets = heads()["box"].encode(crop_truth(plan, truth, FLIP))
    assert len(plan) > 200
    assert all(len(np.unique(column.round(4))) > 0.9 * len(plan) for column in offsets.T)
    assert (np.ptp(offsets, axis=0) > 0.3).all()


def test_07_negatives_come_from_near_the_objects_and_from_anywhere() -> None:
    """Half near and half anywhere by one key, and some of both by default."""
    truth = annotated([100, 100, 140, 140])
    for sampler, near in ((IouBands(negatives_per_image=60, near_share=0.5), 30), (IouBands(), 5)):
        plan = sampled(sampler, truth)
        negative = plan.boxes[plan.role == NEGATIVE]
        touching = int((iou_matrix(negative, truth.boxes) > 0).sum())
        assert touching >= near
        assert len(negative) - touching >= 15


def test_08_mining_has_a_laxer_threshold_of_its_own(tiny: Any) -> None:
    """What the next stage is mined from is calibrated apart, and a threshold pinned for detection leaves it alone."""
    cascade = Cascade.load(tiny.model)
    detect, mine = (cascade.settings(purpose=purpose)[0].score for purpose in ("detect", "mine"))
    assert mine < detect
    cascade.recipe.stages["pnet"].keep.score = 0.9
    assert [cascade.settings(purpose=purpose)[0].score for purpose in ("detect", "mine")] == [0.9, mine]


def test_09_the_last_stage_does_not_starve(tiny: Any, tmp_path: Path) -> None:
    """Few negatives pass a good stage: what lacks is cut from the pool before, and batches keep their mix anyhow."""
    few = load_recipe(tiny.recipe, "stages.rnet.samplers.mined.params.negatives_per_image=1", "mine.workers=1")
    before = tiny.folder / "rnet" / "mine" / "before.safetensors"
    job = MiningJob(few, "rnet", "train", 1, range(3), before)
    Miner(job).mine_shard(0, tmp_path / "00000")
    Miner(MiningJob(few, "pnet", "train", 1, range(3), None)).mine_shard(0, tmp_path / "earlier")
    roles = read_manifest(tmp_path / "00000")["roles"]
    more = backfill(job, tmp_path, [tmp_path / "00000"], [[tmp_path / "earlier"]], 1.0, lambda text: None)
    added = Pool(more)
    assert roles["negative"] <= 3 < len(added)
    assert (added.role == NEGATIVE).all()
    assert added.pixels(np.arange(1)).shape == (1, 24, 24, 3)  # at this stage's size
    starved = np.array([NEGATIVE] * 3 + [POSITIVE] * 300)
    assert (starved[BatchPlan(starved, 40, {"negative": 3, "positive": 1}, [0]).rows(5)] == NEGATIVE).sum() == 30


def test_10_shuffling_loses_no_sample() -> None:
    """One pass over a pool shows each row exactly once, in an order of its own."""
    plan = BatchPlan(np.zeros(120, np.int8), 10, "natural", [0])
    passes = [np.concatenate([plan.rows(batch) for batch in range(start, start + 12)]) for start in (0, 12)]
    assert all(np.array_equal(np.sort(rows), np.arange(120)) for rows in passes)
    assert not np.array_equal(*passes)


@pytest.mark.parametrize("border", list(Border))
def test_11_mining_and_detection_see_the_same_border(border: Border) -> None:
    """A candidate that crosses the border is mined, not dropped, and its crop is what the refiner would see."""
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    crossing = np.array([[-20, -15, 40, 50], [290, 200, 340, 260]], np.float32)
    plan = sampled(FromCascade(), annotated([100, 100, 140, 140]), crossing)
    assert len(plan) == 2
    picture = Resampler(image, border=border)
    np.testing.assert_array_equal(
        picture.cut(plan, (24, 24)), picture.crops(fit_to_aspect(crossing, (12, 12)), (24, 24))
    )


@pytest.mark.parametrize("kind", SAMPLERS.names())
def test_12_leaving_objects_out_shifts_no_index(kind: str) -> None:
    """Behind a box that is too small and one that is ignored, each window still belongs to the object it shows."""
    boxes = [[10, 10, 14, 14], [20, 150, 90, 220], [100, 100, 160, 160], [220, 60, 300, 140]]
    truth = annotated(*boxes, ignore=[False, True, False, False])
    found = np.repeat(truth.boxes, 5, axis=0) + np.random.default_rng(0).normal(0, 1, (20, 4))
    plan = sampled(SAMPLERS.build(kind, {}, kind), truth, found)
    taught = plan[plan.truth >= 0]
    assert set(taught.truth) == {2, 3}
    overlap = iou_matrix(taught.boxes, truth.boxes)[np.arange(len(taught)), taught.truth]
    assert (overlap > 0.35).all()


@pytest.mark.parametrize("kind", SAMPLERS.names())
def test_13_no_endless_loop(kind: str) -> None:
    """An object that fills the picture, and a picture of one pixel, come to an end without an error."""
    check_sampler(SAMPLERS.build(kind, {}, kind), seconds=5)


@pytest.mark.parametrize("bbox", [[3, 3, 0, 5], [3, 3, 5, 0], [0, 0, 0, 0]])
def test_14_boxes_without_area_and_pictures_without_objects(tmp_path: Path, bbox: list[float]) -> None:
    """A box with w or h = 0 is left out and counted; a picture without any gives windows all the same."""
    write_image(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))
    entry = {"id": 1, "file_name": "a.png", "height": 40, "width": 40}
    data = {"images": [entry], "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": bbox}],
            "categories": [{"id": 1, "name": "face"}]}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(data))
    source = Coco(images=".", annotations="a.json", base_dir=str(tmp_path))
    assert dict(source.report()) == {"boxes without area": 1}
    assert len(source.annotations(0)) == 0
    assert set(sampled(IouBands(), source.annotations(0)).role) == {NEGATIVE}


def test_16_published_points_become_pairs() -> None:
    """x1..x5 y1..y5 in the published head; x1 y1 x2 y2 ... here."""
    arrays = {"dense6_3.bias": np.arange(10, dtype=np.float32)}
    assert stage_arrays(arrays, [])["heads.points.bias"].tolist() == [0, 5, 1, 6, 2, 7, 3, 8, 4, 9]


def test_17_published_weights_see_transposed_pictures() -> None:
    """Their dense layer reads the last map by columns; as a kernel it gives the same on our map."""
    rng = np.random.default_rng(0)
    dense, last_map = rng.normal(size=(2, 36)).astype(np.float32), rng.normal(size=(4, 3, 3)).astype(np.float32)
    kernel = stage_arrays({"dense4.weight": dense}, ["net.a"])["net.a"]
    by_columns = last_map.transpose(2, 1, 0).ravel()  # width, height, channels
    np.testing.assert_allclose((kernel * last_map).sum(axis=(1, 2, 3)), dense @ by_columns, rtol=1e-5)


def test_18_validation_shares_no_picture_with_training() -> None:
    """A picture of equal content on both sides is refused, whatever its name."""
    train, other = (PictureSet({"drawn": Synthetic(images=3, seed=seed)}) for seed in (1, 2))
    refuse_overlap(train, other)
    again = PictureSet({"drawn": Synthetic(images=3, seed=2), "more": Synthetic(images=1, seed=1)})
    with pytest.raises(DataError, match="share 1 picture"):
        refuse_overlap(train, again)


def test_19_crops_are_neither_compressed_nor_rounded_nor_a_file_each(tmp_path: Path) -> None:
    """A shard of many crops is three files that give back each pixel and each bit of the truth."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (500, 12, 12, 3), np.uint8)
    truth = truth_of(*[POSITIVE] * 500).replace(box=rng.random((500, 4), np.float32))
    plan = CropPlan.upright(rng.random((500, 4)) * 99, POSITIVE)
    place = np.zeros(500, np.int32)
    crops = Crops(pixels, truth, place, place.astype(np.int16), place.astype(np.int16), plan)
    write_shard(tmp_path / "00000", [crops], crops, {})
    assert len(list((tmp_path / "00000").iterdir())) == 3
    pool = Pool([tmp_path / "00000"])
    np.testing.assert_array_equal(pool.pixels(np.arange(500)), pixels)
    np.testing.assert_array_equal(pool.truth(np.arange(500)).box, truth.box)


def test_20_validation_says_recall_not_accuracy() -> None:
    """A net that always says no is right on 95 % of such a batch, and its recall is 0."""
    made = module()
    with torch.no_grad():
        made.network.heads["score"].weight.zero_()
        made.network.heads["score"].bias.fill_(-1)
        made.on_validation_epoch_start()
        made.validation_step(batch_of(truth_of(*[NEGATIVE] * 95, *[POSITIVE] * 5)), 0)
        made.on_validation_epoch_end()
    assert made.logged["val/recall"] == 0
    assert made.logged["val/f1"] == 0
    assert not [name for name in made.logged if "acc" in name]


def test_21_mining_holds_one_shard_at_a_time(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished shard lies on disk before a picture of the next is read; nothing waits for the whole set."""
    read: list[int] = []
    whole = PictureSet.read
    monkeypatch.setattr(PictureSet, "read", lambda self, number: (read.append(number), whole(self, number))[1])
    recipe = load_recipe(tiny.recipe, "mine.shard_images=2")
    miner = Miner(MiningJob(recipe, "rnet", "train", 1, range(6), tiny.folder / "rnet" / "mine" / "before.safetensors"))
    miner.mine_shard(1, tmp_path / "00001")
    assert read == [2, 3]
    assert read_manifest(tmp_path / "00001")["images"] == 2
