"""Reads arrays out of pickles without running what a pickle can run.

A pickle names callables and calls them. Here the few names that files of numpy arrays use stand for records of this
module, and every other name ends the reading. Not even numpy's own classes are handed out: the state of a crafted dtype
can make numpy take bytes of the file for addresses of objects.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_VALUES = 1 << 20  # of one array; the largest of MTCNN has 294,912


class PickledDtype:
    """What a pickle says of a dtype: its code, such as "f4" or "O8", and its byte order."""

    def __init__(self, code: str, *_unused: object) -> None:
        self.code = code
        self._order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._order = str(state[1])

    def numeric(self) -> np.dtype[Any]:
        """Return the dtype, float alone."""
        if self.code not in ("f2", "f4", "f8") or self._order not in ("<", ">", "="):
            raise pickle.UnpicklingError(f"an array of dtype {self.code!r:.20}, where floats are expected")
        return np.dtype(self._order + self.code)


class PickledArray:
    """An array as a pickle describes it.

    Attributes:
        value: the array, or for one of objects the list of them.
    """

    value: NDArray[Any] | list[object]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, column_first, data = state
        if dtype.code.startswith("O"):
            self.value = list(data)
        else:  # Python 2 wrote bytes that arrive as latin-1 text
            raw = data.encode("latin1") if isinstance(data, str) else data
            self.value = float_array(raw, shape, dtype, "F" if column_first else "C")


def float_array(raw: bytes, shape: tuple[int, ...], dtype: PickledDtype, order: str) -> NDArray[Any]:
    """Return the array that `raw` holds; raises where shape, dtype or length make none."""
    if math.prod(shape) > MOST_VALUES:
        raise pickle.UnpicklingError(f"an array of {math.prod(shape):,} values, more than any of MTCNN")
    return np.frombuffer(raw, dtype.numeric()).reshape(shape, order="F" if order == "F" else "C")


def look_up(allowed: Mapping[tuple[str, str], Any], module: str, name: str) -> Any:
    """Return what a global of a pickle stands for; the refusal names it."""
    if (module, name) not in allowed:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and only arrays are read"[:200])
    return allowed[module, name]


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for `_codecs.encode`, by which pickles of protocol 2 hold bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in the encoding {encoding!r:.20}")
    return text.encode("latin1")


def _reconstruct(*_unused: object) -> PickledArray:
    return PickledArray()


_ARRAYS: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): PickledDtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _latin1,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return look_up(_ARRAYS, module, name)


def load_arrays(file: BytesIO) -> object:
    """Return what a pickle holds: plain values, and `PickledArray` for each array. Anything else in it raises."""
    return _ArrayUnpickler(file, encoding="latin1").load()
