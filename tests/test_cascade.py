"""The cascade: one picture or many, what it takes and refuses, its settings, and its file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cascade_det.cascade import Cascade, find_model
from cascade_det.core import registry
from cascade_det.core.imaging import write_image
from cascade_det.core.recipe import load_recipe
from cascade_det.core.types import Detections
from cascade_det.data.synthetic import Synthetic
from cascade_det.errors import DataError, ModelError
from cascade_det.model_file import load_model

PLUGIN = """
from cascade_det.core.registry import register_stage
from cascade_det.stages.base import WeightlessStage

@register_stage("first_two")
class FirstTwo(WeightlessStage):
    '''Lets the best two of each picture through.'''
    def __call__(self, images, candidates, settings):
        return [found.sorted()[:2] for found in candidates]
"""


@pytest.fixture(scope="session")
def cascade(tiny: Any) -> Cascade:
    return Cascade.load(tiny.folder, device="cpu")


@pytest.fixture(scope="session")
def pictures() -> list[NDArray[np.uint8]]:
    """Return drawn pictures of mixed sizes and one smaller than every window."""
    sizes = [(96, 128), (70, 150), (96, 128), (5, 7), (150, 60)]
    return [
        Synthetic(images=1, size_hw=hw, seed=n, object_px=(24, 48)).read(0)
        if min(hw) > 40
        else np.full((*hw, 3), 90, np.uint8)
        for n, hw in enumerate(sizes)
    ]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write a plug-in; what it registers is forgotten at the end."""
    registry.STAGES.names()
    monkeypatch.setattr(registry.STAGES, "_parts", dict(registry.STAGES._parts))
    path = tmp_path / "first_two.py"
    path.write_text(PLUGIN)
    before = set(sys.modules)
    yield path
    for name in set(sys.modules) - before:
        if name.startswith("cascade_det_plugin_"):
            del sys.modules[name]


def assert_close(a: Detections, b: Detections) -> None:
    assert len(a) == len(b)
    assert np.abs(a.scores - b.scores).max(initial=0) <= 1e-5
    assert np.abs(a.boxes - b.boxes).max(initial=0) <= 0.01
    assert (a.points is None) == (b.points is None)
    if a.points is not None and b.points is not None:
        assert np.abs(a.points - b.points).max(initial=0) <= 0.01


@pytest.mark.parametrize("upto", ["pnet", "rnet"])
def test_inclusive_boxes_count_pixels_from_one(tiny: Any, pictures: list[NDArray[np.uint8]], upto: str) -> None:
    plain, inclusive = Cascade.load(tiny.model), Cascade.load(tiny.model)
    inclusive.recipe.image.inclusive_boxes = True
    a, b = (cascade.run(pictures[:1], upto, score=0)[0] for cascade in (plain, inclusive))
    assert len(a) > 0
    np.testing.assert_allclose(b.boxes - a.boxes, np.tile([1, 1, 0, 0], (len(a), 1)), atol=1e-4)


