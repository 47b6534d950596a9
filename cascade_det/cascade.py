"""The cascade: stages in a row, one loop for detection, mining, calibration and evaluation."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from cascade_det.core import registry
from cascade_det.core.imaging import Resampler, to_image
from cascade_det.core.nms import NmsMode
from cascade_det.core.recipe import (
    build_resampler,
    build_stage,
    read_yaml,
    recipe_from_dict,
    recipe_to_dict,
    validate,
)
from cascade_det.core.schema import Recipe
from cascade_det.core.shipped import find_shipped, shipped_names
from cascade_det.core.types import Detections
from cascade_det.errors import DataError, ModelError, RecipeError, choices
from cascade_det.model_file import ModelContents, load_model, save_model
from cascade_det.stages.base import Stage, StageSettings

_BATCH_IMAGES = 8  # pictures whose pyramids and crops are held at once; results do not depend on it


class Cascade:
    """A detector for one class of object.

    Args:
        recipe: what the stages were built from; pyramid, border and suppression are read from it.
        stages: the built stages in order, possibly fewer than the recipe names.
        thresholds: per stage ``{"detect": t, "mine": t}``; a stage without an entry keeps everything from 0.5.
    """

    def __init__(
        self, recipe: Recipe, stages: Sequence[Stage], thresholds: Mapping[str, Mapping[str, float]] | None = None
    ) -> None:
        self.recipe = recipe
        self.stages = list(stages)
        self.thresholds = {name: dict(values) for name, values in (thresholds or {}).items()}

    @staticmethod
    def load(
        model: str | Path,
        *,
        plugins: Sequence[str] = (),
        device: str = "auto",
        backend: str | None = None,
        preset: str | None = None,
        threads: int | None = None,
        plugin_dir: str | Path | None = None,
    ) -> Cascade:
        """Load a model file, a run directory or a shipped model by name.

        Args:
            model: a ``.safetensors`` file, a folder that holds ``model.safetensors``, or a shipped name.
            plugins: plug-ins that may be imported; a model that names others is refused.
            device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", ...
            backend: "torch", the only one so far.
            preset: named set of overrides of the model's recipe.
            threads: torch compute threads, process-wide.
            plugin_dir: folder that ``.py`` files among `plugins` are resolved against. Where absent, that of the recipe
                that a run directory was trained by, and of any other model its own.

        Raises:
            ModelError: no such model, a damaged one, or one that needs a plug-in not named in `plugins`.
        """
        if backend not in (None, "torch"):
            raise ModelError(f"backend={backend!r}: {choices(backend, ['torch'])}.")
        path = find_model(model)
        contents = load_model(path)
        _refuse_plugins(path, contents, plugins)
        recipe = recipe_from_dict({**contents.recipe, "base_dir": None}, path.parent, preset=preset, where=str(path))
        _load_plugins(path, plugins, Path(plugin_dir or _plugin_folder(Path(model), path)))
        held = [name for name in recipe.stages if name in contents.arrays]  # a cascade in training may end earlier
        if not held or held != list(recipe.stages)[: len(held)] or len(held) != len(contents.arrays):
            raise ModelError(
                f"{path}: holds weights of the stages {list(contents.arrays)}, its recipe has {list(recipe.stages)}."
            )
        try:
            validate(recipe)
            cascade = Cascade.build(recipe, contents.thresholds, upto=held[-1])
            for stage in cascade.stages:
                stage.load_arrays(contents.arrays[stage.name])
        except (RecipeError, ModelError) as error:
            raise ModelError(f"{path}: {error}") from error
        return cascade.to(device, threads)

    @staticmethod
    def build(
        recipe: Recipe, thresholds: Mapping[str, Mapping[str, float]] | None = None, upto: str | None = None
    ) -> Cascade:
        """Build the stages of a recipe with fresh weights, all or up to and including `upto`."""
        names = list(recipe.stages)
        chosen = names if upto is None else names[: names.index(upto) + 1]
        return Cascade(recipe, [build_stage(recipe, name) for name in chosen], thresholds)

    def to(self, device: str = "auto", threads: int | None = None) -> Cascade:
        """Move all stages to a device and return the cascade."""
        import torch

        if threads is not None and threads < 1:
            raise ModelError(f"threads={threads}: must be at least 1; leave it out to use what torch finds.")
        if threads is not None:
            torch.set_num_threads(threads)
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            for stage in self.stages:
                stage.to(chosen)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"device={device!r} cannot be used ({reason}). Choices: auto, cpu, cuda, cuda:N."
            ) from error
        return self

    def save(self, path: str | Path) -> None:
        """Write the cascade to one ``.safetensors`` file; the folders of the machine it was trained on stay out."""
        arrays = {stage.name: stage.arrays() for stage in self.stages}
        data = dataclasses.replace(self.recipe.data, train={}, val={})
        portable = dataclasses.replace(
            self.recipe, base_dir=None, init=None, run_dir=f"runs/{self.recipe.name}", data=data
        )
        save_model(Path(path), ModelContents(recipe_to_dict(portable), self.thresholds, arrays))

    def __call__(self, image: object, *, min_object_px: float | None = None, score: float | None = None) -> Detections:
        """Detect in one picture.

        Args:
            image: ``(H, W, 3)`` uint8 RGB, a path or a PIL image.
            min_object_px: height of the smallest object, instead of the recipe's.
            score: threshold of the last stage, instead of the calibrated one.

        Returns:
            Detections by falling score in the picture's pixels; N = 0 where nothing is found.

        Raises:
            ValueError: `image` is nothing of these; the message says what it is.
        """
        return self.batch([image], min_object_px=min_object_px, score=score)[0]

    def batch(
        self, images: Sequence[object], *, min_object_px: float | None = None, score: float | None = None
    ) -> list[Detections]:
        """Detect in pictures of any sizes; the answer for each is the same as alone."""
        return self.run(images, min_object_px=min_object_px, score=score)

    def run(
        self,
        images: Sequence[object],
        upto: str | None = None,
        *,
        min_object_px: float | None = None,
        score: float | None = None,
    ) -> list[Detections]:
        """Return what the stages up to and including `upto` (all by default) let through of each picture.

        `score` replaces the threshold of the last stage that runs.

        Raises:
            DataError: `min_object_px` needs a pyramid level of more than `image.max_pixels` pixels.
        """
        if isinstance(images, (str, Path)):
            raise ValueError(f"images={str(images)!r} is one path, and a list of pictures is taken; pass [path].")
        settings = self.settings(upto, min_object_px=min_object_px, score=score)
        results: list[Detections] = []
        for start in range(0, len(images), _BATCH_IMAGES):
            pictures = [
                self.resampler(to_image(image, self.recipe.image.max_pixels))
                for image in images[start : start + _BATCH_IMAGES]
            ]
            for picture in pictures:
                self.refuse_large_level(picture.image_hw, settings[0].min_object_px)
            *_, (_, outputs, _) = self.run_stages(pictures, settings)
            results += [self.finish(found, p.image_hw) for found, p in zip(outputs, pictures, strict=True)]
        return results

    def refuse_large_level(self, image_hw: tuple[int, ...], min_object_px: float) -> None:
        """Raise a `DataError` where a picture needs a level that is enlarged beyond `image.max_pixels`."""
        scale, cap = self.stages[0].window_hw[0] / min_object_px, self.recipe.image.max_pixels
        if scale > 1 and image_hw[0] * image_hw[1] * scale**2 > cap:
            raise DataError(
                f"a picture of {image_hw[1]} x {image_hw[0]} px, enlarged {scale:.1f} times for objects of "
                f"min_object_px={min_object_px:g}, is above the cap of {cap:,} pixels; raise min_object_px, scale the "
                "picture down, or raise image.max_pixels."
            )

    def run_stages(
        self, pictures: Sequence[Resampler], settings: Sequence[StageSettings]
    ) -> Iterator[tuple[str, list[Detections], float]]:
        """The cascade loop: yield (stage name, what it lets through of each picture, seconds) for each setting given.

        Boxes are as the stage left them, not clipped to the picture.
        """
        candidates: list[Detections] | None = None
        for stage, values in zip(self.stages, settings, strict=False):
            begin = time.perf_counter()
            candidates = stage(pictures, candidates, values)
            yield stage.name, candidates, time.perf_counter() - begin

    def resampler(self, image: Any) -> Resampler:
        """Return a picture ready for the stages, with the recipe's exposure, resampling and border."""
        return build_resampler(self.recipe, image)

    def finish(self, found: Detections, image_hw: tuple[int, int]) -> Detections:
        """Return final detections: clipped to the picture, and by their edges, unless the recipe says otherwise."""
        if self.recipe.image.clip_boxes:
            found = found.clip(image_hw)
        if self.recipe.image.inclusive_boxes:
            found = found.replace(boxes=found.boxes + np.array([1, 1, 0, 0], np.float32))
        return found

    def settings(
        self,
        upto: str | None = None,
        *,
        min_object_px: float | None = None,
        score: float | None = None,
        purpose: str = "detect",
    ) -> list[StageSettings]:
        """Return what each stage up to and including `upto` (all by default) runs with.

        `score` replaces the threshold of the last of them; `purpose` "detect" or "mine" chooses the calibrated ones.

        Raises:
            ValueError: there is no stage `upto`, or a value is out of range.
        """
        names = [stage.name for stage in self.stages]
        if upto is not None and upto not in names:
            raise ValueError(f"upto={upto!r}: there is no such stage; {choices(upto, names)}")
        if min_object_px is not None and not 1 <= min_object_px < math.inf:
            raise ValueError(f"min_object_px={min_object_px} must be at least 1 pixel, and finite")
        if score is not None and not 0 <= score <= 1:
            raise ValueError(f"score={score} must lie in [0, 1]")
        chosen = self.stages if upto is None else self.stages[: names.index(upto) + 1]
        result = [self._stage_settings(stage.name, min_object_px, purpose) for stage in chosen]
        if score is not None and result:
            result[-1] = dataclasses.replace(result[-1], score=score)
        return result

    def _stage_settings(self, name: str, min_object_px: float | None, purpose: str) -> StageSettings:
        pyramid, image, keep = self.recipe.pyramid, self.recipe.image, self.recipe.stages[name].keep
        calibrated = self.thresholds.get(name, {}).get(purpose, 0.5)
        pinned = keep.score if keep.score != "auto" and purpose == "detect" else calibrated
        return StageSettings(
            score=float(pinned),
            nms=keep.nms,
            nms_mode=NmsMode(keep.nms_mode),
            nms_across_levels=keep.nms_across_levels,
            max_per_image=keep.max_per_image,
            min_object_px=float(min_object_px or pyramid.min_object_px),
            max_object_px=pyramid.max_object_px,
            factor=pyramid.factor,
            mean=image.mean,
            scale=image.scale,
        )


