"""Recipes: every fault names its full key and the choices; overrides, presets and round trips keep every value."""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cascade_det.core import registry
from cascade_det.core.recipe import (
    build_heads,
    build_stage,
    find_recipe,
    load_recipe,
    plain_values,
    recipe_from_dict,
    recipe_to_dict,
    recipe_to_yaml,
    stage_train,
    validate,
)
from cascade_det.core.schema import STEPS, Recipe, StageSection, document_keys, window_of
from cascade_det.core.shipped import shipped_names
from cascade_det.errors import RecipeError

BANDS = {"kind": "iou_bands", "params": {"positive": 0.6}}
BASE: dict[str, Any] = {
    "name": "small",
    "run_dir": "out/${name}",
    "object": {
        "points": ["left_eye", "right_eye", "nose", "mouth_left", "mouth_right"],
        "flip_points": [1, 0, 2, 4, 3],
    },
    "presets": {"exact": {"image.resample": "area", "border.mode": "clip", "stages.pnet.keep.nms": 0.3}},
    "stages": {
        "pnet": {
            "kind": "proposer",
            "window_hw": [12, 12],
            "net": {"kind": "mtcnn_pnet"},
            "heads": {"score": {"kind": "classification"}, "points": {"kind": "points", "weight": 0.5}},
            "samplers": {"windows": BANDS},
        },
        "rnet": {
            "kind": "refiner",
            "window_hw": [24, 24],
            "net": {"kind": "mtcnn_rnet", "params": {"alpha": 0.5}},
            "heads": {"score": {"kind": "classification"}, "box": {"kind": "box_offset"}},
            "samplers": {"mined": {"kind": "from_cascade", "params": {"nms": None}}},
            "train": {"lr": 1.0e-5},
        },
    },
    "data": {
        "train": {"drawn": {"kind": "synthetic", "params": {"images": 2}, "teaches": ["score"]}},
        "views": {"small": {"object_px": [13, 40]}, "rough": {"transform": {"kind": "MotionBlur"}}},
    },
}


@pytest.fixture
def base() -> dict[str, Any]:
    return copy.deepcopy(BASE)


def written(tmp_path: Path, data: dict[str, Any], name: str = "recipe.yaml") -> Path:
    path = tmp_path / name
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path, BASE)


