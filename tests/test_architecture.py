"""Who may import whom, how long a file may be, and what a plain import and `--help` must not load."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cascade_det

PACKAGE = Path(cascade_det.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
ROOT = "cascade_det"

# A module imports from its own level or a smaller one. The longest name that starts a module's decides.
LEVELS = {
    0: ["", "errors", "core.types", "data.atomic"],
    1: ["core.geometry", "core.nms", "core.imaging"],
    2: ["core", "core.registry", "core.recipe", "core.schema", "core.checks", "core.shipped"],
    3: ["heads", "nets", "samplers", "data", "data.sources", "data.formats", "data.shards", "data.picture_set",
        "data.synthetic", "data.synthetic_drawing", "data.batch_plan"],
    4: ["stages", "cascade", "model_file"],
    5: ["data.augment", "data.loader", "training", "evaluation", "interop", "visual", "report", "deploy",
        "scale", "api"],
    6: ["cli", "testing", "__main__"],
}  # fmt: skip
PACKAGES_ONLY = {"", "core", "data"}  # a level for the package itself, not for what a newcomer puts in it

# numpy is allowed everywhere; here is what else: on loading a module, and inside its functions (or for types alone)
ON_LOADING = {
    "core.imaging": {"cv2", "PIL"},
    "nets": {"torch"},
    "data.formats": {"pycocotools"},
    "data.synthetic": {"cv2"},
    "data.synthetic_drawing": {"cv2"},
    "stages": {"torch"},
    "data.loader": {"torch", "pytorch_lightning"},
    "training.module": {"torch", "pytorch_lightning"},
    "evaluation": {"pycocotools", "scipy"},
    "visual": {"cv2"},
    "cli": {"typer"},
    "testing": {"torch"},
}
INSIDE = {
    "core.nms": {"cv2"},
    "core.recipe": {"omegaconf", "yaml"},  # yaml: the errors of omegaconf's reader
    "heads": {"torch"},
    "data.formats": {"scipy", "yaml"},
    "stages.backends": {"onnxruntime", "openvino"},
    "cascade": {"torch"},
    "model_file": {"safetensors"},
    "data.augment": {"albumentations"},
    "training": {"torch", "pytorch_lightning", "safetensors", "filelock"},
    "training.mining": {"cv2"},
    "training.run_folder": {"filelock", "yaml"},
    "evaluation": {"faster_coco_eval"},
    "evaluation.fddb_regions": {"cv2"},
    "interop": {"torch", "lz4", "joblib"},
    "visual": {"matplotlib"},
    "report": {"jinja2"},
    "deploy": {"torch", "onnx"},
    "scale": {"ray"},
    "cli": {"rich"},
}


def entry(module: str, names: list[str]) -> str | None:
    """Return the longest of `names` that is `module` or a package around it."""
    parts = module.removeprefix(ROOT).removeprefix(".").split(".")
    around = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next((name for name in around if name in names), None)


def level(module: str) -> int | None:
    places = {name: number for number, names in LEVELS.items() for name in names}
    if module == ROOT:
        return places[""]
    name = entry(module, list(places))
    if name is None or (name in PACKAGES_ONLY and module != f"{ROOT}.{name}"):
        return None
    return places[name]


def imports(tree: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield (module, whether it is loaded late) of every import; what is for the type checker alone is late too."""
    for node in ast.iter_child_nodes(tree):
        late = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from ((name, True) for name, _ in imports(node) if not name.startswith(ROOT))
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            deeper = [f"{name}.{alias.name}" for alias in node.names]
            yield from ((inner if inner in MODULES else name, late) for inner in deeper)
        yield from imports(node, late)


def faults(module: str, source: str) -> list[str]:
    """Return every import of a module that the tables above do not allow."""
    own, found = level(module), []
    if own is None:
        return [f"{module} has no level: put it into LEVELS"]
    third_party: dict[bool, set[str]] = {False: {"numpy"}, True: {"numpy"}}
    for table, lates in ((ON_LOADING, (False, True)), (INSIDE, (True,))):
        for name, packages in table.items():
            if entry(module, [name]) is not None:
                for late in lates:
                    third_party[late] |= packages
    for name, late in imports(ast.parse(source)):
        top = name.split(".")[0]
        if top == ROOT:
            target = level(name)
            if target is None or target > own:
                found.append(f"{module} (level {own}) imports {name} (level {target})")
        elif top == "":
            found.append(f"{module} imports {name} relatively")
        elif top not in sys.stdlib_module_names and top not in third_party[late]:
            found.append(f"{module} imports {name} {'inside a function' if late else 'on loading'}")
    return found