def _refuse_plugins(path: Path, contents: ModelContents, allowed: Sequence[str]) -> None:
    needed = [plugin for plugin in contents.recipe.get("plugins", []) if plugin not in allowed]
    if needed:
        raise ModelError(
            f"{path}: the model needs the plug-in {needed[0]!r}, and loading a model imports nothing that the caller "
            f"did not allow. Pass plugins={needed!r}, or --allow-plugins on the command line."
        )


def _plugin_folder(model: Path, path: Path) -> Path:
    """Return the folder of a model's ``.py`` plug-ins: its own, or where the recipe of a run directory lay."""
    if not model.is_dir() or not (model / "recipe.yaml").is_file():
        return path.parent
    base_dir = read_yaml(model / "recipe.yaml").get("base_dir")
    return Path(base_dir) if isinstance(base_dir, str) and Path(base_dir).is_dir() else path.parent


def _load_plugins(path: Path, plugins: Sequence[str], folder: Path) -> None:
    for plugin in plugins:
        if plugin.endswith(".py") and not (folder / plugin).is_file():
            raise ModelError(
                f"{path}: the plug-in {plugin!r} was sought in {folder} and is not there. Name the folder that holds "
                "it, often the recipe's: --plugin-dir DIR on the command line, plugin_dir= in Python."
            )
        registry.load_plugin(plugin, folder)


