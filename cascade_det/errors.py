"""Errors that a user can act on.

Every message is one paragraph that names the key, file or argument, its value, the choices and the next action.
The command line prints the message without a traceback and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CascadeError(Exception):
    """Base of all errors that this package raises for a user's mistake."""


class RecipeError(CascadeError):
    """A recipe key, value or part is wrong."""


class DataError(CascadeError):
    """A picture, an annotation file or a source of data is wrong."""


class ModelError(CascadeError):
    """A model file or bundle cannot be used."""


class MiningError(CascadeError):
    """What mining produced cannot train a stage."""


class RunError(CascadeError):
    """A run directory cannot be used as it stands."""


def choices(value: object, known: Iterable[str]) -> str:
    """Return the tail of an error message: a near match if there is one, then all choices.

    >>> choices("refinr", ["proposer", "refiner"])
    "did you mean 'refiner'? Choices: proposer, refiner"
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(value), names, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"{guess}Choices: {', '.join(names) if names else '(none)'}"
