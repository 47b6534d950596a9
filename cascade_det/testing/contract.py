"""How a check says that a contract is broken, and how it compares records of arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ContractError(AssertionError):
    """A part breaks its contract; the message says which invariant, with the values."""


def require(holds: bool, message: str) -> None:
    """Raise a `ContractError` with `message` unless the invariant holds."""
    if not holds:
        raise ContractError(message)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Turn any exception of a part into a `ContractError` that says at what it was raised.

    >>> with doing("decode of no rows"):
    ...     [][0]
    Traceback (most recent call last):
    ...
    cascade_det.testing.contract.ContractError: decode of no rows raises IndexError: list index out of range
    """
    try:
        yield
    except ContractError:
        raise
    except Exception as error:
        raise ContractError(f"{what} raises {type(error).__name__}: {' '.join(str(error).split())}") from error


def columns(record: Any) -> dict[str, NDArray[Any]]:
    """Return copies of the arrays of a record (`Detections`, `Annotations`, `CropPlan`, `CropTruth`) by name."""
    found: dict[str, NDArray[Any]] = {}
    for item in dataclasses.fields(record):
        value = getattr(record, item.name)
        if isinstance(value, Mapping):
            found |= {f"extras[{name!r}]": np.array(column) for name, column in value.items()}
        elif value is not None:
            found[item.name] = np.array(value)
    return found


def difference(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> str:
    """Return what first differs between two records of arrays, "" where nothing does.

    >>> difference({"mirror": np.array([True, False])}, {"mirror": np.array([True, True])})
    'mirror[1] is False and True'
    """
    if one.keys() != other.keys():
        return f"the columns are {sorted(one)} and {sorted(other)}"
    for name, column in one.items():
        if column.shape != other[name].shape:
            return f"{name} has the shape {column.shape} and {other[name].shape}"
        differs = (column != other[name]) & ((column == column) | (other[name] == other[name]))  # NaN is NaN
        rows = np.flatnonzero(differs.any(axis=tuple(range(1, column.ndim))))
        if len(rows):
            return f"{name}[{rows[0]}] is {column[rows[0]].tolist()} and {other[name][rows[0]].tolist()}"
    return ""
