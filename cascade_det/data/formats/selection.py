"""Which pictures of an annotation are taken: `where` and `where_not` by their fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade_det.data.formats.coco_records import some
from cascade_det.errors import DataError, choices

Where = Mapping[str, Sequence[Any]]


def value_lists(key: str, conditions: Where | None) -> dict[str, list[Any]]:
    """Return the values that each field may have; raises a `TypeError` where they are given in another form."""
    if conditions is not None and not isinstance(conditions, Mapping):
        raise TypeError(f"{key} must map fields to lists of values, it is {conditions!r}")
    for name, values in (conditions or {}).items():
        if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
            raise TypeError(f"{key}.{name} must be a list of values, it is {values!r}")
    return {name: list(values) for name, values in (conditions or {}).items()}


def selected(fields: Sequence[Mapping[str, Any]], where: Where, where_not: Where, file: Path) -> list[int]:
    """Return the rows of the pictures that `where` and `where_not` leave, in their order.

    Args:
        fields: of each picture.
        where, where_not: values by field.
        file: named in errors.

    Raises:
        DataError: no picture has such a field, or none is left.
    """
    known = {name for own in fields for name in own}
    kept = list(range(len(fields)))
    for key, conditions, wanted in (("where", where, True), ("where_not", where_not, False)):
        for name, values in conditions.items():
            if fields and name not in known:
                raise DataError(f"{file}: {key}: no picture has a field {name!r}; {choices(name, known)}.")
            kept = [row for row in kept if (fields[row].get(name) in values) == wanted]
    if fields and not kept:
        names = sorted({*where, *where_not})
        have = "; ".join(f"{name} is {some({own.get(name) for own in fields})}" for name in names)
        raise DataError(
            f"{file}: where={where!r}, where_not={where_not!r} leave none of its {len(fields)} pictures. There {have}. "
            "Choose among these values."
        )
    return kept