def named_plugins(model: str | Path) -> list[str]:
    """Return the plug-ins that a model names, for a caller who allows them all.

    Raises:
        ModelError: one is a file outside of the model's folder: a model that came from elsewhere could name any.
    """
    path = find_model(model)
    plugins = [str(name) for name in load_model(path).recipe.get("plugins", [])]
    for name in plugins:
        if name.endswith(".py") and (PurePath(name).is_absolute() or ".." in PurePath(name).parts):
            raise ModelError(
                f"{path}: the model names the plug-in {name!r}, which lies outside of its folder, so --allow-plugins "
                f"does not import it. Load the model from Python with plugins=[{name!r}]."
            )
    return plugins


def find_model(model: str | Path) -> Path:
    """Return the file of a model given as a file, a run directory or a shipped name."""
    path = Path(model)
    if path.is_file():
        return path
    if path.is_dir():
        if (path / "model.safetensors").is_file():
            return path / "model.safetensors"
        raise ModelError(
            f"{path}: a folder without model.safetensors; has its training ended? `cascade-det status {path}` tells."
        )
    shipped = find_shipped("models", str(model), ".safetensors")
    if shipped is None:
        known = shipped_names("models", ".safetensors")
        raise ModelError(
            f"model {str(model)!r} is neither a file, a run directory nor a shipped model; {choices(model, known)}."
        )
    return shipped