class TestBatch:
    def test_no_pictures(self, cascade: Cascade) -> None:
        assert cascade.batch([]) == []
        assert cascade.run([], "pnet") == []

    @pytest.mark.parametrize(
        ("image", "score"),
        [
            (np.zeros((1, 1, 3), np.uint8), None),
            (np.zeros((5, 400, 3), np.uint8), None),
            (np.zeros((96, 128, 3), np.uint8), 1.0),
        ],
    )
    def test_nothing_found_is_typed(self, cascade: Cascade, image: NDArray[np.uint8], score: float | None) -> None:
        found = cascade(image, score=score)
        assert found.boxes.shape == (0, 4)
        assert found.boxes.dtype == np.float32
        assert found.scores.shape == (0,)
        assert found.points is not None
        assert found.points.shape == (0, 5, 2)

    @pytest.mark.parametrize("upto", ["pnet", "rnet"])
    def test_mixed_sizes_equal_one_by_one(self, cascade: Cascade, pictures: list[NDArray[np.uint8]], upto: str) -> None:
        together = cascade.run(pictures, upto, score=0.3)
        assert sum(map(len, together)) >= 5
        for image, found in zip(pictures, together, strict=True):
            assert_close(found, cascade.run([image], upto, score=0.3)[0])

    @pytest.mark.parametrize("size", [1, 2, 7])
    def test_any_batch_size(self, cascade: Cascade, pictures: list[NDArray[np.uint8]], size: int) -> None:
        many = (pictures * 3)[:14]
        expected = [cascade(image, score=0.3) for image in many]
        batches = [cascade.batch(many[start : start + size], score=0.3) for start in range(0, len(many), size)]
        for found, wanted in zip([found for batch in batches for found in batch], expected, strict=True):
            assert_close(found, wanted)

    @examples(max_examples=10, deadline=None)
    @given(order=st.permutations(range(5)), repeat=st.integers(1, 3))
    def test_any_order_and_more_than_one_batch(
        self, cascade: Cascade, pictures: list[NDArray[np.uint8]], order: list[int], repeat: int
    ) -> None:
        expected = cascade.batch(pictures, score=0.3)
        for number, found in zip(
            order * repeat, cascade.batch([pictures[n] for n in order * repeat], score=0.3), strict=True
        ):
            assert_close(found, expected[number])

    def test_results_lie_in_the_picture_and_fall_by_score(
        self, cascade: Cascade, pictures: list[NDArray[np.uint8]]
    ) -> None:
        for image, found in zip(pictures, cascade.batch(pictures, score=0.05), strict=True):
            assert (found.boxes >= 0).all()
            assert (found.boxes <= [image.shape[1], image.shape[0]] * 2).all()
            assert (np.diff(found.scores) <= 0).all()

    def test_boxes_are_left_as_they_are_where_the_recipe_says_so(
        self, tiny: Any, cascade: Cascade, pictures: list[NDArray[np.uint8]]
    ) -> None:
        recipe = load_recipe(tiny.recipe, "image.clip_boxes=false")
        free = Cascade(recipe, cascade.stages, cascade.thresholds)
        found = [f.boxes for f in free.run(pictures, "pnet", score=0.01)]
        assert any((boxes < 0).any() for boxes in found)


