"""Parts by name: errors that name both sides, checked parameters, and plug-ins that load only when named."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cascade_det.core import registry
from cascade_det.core.registry import Registry, load_plugin, source_digest
from cascade_det.errors import RecipeError


class Thing:
    """A part with a needed and an optional parameter, given the window by the framework."""

    def __init__(self, window_hw: tuple[int, int], *, size: int, colour: str = "red") -> None:
        if size < 0:
            raise ValueError(f"size={size} must be >= 0")
        self.values = (window_hw, size, colour)


def open_ended(size: int = 1, **more: int) -> tuple[int, dict[str, int]]:
    """Return what it was given."""
    return size, more


@pytest.fixture
def things() -> Registry:
    own = Registry("thing", [])
    own.register("thing")(Thing)
    own.register("open_ended")(open_ended)
    return own


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder on the import path; what plug-ins register and import is undone after the test."""
    for owner in registry.ALL:
        owner.names()
        monkeypatch.setattr(owner, "_parts", dict(owner._parts))
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write_plugin(folder: Path, name: str, part: str = "plug_net") -> Path:
    path = folder / f"{name}.py"
    path.write_text(
        f"from cascade_det import register_net\n\n@register_net({part!r})\ndef make(window_hw):\n    return 1\n"
    )
    return path


def test_an_empty_registry() -> None:
    empty = Registry("thing", [])
    assert empty.names() == []
    with pytest.raises(RecipeError, match=r"kind='a': there is no thing of this name; Choices: \(none\)"):
        empty.get("a")


def test_names_are_sorted_and_found(things: Registry) -> None:
    assert things.names() == ["open_ended", "thing"]
    assert things.get("thing") is Thing


def test_a_taken_name_names_both_modules(things: Registry) -> None:
    things.register("thing")(Thing)  # the same part again, as a reload does
    with pytest.raises(RecipeError) as caught:
        things.register("thing")(Path)
    message = str(caught.value)
    assert f"{__name__}.Thing" in message
    assert f"{Path.__module__}.Path" in message
    assert "another name" in message
    assert things.get("thing") is Thing


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("thng", {}, r"stages\.a\.kind='thng'.*did you mean 'thing'\? Choices: open_ended, thing.*`plugins:`"),
        ("zzz", {}, r"no thing of this name; Choices: open_ended, thing"),
        (
            "thing",
            {"sise": 1},
            r"stages\.a\.params\.sise=1: thing 'thing'.*did you mean 'size'\? Choices: colour, size\.",
        ),
        ("thing", {"window_hw": 1, "size": 1}, r"stages\.a\.params\.window_hw=1.*no such parameter"),
        ("thing", {}, r"stages\.a\.params: thing 'thing' needs size; add it"),
        ("thing", {"size": -1}, r"stages\.a\.params: thing 'thing' refuses .*size=-1 must be >= 0"),
        ("thing", {"size": "x"}, r"stages\.a\.params\.size='x': must be a whole number"),
    ],
)
def test_build_refuses(things: Registry, name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        things.build(name, params, "stages.a", window_hw=(12, 12))


def test_build_gives_what_the_signature_asks_for(things: Registry) -> None:
    made = things.build("thing", {"size": 3}, "a", window_hw=(4, 5), num_points=9)
    assert made.values == ((4, 5), 3, "red")
    assert things.build("open_ended", {"size": 2, "other": 4}, "a", window_hw=(4, 5)) == (2, {"other": 4})


def test_built_in_parts_register_at_the_first_look_up() -> None:
    assert {"classification", "box_offset", "points"} <= set(registry.HEADS.names())
    assert {"mtcnn_pnet", "mtcnn_rnet", "mtcnn_onet"} <= set(registry.NETS.names())
    assert {"iou_bands", "point_windows", "from_cascade"} <= set(registry.SAMPLERS.names())
    assert {"proposer", "refiner"} <= set(registry.STAGES.names())
    assert {"coco", "synthetic"} <= set(registry.SOURCES.names())
    assert "coco" in registry.EVALUATORS.names()


@pytest.mark.parametrize("sampler", ["iou_bands", "from_cascade"])
def test_a_mistyped_band_is_a_mistyped_parameter(sampler: str) -> None:
    with pytest.raises(RecipeError, match=r"a\.params\.positiv=0\.6: .*did you mean 'positive'\? Choices: .*fit_truth"):
        registry.SAMPLERS.build(sampler, {"positiv": 0.6}, "a")
    assert registry.SAMPLERS.build(sampler, {"positive": 0.6}, "a").bands.positive == 0.6


@pytest.mark.parametrize("how", ["file", "absolute file", "module", "entry point"])
def test_a_plug_in_loads_once_when_named(plugins: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    path = write_plugin(plugins, "cascade_plug")
    loads: list[str] = []

    def load() -> None:
        loads.append("loaded")
        registry.NETS.register("plug_net")(open_ended)

    monkeypatch.setattr(registry, "entry_points", lambda group: [SimpleNamespace(name="my_point", load=load)])
    assert "plug_net" not in registry.NETS.names()
    names = {"file": path.name, "absolute file": str(path), "module": "cascade_plug", "entry point": "my_point"}
    for _ in range(2):
        load_plugin(names[how], plugins)
        assert "plug_net" in registry.NETS.names()
    assert bool(loads) == (how == "entry point")


def test_two_plug_ins_of_one_part(plugins: Path) -> None:
    for name in ("one", "two"):
        write_plugin(plugins, name)
    load_plugin("one.py", plugins)
    with pytest.raises(RecipeError, match=r"net 'plug_net' is registered twice: by \S*one\S*make and by \S*two\S*make"):
        load_plugin("two.py", plugins)
    with pytest.raises(RecipeError, match="registered twice"):  # it is not taken for loaded
        load_plugin("two.py", plugins)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.py", r"the file .*absent\.py does not exist.*recipe's folder"),
        ("absent_module", r"'absent_module' cannot be loaded \(No module named.*importable module, a \.py file"),
        ("my_pont", r"did you mean 'my_point'"),
        ("./my_part", r"'\./my_part' cannot be loaded"),
        ("", r"'' cannot be loaded"),
    ],
)
def test_a_missing_plug_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, message: str) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [SimpleNamespace(name="my_point")])
    with pytest.raises(RecipeError, match=message):
        load_plugin(name, tmp_path)


def test_the_digest_follows_version_and_a_plug_ins_source(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plugin(plugins, "first")
    load_plugin("first.py", plugins)
    before = source_digest(registry.NETS.get("plug_net"))
    assert source_digest(registry.NETS.get("plug_net")) == before
    other = write_plugin(plugins, "second", "other_net")
    other.write_text(other.read_text() + "\n# changed\n")
    load_plugin("second.py", plugins)
    assert source_digest(registry.NETS.get("other_net"))[-64:] != before[-64:]
    head = registry.HEADS.get("box_offset")
    assert source_digest(head) == "cascade_det.heads.box_offset.BoxOffset:1"
    monkeypatch.setattr(head, "version", 2)
    assert source_digest(head).endswith(":2")
