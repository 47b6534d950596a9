"""Every plug-in under plugins/ is complete and its recipes build; a package of someone else brings parts by name."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from cascade_det.core import registry
from cascade_det.core.recipe import build_samplers, build_stage, load_recipe

ROOT = Path(__file__).parent.parent
PLUGINS = sorted(path for path in (ROOT / "plugins").iterdir() if path.is_dir() and not path.name.startswith("_"))
RECIPES = [recipe for folder in PLUGINS for recipe in sorted(folder.glob("*.yaml"))]


@pytest.fixture
def own_registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo after the test what plug-ins register and import."""
    for owner in registry.ALL:
        owner.names()
        monkeypatch.setattr(owner, "_parts", dict(owner._parts))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("cascade_det_plugin_"):
            del sys.modules[name]


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plug_in_is_complete(folder: Path) -> None:
    assert (folder / f"{folder.name}.py").is_file()
    assert list((folder / "tests").glob("test_*.py"))
    assert [recipe for recipe in RECIPES if recipe.parent == folder]
    for page in (folder / "README.md", ROOT / "plugins" / "README.md"):
        assert folder.name in page.read_text(encoding="utf-8")
    for recipe in RECIPES:
        if recipe.parent == folder:
            assert recipe.name in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("own_registries")
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_of_a_plug_in_builds(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.plugins == [f"{path.parent.name}.py"]
    for name, section in recipe.stages.items():
        stage = build_stage(recipe, name)
        assert stage.trainable == bool(section.heads) == bool(build_samplers(recipe, name))


PACKAGE = {
    "src/acme_parts/__init__.py": "",
    "src/acme_parts/nets.py": '''
        """One net."""

        import torch
        from torch import nn

        from cascade_det import register_net
        from cascade_det.nets.base import Net


        @register_net("acme_net")
        class AcmeNet(Net):
            """One convolution as large as the window."""

            def __init__(self, window_hw: tuple[int, int], *, channels: int = 8, activation: str = "relu") -> None:
                super().__init__()
                self.out_channels = channels
                self.layers = nn.Sequential(nn.Conv2d(3, channels, window_hw), nn.ReLU())

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return self.layers(images)
        ''',
    "src/acme_parts/loud.py": 'raise SystemExit("imported, although nobody named it")\n',
}
USE = """
import json, sys
from cascade_det.core.recipe import build_stage, load_recipe
from cascade_det.core.registry import NETS

assert "acme_net" not in NETS.names()
recipe = load_recipe("quickstart", "plugins=[acme]", "stages.rnet.net={kind: acme_net, params: {channels: 6}}")
built = build_stage(recipe, "rnet")
print(json.dumps([type(built.runner.network.net).__name__, built.runner.network.net.out_channels,
                  sorted(name for name in sys.modules if name.startswith("acme"))]))
"""


def pyproject() -> str:
    """Return the pyproject.toml that plugins/README.md shows."""
    text = (ROOT / "plugins" / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return block


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the package as a wheel and install it into a folder, both without a network; return the folder."""
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("setuptools and pip, which build the package, are not installed here")
    folder = tmp_path_factory.mktemp("acme")
    for name, text in {**PACKAGE, "pyproject.toml": pyproject()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    steps = [
        ["wheel", "--no-build-isolation", "--wheel-dir", "wheel", "."],
        ["install", "--find-links", "wheel", "--target", "site", "acme-parts"],
    ]
    for step in steps:
        command = [*pip, *step, "--no-deps", "--no-index"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(installed), str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path})


def test_a_package_brings_parts_and_only_what_is_named_is_imported(installed: Path) -> None:
    done = run(installed, "-c", USE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["AcmeNet", 6, ["acme_parts", "acme_parts.nets"]]


@pytest.mark.parametrize(
    ("plugin", "told"),
    [
        ("acme_loud", "plugins: 'acme_loud' cannot be loaded, its code raises SystemExit: imported, although"),
        ("acm", "did you mean 'acme'? Choices: acme, acme_loud"),
    ],
)
def test_what_cannot_be_loaded_is_told(installed: Path, plugin: str, told: str) -> None:
    done = run(installed, "-m", "cascade_det", "parts", "--plugin", plugin)
    assert done.returncode == 2
    assert told in done.stderr.replace("\n", " ")
