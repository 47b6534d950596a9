"""The layers of the public MTCNN weights, the checks of their arrays, and their way into this package's stages.

Three packages publish the same numbers in layouts of their own. Each reader brings its file into one layout, named here
as facenet-pytorch names it: convolutions ``(out, in, height, width)`` for upright pictures, dense layers ``(out, in)``
over the last map flattened as (width, height, channels), since the authors trained on transposed pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from cascade_det.errors import ModelError

Arrays = Mapping[str, NDArray[np.float32]]

LAYERS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "pnet": {
        "conv1": (10, 3, 3, 3), "conv2": (16, 10, 3, 3), "conv3": (32, 16, 3, 3),
        "conv4_1": (2, 32, 1, 1), "conv4_2": (4, 32, 1, 1),
    },
    "rnet": {
        "conv1": (28, 3, 3, 3), "conv2": (48, 28, 3, 3), "conv3": (64, 48, 2, 2), "dense4": (128, 576),
        "dense5_1": (2, 128), "dense5_2": (4, 128),
    },
    "onet": {
        "conv1": (32, 3, 3, 3), "conv2": (64, 32, 3, 3), "conv3": (64, 64, 3, 3), "conv4": (128, 64, 2, 2),
        "dense5": (256, 1152), "dense6_1": (2, 256), "dense6_2": (4, 256), "dense6_3": (10, 256),
    },
}  # fmt: skip
STAGES = tuple(LAYERS)

_HEADS = {"1": "score", "2": "box", "3": "points"}  # conv4_1, dense5_2, ...
_LAST_MAP = (3, 3)  # height and width of what R- and O-Net's dense layer stands on
_INTERLEAVED = np.arange(10).reshape(2, 5).T.ravel()  # x1..x5 y1..y5 -> x1 y1 x2 y2 ...


def wanted_shapes(stage: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array of a stage by its name; a layer of the trunk is followed by its slopes.

    >>> [name for name in wanted_shapes("pnet")][:4]
    ['conv1.weight', 'conv1.bias', 'prelu1.weight', 'conv2.weight']
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, shape in LAYERS[stage].items():
        shapes[f"{layer}.weight"], shapes[f"{layer}.bias"] = shape, shape[:1]
        if "_" not in layer:
            shapes[f"prelu{layer[-1]}.weight"] = shape[:1]
    return shapes


def checked(stage: str, arrays: Mapping[str, NDArray[np.generic]]) -> Arrays:
    """Return the arrays of a stage in the order of its layers.

    Raises:
        ModelError: one is missing, unknown, of another shape or not float32, or holds NaN or infinite values. The
            message has no file yet.
    """
    wanted = wanted_shapes(stage)
    for name in [*wanted, *arrays]:
        if name not in arrays:
            raise ModelError(f"lacks {name!r}, which MTCNN's {stage} has; it holds {_some(arrays)}.")
        if name not in wanted:
            raise ModelError(f"holds {name!r}, which MTCNN's {stage} lacks; it has {_some(wanted)}.")
        array = arrays[name]
        if array.shape != wanted[name]:
            raise ModelError(
                f"{name!r} has shape {array.shape}, MTCNN's {stage} needs {wanted[name]} (both as out, in, height, "
                "width); is it the file of another net?"
            )
        if array.dtype.newbyteorder("=") != np.float32:
            raise ModelError(f"{name!r} is {array.dtype}, the public weights are float32.")
        if not np.isfinite(array).all():
            raise ModelError(f"{name!r} holds NaN or infinite values; the file is damaged, get it again.")
    return {name: np.asarray(arrays[name], np.float32) for name in wanted}


def _some(names: Iterable[str]) -> str:
    """Return a short list of names."""
    shown = [repr(name[:40]) for name in list(names)[:4]]
    return f"{', '.join(shown)}, ..." if shown else "nothing"


def stage_arrays(arrays: Arrays, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of a stage of this package from the checked ones of the public layout.

    Args:
        arrays: what `checked` returned.
        names: those of the stage's own arrays, in order: ``net.layers.0.weight``, ..., ``heads.score.bias``.
    """
    trunk = [_as_kernel(value) for name, value in arrays.items() if "_" not in name]
    result = dict(zip((name for name in names if name.startswith("net.")), trunk, strict=True))
    for name, value in arrays.items():
        layer, _, kind = name.partition(".")
        if "_" in layer:
            head = _HEADS[layer[-1]]
            rows = _head_rows(head, value)
            result[f"heads.{head}.{kind}"] = rows.reshape(*rows.shape[:2], 1, 1) if kind == "weight" else rows
    return result


def _as_kernel(value: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a dense layer ``(out, in)`` as the convolution that spans the last map; all else as it is."""
    if value.ndim != 2:
        return value
    height, width = _LAST_MAP
    return np.ascontiguousarray(value.reshape(len(value), width, height, -1).transpose(0, 3, 2, 1))


def _head_rows(head: str, value: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the outputs of a head (first axis) as this package has them."""
    if head == "score":  # one logit is the difference of the two
        return value[1:2] - value[:1]
    return value[_INTERLEAVED] if head == "points" else value