@pytest.mark.parametrize("module", list(MODULES))
def test_imports_follow_the_levels(module: str) -> None:
    assert faults(module, MODULES[module].read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("core.types", "", None),
        ("core.types", "from cascade_det.core.geometry import box_area", "level 0.*geometry.*level 1"),
        ("core.types", "from cascade_det.core import geometry", "geometry"),
        ("core.types", "import cascade_det.core.geometry", "geometry"),
        ("core.types", "from . import geometry", "relatively"),
        ("core.types", "def f():\n from cascade_det.cascade import Cascade", r"imports cascade_det\.cascade \(level 4"),
        ("core.recipe", "if TYPE_CHECKING:\n from cascade_det.heads.base import Head", None),
        ("heads.points", "import torch", "torch on loading"),
        ("heads.points", "class A:\n from torch import nn", "torch on loading"),
        ("heads.points", "class A:\n def f(self):\n  from torch import nn", None),
        ("heads.points", "if TYPE_CHECKING:\n import torch", None),
        ("samplers.base", "def f():\n import torch", "torch inside"),
        ("nets.base", "from torch import nn", None),
        ("core.nms", "import cv2", "cv2 on loading"),
        ("core.newcomer", "", "core.newcomer has no level"),
        ("newcomer", "", "newcomer has no level"),
        ("data.newcomer", "", "data.newcomer has no level"),
        ("training.newcomer", "import os, json", None),
        ("training.newcomer", "try:\n import pandas\nexcept ImportError: pass", "pandas"),
    ],
)
def test_the_rule_sees_what_it_should(module: str, source: str, fault: str | None) -> None:
    found = faults(f"{ROOT}.{module}", source)
    assert len(found) == (fault is not None)
    assert fault is None or re.search(fault, found[0])


@pytest.mark.parametrize("module", list(MODULES))
def test_a_file_is_at_most_400_lines(module: str) -> None:
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= 400


def test_there_is_no_drawer_for_everything_else() -> None:
    assert not [path for path in MODULES.values() if path.stem in ("utils", "util", "misc", "helpers", "common_utils")]


def loaded_after(code: str, *packages: str) -> set[str]:
    """Return which of `packages` are loaded in a fresh Python after `code`."""
    report = f"import sys\n{code}\nprint('\\nLOADED', *(p for p in {packages!r} if p in sys.modules))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=300)
    return set(done.stdout.rsplit("LOADED", 1)[1].split())


HEAVY = ("torch", "albumentations", "pytorch_lightning")


@pytest.mark.parametrize(
    ("code", "packages"),
    [
        ("import cascade_det", (*HEAVY, "omegaconf", "cv2", "matplotlib", "pycocotools")),
        ("import cascade_det.core.recipe, cascade_det.core.registry", (*HEAVY, "omegaconf", "cv2")),
        ("from cascade_det import Detections, read_image, register_head, load_recipe", (*HEAVY, "omegaconf")),
        ("from cascade_det.core.registry import HEADS; HEADS.build('box_offset', {}, 'a')", HEAVY),
        ("from cascade_det.cli.app import main; assert main(['--help']) == 0", HEAVY),
    ],
)
def test_heavy_packages_load_late(code: str, packages: tuple[str, ...]) -> None:
    assert loaded_after(code, *packages) == set()


def test_the_probe_sees_a_loaded_package() -> None:
    assert loaded_after("import numpy", "numpy", "torch") == {"numpy"}


def test_the_command_prints_its_help() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="cascade-det")
    assert script.value == "cascade_det.cli.app:main"
    done = subprocess.run(
        [sys.executable, "-m", "cascade_det", "--help"], capture_output=True, text=True, check=True, timeout=300
    )
    for verb in ("train", "detect", "evaluate", "parts"):
        assert verb in done.stdout


def test_every_public_name_resolves() -> None:
    for name in cascade_det.__all__:
        assert getattr(cascade_det, name) is not None
    assert set(cascade_det.__all__) <= set(dir(cascade_det))
    with pytest.raises(AttributeError, match="no attribute 'Cascde'"):
        _ = cascade_det.Cascde
