"""What a step's work depends on: the recipe keys of the step, the data, and the work of the step before.

A step whose fingerprint has not changed is not done again; where it has, the keys that differ are named.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cascade_det.core import registry
from cascade_det.core.schema import HeadPart, Part, Recipe, SourcePart, View

_ABSENT = "absent"
_WHERE_IT_RUNS = {f"train.trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy")}
_PART_LIKE = (Part, HeadPart, SourcePart, View)


def keys_of_step(recipe: Recipe, step: str, stage: str | None) -> dict[str, Any]:
    """Return every recipe key of a step as ``{full key: value}``.

    Args:
        recipe: the recipe.
        step: mine, fit, calibrate or evaluate.
        stage: the stage whose keys are wanted beside the global ones; None for the step `evaluate`.
    """
    return {
        name: value
        for name, (owner, value) in _walk(recipe, "", "none").items()
        if owner == step and _belongs(name, stage)
    }


def _belongs(name: str, stage: str | None) -> bool:
    parts = name.split(".")
    return parts[0] != "stages" or parts[1] == stage


def _walk(section: Any, prefix: str, inherited: str) -> dict[str, tuple[str, Any]]:
    """Return (step, value) of every leaf; a part's keys belong to the step of the key that holds the part."""
    found: dict[str, tuple[str, Any]] = {}
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        if item.metadata.get("later"):
            value = _beyond_default(item, value)
            if value is _ABSENT:
                continue
        step = item.metadata.get("step", inherited)
        if isinstance(section, _PART_LIKE) and inherited != "none":
            step = inherited
        entries = {f".{k}": v for k, v in value.items()} if isinstance(value, dict) else {"": value}
        for suffix, inner in entries.items():
            full = f"{prefix}{item.name}{suffix}"
            if dataclasses.is_dataclass(inner):
                holder = step if isinstance(inner, _PART_LIKE) else "none"
                found |= _walk(inner, f"{full}.", holder)
            else:
                found[full] = ("none" if full in _WHERE_IT_RUNS else step, inner)
    return found


def _beyond_default(item: dataclasses.Field[Any], value: Any) -> Any:
    """Return what of a key that came later differs from its default, `_ABSENT` where nothing does."""
    default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
    if isinstance(value, dict) and isinstance(default, dict):
        value = {name: inner for name, inner in value.items() if inner != default.get(name, _ABSENT)}
        return value or _ABSENT
    return _ABSENT if value == default else value


def part_versions(recipe: Recipe, step: str, stage: str) -> dict[str, str]:
    """Return what keys the code that a step runs: module, version and, for a plug-in, a hash of its source.

    Samplers belong to `mine`, the net and the heads to `fit`, the kind of stage to `calibrate`, which runs it first.
    """
    section = recipe.stages[stage]
    kinds = {
        "mine": [(registry.SAMPLERS, part.kind) for part in section.samplers.values()],
        "fit": [(registry.NETS, section.net.kind), *((registry.HEADS, part.kind) for part in section.heads.values())],
        "calibrate": [(registry.STAGES, section.kind)],
    }[step]
    return {f"{owner.kind} {kind} (code)": registry.source_digest(owner.get(kind)) for owner, kind in kinds}


def evaluator_versions(recipe: Recipe) -> dict[str, str]:
    """Return what keys the code of the evaluators, as `part_versions` does for a stage's parts."""
    kinds = {part.kind for part in recipe.evaluate.values()}
    return {f"evaluator {kind} (code)": registry.source_digest(registry.EVALUATORS.get(kind)) for kind in sorted(kinds)}


def fingerprint(keys: Mapping[str, Any]) -> str:
    """Return a hash of keys and values."""
    return hashlib.sha256(json.dumps(keys, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return a hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return ``KEY: old -> new`` for each key whose value differs."""
    plain = json.loads(json.dumps(dict(new), default=str))
    names = sorted(name for name in {*old, *plain} if old.get(name, _ABSENT) != plain.get(name, _ABSENT))
    return [f"{name}: {_short(old.get(name, _ABSENT))} -> {_short(plain.get(name, _ABSENT))}" for name in names]


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
