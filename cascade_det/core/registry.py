"""Six registries of named parts, and the loading of the plug-ins that add to them.

Built-in parts register when their kind is first looked up; a plug-in is imported only when a recipe, a caller or the
command line names it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from cascade_det.errors import CascadeError, RecipeError, choices

ENTRY_POINT_GROUP = "cascade_det.plugins"
_Class = TypeVar("_Class", bound=Callable[..., Any])


class Registry:
    """Parts of one kind by name.

    Args:
        kind: what the parts are, in the words of a recipe ("net", "head", ...).
        builtin_modules: modules that register the parts shipped with this package, imported at the first look-up.
    """

    def __init__(self, kind: str, builtin_modules: Sequence[str]) -> None:
        self.kind = kind
        self._builtin_modules = builtin_modules
        self._parts: dict[str, Callable[..., Any]] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[_Class], _Class]:
        """Return a decorator that adds a class or factory under `name`.

        Raises:
            RecipeError: the name is taken by another module; the message names both.
        """

        def add(part: _Class) -> _Class:
            taken = self._parts.get(name)
            if taken is not None and _origin(taken) != _origin(part):
                raise RecipeError(
                    f"{self.kind} {name!r} is registered twice: by {_origin(taken)} and by {_origin(part)}. "
                    "Give one of them another name."
                )
            self._parts[name] = part
            return part

        return add

    def names(self) -> list[str]:
        """Return all registered names in alphabetical order."""
        self._load_builtin()
        return sorted(self._parts)

    def get(self, name: str, key: str = "kind") -> Callable[..., Any]:
        """Return the part registered under `name`; `key` is the recipe key that an error names.

        Raises:
            RecipeError: there is no such part; the message lists the choices.
        """
        self._load_builtin()
        if name not in self._parts:
            raise RecipeError(
                f"{key}={name!r}: there is no {self.kind} of this name; {choices(name, self._parts)}. "
                "A part of a plug-in needs its plug-in named under `plugins:`."
            )
        return self._parts[name]

    def parameters(self, name: str) -> list[str]:
        """Return the names of what the constructor of a part takes, given by a recipe or by the framework."""
        return list(inspect.signature(self.get(name)).parameters)

    def build(self, name: str, params: Mapping[str, Any], key: str, /, **given: Any) -> Any:
        """Construct the part `name` from a recipe's `params` and from what the framework gives it.

        A constructor receives of `given` only what its signature asks for.

        Args:
            name: the registered name.
            params: values from the recipe, checked against the signature.
            key: the recipe key of the part, named in errors.
            **given: values that the framework knows (window, points, ...); they are no recipe parameters.

        Raises:
            RecipeError: unknown or missing parameter, or a value that the constructor refuses.
        """
        part = self.get(name, f"{key}.kind")
        self.check_params(name, params, key, given)
        accepted = inspect.signature(part).parameters
        try:
            return part(**{k: v for k, v in given.items() if k in accepted}, **params)
        except CascadeError:
            raise
        except Exception as error:  # a constructor, of a plug-in too, may stumble over a wrong value in any way
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RecipeError(f"{key}.params: {self.kind} {name!r} refuses {dict(params)!r}: {reason}") from error

    def check_params(self, name: str, params: Mapping[str, Any], key: str, given: Mapping[str, Any]) -> None:
        """Raise a `RecipeError` where `params` do not fit the signature of the part `name`."""
        accepted = _parameters(self.get(name, f"{key}.kind"))
        open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        own = {
            n: p for n, p in accepted.items() if n not in given and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
        }
        for param, value in params.items():
            if param not in own and not open_ended:
                raise RecipeError(
                    f"{key}.params.{param}={value!r}: {self.kind} {name!r} has no such parameter; "
                    f"{choices(param, own)}."
                )
            if param in own:
                _check_type(f"{key}.params.{param}", value, own[param].annotation)
        missing = [n for n, p in own.items() if p.default is p.empty and n not in params]
        if missing:
            raise RecipeError(f"{key}.params: {self.kind} {name!r} needs {', '.join(missing)}; add it to the recipe.")

    def _load_builtin(self) -> None:
        if not self._loaded:
            self._loaded = True
            for module in self._builtin_modules:
                importlib.import_module(module)


def _parameters(part: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a constructor, with types instead of their names where these can be found."""
    try:
        return inspect.signature(part, eval_str=True).parameters
    except NameError:  # a type that is imported for the type checker alone
        return inspect.signature(part).parameters


