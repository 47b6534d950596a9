"""Recipes with faults that only the whole program can show; those of one key stand in tests/core/test_recipe.py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cascade_det.cascade import Cascade
from cascade_det.cli.app import main
from cascade_det.core import registry
from cascade_det.core.recipe import load_recipe
from cascade_det.training.mining import Miner, MiningJob
from cascade_det.training.pipeline import Run

Write = Callable[[], Path]


@pytest.fixture(autouse=True)
def stop_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "_do", lambda *_, **__: None)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one error of a verb that refuses its input."""
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_the_recipe_without_faults(tiny_recipe: Write) -> None:
    for verb in ("check", "train"):
        assert main([verb, str(tiny_recipe())]) == 0


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stages.pnet.net.params.alpha=wide", "stages.pnet.net.params.alpha='wide': must be a number."),
        ("stages.pnet.net.params.alpha=null", "stages.pnet.net.params.alpha=None: must be a number."),
        ("stages.pnet.net.params.alpha=true", "stages.pnet.net.params.alpha=True: must be a number."),
        ("stages.pnet.net.params.pool_first=maybe", "stages.pnet.net.params.pool_first='maybe': must be true or false"),
        ("stages.pnet.net.params.activation=5", "stages.pnet.net.params.activation=5: must be a text."),
        ("stages.pnet.samplers.windows.params.tries_per_box=1.5", "params.tries_per_box=1.5: must be a whole number."),
        ("stages.pnet.samplers.windows.params.negatives_per_image=true", "=True: must be a whole number."),
        ("stages.pnet.samplers.windows.params.near_share=text", "near_share='text': must be a number or null."),
        ("data.train.drawn.params.images=1.5", "data.train.drawn.params.images=1.5: must be a whole number."),
        ("data.train.drawn.params.seed=text", "data.train.drawn.params.seed='text': must be a whole number."),
        ("data.train.drawn.params.size_hw=5", "data.train.drawn.params: source 'synthetic' refuses"),
        (
            "data.train.x={kind: coco, params: {images: 5, annotations: a}}",
            "data.train.x.params.images=5: must be a",
        ),
        ("data.train.x={kind: coco, params: {images: a}}", "data.train.x.params: source 'coco' needs annotations"),
        ("data.train.x={kind: coco, params: {images: a, annotations: b, where: [1]}}", "where must map fields to"),
        ("evaluate.coco.params.max_dets=text", "evaluate.coco.params.max_dets='text': must be a whole number."),
        ("evaluate.coco.params.group_by=5", "evaluate.coco.params: evaluator 'coco' refuses"),
        ("stages.pnet.samplers.more={kind: from_cascade}", "no stage before the first gives it candidates"),
        ("stages.pnet.train.batch_mix={negative: true}", "stages.pnet.train.batch_mix={'negative': True}: proportions"),
        ("stages.pnet.calibrate.detect_recall=0", "stages.pnet.calibrate.detect_recall=0.0: must be greater than 0."),
        ("calibrate.max_images=0", "calibrate.max_images=0: must be greater than 0."),
        ("calibrate.share=1", "calibrate.share=1: must be lower than 1"),
        ("image.scale=0", "image.scale=0.0: must be greater than 0."),
        ("pyramid.max_object_px=5", "pyramid.max_object_px=5.0: must not be lower than pyramid.min_object_px=20.0"),
        ("object.points=[a,b,c,d,d]", "object.points=['a', 'b', 'c', 'd', 'd']: each point needs its own name."),
        ("seed=4294967296", "seed=4294967296: must be lower than 4,294,967,296."),
        ("name=''", "name='': must not be empty"),
        ("run_dir=''", "run_dir='': must not be empty"),
        ("run_dir=${oc.env:CASCADE_DET_ABSENT}", "CASCADE_DET_ABSENT"),
    ],
)
def test_one_key(tiny_recipe: Write, override: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(tiny_recipe())
    for verb in ("check", "train"):
        assert told in refused([verb, recipe, override], capsys)


@pytest.mark.parametrize(
    "override",
    [
        "stages.pnet.keep.score=2",
        "stages.pnet.net.params.alpha=-1",
        "stages.pnet.window_hw=[13,13]",
        "stages.rnet.window_hw=[12,12]",
        "stages.rnet.kind=proposer",
        "data.views.odd.transform.kind=Rotat",
    ],
)
def test_check_tells_a_wrong_value_before_missing_data(
    tiny_recipe: Write, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = "data.train.files={kind: coco, params: {images: none, annotations: none.json}}"
    assert "none.json" in refused(["check", str(tiny_recipe()), missing], capsys)
    error = refused(["check", str(tiny_recipe()), missing, override], capsys)
    assert "none.json" not in error
    assert override.split("=")[0].rsplit(".", 2)[0] in error


@pytest.mark.parametrize(
    ("preset", "told"),
    [
        ("{image.resampel: area}", "preset fast: key 'image.resampel': there is no such key; did you mean 'resample'"),
        ("{image.resample: cubic}", "image.resample='cubic': Choices: area, linear"),
        ("{stages.qnet.keep.nms: 0.5}", "preset 'fast': stages.qnet.keep.nms: there is no stage 'qnet'; did you mean "),
        ("5", "presets.fast=5: must map full keys to values"),
    ],
)
def test_a_wrong_preset_is_told_before_it_is_chosen(
    tiny_recipe: Write, preset: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe()
    recipe.write_text(recipe.read_text() + f"presets: {{fast: {preset}}}\n")
    for verb in ("check", "train"):
        assert told in refused([verb, str(recipe)], capsys)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.optimizer={kind: AdamX}", "train.optimizer.kind='AdamX'"),
        ("train.optimizer={kind: SGD, params: {moment: 1}}", "train.optimizer.params={'moment': 1}: SGD refuses"),
        ("stages.rnet.train.optimizer={kind: Adamm}", "stages.rnet.train.optimizer.kind='Adamm': did you mean 'Adam'"),
        ("train.schedule={kind: Cosine}", "train.schedule.kind='Cosine'"),
        ("train.schedule={kind: StepLR}", "train.schedule.params={}: StepLR refuses"),
        ("train.schedule={kind: ReduceLROnPlateau}", "train.schedule.kind='ReduceLROnPlateau': follows a figure"),
        ("train.trainer={acelerator: cpu}", "unexpected keyword argument 'acelerator'"),
        ("train.trainer={accelerator: abacus}", "train.trainer={'accelerator': 'abacus'"),
        ("image.resample=pooled", "image.resample='pooled': is for comparison"),
        ("evaluate.coco.params.group_by=[sauce]", "group_by='sauce'"),
        ("evaluate={figures: {kind: cocoa}}", "evaluate.figures.kind='cocoa'"),
        ("init=nope", "init='nope': neither the file"),
        ("stages.pnet.samplers=null", "stages.pnet.samplers"),
    ],
)
def test_what_a_late_step_would_meet_is_told_before_the_first(
    tiny_recipe: Write, tmp_path: Path, override: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("check", "train"):
        assert told in refused([verb, str(tiny_recipe()), override, f"run_dir={tmp_path}/run"], capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "name", "told"),
    [
        ("pnet", "'..'", "stages: the name '..' also names a folder, so it must be of letters"),
        ("pnet", "a/b", "stages: the name 'a/b'"),
        ("pnet", "/tmp", "stages: the name '/tmp'"),
        ("pnet", ".lock", "stages: the name '.lock'"),
        ("pnet", "-p", "stages: the name '-p'"),
        ("pnet", "''", "stages: the name ''"),
        ("pnet", "a b", "stages: the name 'a b'"),
        ("pnet", "model.safetensors", "stages: the name 'model.safetensors'"),
        ("pnet", "gesicht-ä", "stages: the name 'gesicht-ä'"),
        ("pnet", "evaluation", "stages: the name 'evaluation' is one that a run keeps for itself"),
        ("rnet", "Evaluation", "stages: the name 'Evaluation' is one that a run keeps"),  # folders may ignore case
        ("rnet", "model", "otherwise than evaluation, metrics, model, recipe, report."),
        ("rnet", "PNet", "stages: the names 'pnet' and 'PNet' differ in case alone"),
        ("train:\n    drawn", "../x", "data.train: the name '../x'"),
        ("val:\n    drawn", "../../x", "data.val: the name '../../x'"),
        ("val:\n    drawn", "a.b", "data.val: the name 'a.b'"),
    ],
)
def test_names_that_are_no_folders(
    tiny_recipe: Write, old: str, name: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe()
    parts = old.split("\n    ")
    new = "\n    ".join([*parts[:-1], name])
    recipe.write_text(recipe.read_text().replace(f"  {old}:", f"  {new}:", 1))
    for verb in ("check", "train"):
        assert told in refused([verb, str(recipe)], capsys)


@pytest.mark.parametrize("split", ["train", "val"])
def test_without_a_source(tiny_recipe: Write, split: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe()
    lines = recipe.read_text().splitlines()
    place = lines.index(f"  {split}:", lines.index("data:"))
    recipe.write_text("\n".join([*lines[:place], f"  {split}: {{}}", *lines[place + 2 :]]))
    assert main(["check", str(recipe)]) == 1
    assert f"problem: data.{split}: no source" in capsys.readouterr().out
    assert f"data.{split}: there is no source" in refused(["train", str(recipe)], capsys)


def test_a_stage_without_heads(tiny_recipe: Write, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe()
    text = recipe.read_text()
    heads = "    heads:\n      score: {kind: classification}\n      box: {kind: box_offset, weight: 0.5}\n"
    head, tail = text.split(heads, 1)
    recipe.write_text(head + tail)
    for verb in ("check", "train"):
        assert "stages.pnet.heads: a proposer needs heads" in refused([verb, str(recipe)], capsys)


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder on the import path; what plug-ins register and import is undone after the test."""
    for owner in registry.ALL:
        owner.names()
        monkeypatch.setattr(owner, "_parts", dict(owner._parts))
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise RuntimeError('broken\\nin two lines')", "its code raises RuntimeError: broken in two lines."),
        ("import sys; sys.exit(0)", "its code raises SystemExit: 0."),
        ("def (:", "its code raises SyntaxError: "),
        ("import absent_package", "its code raises ModuleNotFoundError: No module named 'absent_package'."),
        ("import cascade_det; cascade_det.absent()", "its code raises AttributeError: "),
    ],
)
@pytest.mark.parametrize("name", ["broken.py", "broken"])
def test_a_plug_in_that_fails(
    tiny_recipe: Write, plugins: Path, code: str, told: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (plugins / "broken.py").write_text(code)
    error = refused(["check", str(tiny_recipe()), f"plugins=[{name}]"], capsys)
    assert f"plugins: {name!r} cannot be loaded, {told}" in error


def test_a_plug_ins_part_that_fails(tiny_recipe: Write, plugins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (plugins / "odd.py").write_text(
        "from cascade_det import register_net\n\n@register_net('odd')\ndef odd(window_hw, size: int = 1):\n"
        "    return {}[size]\n"
    )
    overrides = ["plugins=[odd.py]", "stages.pnet.net={kind: odd, params: {activation: 1}}"]
    assert "stages.pnet.net.params.activation=1: net 'odd' has no such parameter" in refused(
        ["check", str(tiny_recipe()), *overrides], capsys
    )
    recipe = tiny_recipe()
    recipe.write_text(recipe.read_text().replace("{kind: mtcnn_pnet, params: {activation: relu}}", "{kind: odd}"))
    assert "stages.pnet.net.params: net 'odd' refuses {}" in refused(["check", str(recipe), "plugins=[odd.py]"], capsys)


def test_a_plug_in_beside_the_recipe_is_found_while_mining(tiny_recipe: Write, plugins: Path) -> None:
    """The second stage is mined with the model of the first, which lies elsewhere than the recipe."""
    (plugins / "harmless.py").write_text("")
    recipe = load_recipe(tiny_recipe(), "plugins=[harmless.py]")
    cascade = Cascade.build(recipe, upto="pnet")
    cascade.save(plugins / "elsewhere" / "before.safetensors")
    job = MiningJob(recipe, "rnet", "train", 1, [0], plugins / "elsewhere" / "before.safetensors")
    assert Miner(job).cascade is not None
