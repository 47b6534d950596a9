"""The optimizer and the learning rate schedule of a fit, by their names in torch.optim."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cascade_det.core.schema import Part
from cascade_det.errors import RecipeError, choices

if TYPE_CHECKING:
    import torch


def optimisation(
    parameters: Iterable[torch.nn.Parameter],
    optimizer: Part,
    schedule: Part,
    lr: float,
    steps: int,
    key: str = "train",
) -> tuple[Any, Any]:
    """Return the optimizer and its schedule; None for a schedule of the kind "none".

    Args:
        parameters: what is fitted.
        optimizer: class of torch.optim with parameters.
        schedule: class of torch.optim.lr_scheduler with parameters, stepped after each batch.
        lr: peak learning rate.
        steps: length of the fit in optimizer steps.
        key: section of the recipe that errors name.

    Raises:
        RecipeError: torch has no class of this name, or it refuses a parameter.
    """
    import torch
    from torch.optim import lr_scheduler as rates

    made = _build(
        torch.optim, torch.optim.Optimizer, optimizer, f"{key}.optimizer", parameters, **{"lr": lr, **optimizer.params}
    )
    if schedule.kind == "none":
        return made, None
    params = dict(schedule.params)
    if schedule.kind == "OneCycleLR":
        params = {"pct_start": 0.1, "max_lr": lr, "total_steps": steps + 1, **params}
    elif schedule.kind == "CosineAnnealingLR":
        params = {"T_max": steps, **params}
    if schedule.kind == "ReduceLROnPlateau":
        raise RecipeError(
            f"{key}.schedule.kind='ReduceLROnPlateau': follows a figure of the validation; a fit's schedule is stepped "
            "by batches. Take OneCycleLR, CosineAnnealingLR or another of torch.optim.lr_scheduler."
        )
    return made, _build(rates, rates.LRScheduler, schedule, f"{key}.schedule", made, **params)


def _build(module: Any, base: type, part: Part, key: str, subject: Any, **params: Any) -> Any:
    """Build a class of `module` that derives from `base`, by its name; a `RecipeError` names what is wrong with it."""
    classes: dict[str, Any] = {
        name: kind for name, kind in vars(module).items() if isinstance(kind, type) and issubclass(kind, base)
    }
    known = [name for name in classes if not name.startswith("_") and classes[name] is not base]
    if part.kind not in known:
        raise RecipeError(f"{key}.kind={part.kind!r}: {choices(part.kind, known)}.")
    try:
        return classes[part.kind](subject, **params)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{key}.params={part.params!r}: {part.kind} refuses them: {error}.") from error
