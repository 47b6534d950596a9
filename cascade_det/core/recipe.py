"""Loads a recipe, merges overrides and presets into it, checks it and builds the parts it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core import registry
from cascade_det.core.checks import check_values
from cascade_det.core.schema import Recipe, SourcePart, StageTrain, window_of
from cascade_det.core.shipped import find_shipped, shipped_names
from cascade_det.errors import RecipeError, choices

if TYPE_CHECKING:
    from omegaconf.errors import OmegaConfBaseException

    from cascade_det.core.imaging import Pixels, Resampler
    from cascade_det.data.sources import Source
    from cascade_det.heads.base import Head
    from cascade_det.samplers.base import Sampler

FORMAT = 1
_GIVEN_TO_STAGES: dict[str, Any] = {  # by build_stage
    "name": "", "window_hw": (), "net": None, "heads": {}, "flip_points": (), "context": 1.0,
}  # fmt: skip
_NO_PATHS = ("category", "level", "others", "split")  # of a source: a folder of such a name means nothing
_GIVEN_TO_NETS: dict[str, Any] = {"window_hw": ()}


def load_recipe(recipe: str | Path, *overrides: str, preset: str | None = None) -> Recipe:
    """Load a recipe by file or shipped name, with ``KEY=VALUE`` overrides, import its plug-ins and check it.

    Args:
        recipe: path of a YAML file, or the name of a shipped recipe.
        *overrides: such as ``stages.onet.net.params.alpha=0.5``; they win over the file and the preset. A path among
            them (`init`, and what a source takes) starts at the current folder, where there is something of this name.
        preset: name of a set of overrides under ``presets:``.

    Returns:
        Plain dataclasses with every default filled in.

    Raises:
        RecipeError: the message names the full key, the value, the choices and what to do.
    """
    path = find_recipe(recipe)
    data = read_yaml(path)
    base_dir = path.parent if Path(recipe).is_file() else Path.cwd()  # no data lie beside a shipped recipe
    loaded = recipe_from_dict(data, base_dir, overrides=overrides, preset=preset, where=str(path))
    for plugin in loaded.plugins:
        registry.load_plugin(plugin, Path(loaded.base_dir or "."))
    validate(loaded)
    presets = data.get("presets")
    for name in presets if isinstance(presets, dict) else ():  # else a wrong one is told when it is chosen, much later
        tried = recipe_from_dict(data, base_dir, overrides=overrides, preset=name, where=f"{path}: preset {name}")
        check_values(tried)
    return _found_from_here(loaded, overrides)


def _found_from_here(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return the recipe with the paths among `overrides` that lead somewhere from the current folder made absolute."""
    given = {text.partition("=")[0] for text in overrides}

    def absolute(key: str, value: Any) -> Any:
        path = isinstance(value, str) and key in given and value != "" and Path(value)
        return str(path.resolve()) if path and path.exists() else value

    def source(key: str, part: SourcePart) -> SourcePart:
        if "base_dir" not in registry.SOURCES.parameters(part.kind):  # it reads no files
            return part
        params = {
            name: value if name in _NO_PATHS else absolute(f"{key}.params.{name}", value)
            for name, value in part.params.items()
        }
        return dataclasses.replace(part, params=params)

    train, val = (
        {name: source(f"data.{split}.{name}", part) for name, part in getattr(recipe.data, split).items()}
        for split in ("train", "val")
    )
    data = dataclasses.replace(recipe.data, train=train, val=val)
    return dataclasses.replace(recipe, init=absolute("init", recipe.init), data=data)


def find_recipe(recipe: str | Path) -> Path:
    """Return the file of a recipe given as a path or as a shipped name."""
    path = Path(recipe)
    if path.is_file():
        return path.resolve()
    shipped = find_shipped("recipes", str(recipe), ".yaml")
    if shipped is None:
        known = shipped_names("recipes", ".yaml")
        raise RecipeError(f"recipe {str(recipe)!r} is neither a file nor a shipped recipe; {choices(recipe, known)}.")
    return shipped


