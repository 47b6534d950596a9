"""cascade_det: cascaded single-class detectors, trained from a recipe.

The public names resolve when first used, so that importing the package loads neither torch nor the training libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascade_det.api import evaluate as evaluate
    from cascade_det.api import train as train
    from cascade_det.cascade import Cascade as Cascade
    from cascade_det.core.imaging import read_image as read_image
    from cascade_det.core.recipe import load_recipe as load_recipe
    from cascade_det.core.registry import register_evaluator as register_evaluator
    from cascade_det.core.registry import register_head as register_head
    from cascade_det.core.registry import register_net as register_net
    from cascade_det.core.registry import register_sampler as register_sampler
    from cascade_det.core.registry import register_source as register_source
    from cascade_det.core.registry import register_stage as register_stage
    from cascade_det.core.types import Annotations as Annotations
    from cascade_det.core.types import Detections as Detections
    from cascade_det.visual.alignment import align as align
    from cascade_det.visual.drawing import draw as draw

__version__ = "0.1.0"

_PLACES = {
    "Annotations": "cascade_det.core.types",
    "Cascade": "cascade_det.cascade",
    "Detections": "cascade_det.core.types",
    "align": "cascade_det.visual.alignment",
    "draw": "cascade_det.visual.drawing",
    "evaluate": "cascade_det.api",
    "load_recipe": "cascade_det.core.recipe",
    "read_image": "cascade_det.core.imaging",
    "train": "cascade_det.api",
    **{
        f"register_{kind}": "cascade_det.core.registry"
        for kind in ("net", "head", "sampler", "stage", "source", "evaluator")
    },
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'cascade_det' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