class TestPicture:
    def test_path_pil_and_array_are_equal(
        self, cascade: Cascade, pictures: list[NDArray[np.uint8]], tmp_path: Path
    ) -> None:
        write_image(tmp_path / "a.png", pictures[0])
        expected = cascade(pictures[0], score=0.1)
        assert len(expected) >= 1
        for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pictures[0])):
            assert_close(cascade(image, score=0.1), expected)

    def test_a_grey_pil_picture_is_its_three_channels(self, cascade: Cascade) -> None:
        grey = np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint8)
        assert_close(cascade(Image.fromarray(grey), score=0.01), cascade(np.dstack([grey] * 3), score=0.01))

    @pytest.mark.parametrize(
        ("image", "got"),
        [
            (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
            (np.zeros((3, 4, 4), np.uint8), r"shape \(3, 4, 4\)"),
            (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
            (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
            (np.zeros((4, 4, 3), np.float32), "dtype float32"),
            (None, "NoneType"),
            ([[1]], "list"),
            (b"x", "bytes"),
        ],
    )
    def test_anything_else_is_named(self, cascade: Cascade, image: object, got: str) -> None:
        for call in (lambda: cascade(image), lambda: cascade.batch([np.zeros((20, 20, 3), np.uint8), image])):
            with pytest.raises(ValueError, match=got):
                call()

    def test_a_missing_file(self, cascade: Cascade, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nothing\.png"):
            cascade(tmp_path / "nothing.png")


class TestSettings:
    def test_upto_is_inclusive(self, cascade: Cascade, pictures: list[NDArray[np.uint8]]) -> None:
        (first,), (second,) = cascade.run(pictures[:1], "pnet"), cascade.run(pictures[:1], "rnet")
        assert first.points is None
        assert second.points is not None
        assert len(first) > len(second)
        assert_close(cascade(pictures[0]), second)

    @pytest.mark.parametrize("upto", ["pnet", "rnet"])
    def test_score_replaces_the_threshold_of_the_last_stage(
        self, cascade: Cascade, pictures: list[NDArray[np.uint8]], upto: str
    ) -> None:
        low, high = (cascade.run(pictures, upto, score=s) for s in (0.02, 0.95))
        assert sum(map(len, low)) > sum(map(len, cascade.run(pictures, upto))) > sum(map(len, high))
        assert min(f.scores.min() for f in low if len(f)) < cascade.thresholds[upto]["detect"]
        assert all((f.scores >= 0.95).all() for f in high)

    def test_score_leaves_the_stages_before_alone(self, cascade: Cascade) -> None:
        values = cascade.settings(score=0.9)
        assert [v.score for v in values] == [pytest.approx(cascade.thresholds["pnet"]["detect"]), 0.9]

    def test_min_object_px_replaces_the_recipes(self, cascade: Cascade, pictures: list[NDArray[np.uint8]]) -> None:
        assert {v.min_object_px for v in cascade.settings(min_object_px=40)} == {40}
        assert {v.min_object_px for v in cascade.settings()} == {20}
        (few,), (many,) = (cascade.run(pictures[:1], "pnet", min_object_px=px, score=0.01) for px in (60, 20))
        smallest = [float((f.boxes[:, 3] - f.boxes[:, 1]).min()) for f in (few, many)]
        assert smallest[0] > 1.5 * smallest[1]

    def test_mining_runs_at_the_laxer_thresholds(self, cascade: Cascade) -> None:
        for purpose in ("detect", "mine"):
            scores = [v.score for v in cascade.settings(purpose=purpose)]
            assert scores == [cascade.thresholds[name][purpose] for name in ("pnet", "rnet")]

    @pytest.mark.parametrize(
        ("overrides", "purpose", "score"),
        [
            ([], "detect", 0.25),
            ([], "mine", 0.125),
            (["stages.pnet.keep.score=0.75"], "detect", 0.75),
            (["stages.pnet.keep.score=0.75"], "mine", 0.125),
        ],
    )
    def test_a_pinned_score_wins_over_calibration_but_not_in_mining(
        self, tiny: Any, overrides: list[str], purpose: str, score: float
    ) -> None:
        recipe = load_recipe(tiny.recipe, *overrides)
        cascade = Cascade(recipe, Cascade.build(recipe).stages, {"pnet": {"detect": 0.25, "mine": 0.125}})
        assert [v.score for v in cascade.settings(purpose=purpose)] == [score, 0.5]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"score": -0.1}, r"score=-0.1 must lie in \[0, 1\]"),
            ({"score": 1.1}, r"score=1.1 must lie in \[0, 1\]"),
            ({"score": float("nan")}, "score=nan"),
            ({"min_object_px": 0}, "min_object_px=0 must be at least 1 pixel"),
            ({"min_object_px": -3}, "min_object_px=-3"),
            ({"min_object_px": float("nan")}, "min_object_px=nan"),
            ({"upto": "rmet"}, "upto='rmet'.*did you mean 'rnet'"),
        ],
    )
    def test_wrong_values_are_named(self, cascade: Cascade, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            cascade.run([], **arguments)


class TestFile:
    def test_round_trip_gives_equal_bytes(
        self, tiny: Any, cascade: Cascade, pictures: list[NDArray[np.uint8]], tmp_path: Path
    ) -> None:
        cascade.save(tmp_path / "new" / "a.safetensors")
        again = Cascade.load(tmp_path / "new" / "a.safetensors", device="cpu")
        again.save(tmp_path / "b.safetensors")
        contents = [path.read_bytes() for path in (tiny.model, *tmp_path.rglob("*.safetensors"))]
        assert len(contents) == 3
        assert len(set(contents)) == 1
        assert again.thresholds == cascade.thresholds
        for found, wanted in zip(again.batch(pictures), cascade.batch(pictures), strict=True):
            assert_close(found, wanted)

    def test_other_content_gives_other_bytes(self, tiny: Any, cascade: Cascade, tmp_path: Path) -> None:
        Cascade(cascade.recipe, cascade.stages, {"pnet": {"detect": 0.1, "mine": 0.1}}).save(tmp_path / "a")
        assert (tmp_path / "a").read_bytes() != tiny.model.read_bytes()

    def test_a_cascade_in_training_ends_earlier(
        self, cascade: Cascade, pictures: list[NDArray[np.uint8]], tmp_path: Path
    ) -> None:
        Cascade(cascade.recipe, cascade.stages[:1], cascade.thresholds).save(tmp_path / "first.safetensors")
        first = Cascade.load(tmp_path / "first.safetensors", device="cpu")
        assert [stage.name for stage in first.stages] == ["pnet"]
        assert_close(first(pictures[0]), cascade.run(pictures[:1], "pnet")[0])
        with pytest.raises(ValueError, match="upto='rnet'"):
            first.run(pictures, "rnet")

    def test_later_stages_alone_are_refused(self, cascade: Cascade, tmp_path: Path) -> None:
        Cascade(cascade.recipe, cascade.stages[1:]).save(tmp_path / "last.safetensors")
        with pytest.raises(
            ModelError, match=r"holds weights of the stages \['rnet'\], its recipe has \['pnet', 'rnet'\]"
        ):
            Cascade.load(tmp_path / "last.safetensors")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"device": "gpu7"}, "device='gpu7' cannot be used"),
            ({"backend": "onyx"}, "backend='onyx': Choices: torch"),
            ({"preset": "exakt"}, "preset 'exakt'"),
        ],
    )
    def test_wrong_arguments(self, tiny: Any, arguments: dict[str, str], message: str) -> None:
        with pytest.raises(Exception, match=message) as caught:
            Cascade.load(tiny.model, **arguments)  # type: ignore[arg-type]
        assert type(caught.value).__module__ == "cascade_det.errors"

    def test_finding_a_model(self, tiny: Any, tmp_path: Path) -> None:
        assert find_model(tiny.folder) == find_model(str(tiny.model)) == tiny.model
        with pytest.raises(ModelError, match=r"a folder without model\.safetensors"):
            find_model(tmp_path)
        with pytest.raises(ModelError, match=r"'no_such_model' is neither a file, .*Choices"):
            find_model("no_such_model")


