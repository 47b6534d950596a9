"""Each plug-in is loaded for its own tests alone, as a recipe that names it would load it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cascade_det.core import registry


@pytest.fixture(scope="module", autouse=True)
def plugin(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Load the plug-in whose ``tests/`` is run and return its file; what it registers is gone afterwards."""
    folder = request.path.parent.parent
    path, modules = folder / f"{folder.name}.py", set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        for owner in registry.ALL:
            owner.names()
            patch.setattr(owner, "_parts", dict(owner._parts))
        registry.load_plugin(path.name, folder)
        yield path
    for name in {name for name in set(sys.modules) - modules if name.startswith("cascade_det_plugin_")}:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: quick beside other work, and the same numbers everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