def recipe_from_dict(
    data: Mapping[str, Any],
    base_dir: Path,
    *,
    overrides: Sequence[str] = (),
    preset: str | None = None,
    where: str = "recipe",
) -> Recipe:
    """Merge defaults, `data`, a preset and overrides into a recipe; shape and types are checked, parts are not."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = OmegaConf.merge(OmegaConf.structured(Recipe), OmegaConf.create(dict(data)))
        if preset is not None:
            for name, value in _preset(config.presets, preset, where).items():
                _refuse_new_stage(f"preset {preset!r}: {name}", str(name), list(config.stages))
                OmegaConf.update(config, str(name), value)
        for text in overrides:
            config = OmegaConf.merge(config, _override(text, list(config.stages)))
        if config.base_dir is None:
            config.base_dir = str(base_dir)
        merged = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{where}: {_fault(error)} `cascade-det parts recipe` lists all keys.") from error
    assert isinstance(merged, Recipe)
    if merged.format != FORMAT:
        raise RecipeError(f"{where}: format={merged.format}; this version reads format {FORMAT}. Update cascade_det.")
    return merged


def _fault(error: OmegaConfBaseException) -> str:
    """Return the full key and what is wrong with it, with the choices where there is no such key."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    reason = str(error).splitlines()[0].rstrip(".")
    section = error.object_type
    if isinstance(error, (ConfigAttributeError, ConfigKeyError)) and dataclasses.is_dataclass(section):
        reason = f"there is no such key; {choices(error.key, [f.name for f in dataclasses.fields(section)])}"
    return f"key {error.full_key or '(top level)'!r}: {reason}."


def _preset(presets: Mapping[Any, Any], name: str, where: str) -> Mapping[Any, Any]:
    if name not in presets:
        raise RecipeError(f"preset {name!r} is not in {where}; {choices(name, map(str, presets))}.")
    chosen = presets[name]
    if not isinstance(chosen, Mapping):
        raise RecipeError(f"{where}: presets.{name}={chosen!r}: must map full keys to values.")
    return chosen


def _refuse_new_stage(where: str, key: str, stages: list[Any]) -> None:
    parts = key.split(".")
    if parts[0] == "stages" and len(parts) > 1 and parts[1] not in stages:
        raise RecipeError(f"{where}: there is no stage {parts[1]!r}; {choices(parts[1], map(str, stages))}.")


def _override(text: str, stages: list[Any]) -> Any:
    """Return ``KEY=VALUE`` as a config to merge; a mistyped stage would otherwise become a new one."""
    import yaml
    from omegaconf import OmegaConf

    name, sign, _ = text.partition("=")
    if not sign or not name:
        raise RecipeError(f"override {text!r} is not of the form KEY=VALUE, such as stages.pnet.train.samples=100000.")
    _refuse_new_stage(f"override {text!r}", name, stages)
    try:
        return OmegaConf.from_dotlist([text])
    except yaml.YAMLError as error:
        raise RecipeError(f"override {text!r}: the value is not YAML ({' '.join(str(error).split())}).") from error


def plain_values(texts: Sequence[str]) -> dict[str, Any]:
    """Return texts ``KEY=VALUE`` as a mapping, their values read as YAML; raises a `RecipeError` if one is none."""
    from omegaconf import OmegaConf

    merged = OmegaConf.merge({}, *(_override(text, []) for text in texts))
    return OmegaConf.to_container(merged)  # type: ignore[return-value]  # keys of KEY=VALUE are texts


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a recipe file as it stands: interpolations open, nothing checked, nothing imported.

    Raises:
        RecipeError: it cannot be read, or is no mapping.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        data = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a readable YAML file ({' '.join(str(error).split())}).") from error
    if not OmegaConf.is_dict(data):
        raise RecipeError(f"{path}: a recipe is a YAML mapping with at least `stages:` and `data:`; this is not one.")
    return OmegaConf.to_container(data)  # type: ignore[return-value]  # interpolations stay, for overrides to reach


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as nested plain values, every key present."""
    return dataclasses.asdict(recipe)


def recipe_to_yaml(recipe: Recipe) -> str:
    """Return the recipe as YAML that loads to the same recipe."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(recipe_to_dict(recipe)))


def validate(recipe: Recipe) -> None:
    """Check values that types cannot, and that every part exists with these parameters.

    Raises:
        RecipeError: the first fault found, with its full key.
    """
    check_values(recipe)
    for name, stage in recipe.stages.items():
        key = f"stages.{name}"
        registry.STAGES.check_params(stage.kind, stage.params, key, _GIVEN_TO_STAGES)
        if stage.context != 1 and "context" not in registry.STAGES.parameters(stage.kind):
            raise RecipeError(
                f"{key}.context={stage.context}: a {stage.kind} sees its windows as they are; leave the key out."
            )
        if stage.heads:
            registry.NETS.check_params(stage.net.kind, stage.net.params, f"{key}.net", _GIVEN_TO_NETS)
            fields = [head.field for head in build_heads(recipe, name).values()]
            if fields.count("scores") != 1 or len(set(fields)) != len(fields):
                raise RecipeError(
                    f"{key}.heads: a stage needs exactly one head that fills scores and at most one a field; "
                    f"these fill {fields}."
                )
        elif "heads" in registry.STAGES.parameters(stage.kind):
            raise RecipeError(f"{key}.heads: a {stage.kind} needs heads, one of them for scores (classification).")
        _check_samplers(recipe, name)
    for split, sources in (("train", recipe.data.train), ("val", recipe.data.val)):
        for name in sources:
            build_source(recipe, split, name)
    build_evaluators(recipe)


