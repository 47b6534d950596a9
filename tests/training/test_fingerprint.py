"""Which work a change of the recipe makes stale: every key has its step, and a run tells done from stale."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cascade_det.core import registry
from cascade_det.core.recipe import load_recipe, recipe_from_dict
from cascade_det.core.schema import STEPS, Recipe, document_keys
from cascade_det.errors import RunError
from cascade_det.training.fingerprint import (
    changed_keys,
    evaluator_versions,
    file_digest,
    fingerprint,
    keys_of_step,
    part_versions,
)
from cascade_det.training.pipeline import Run
from cascade_det.training.plan import WEIGHTS, Plan, Step

ALL = ["pnet mine", "pnet fit", "pnet calibrate", "rnet mine", "rnet fit", "rnet calibrate", "evaluate"]
FULL: dict[str, Any] = {
    "object": {"points": ["a", "b"], "flip_points": [1, 0], "align_template": [[0, 0], [1, 0]]},
    "image": {"max_pixels": 1000, "inclusive_boxes": True, "lift_to": 100},
    "stages": {
        name: {
            "kind": "proposer",
            "rho": 0.9,
            "context": 1.5,
            "net": {"kind": "mtcnn_pnet", "params": {"alpha": 0.5}},
            "heads": {
                "score": {"kind": "classification"},
                "points": {"kind": "points", "params": {"roles": ["points"]}},
            },
            "samplers": {"windows": {"kind": "iou_bands", "params": {"positive": 0.6}}},
            "train": {"optimizer": {"kind": "SGD", "params": {"momentum": 0.9}}, "batch_mix": {"negative": 1}},
        }
        for name in ("first", "second")
    },
    "data": {
        "train": {
            "drawn": {"kind": "synthetic", "params": {"images": 3}, "teaches": ["score"], "teaches_points": ["a"]}
        },
        "val": {"drawn": {"kind": "synthetic", "params": {"images": 2}, "teaches_points": ["b"]}},
        "jitter": {"dark": 0.1},
        "views": {"small": {"object_px": [12, 24], "transform": {"kind": "Rotate", "params": {"limit": 5}}}},
    },
    "train": {
        "batch_mix": "natural",
        "trainer": {"accelerator": "cpu", "devices": 2, "precision": "bf16-mixed", "gradient_clip_val": 1},
    },
    "presets": {"fast": {"pyramid.factor": 0.5}},
    "evaluate": {"coco": {"kind": "coco", "params": {"max_dets": 10}}},
}


@functools.cache
def full() -> Recipe:
    return recipe_from_dict(FULL, Path())


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return every leaf of a recipe as plain values by its full key."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= leaves(inner, f"{prefix}{name}.") if isinstance(inner, dict) else {f"{prefix}{name}": inner}
    return found


class TestKeys:
    def test_every_key_names_a_step(self) -> None:
        keys = document_keys()
        assert len(keys) > 80
        assert {step for _, step, _ in keys} == set(STEPS)
        for key, _, text in keys:
            assert text, key

    def test_every_value_belongs_to_one_step_or_to_none_on_purpose(self) -> None:
        owned: dict[str, set[str]] = {}
        for step in STEPS:
            for stage in ("first", "second", None):
                for key in keys_of_step(full(), step, stage):
                    owned.setdefault(key, set()).add(step)
        assert {key: steps for key, steps in owned.items() if len(steps) != 1} == {}
        values = dataclasses.asdict(full())
        presets = {f"presets.{name}" for name in values.pop("presets")}  # one preset is one value
        assert set(owned) == set(leaves(values)) | presets

    @pytest.mark.parametrize(
        ("key", "step"),
        [
            ("seed", "mine"),
            ("image.mean", "fit"),
            ("image.clip_boxes", "calibrate"),
            ("image.inclusive_boxes", "calibrate"),
            ("stages.first.window_hw", "mine"),
            ("stages.first.rho", "mine"),
            ("stages.first.context", "mine"),
            ("stages.first.net.kind", "fit"),
            ("stages.first.net.params.alpha", "fit"),
            ("stages.first.heads.points.params.roles", "fit"),
            ("stages.first.heads.score.weight", "fit"),
            ("stages.first.samplers.windows.kind", "mine"),
            ("stages.first.samplers.windows.params.positive", "mine"),
            ("stages.first.train.optimizer.params.momentum", "fit"),
            ("stages.first.train.batch_mix.negative", "fit"),
            ("stages.first.keep.nms", "calibrate"),
            ("data.train.drawn.params.images", "mine"),
            ("data.train.drawn.teaches", "mine"),
            ("data.views.small.transform.params.limit", "mine"),
            ("data.val.drawn.params.images", "evaluate"),
            ("data.jitter.mirror", "fit"),
            ("evaluate.coco.params.max_dets", "evaluate"),
            ("mine.workers", "none"),
            ("train.trainer.devices", "none"),
            ("train.logger", "none"),
            ("description", "none"),
            ("object.align_template", "evaluate"),
            ("train.trainer.precision", "fit"),
            ("train.trainer.gradient_clip_val", "fit"),
            ("train.trainer.accelerator", "none"),
            ("presets.fast", "evaluate"),
        ],
    )
    def test_a_parts_keys_belong_to_the_step_of_what_holds_it(self, key: str, step: str) -> None:
        assert key in keys_of_step(full(), step, "first")
        for other in set(STEPS) - {step}:
            assert key not in keys_of_step(full(), other, "first")

    def test_a_stages_keys_are_its_own(self) -> None:
        keys = keys_of_step(full(), "fit", "second")
        assert "stages.second.net.kind" in keys
        assert "stages.first.net.kind" not in keys
        assert not any(key.startswith("stages.") for key in keys_of_step(full(), "evaluate", None))

    def test_a_key_that_came_later_counts_where_it_differs_from_what_runs_before_it_did(self) -> None:
        stages = {name: {**stage, "rho": 1.0, "context": 1.0} for name, stage in FULL["stages"].items()}
        default = recipe_from_dict({**FULL, "image": {}, "stages": stages}, Path())
        assert not [key for key in keys_of_step(recipe_from_dict({}, Path()), "fit", None) if "trainer" in key]
        assert keys_of_step(full(), "mine", "first")["image.max_pixels"] == 1000
        assert set(keys_of_step(full(), "mine", "first")) - set(keys_of_step(default, "mine", "first")) == {
            "image.lift_to",
            "image.max_pixels",
            "stages.first.rho",
            "stages.first.context",
        }

    @pytest.mark.parametrize(
        ("step", "names"),
        [
            ("mine", {"sampler iou_bands (code)"}),
            ("fit", {"net mtcnn_pnet (code)", "head classification (code)", "head points (code)"}),
            ("calibrate", {"stage proposer (code)"}),
        ],
    )
    def test_the_code_of_parts(self, step: str, names: set[str]) -> None:
        assert set(part_versions(full(), step, "first")) == names

    def test_another_version_of_a_part_is_another_code(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = part_versions(full(), "mine", "first") | evaluator_versions(full())
        assert set(before) == {"sampler iou_bands (code)", "evaluator coco (code)"}
        monkeypatch.setattr(registry.SAMPLERS.get("iou_bands"), "version", 77)
        changed = part_versions(full(), "mine", "first") | evaluator_versions(full())
        assert {name for name in before if changed[name] != before[name]} == {"sampler iou_bands (code)"}


class TestTexts:
    @pytest.mark.parametrize(
        ("old", "new", "changes"),
        [
            ({}, {}, []),
            ({"a": 1}, {"a": 1}, []),
            ({"a": 1}, {"a": 2}, ["a: 1 -> 2"]),
            ({"b": 1, "a": "x"}, {"b": 2, "a": "y"}, ["a: x -> y", "b: 1 -> 2"]),
            ({}, {"a": 1}, ["a: absent -> 1"]),
            ({"a": 1}, {}, ["a: 1 -> absent"]),
            ({"a": None}, {"a": 1}, ["a: null -> 1"]),
            ({}, {"a": None}, ["a: absent -> null"]),
            ({"a": [1, 2]}, {"a": (1, 2)}, []),  # a tuple is a list in JSON
            ({"a": "f" * 64}, {"a": "0" * 64}, ["a: ffffffffffff... -> 000000000000..."]),
        ],
    )
    def test_changed_keys(self, old: Mapping[str, Any], new: Mapping[str, Any], changes: list[str]) -> None:
        assert changed_keys(old, new) == changes
        assert (fingerprint(old) == fingerprint(new)) == (not changes)

    def test_order_does_not_matter(self) -> None:
        assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 2, "b": 1})

    def test_file_digest(self, tmp_path: Path) -> None:
        digests = []
        for content in (b"", b"a", b"a"):
            (tmp_path / "f").write_bytes(content)
            digests.append(file_digest(tmp_path / "f"))
        assert digests[0] != digests[1] == digests[2]


def states(recipe: Recipe) -> dict[str, str]:
    plan = Plan(recipe)
    return {str(step): plan.state(step).state for step in plan.steps}


class TestRun:
    def test_a_new_run_lacks_everything(self, tiny: Any, tmp_path: Path) -> None:
        assert states(load_recipe(tiny.recipe, f"run_dir={tmp_path / 'new'}")) == dict.fromkeys(ALL, "missing")

    @pytest.mark.parametrize(
        ("override", "first_stale"),
        [
            (None, None),
            ("description=other words", None),
            ("mine.workers=7", None),
            ("train.logger=none", None),
            ("train.trainer.precision=bf16-mixed", "pnet fit"),
            ("presets.exact={image.resample: linear}", "evaluate"),
            ("seed=1", "pnet mine"),
            ("image.resample=linear", "pnet mine"),
            ("mine.shard_images=10", "pnet mine"),
            ("calibrate.share=0.2", "pnet mine"),
            ("data.train.drawn.params.seed=3", "pnet mine"),
            ("data.views.small={share: 0.5}", "pnet mine"),
            ("stages.pnet.samplers.windows.params.tries_per_box=9", "pnet mine"),
            ("image.mean=100", "pnet fit"),
            ("train.ema=0.9", "pnet fit"),
            ("data.jitter.grey=0.1", "pnet fit"),
            ("stages.pnet.heads.box.weight=0.25", "pnet fit"),
            ("pyramid.min_object_px=24", "pnet calibrate"),
            ("stages.pnet.keep.nms=0.6", "pnet calibrate"),
            ("stages.pnet.calibrate.mine_recall=1.0", "pnet calibrate"),
            ("stages.rnet.samplers.mined.params.tries_per_box=9", "rnet mine"),
            ("stages.rnet.train.lr=1.0e-3", "rnet fit"),
            ("stages.rnet.net.params.alpha=0.25", "rnet fit"),
            ("stages.rnet.calibrate.max_fppi=0.2", "rnet calibrate"),
            ("data.val.drawn.params.seed=9", "evaluate"),
            ("evaluate.coco.params.max_dets=100", "evaluate"),
        ],
    )
    def test_a_change_makes_its_step_and_all_after_it_stale(
        self, tiny: Any, override: str | None, first_stale: str | None
    ) -> None:
        got = states(load_recipe(tiny.recipe, *([override] if override else [])))
        first = len(ALL) if first_stale is None else ALL.index(first_stale)
        assert got == {step: "stale" if number >= first else "done" for number, step in enumerate(ALL)}

    def test_the_changes_are_named(self, tiny: Any) -> None:
        recipe = load_recipe(tiny.recipe, "stages.rnet.train.lr=1.0e-3", "stages.rnet.heads.box.weight=0.25")
        plan = Plan(recipe)
        assert plan.state(Step("rnet", "fit")).changes == [
            "stages.rnet.heads.box.weight: 0.5 -> 0.25",
            "stages.rnet.train.lr: 0.004 -> 0.001",
        ]
        after = plan.state(Step("rnet", "calibrate")).changes
        assert len(after) == 1
        assert after[0].startswith("(the step before): rnet fit: ")

    @pytest.mark.parametrize(
        ("owner", "part", "first_stale"),
        [
            (registry.STAGES, "proposer", "pnet calibrate"),
            (registry.NETS, "mtcnn_pnet", "pnet fit"),
            (registry.HEADS, "classification", "pnet fit"),
            (registry.SAMPLERS, "iou_bands", "pnet mine"),
            (registry.STAGES, "refiner", "rnet calibrate"),
            (registry.SAMPLERS, "from_cascade", "rnet mine"),
            (registry.EVALUATORS, "coco", "evaluate"),
        ],
    )
    def test_another_version_of_a_part(
        self, tiny: Any, monkeypatch: pytest.MonkeyPatch, owner: Any, part: str, first_stale: str
    ) -> None:
        monkeypatch.setattr(owner.get(part), "version", 99, raising=False)  # a function has none until it is raised
        got = states(load_recipe(tiny.recipe))
        assert [step for step, state in got.items() if state == "stale"] == ALL[ALL.index(first_stale) :]

    def test_other_output_of_a_step_makes_the_next_stale(self, tiny_copy: Any) -> None:
        path = tiny_copy.folder / "pnet" / "calibrate" / "done.json"
        done = json.loads(path.read_text())
        path.write_text(json.dumps({**done, "output": "0" * 64}))
        got = states(load_recipe(tiny_copy.recipe))
        assert got["pnet calibrate"] == "done"
        assert [step for step, state in got.items() if state == "stale"] == ALL[3:]

    @pytest.mark.parametrize("text", ["{", "{}", '{"fingerprint": "", "keys": {}}'])
    def test_a_damaged_record_is_no_record(self, tiny_copy: Any, text: str) -> None:
        (tiny_copy.folder / "rnet" / "fit" / "done.json").write_text(text)
        assert states(load_recipe(tiny_copy.recipe))["rnet fit"] == "missing"

    @pytest.mark.parametrize("damage", ["missing", "cut short", "flipped"])
    def test_damaged_weights_are_fitted_again(self, tiny_copy: Any, damage: str) -> None:
        path = tiny_copy.folder / "rnet" / "fit" / "weights.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes({"missing": b"", "cut short": path.read_bytes()[:99], "flipped": bytes(data)}[damage])
        if damage == "missing":
            path.unlink()
        plan = Plan(load_recipe(tiny_copy.recipe))
        state = next(plan.state(step) for step in plan.steps if str(step) == "rnet fit")
        assert state.state == "stale"
        assert "weights.safetensors: missing or damaged" in state.changes[0]
        before = (tiny_copy.folder / "model.safetensors").read_bytes()
        Run(load_recipe(tiny_copy.recipe)).train()
        assert (tiny_copy.folder / "model.safetensors").read_bytes() == before
        assert states(load_recipe(tiny_copy.recipe))["rnet fit"] == "done"

    def test_rounds_add_steps(self, tiny: Any) -> None:
        steps = [str(step) for step in Plan(load_recipe(tiny.recipe, "stages.rnet.rounds=2")).steps]
        assert steps == [*ALL[:6], "rnet mine-2", "rnet fit-2", "rnet calibrate-2", "evaluate"]


class TestTrain:
    """What `train` does with the states, with the work itself replaced by a note of it."""

    @pytest.fixture
    def done(self, tiny_copy: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        done: list[str] = []

        def work(self: Run, step: Step, folder: Path) -> tuple[str, dict[str, Any]]:
            done.append(str(step))
            assert not (folder / "left_over").exists()
            (folder / "left_over").write_text("")
            if step.kind == "fit":  # whose output is looked at again
                (folder / WEIGHTS).write_text("")
                return file_digest(folder / WEIGHTS), {}
            return f"output of {step}", {}

        for name in ("_mine", "_fit", "_calibrate", "_evaluate"):
            monkeypatch.setattr(Run, name, work)
        for name in ("_mend_pools", "_report"):  # the work that is replaced leaves no shards and no model
            monkeypatch.setattr(Run, name, lambda *_: None)
        return done

    def train(self, tiny_copy: Any, *overrides: str, **arguments: str) -> list[str]:
        said: list[str] = []
        Run(load_recipe(tiny_copy.recipe, *overrides), say=said.append).train(**arguments)
        return said

    def test_nothing_is_done_twice(self, tiny_copy: Any, done: list[str]) -> None:
        said = self.train(tiny_copy)
        assert done == []
        assert sum("done before" in line for line in said) == 7

    def test_what_is_stale_is_redone_with_its_reason(self, tiny_copy: Any, done: list[str]) -> None:
        said = self.train(tiny_copy, "stages.rnet.train.lr=1.0e-3")
        assert done == ALL[4:]
        assert any("rnet fit: redone, since stages.rnet.train.lr: 0.004 -> 0.001" in line for line in said)
        done.clear()
        self.train(tiny_copy, "stages.rnet.train.lr=1.0e-3")
        assert done == []

    def test_from_a_stage_on_everything_is_redone_from_nothing(self, tiny_copy: Any, done: list[str]) -> None:
        self.train(tiny_copy, start="rnet")
        assert done == ALL[3:]
        assert not (tiny_copy.folder / "rnet" / "mine" / "shards").exists()
        assert (tiny_copy.folder / "pnet" / "mine" / "shards").exists()

    def test_a_step_that_was_interrupted_keeps_its_unfinished_work(
        self, tiny_copy: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tiny_copy.folder / "rnet" / "fit" / "done.json").unlink()
        seen: list[list[str]] = []

        def work(self: Run, step: Step, folder: Path) -> tuple[str, dict[str, Any]]:
            seen.append(sorted(path.name for path in folder.iterdir()))
            raise RunError("again")

        monkeypatch.setattr(Run, "_fit", work)
        with pytest.raises(RunError, match="again"):
            self.train(tiny_copy)
        assert "checkpoints" in seen[0]
        with pytest.raises(RunError, match="again"):
            self.train(tiny_copy, "stages.rnet.train.lr=1.0e-3")
        assert "checkpoints" not in seen[1]  # of another recipe

    @pytest.mark.parametrize(
        ("overrides", "arguments", "message"),
        [
            ([], {"stage": "rmet"}, "there is no stage 'rmet'; did you mean 'rnet'"),
            ([], {"start": "third"}, "there is no stage 'third'"),
            ([], {"start": "rnet", "stage": "pnet"}, "--stage pnet with --from rnet: pnet comes before rnet"),
            (["seed=5"], {"stage": "rnet"}, "rnet mine needs pnet mine, which is stale"),
            (["seed=5"], {"step": "fit"}, "pnet fit needs pnet mine, which is stale"),
            (["name=another"], {}, "holds the run of another recipe"),
        ],
    )
    def test_refusals(
        self, tiny_copy: Any, done: list[str], overrides: list[str], arguments: dict[str, str], message: str
    ) -> None:
        with pytest.raises(RunError, match=message):
            self.train(tiny_copy, *overrides, **arguments)
        assert done == []

    def test_a_refusal_leaves_the_record_of_the_run(self, tiny_copy: Any, done: list[str]) -> None:
        before = (tiny_copy.folder / "recipe.yaml").read_bytes()
        with pytest.raises(RunError, match="rnet mine needs pnet mine, which is stale"):
            self.train(tiny_copy, "seed=5", stage="rnet")
        assert (tiny_copy.folder / "recipe.yaml").read_bytes() == before

    def test_a_step_that_cannot_be_redone_yet_keeps_its_work(self, tiny_copy: Any, done: list[str]) -> None:
        shards = tiny_copy.folder / "rnet" / "mine" / "shards"
        with pytest.raises(RunError, match="rnet mine needs pnet fit, which is stale"):
            self.train(tiny_copy, start="pnet", step="mine")
        assert done == ["pnet mine"]
        assert shards.exists()
        assert (shards.parent / "done.json").exists()

    @pytest.mark.parametrize(
        ("arguments", "wanted"),
        [
            ({"start": "rnet", "stage": "rnet"}, ALL[3:6]),
            ({"start": "pnet", "stage": "rnet"}, ALL[3:6]),
            ({"start": "rnet", "step": "fit"}, [ALL[4]]),
        ],
    )
    def test_from_a_stage_on_redoes_no_more_than_is_asked_for(
        self, tiny_copy: Any, done: list[str], arguments: dict[str, str], wanted: list[str]
    ) -> None:
        self.train(tiny_copy, **arguments)
        assert done == wanted
        assert "missing" not in states(load_recipe(tiny_copy.recipe)).values()

    @pytest.mark.parametrize(
        ("arguments", "wanted"),
        [
            ({"stage": "pnet"}, ALL[:3]),
            ({"step": "mine"}, [ALL[0]]),
            ({"stage": "pnet", "step": "mine"}, [ALL[0]]),
        ],
    )
    def test_a_part_of_the_steps(
        self, tiny_copy: Any, done: list[str], arguments: dict[str, str], wanted: list[str]
    ) -> None:
        if arguments == {"step": "mine"}:
            with pytest.raises(RunError, match="rnet mine needs pnet fit"):
                self.train(tiny_copy, "seed=5", **arguments)
        else:
            self.train(tiny_copy, "seed=5", **arguments)
        assert done == wanted
