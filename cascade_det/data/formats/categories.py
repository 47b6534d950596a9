"""Which objects of an annotation with several categories are taken, and what the others count as."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.data.formats.objects import Objects
from cascade_det.errors import DataError, choices

BACKGROUND, IGNORE, REFUSE = _OTHERS = ("background", "ignore", "refuse")


class Categories:
    """What a source is asked to take.

    Args:
        category: name or names of what to find; None takes the only one there is or, of several, the object.
        others: what objects of other categories are: "background", "ignore" (neither rewarded nor punished), or
            "refuse" where there must be none.
        object_category: what the recipe calls its object.

    Raises:
        TypeError, ValueError: `category` is no text and no list of texts, or there is no such choice of `others`.
    """

    def __init__(self, category: str | Sequence[str] | None, others: str, object_category: str) -> None:
        names = [category] if isinstance(category, str) else category
        texts = isinstance(names, Sequence) and len(names) > 0 and all(isinstance(name, str) for name in names)
        if names is not None and not texts:
            raise TypeError(f"category must be a name or a list of names, it is {category!r}")
        if others not in _OTHERS:
            raise ValueError(f"others={others!r}; {choices(others, _OTHERS)}")
        self._names = None if names is None else list(dict.fromkeys(names))
        self._others = others
        self._object_category = object_category

    def choice(self, file: Path, known: Collection[str]) -> Choice:
        """Return what is taken of an annotation whose categories are `known`.

        Raises:
            DataError: one to take is not known; the message lists the choices.
        """
        names = self._names
        if names is None:
            names = [next(iter(known))] if len(known) == 1 else [self._object_category]
        for name in names:
            if name not in known and (known or self._names is not None):
                how = "it has several categories, but not the object" if self._names is None else "it has no category"
                raise DataError(f"{file}: {how} {name!r}. Set `category`; {choices(name, known)}.")
        return Choice(file, names, self._others)


@dataclass(frozen=True, slots=True)
class Choice:
    """The categories that are wanted of one annotation, and what the others are."""

    file: Path
    wanted: Sequence[str]
    others: str

    @property
    def key(self) -> Any:
        """What decides the truth, ready for JSON: the name alone where it is one and the others are background."""
        if len(self.wanted) == 1 and self.others == BACKGROUND:
            return self.wanted[0]
        return {"categories": sorted(self.wanted), "others": self.others}

    def takes(self, name: str) -> bool:
        """Return whether objects of this category are taken, be it as ignored ones."""
        return name in self.wanted or self.others == IGNORE

    def taken(self, names: NDArray[np.str_], left_out: Counter[str]) -> NDArray[np.bool_]:
        """Return which objects of categories ``(G,)`` are taken; the others are counted.

        Raises:
            DataError: there are others, which are to be refused.
        """
        other = ~np.isin(names, self.wanted)
        if self.others == IGNORE or not other.any():
            return np.ones(len(names), bool)
        if self.others == REFUSE:
            found = ", ".join(sorted(set(names[other].tolist())))
            raise DataError(
                f"{self.file}: others is 'refuse', but {int(other.sum()):,} of its objects are others than "
                f"{', '.join(self.wanted)}: {found}. Name them in `category`, or set `others` to background or ignore."
            )
        left_out["objects of other categories"] += int(other.sum())
        return ~other

    def marked(self, objects: Objects) -> Objects:
        """Return objects that are taken, other categories ignored, with a column `category` if there can be several."""
        if self.others == IGNORE:
            objects = objects.replace(ignore=objects.ignore | ~np.isin(objects.category, self.wanted))
        if self.others == IGNORE or len(self.wanted) > 1:
            objects = objects.replace(extras={**objects.extras, "category": objects.category})
        return objects
