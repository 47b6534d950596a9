"""Checks of a recipe's values that their types cannot express."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from cascade_det.core.schema import Recipe, StageSection, View, window_of
from cascade_det.errors import RecipeError, choices

_SHARES = {
    "hardest_share", "share", "detect_recall", "mine_recall", "nms", "nms_across_levels", "mirror", "brightness",
    "contrast", "colour", "grey", "blur", "cover", "dark", "ema", "rho",
}  # fmt: skip
_POSITIVE = {
    "samples", "batch_size", "lr", "shard_images", "rounds", "max_per_image", "max_pixels", "min_object_px",
    "validations", "scale", "detect_recall", "mine_recall", "max_images", "rho",
}  # fmt: skip
_LEVELS = {"value", "lift_to"}
_CHOICES = {
    "reduction": ("mean", "hardest"),
    "nms_mode": ("union", "minimum"),
    "resample": ("linear", "area", "pooled"),
    "mode": ("pad", "clip"),
    "logger": ("csv", "tensorboard", "both", "none"),
}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_OWN_NAMES = {"evaluation", "model", "metrics", "recipe", "report"}  # what a run keeps beside the folders of its stages
_ROLES = ("negative", "part", "positive", "points")


def check_values(recipe: Recipe) -> None:
    """Raise a `RecipeError` with the full key for the first value that makes no sense."""
    for full_key, name, value in _leaves(dataclasses.asdict(recipe), ""):
        _check_leaf(full_key, name, value)
    if not recipe.stages:
        raise RecipeError("stages: a cascade needs at least one stage; add one under `stages:`.")
    flip, count = recipe.object.flip_points, len(recipe.object.points)
    if flip is not None and (sorted(flip) != list(range(count)) or any(flip[flip[i]] != i for i in flip)):
        raise RecipeError(
            f"object.flip_points={flip}: must hold each of 0..{count - 1} once, one entry a point, and name pairs: "
            "a point that becomes another in a mirror is what the other becomes."
        )
    if len(set(recipe.object.points)) != count:
        raise RecipeError(f"object.points={recipe.object.points}: each point needs its own name.")
    _check_template(recipe)
    _check_names(recipe)
    for key in ("name", "run_dir"):
        if not getattr(recipe, key).strip():
            raise RecipeError(f"{key}={getattr(recipe, key)!r}: must not be empty; it names the folder of the run.")
    if recipe.seed >= 2**32:
        raise RecipeError(f"seed={recipe.seed}: must be lower than {2**32:,}.")
    if recipe.calibrate.share == 1:
        raise RecipeError("calibrate.share=1: must be lower than 1, or no picture is left to mine.")
    low, high = recipe.pyramid.min_object_px, recipe.pyramid.max_object_px
    if high is not None and high < low:
        raise RecipeError(f"pyramid.max_object_px={high}: must not be lower than pyramid.min_object_px={low}.")
    if not 0 < recipe.pyramid.factor < 1:
        raise RecipeError(f"pyramid.factor={recipe.pyramid.factor}: must lie in (0, 1), such as 0.709.")
    aspects = set()
    for position, (name, stage) in enumerate(recipe.stages.items()):
        _check_stage(f"stages.{name}", stage, first=position == 0)
        _check_mix(f"stages.{name}.train.batch_mix", stage.train.batch_mix)
        aspects.add(round(stage.window_hw[0] / stage.window_hw[1], 2))
    _check_mix("train.batch_mix", recipe.train.batch_mix)
    if len(aspects) > 1:
        windows = {name: list(stage.window_hw) for name, stage in recipe.stages.items()}
        raise RecipeError(
            f"stages.*.window_hw={windows}: all windows need one aspect; the cascade has one object shape."
        )
    for name, view in recipe.data.views.items():
        _check_view(f"data.views.{name}", view)
    _check_teaches(recipe)


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, str, Any]]:
    for name, inner in value.items():
        full = f"{prefix}{name}"
        if isinstance(inner, dict):
            yield from _leaves(inner, f"{full}.")
        else:
            yield full, str(name), inner


def _check_leaf(full_key: str, name: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and not math.isfinite(value):
        raise RecipeError(f"{full_key}={value}: must be a finite number.")
    if ".params." in full_key or full_key.startswith(("presets.", "train.trainer.")):
        return
    if number and name in _SHARES and not 0 <= value <= 1:
        raise RecipeError(f"{full_key}={value}: must lie in [0, 1].")
    if number and name in _LEVELS and not 0 <= value <= 255:
        raise RecipeError(f"{full_key}={value}: must lie in [0, 255].")
    if number and name in _POSITIVE and value <= 0:
        raise RecipeError(f"{full_key}={value}: must be greater than 0.")
    if number and value < 0:
        raise RecipeError(f"{full_key}={value}: must not be negative.")
    if name in _CHOICES and value is not None and value not in _CHOICES[name]:
        raise RecipeError(f"{full_key}={value!r}: {choices(value, _CHOICES[name])}.")


def _check_names(recipe: Recipe) -> None:
    """Refuse names that make no folder of their own: stages and sources name folders of a run."""
    sections: dict[str, Iterable[str]] = {
        "stages": recipe.stages,
        "data.train": recipe.data.train,
        "data.val": recipe.data.val,
    }
    for section, names in sections.items():
        seen: dict[str, str] = {}
        for name in map(str, names):
            twin = seen.setdefault(name.lower(), name)
            if twin != name:
                raise RecipeError(
                    f"{section}: the names {twin!r} and {name!r} differ in case alone, which some disks take for one "
                    "folder; rename one of them."
                )
            if not _PLAIN_NAME.fullmatch(name):
                raise RecipeError(
                    f"{section}: the name {name!r} also names a folder, so it must be of letters A-Z and a-z, digits, "
                    "_ and -, and not begin with -."
                )
            if section == "stages" and name.lower() in _OWN_NAMES:
                raise RecipeError(
                    f"stages: the name {name!r} is one that a run keeps for itself; name the stage otherwise than "
                    f"{', '.join(sorted(_OWN_NAMES))}."
                )


def _check_stage(key: str, stage: StageSection, first: bool) -> None:
    window = list(stage.window_hw)
    if len(window) != 2 or min(window) < 4:
        raise RecipeError(f"{key}.window_hw={window}: must be [height, width] with sides of at least 4 pixels.")
    if min(window_of(stage)) < 4:
        raise RecipeError(f"{key}.rho={stage.rho}: leaves under 4 pixels of a side of window_hw={window}; raise it.")
    if not 1 <= stage.context <= 4:
        raise RecipeError(
            f"{key}.context={stage.context}: must lie in [1, 4]; 1 shows the window and nothing around it."
        )
    score = stage.keep.score
    number = isinstance(score, (int, float)) and not isinstance(score, bool)
    if score != "auto" and not (number and 0 <= score <= 1):
        raise RecipeError(f"{key}.keep.score={score!r}: must be 'auto' (the calibrated threshold) or lie in [0, 1].")
    if first and stage.kind == "refiner":
        raise RecipeError(f"{key}.kind='refiner': the first stage has no candidates to refine; make it a proposer.")


def _check_template(recipe: Recipe) -> None:
    template, names = recipe.object.align_template, recipe.object.points
    if template is None:
        return
    if len(template) != len(names) or not all(len(xy) == 2 and all(map(math.isfinite, xy)) for xy in template):
        raise RecipeError(
            f"object.align_template={template}: must hold one [x, y] of finite numbers for each of the object.points, "
            f"which are {names}."
        )
    if len(set(map(tuple, template))) < 2:
        raise RecipeError(f"object.align_template={template}: two points at least must differ, or no turn follows.")


def _check_view(key: str, view: View) -> None:
    span = view.object_px
    if span is not None and (len(span) != 2 or not 0 < span[0] <= span[1] < math.inf):
        raise RecipeError(f"{key}.object_px={span}: must be [low, high] with 0 < low <= high, in pixels.")


def _check_mix(key: str, mix: Any) -> None:
    if mix is None or mix == "natural":
        return
    if not isinstance(mix, dict) or not mix or set(mix) - set(_ROLES):
        raise RecipeError(f"{key}={mix!r}: must be 'natural' or proportions of {', '.join(_ROLES)}.")
    if not all(type(share) in (int, float) for share in mix.values()) or sum(mix.values()) <= 0:
        raise RecipeError(f"{key}={mix!r}: proportions are numbers, at least one of them greater than 0.")


def _check_teaches(recipe: Recipe) -> None:
    heads = {name for stage in recipe.stages.values() for name in stage.heads}
    for name, source in recipe.data.train.items():
        for head in source.teaches or ():
            if head not in heads:
                raise RecipeError(f"data.train.{name}.teaches={source.teaches}: {choices(head, heads)}.")
        for point in source.teaches_points or ():
            if point not in recipe.object.points:
                raise RecipeError(
                    f"data.train.{name}.teaches_points={source.teaches_points}: {point!r} is not in object.points; "
                    f"{choices(point, recipe.object.points)}."
                )
    for name, source in recipe.data.val.items():
        if source.teaches_points is not None:
            raise RecipeError(
                f"data.val.{name}.teaches_points={source.teaches_points}: what is scored teaches nothing; leave it out."
            )
