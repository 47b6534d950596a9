"""Shipped files are found by name beside a checkout and inside a wheel alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from cascade_det.core import shipped


@pytest.fixture(params=["checkout", "wheel"])
def package(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a made-up package; the folder that is used holds "right.yaml", where the other may hold "wrong.yaml"."""
    package = tmp_path / "cascade_det"
    package.mkdir()
    beside, inside = tmp_path / "recipes", package / "_recipes"
    beside.mkdir()
    (beside / "other.txt").write_text("")
    if request.param == "wheel":
        inside.mkdir()
        (beside / "wrong.yaml").write_text("")
    folder = inside if request.param == "wheel" else beside
    for name in ("right", "another"):
        (folder / f"{name}.yaml").write_text(name)
    (folder / "folder.yaml").mkdir()
    monkeypatch.setattr(shipped, "_PACKAGE", package)
    return package


def test_finds_a_file_by_name(package: Path) -> None:
    found = shipped.find_shipped("recipes", "right", ".yaml")
    assert found is not None
    assert found.read_text() == "right"
    assert found.parent == shipped.shipped_folder("recipes")
    assert {"another", "right"} <= set(shipped.shipped_names("recipes", ".yaml"))
    assert "wrong" not in shipped.shipped_names("recipes", ".yaml")


@pytest.mark.parametrize("name", ["", "wrong", "right.yaml", "../recipes/right", "folder", "."])
def test_other_names_find_nothing(package: Path, name: str) -> None:
    assert shipped.find_shipped("recipes", name, ".yaml") is None


def test_a_kind_that_is_not_shipped(package: Path) -> None:
    assert shipped.shipped_names("models", ".safetensors") == []
    assert shipped.find_shipped("models", "right", ".safetensors") is None


def test_this_installation_ships_recipes() -> None:
    names = shipped.shipped_names("recipes", ".yaml")
    assert names == sorted(names)
    assert "quickstart" in names
    for name in names:
        found = shipped.find_shipped("recipes", name, ".yaml")
        assert found is not None
        assert found.is_file()