_PLAIN: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
    type(None): ((type(None),), "null"),
}


def _check_type(key: str, value: object, annotation: Any) -> None:
    """Raise a `RecipeError` where a parameter is annotated with plain types alone and the value has none of them."""
    wanted = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if not all(isinstance(kind, type) and kind in _PLAIN for kind in wanted):
        return
    fits = [isinstance(value, _PLAIN[kind][0]) and isinstance(value, bool) <= (kind is bool) for kind in wanted]
    if not any(fits):
        raise RecipeError(f"{key}={value!r}: must be {' or '.join(_PLAIN[kind][1] for kind in wanted)}.")


def _origin(part: Callable[..., Any]) -> str:
    return f"{part.__module__}.{part.__qualname__}"


NETS = Registry("net", ["cascade_det.nets.mtcnn"])
HEADS = Registry(
    "head", ["cascade_det.heads.classification", "cascade_det.heads.box_offset", "cascade_det.heads.points"]
)
SAMPLERS = Registry(
    "sampler",
    ["cascade_det.samplers.iou_bands", "cascade_det.samplers.point_windows", "cascade_det.samplers.from_cascade"],
)
STAGES = Registry("stage", ["cascade_det.stages.proposer", "cascade_det.stages.refiner"])
_FORMATS = ("celeba", "coco", "fddb", "folder", "lists", "voc", "wider", "yolo")
SOURCES = Registry(
    "source",
    [
        "cascade_det.data.synthetic",
        *(f"cascade_det.data.formats.{name}" for name in _FORMATS),
    ],
)
EVALUATORS = Registry("evaluator", ["cascade_det.evaluation.coco", "cascade_det.evaluation.protocol_evaluators"])
ALL = (NETS, HEADS, SAMPLERS, STAGES, SOURCES, EVALUATORS)

register_net = NETS.register
register_head = HEADS.register
register_sampler = SAMPLERS.register
register_stage = STAGES.register
register_source = SOURCES.register
register_evaluator = EVALUATORS.register


def load_plugin(name: str, base: Path) -> None:
    """Import one plug-in: an entry point of the group `cascade_det.plugins`, a ``.py`` file or a module.

    Args:
        name: as written in a recipe.
        base: folder that a relative file is resolved against.

    Raises:
        RecipeError: nothing of this name can be imported; the message says what was tried.
    """
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    try:
        if name.endswith(".py"):
            _load_file((base / name).resolve())
        elif name in points:
            points[name].load()
        elif not name or name.startswith("."):
            raise ModuleNotFoundError(f"{name!r} is no module name", name=name)
        else:
            importlib.import_module(name)
    except CascadeError:
        raise
    except (Exception, SystemExit) as error:  # the code of a plug-in may fail in any way, also by ending the program
        if isinstance(error, ModuleNotFoundError) and error.name is not None and name.startswith(error.name):
            raise RecipeError(
                f"plugins: {name!r} cannot be loaded ({error}). Name an importable module, a .py file or an installed "
                f"entry point; {choices(name, points)}."
            ) from error
        raise RecipeError(
            f"plugins: {name!r} cannot be loaded, its code raises {type(error).__name__}: "
            f"{' '.join(str(error).split())}. Mend the plug-in; --debug shows where."
        ) from error


def _load_file(path: Path) -> None:
    module_name = f"cascade_det_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise RecipeError(
            f"plugins: the file {path} does not exist; a path is resolved against the recipe's folder, or the model's."
        )
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise


def source_digest(part: Callable[..., Any]) -> str:
    """Return what keys work done by a part: its module, name, `version` and, outside this package, its source."""
    version = getattr(part, "version", 1)
    text = f"{_origin(part)}:{version}"
    if not part.__module__.startswith("cascade_det."):
        text += hashlib.sha256(inspect.getsource(inspect.getmodule(part) or part).encode()).hexdigest()
    return text