def _check_samplers(recipe: Recipe, stage: str) -> None:
    key = f"stages.{stage}.samplers"
    samplers = build_samplers(recipe, stage)
    first = stage == next(iter(recipe.stages))
    for name, sampler in samplers.items():
        if first and sampler.needs_candidates:
            kind = recipe.stages[stage].samplers[name].kind
            raise RecipeError(
                f"{key}.{name}.kind={kind!r}: no stage before the first gives it candidates; use iou_bands."
            )


def build_heads(recipe: Recipe, stage: str) -> dict[str, Head]:
    """Build the heads of a stage by name."""
    parts = recipe.stages[stage].heads
    num_points = len(recipe.object.points)
    for name, part in parts.items():
        if part.kind == "points" and num_points == 0:
            raise RecipeError(f"stages.{stage}.heads.{name}.kind='points': object.points is empty; name the points.")
    return {
        name: registry.HEADS.build(part.kind, part.params, f"stages.{stage}.heads.{name}", num_points=num_points)
        for name, part in parts.items()
    }


def build_samplers(recipe: Recipe, stage: str) -> dict[str, Sampler]:
    """Build the samplers of a stage by name."""
    parts = recipe.stages[stage].samplers
    return {
        name: registry.SAMPLERS.build(part.kind, part.params, f"stages.{stage}.samplers.{name}")
        for name, part in parts.items()
    }


def build_evaluators(recipe: Recipe) -> dict[str, Any]:
    """Build the evaluators by name."""
    parts = recipe.evaluate.items()
    return {name: registry.EVALUATORS.build(part.kind, part.params, f"evaluate.{name}") for name, part in parts}


def build_stage(recipe: Recipe, stage: str) -> Any:
    """Build one stage with fresh weights (torch's global seed decides them); a stage without heads gets no net."""
    section = recipe.stages[stage]
    window_hw = window_of(section)
    given: dict[str, Any] = {"name": stage, "window_hw": window_hw, "heads": build_heads(recipe, stage), "net": None}
    given |= {"flip_points": flip_points_of(recipe).tolist(), "context": section.context}
    if section.heads:
        given["net"] = registry.NETS.build(
            section.net.kind, section.net.params, f"stages.{stage}.net", window_hw=window_hw
        )
    return registry.STAGES.build(section.kind, section.params, f"stages.{stage}", **given)


def flip_points_of(recipe: Recipe) -> NDArray[np.intp]:
    """Return ``(K,)``: which point each becomes in a mirror."""
    flip = recipe.object.flip_points
    return np.array(flip if flip is not None else range(len(recipe.object.points)), np.intp)


def silent_sources(recipe: Recipe, stage: str) -> set[str]:
    """Return the training sources that do not teach the score of a stage: they may lack objects, so nothing in their
    pictures is background or a false positive."""
    scores = {name for name, head in build_heads(recipe, stage).items() if head.field == "scores"}
    teaches = {name: part.teaches for name, part in recipe.data.train.items()}
    return {name for name, heads in teaches.items() if heads is not None and not scores & set(heads)}


def build_resampler(recipe: Recipe, image: Pixels) -> Resampler:
    """Return a picture as all stages see it, in mining and in detection: exposure, resampling and border."""
    from cascade_det.core.imaging import Border, Resample, Resampler, lift_exposure

    lifted = lift_exposure(image, recipe.image.lift_to)
    border = recipe.border
    return Resampler(lifted, Resample(recipe.image.resample), Border(border.mode), border.value)


def build_source(recipe: Recipe, split: str, name: str) -> Source:
    """Build the source `name` of the split "train" or "val"."""
    sources: dict[str, SourcePart] = getattr(recipe.data, split)
    part = sources[name]
    source: Source = registry.SOURCES.build(
        part.kind,
        part.params,
        f"data.{split}.{name}",
        num_points=len(recipe.object.points),
        object_category=recipe.object.category,
        base_dir=recipe.base_dir or ".",
        max_pixels=recipe.image.max_pixels,
    )
    return source


def stage_train(recipe: Recipe, stage: str) -> StageTrain:
    """Return how a stage is fitted: its own keys, and the `train` section's where they are null."""
    own = recipe.stages[stage].train
    values = {f.name: getattr(own, f.name) for f in dataclasses.fields(StageTrain)}
    return StageTrain(**{k: getattr(recipe.train, k) if v is None else v for k, v in values.items()})