class TestPlugin:
    @pytest.fixture
    def model(self, tiny: Any, plugin: Path, cascade: Cascade) -> Path:
        """Return the file of the trained cascade with a stage of a plug-in, which has no weights, at its end."""
        text = tiny.recipe.read_text().replace("data:\n", "  two: {kind: first_two}\ndata:\n", 1)
        recipe_file = plugin.with_name("with_plugin.yaml")
        recipe_file.write_text(text + "plugins: [first_two.py]\n")
        recipe = load_recipe(recipe_file, "stages.two.window_hw=[24,24]", "stages.rnet.keep.score=0.02")
        built = Cascade.build(recipe, cascade.thresholds)
        for stage, trained in zip(built.stages, cascade.stages, strict=False):
            stage.load_arrays(trained.arrays())
        built.save(plugin.with_name("model.safetensors"))
        return plugin.with_name("model.safetensors")

    def test_it_is_refused_unless_allowed_and_nothing_is_imported(self, model: Path) -> None:
        del registry.STAGES._parts["first_two"]
        with pytest.raises(ModelError, match=r"needs the plug-in 'first_two\.py'.*plugins=\['first_two\.py'\]"):
            Cascade.load(model)
        with pytest.raises(ModelError, match="needs the plug-in"):
            Cascade.load(model, plugins=["another.py"])
        assert "first_two" not in registry.STAGES.names()

    def test_a_run_directory_knows_where_its_recipe_lay(self, model: Path, tmp_path: Path) -> None:
        run = tmp_path / "runs" / "two"
        run.mkdir(parents=True)
        (run / "model.safetensors").write_bytes(model.read_bytes())
        with pytest.raises(ModelError, match="was sought in"):
            Cascade.load(run, plugins=["first_two.py"], device="cpu")
        (run / "recipe.yaml").write_text(f"base_dir: {model.parent}\n")
        assert len(Cascade.load(run, plugins=["first_two.py"], device="cpu").stages) == 3
        (run / "recipe.yaml").write_text(f"base_dir: {tmp_path / 'gone'}\n")
        with pytest.raises(ModelError, match="was sought in"):
            Cascade.load(run, plugins=["first_two.py"], device="cpu")
        with pytest.raises(ModelError, match="needs the plug-in"):
            Cascade.load(run)

    def test_it_runs_where_allowed(self, model: Path, pictures: list[NDArray[np.uint8]]) -> None:
        loaded = Cascade.load(model, plugins=["first_two.py"], device="cpu")
        assert [stage.name for stage in loaded.stages] == ["pnet", "rnet", "two"]
        before = loaded.run(pictures, "rnet")
        assert max(map(len, before)) > 2
        for found, all_of_them in zip(loaded.batch(pictures), before, strict=True):
            assert_close(found, all_of_them[:2])
        assert load_model(model).arrays["two"] == {}
