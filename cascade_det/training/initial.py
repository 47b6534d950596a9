"""Start a stage from the weights of another model; what that model lacks starts fresh and is listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cascade_det.core.recipe import build_stage
from cascade_det.core.schema import Recipe
from cascade_det.model_file import load_model


def initial_weights(recipe: Recipe, stage: str, model: Path, folder: Path, say: Callable[[str], None]) -> Path | None:
    """Write the stage's first weights: those of `model` where name and shape agree, fresh ones elsewhere.

    Returns:
        The file, or None where the model has no stage of this name.
    """
    import torch
    from safetensors.numpy import save_file

    given = load_model(model).arrays.get(stage)
    if given is None:
        say(f"{stage}: {model} has no such stage; it starts fresh")
        return None
    torch.manual_seed(recipe.seed)
    arrays = dict(build_stage(recipe, stage).arrays())
    fresh = [name for name, value in arrays.items() if name not in given or given[name].shape != value.shape]
    arrays |= {name: value for name, value in given.items() if name in arrays and name not in fresh}
    say(f"{stage}: starts from {model}" + (f"; fresh: {', '.join(fresh)}" if fresh else ""))
    save_file(arrays, folder / "initial.safetensors")
    return folder / "initial.safetensors"
