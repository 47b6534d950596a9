"""Binary attributes of an object (a mask, glasses, ...): a head that learns the known ones, and figures of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cascade_det import register_evaluator, register_head
from cascade_det.core.types import Annotations, CropTruth, Detections
from cascade_det.errors import RecipeError, choices
from cascade_det.evaluation.base import Evaluator, ScoredSet
from cascade_det.evaluation.points import match_for_points
from cascade_det.heads.base import Head

if TYPE_CHECKING:
    import torch
    from torch import nn

_Of = Mapping[str, Mapping[str, Sequence[Any]]]
_TRUTH_VALUES = {"True": "1", "False": "0"}


def _text(value: Any) -> str:
    """Return a value as a text that agrees whatever a source kept it as: 1, 1.0 and true are "1", NaN is ""."""
    if isinstance(value, float):
        return "" if value != value else str(int(value)) if value.is_integer() else str(value)
    return _TRUTH_VALUES.get(str(value), str(value))


def _texts(values: Iterable[Any]) -> NDArray[np.str_]:
    return np.array([_text(value) for value in values], np.str_)


class Attributes:
    """Which values of which columns of truth mean that an attribute is there, and which that it is not.

    Args:
        of: for each attribute, a column of `extras`, its `present` and its `absent` values. Any other value, and an
            object without one, is unknown.

    Raises:
        ValueError: `of` is no such table; the message names the attribute.
    """

    def __init__(self, of: _Of) -> None:
        if not isinstance(of, Mapping) or not of:
            raise ValueError(f"of={of!r} must map names of attributes to their present and absent values")
        self.names = tuple(map(str, of))
        self._present, self._absent = {}, {}
        for name, values in zip(self.names, of.values(), strict=True):
            present, absent = (_values(name, values, side) for side in ("present", "absent"))
            if set(present) & set(absent):
                raise ValueError(f"of.{name}={values!r}: a value is both present and absent")
            self._present[name], self._absent[name] = present, absent

    def read(self, extras: Mapping[str, NDArray[Any]], rows: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which attributes of each object are present and which are known, each ``(rows, K)``."""
        present, known = np.zeros((2, rows, len(self.names)), bool)
        for column, name in enumerate(self.names):
            if name in extras:
                values, place = np.unique(extras[name], return_inverse=True)
                values = _texts(values.tolist())[place]
                present[:, column] = np.isin(values, self._present[name])
                known[:, column] = present[:, column] | np.isin(values, self._absent[name])
        return present, known


def _values(name: str, values: Any, side: str) -> NDArray[np.str_]:
    listed = values.get(side) if isinstance(values, Mapping) and set(values) == {"present", "absent"} else None
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise ValueError(f"of.{name}={values!r} must be {{present: [VALUES], absent: [VALUES]}}")
    return _texts(listed)


@register_head("attributes")
class AttributesHead(Head):
    """K logits, one an attribute; an object teaches those of its attributes that are known.

    Args:
        of: see `Attributes`, such as ``{mask: {present: [with_mask], absent: [without_mask]}}``.
        field: the column of `Detections.extras` that it fills: ``(N, K)`` float32 probabilities in the order of `of`.
    """

    def __init__(self, *, of: _Of, field: str = "attributes") -> None:
        self._attributes = Attributes(of)
        self.field, self.extras = field, self._attributes.names

    def teaches(self, truth: CropTruth) -> NDArray[np.bool_]:
        _, known = self._attributes.read(truth.extras, len(truth))
        return known & truth.has_box[:, None]

    def encode(self, truth: CropTruth) -> NDArray[np.float32]:
        present, _ = self._attributes.read(truth.extras, len(truth))
        return present.astype(np.float32)

    def decode(self, raw: NDArray[np.float32], windows_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        return (1 / (1 + np.exp(-np.clip(raw.astype(np.float32), -80, 80)))).astype(np.float32)

    def layer(self, in_channels: int) -> nn.Module:
        from torch import nn

        return nn.Conv2d(in_channels, len(self.extras), kernel_size=1)

    def loss(self, raw: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        return (functional.binary_cross_entropy_with_logits(raw, target, reduction="none") * mask).sum(dim=1)


@register_evaluator("attributes")
class AttributesEvaluator(Evaluator):
    """How well attributes are told, on objects that were found: the detection of score and IoU >= 0.5 nearest to each.

    Args:
        of: as the head has it.
        field: as the head has it.
    """

    def __init__(self, *, of: _Of, field: str = "attributes") -> None:
        self._attributes, self._field = Attributes(of), field

    def evaluate(self, scored: ScoredSet) -> dict[str, Any]:
        """Return for each attribute `objects` (those that count and of which it is known), `matched` (of those, found),
        `present` (share of the matched that have it), `accuracy` at a probability of 0.5, and `AP` of finding those
        that have it by falling probability. Shares lie in [0, 1] and are None where nothing was matched.

        Raises:
            RecipeError: no object has such a column, or the detections lack `field`; the message lists the choices.
        """
        self._check_columns(scored)
        nothing = self._of_picture(Annotations.empty(), Detections.empty())
        pictures = map(self._of_picture, scored.truth, scored.detections)
        present, known, probability = map(np.concatenate, zip(nothing, *pictures, strict=True))
        return {
            name: _figures(present[known[:, k], k], probability[known[:, k], k])
            for k, name in enumerate(self._attributes.names)
        }

    def _of_picture(self, truth: Annotations, detections: Detections) -> tuple[NDArray[Any], ...]:
        """Return present, known and probability ``(G, K)`` of the objects that count; NaN for one not found."""
        truth = truth[~truth.ignore]
        present, known = self._attributes.read(truth.extras, len(truth))
        match = match_for_points(truth.boxes, detections)
        probability = np.full(present.shape, np.nan)
        if (match >= 0).any():
            probability[match >= 0] = detections.extras[self._field][match[match >= 0]]
        return present, known, probability

    def _check_columns(self, scored: ScoredSet) -> None:
        columns = {name for truth in scored.truth for name in truth.extras}
        for name in self._attributes.names:
            if any(map(len, scored.truth)) and name not in columns:
                raise RecipeError(f"attributes: of.{name}: no object has this field; {choices(name, columns)}.")
        filled = {name for found in scored.detections if len(found) for name in found.extras}
        if any(map(len, scored.detections)) and self._field not in filled:
            raise RecipeError(
                f"attributes: field={self._field!r}: no head of the last stage fills it; "
                f"{choices(self._field, filled)}. Add `kind: attributes` to its heads."
            )


def _figures(present: NDArray[np.bool_], probability: NDArray[Any]) -> dict[str, Any]:
    found = ~np.isnan(probability)
    truth, said = present[found], probability[found]
    some = len(truth) > 0
    return {
        "objects": len(present),
        "matched": len(truth),
        "present": float(truth.mean()) if some else None,
        "accuracy": float(((said >= 0.5) == truth).mean()) if some else None,
        "AP": average_precision(truth, said) if truth.any() else None,
    }


def average_precision(present: NDArray[np.bool_], probability: NDArray[Any]) -> float:
    """Return the sum over thresholds of (gain of recall) x precision; equal probabilities share a threshold.

    >>> average_precision(np.array([True, False, True]), np.array([0.9, 0.8, 0.7])).__round__(4)
    0.8333
    """
    order = np.argsort(-probability, kind="stable")
    hits, falling = np.cumsum(present[order]), probability[order]
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    gain = np.diff(hits[last], prepend=0) / hits[-1]
    return float((gain * hits[last] / (last + 1)).sum())