def test_an_empty_recipe(tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    with pytest.raises(RecipeError, match="stages: a cascade needs at least one stage"):
        load_recipe(empty)
    assert recipe_from_dict({}, tmp_path) == dataclasses.replace(
        Recipe(), base_dir=str(tmp_path), run_dir="runs/cascade"
    )


def test_a_recipe_is_plain_values_with_defaults(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.run_dir == "out/small"
    assert recipe.base_dir == str(path.parent)
    assert recipe.stages["pnet"].keep.nms_across_levels == 0.7
    assert recipe.stages["rnet"].net.params == {"alpha": 0.5}
    assert list(recipe.stages) == ["pnet", "rnet"]
    assert window_of(recipe.stages["rnet"]) == (24, 24)

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return type(value) is dict and all(map(plain, value.values()))
        return all(map(plain, value)) if type(value) is list else type(value) in (int, float, str, bool, type(None))

    assert plain(recipe_to_dict(recipe))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("imgae.mean=1", r"key 'imgae': there is no such key; did you mean 'image'\? Choices: base_dir, border"),
        (
            "image.maen=1",
            r"key 'image\.maen'.*did you mean 'mean'\? Choices: clip_boxes, inclusive_boxes, lift_to, max_pixels, mean",
        ),
        (
            "stages.pnet.keeep.score=1",
            r"key 'stages\.pnet\.keeep'.*did you mean 'keep'\? Choices: calibrate, context",
        ),
        ("stages.pnet.keep.zzz=1", r"key 'stages\.pnet\.keep\.zzz': there is no such key; Choices: max_per_image, nms"),
        ("stages.pnet.heads.score.wieght=1", r"key 'stages\.pnet\.heads\.score\.wieght'.*did you mean 'weight'"),
        ("image.mean=abc", r"key 'image\.mean': Value 'abc'.*Float"),
        ("seed=1.5", r"key 'seed': Value '1\.5'.*Integer"),
        ("stages.pnet.window_hw=12", r"key 'stages\.pnet\.window_hw'"),
        ("stages.pnet.net.params=3", r"key 'stages\.pnet\.net\.params'"),
        ("stages=3", r"key 'stages': Cannot assign int"),
        ("stages.pent.keep.score=1", r"there is no stage 'pent'; did you mean 'pnet'\? Choices: pnet, rnet"),
        ("stages.q=1", r"there is no stage 'q'; Choices: pnet, rnet"),
        ("seed", r"override 'seed' is not of the form KEY=VALUE"),
        ("=3", r"override '=3' is not of the form KEY=VALUE"),
        ("seed=[1", r"override 'seed=\[1': the value is not YAML"),
        ("name=${oc.env:CASCADE_DET_ABSENT}", r"key 'name'.*CASCADE_DET_ABSENT"),
        ("name=${", r"key 'name'"),
        ("format=2", r"format=2; this version reads format 1"),
        ("stages.pnet.net.kind=mtcnn_pent", r"stages\.pnet\.net\.kind='mtcnn_pent'.*did you mean 'mtcnn_pnet'"),
        (
            "stages.pnet.kind=propser",
            r"stages\.pnet\.kind='propser'.*did you mean 'proposer'\? Choices: proposer, refiner",
        ),
        ("stages.pnet.heads.score.kind=class", r"stages\.pnet\.heads\.score\.kind='class'.*Choices: box_offset, class"),
        (
            "stages.pnet.samplers.windows.kind=bands",
            r"stages\.pnet\.samplers\.windows\.kind='bands'.*Choices: from_casc",
        ),
        ("data.train.drawn.kind=cocoa", r"data\.train\.drawn\.kind='cocoa'.*did you mean 'coco'"),
        ("evaluate.coco.kind=cocoa", r"evaluate\.coco\.kind='cocoa'.*did you mean 'coco'"),
        ("stages.pnet.params.nms_no=1", r"stages\.pnet\.params\.nms_no=1.*did you mean 'nms_on'"),
        ("stages.pnet.params.heads=1", r"stages\.pnet\.params\.heads=1.*no such parameter"),
        (
            "stages.pnet.net.params.alhpa=1",
            r"stages\.pnet\.net\.params\.alhpa=1.*did you mean 'alpha'\? Choices: activ",
        ),
        ("stages.pnet.heads.score.params.a=1", r"stages\.pnet\.heads\.score\.params\.a=1"),
        ("stages.pnet.heads.points.params.role=1", r"stages\.pnet\.heads\.points\.params\.role=1.*mean 'roles'"),
        ("stages.pnet.samplers.windows.params.prat=1", r"stages\.pnet\.samplers\.windows\.params\.prat=1.*mean 'part'"),
        ("data.train.drawn.params.image=1", r"data\.train\.drawn\.params\.image=1.*did you mean 'images'"),
        ("evaluate.coco.params.groups=1", r"evaluate\.coco\.params\.groups=1.*Choices"),
    ],
)
def test_a_wrong_key_name_or_type(path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(path, override)


@pytest.mark.parametrize(
    ("window_hw", "rho", "rounded"),
    [
        ([48, 48], 1.0, (48, 48)),
        ([48, 48], 6 / 7, (41, 41)),
        ([48, 48], 0.714, (34, 34)),
        ([48, 48], 0.571, (27, 27)),
        ([48, 24], 0.5, (24, 12)),
        ([96, 48], 6 / 7, (82, 41)),
    ],
)
def test_the_resolution_multiplier_rounds_the_window(
    window_hw: list[int], rho: float, rounded: tuple[int, int]
) -> None:
    assert window_of(StageSection("refiner", window_hw=window_hw, rho=rho)) == rounded


def test_a_stage_is_built_at_its_multiplied_window(path: Path) -> None:
    recipe = load_recipe(path, "stages.rnet.rho=0.75")
    assert build_stage(recipe, "rnet").window_hw == (18, 18)


@pytest.mark.parametrize(
    "override",
    [
        *(f"{key}={value}" for key in ("image.mean", "stages.pnet.keep.score", "train.lr") for value in (".nan", ".inf")),  # noqa: E501
        "stages.pnet.samplers.windows.params.positive=.nan",
        "pyramid.factor=0", "pyramid.factor=1", "pyramid.min_object_px=0", "pyramid.max_object_px=-1",
        "border.value=256", "border.value=-1", "border.mode=mirror", "image.resample=cubic", "image.scale=-1",
        "image.max_pixels=0", "image.lift_to=256", "image.lift_to=-1", "data.jitter.dark=1.5",
        "stages.pnet.keep.score=1.5", "stages.pnet.keep.score=atuo", "stages.pnet.keep.score=true",
        "stages.pnet.keep.nms=1.1", "stages.pnet.keep.nms_mode=maximum", "stages.pnet.keep.max_per_image=0",
        "stages.pnet.calibrate.detect_recall=2", "stages.pnet.calibrate.max_fppi=-1", "stages.pnet.rounds=0",
        "stages.pnet.heads.score.weight=-1", "stages.pnet.heads.score.reduction=hard",
        "stages.pnet.heads.score.hardest_share=70", "stages.pnet.window_hw=[12]", "stages.pnet.window_hw=[3,3]",
        "stages.pnet.rho=0", "stages.pnet.rho=1.2", "stages.pnet.rho=0.25",
        "stages.rnet.context=0.9", "stages.rnet.context=5",
        "stages.pnet.train.lr=0", "stages.pnet.train.batch_mix=even", "stages.pnet.train.batch_mix={negative: 0}",
        "train.batch_mix={negativ: 1}", "train.batch_mix={negative: many}", "train.batch_size=0", "train.ema=1.1",
        "train.logger=wandb", "seed=-1", "mine.shard_images=0", "calibrate.share=1.5", "data.jitter.mirror=2",
        "data.views.small.share=2", "data.views.small.object_px=[40,13]", "data.views.small.object_px=[13]",
        "data.views.small.object_px=[0,13]", "data.views.small.object_px=[13,.nan]",
    ],
)  # fmt: skip
def test_a_value_out_of_range_names_its_key(path: Path, override: str) -> None:
    key = override.partition("=")[0].removesuffix(".negative")
    with pytest.raises(RecipeError, match=rf"^{key}\S*[=:]".replace(".", r"\.")):
        load_recipe(path, override)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.rnet.window_hw=[24,12]"], r"stages\.\*\.window_hw=.*'rnet': \[24, 12\].*one aspect"),
        (["stages.pnet.kind=refiner"], r"stages\.pnet\.kind='refiner': the first stage has no candidates"),
        (["object.flip_points=[1,0]"], r"object\.flip_points=\[1, 0\]: must hold each of 0\.\.4"),
        (["object.flip_points=[0,1,2,3,5]"], r"object\.flip_points"),
        (["object.flip_points=[0,0,2,3,4]"], r"object\.flip_points"),
        (["object.align_template=[[0,0],[1,1]]"], r"object\.align_template=.*one \[x, y\].*each of the object\.points"),
        (["object.align_template=[[0,0],[1,1],[0,1],[1,0],[1]]"], r"object\.align_template=.*one \[x, y\]"),
        (["object.align_template=[[0,0],[1,1],[0,1],[1,0],[1,.nan]]"], r"object\.align_template=.*finite"),
        (["object.align_template=[[1,0],[1,0],[1,0],[1,0],[1,0]]"], r"object\.align_template=.*two points at least"),
        (["object.align_template=[[a,0],[1,0],[1,0],[1,0],[1,0]]"], r"key 'object\.align_template.*'a'"),
        (["object.flip_points=[1,2,0,3,4]"], r"object\.flip_points=.*pairs"),  # mirrored twice it is not the same
        (
            ["object.points=[]", "object.flip_points=null"],
            r"stages\.pnet\.heads\.points\.kind.*object\.points is empty",
        ),
        (["stages.pnet.heads.more={kind: classification}"], r"stages\.pnet\.heads: .*\['scores', 'points', 'scores'\]"),
        (["stages.rnet.heads.more={kind: box_offset}"], r"stages\.rnet\.heads: .*at most one a field"),
        (["stages.rnet.heads.score={kind: points}"], r"stages\.rnet\.heads: .*exactly one head that fills scores"),
        (["data.train.drawn.teaches_points=[nsoe]"], r"data\.train\.drawn\.teaches_points=\['nsoe'\]: "),
        (
            ["data.val.drawn={kind: synthetic, teaches_points: [nose]}"],
            r"data\.val\.drawn\.teaches_points=.*leave it out",
        ),
        (["data.train.drawn.teaches=[scroe]"], r"data\.train\.drawn\.teaches=.*did you mean 'score'\? Choices: box"),
        (["stages.pnet.context=1.2"], r"stages\.pnet\.context=1\.2: a proposer sees its windows as they are"),
        (["stages.pnet.net.kind=''"], r"stages\.pnet\.net\.kind=''.*Choices: mtcnn_onet"),
    ],
)
def test_parts_that_do_not_fit_together(path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(path, *overrides)


def test_a_wrong_key_in_the_file_names_the_file(tmp_path: Path, base: dict[str, Any]) -> None:
    base["stages"]["pnet"]["net"]["knid"] = "x"
    with pytest.raises(RecipeError, match=r"own\.yaml: key 'stages\.pnet\.net\.knid'.*did you mean 'kind'"):
        load_recipe(written(tmp_path, base, "own.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not a readable YAML file"),
        (b"seed: 1\nseed: 2\n", "not a readable YAML file .*duplicate"),
        (b"- 1\n- 2\n", "a recipe is a YAML mapping"),
        (b"\xff\xfe\x00", "not a readable YAML file"),
        (b"stages: {p: {window_hw: [12, 12]}}", r"key 'stages\.p\.kind'.*missing"),
        (b"name: ${", r"not a readable YAML file .*name"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'quikstart' is neither a file nor a shipped.*did you mean 'quickstart'"):
        load_recipe("quikstart")
    with pytest.raises(RecipeError, match="neither a file nor a shipped recipe"):
        load_recipe(tmp_path)
    assert find_recipe("quickstart").name == "quickstart.yaml"


def test_overrides_win_over_the_preset_and_both_over_the_file(path: Path) -> None:
    plain, exact = load_recipe(path), load_recipe(path, preset="exact")
    assert (plain.image.resample, plain.border.mode, plain.stages["pnet"].keep.nms) == ("linear", "pad", 0.5)
    assert (exact.image.resample, exact.border.mode, exact.stages["pnet"].keep.nms) == ("area", "clip", 0.3)
    both = load_recipe(path, "image.resample=linear", "stages.pnet.keep.nms=null", "seed=1", "seed=2", preset="exact")
    assert (both.image.resample, both.border.mode, both.stages["pnet"].keep.nms) == ("linear", "clip", None)
    assert both.seed == 2


def test_overrides_reach_into_mappings_and_interpolations(path: Path) -> None:
    recipe = load_recipe(
        path,
        "name=other",
        "stages.rnet.net.params.alpha=0.25",
        "stages.pnet.heads.box.kind=box_offset",
        "image.mean=1e2",
    )
    assert recipe.run_dir == "out/other"
    assert recipe.stages["rnet"].net.params == {"alpha": 0.25}
    assert list(recipe.stages["pnet"].heads) == ["score", "points", "box"]
    assert recipe.image.mean == 100
    assert load_recipe(path).stages["rnet"].net.params == {"alpha": 0.5}


@pytest.mark.parametrize(
    ("presets", "name", "message"),
    [
        ({}, "exact", r"preset 'exact' is not in .*; Choices: \(none\)"),
        ({"exact": {}}, "exat", r"did you mean 'exact'\? Choices: exact"),
        ({"exact": 5}, "exact", r"presets\.exact=5: must map full keys"),
        ({"exact": {"image.resampel": "area"}}, "exact", r"key 'image\.resampel'.*did you mean 'resample'"),
        ({"exact": {"image.resample": "cubic"}}, "exact", r"image\.resample='cubic'.*Choices: area, linear"),
    ],
)
def test_a_wrong_preset(tmp_path: Path, base: dict[str, Any], presets: Any, name: str, message: str) -> None:
    base["presets"] = presets
    with pytest.raises(RecipeError, match=message):
        load_recipe(written(tmp_path, base), preset=name)


def test_what_a_source_takes_besides_paths_stays_though_a_folder_has_its_name(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "val").mkdir()
    given = ("images", "annotations", "split", "category")
    source = {"kind": "yolo", "params": {}}
    overrides = [f"data.val={{v: {source}}}", *(f"data.val.v.params.{name}=val" for name in given)]
    params = load_recipe(path, *overrides).data.val["v"].params
    assert params == {
        "images": str(tmp_path / "val"),
        "annotations": str(tmp_path / "val"),
        "split": "val",
        "category": "val",
    }


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        ([], {}),
        (["level=easy"], {"level": "easy"}),
        (["a=[x, 1]", "b.c=2", "b.d=true"], {"a": ["x", 1], "b": {"c": 2, "d": True}}),
    ],
)
def test_plain_values(texts: list[str], values: dict[str, Any]) -> None:
    assert plain_values(texts) == values


@pytest.mark.parametrize("text", ["level", "=easy", "a={"])
def test_texts_that_are_no_values(text: str) -> None:
    with pytest.raises(RecipeError, match=f"override {text!r}"):
        plain_values([text])


def test_an_environment_variable_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_DET_NAME", "outside")
    assert load_recipe(path, "name=${oc.env:CASCADE_DET_NAME}").run_dir == "out/outside"


@pytest.mark.parametrize(
    "overrides", [[], ["image.mean=1e-7", "train.batch_mix={negative: 3, part: 0.5}", "init='a b: c'"]]
)
@pytest.mark.parametrize("name", [None, *shipped_names("recipes", ".yaml")])
def test_a_recipe_written_loads_equal(path: Path, tmp_path: Path, name: str | None, overrides: list[str]) -> None:
    recipe = load_recipe(name or path, *overrides)
    other = tmp_path / "elsewhere" / "copy.yaml"
    other.parent.mkdir()
    other.write_text(recipe_to_yaml(recipe))
    assert load_recipe(other) == recipe
    assert recipe_from_dict(recipe_to_dict(recipe), tmp_path) == recipe
    assert load_recipe(other, "image.mean=3") != recipe


def test_plug_ins_resolve_against_the_recipe_and_load_only_when_named(
    path: Path, base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.NETS.names()
    monkeypatch.setattr(registry.NETS, "_parts", dict(registry.NETS._parts))
    (tmp_path / "plug.py").write_text(
        "from cascade_det import register_net\n\n@register_net('plug')\ndef make(window_hw):\n    raise ValueError\n"
    )
    load_recipe(path)
    assert "plug" not in registry.NETS.names()
    with pytest.raises(RecipeError, match=r"stages\.pnet\.net\.kind='plug'.*needs its plug-in named under `plugins:`"):
        load_recipe(path, "stages.pnet.net.kind=plug")
    recipe = load_recipe(path, "stages.pnet.net.kind=plug", "plugins=[plug.py]")
    assert recipe.plugins == ["plug.py"]
    assert "plug" in registry.NETS.names()
    with pytest.raises(RecipeError, match=r"absent\.py does not exist"):
        load_recipe(path, "plugins=[absent.py]")


def test_a_stage_without_heads_needs_no_net(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.STAGES.names()
    monkeypatch.setattr(registry.STAGES, "_parts", dict(registry.STAGES._parts))

    @registry.register_stage("haar")
    def haar(name: str, window_hw: tuple[int, int], net: Any, *, cascade: str) -> tuple[Any, ...]:
        return name, window_hw, net, cascade

    base["stages"] = {"haar": {"kind": "haar", "window_hw": [24, 24], "params": {"cascade": "a.xml"}}}
    base["data"], base["presets"] = {}, {}
    recipe = load_recipe(written(tmp_path, base))
    assert build_heads(recipe, "haar") == {}
    assert build_stage(recipe, "haar") == ("haar", (24, 24), None, "a.xml")
    del base["stages"]["haar"]["params"]
    with pytest.raises(RecipeError, match=r"stages\.haar\.params: stage 'haar' needs cascade"):
        load_recipe(written(tmp_path, base))


def test_validate_changes_nothing(path: Path) -> None:
    recipe = load_recipe(path)
    before = copy.deepcopy(recipe)
    validate(recipe)
    assert recipe == before


def test_a_stages_own_train_keys_win(path: Path) -> None:
    recipe = load_recipe(path, "train.lr=0.5", "train.batch_mix=natural", "stages.rnet.train.ema=0.0")
    assert stage_train(recipe, "pnet").lr == 0.5
    assert stage_train(recipe, "rnet").lr == 1e-5
    assert stage_train(recipe, "rnet").ema == 0.0  # a zero is a value
    for stage in ("pnet", "rnet"):
        own = stage_train(recipe, stage)
        assert own.batch_mix == "natural"
        assert own.samples == recipe.train.samples
        assert own.optimizer == recipe.train.optimizer


def fields_below(section: type, prefix: str = "") -> Iterator[str]:
    """Yield every key of the schema from its resolved types, mappings of sections as NAME."""
    for name, annotation in typing.get_type_hints(section).items():
        yield f"{prefix}{name}"
        by_name = typing.get_origin(annotation) is dict
        for inner in (annotation, *typing.get_args(annotation)):
            if dataclasses.is_dataclass(inner):
                yield from fields_below(typing.cast(type, inner), f"{prefix}{name}.{'NAME.' if by_name else ''}")


def test_every_key_is_documented_and_belongs_to_a_step() -> None:
    rows = document_keys()
    keys = [key for key, _, _ in rows]
    assert sorted(keys) == sorted(set(fields_below(Recipe)))
    assert len(keys) == len(set(keys))
    assert {"stages.NAME.heads.NAME.reduction", "data.views.NAME.transform.kind", "seed"} <= set(keys)
    for key, step, text in rows:
        assert step in STEPS, key
        assert text.strip(), key
    assert {step for _, step, _ in rows} == set(STEPS)


def leaves(value: Any, prefix: str = "") -> Iterator[str]:
    for name, inner in value.items():
        yield f"{prefix}{name}"
        if isinstance(inner, dict):
            yield from leaves(inner, f"{prefix}{name}.")


def test_every_key_of_a_written_recipe_is_documented(path: Path) -> None:
    recipe = load_recipe(path)
    documented = {key for key, _, _ in document_keys()}
    free = {"params", "presets", "trainer", "batch_mix"}
    for key in leaves(recipe_to_dict(recipe)):
        parts = key.split(".")
        if free & set(parts[:-1]):
            continue
        shown: list[str] = []
        for part in parts:
            parent = ".".join(shown)
            is_key = f"{parent}.{part}".lstrip(".") in documented
            shown.append(part if is_key else "NAME")
        text = ".".join(shown)
        assert text in documented or text.removesuffix(".NAME") in documented, key
