"""Every registered source passes its check, and each invariant is seen to fail on a source that breaks it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.core.imaging import write_image
from cascade_det.core.registry import SOURCES
from cascade_det.core.types import Annotations
from cascade_det.data.sources import Picture, Source
from cascade_det.data.synthetic import Synthetic
from cascade_det.testing import ContractError, check_source

Make = Callable[[], Any]
Filled = tuple[Source, list[Source]]
COUNTER = itertools.count()


def changed(part: Any, **replaced: Any) -> Any:
    """Return the part with some of its attributes or methods replaced."""
    for name, value in replaced.items():
        setattr(part, name, value)
    return part


def drawn(folder: Path) -> Filled:
    """Return drawn pictures and others: more of them, of another seed, without points."""
    make: Any = SOURCES.get("synthetic")
    small = {"size_hw": [40, 64], "object_px": [12, 30]}
    changes = [{"images": 7}, {"seed": 4}, {"num_points": 0}]
    return make(images=6, **small), [make(**{"images": 6, **small, **change}) for change in changes]


def in_a_coco_file(folder: Path) -> Filled:
    """Return six pictures of a COCO file, and others: with a box moved, with fewer pictures, of another category."""
    rng = np.random.default_rng(0)
    pictures, objects = [], []
    for number in range(6):
        write_image(folder / f"{number}.png", rng.integers(0, 256, (20 + number, 30, 3), np.uint8))
        origin = "web" if number else "own"
        entry = {"id": number, "file_name": f"{number}.png", "height": 20 + number, "width": 30, "origin": origin}
        pictures.append(entry)
        objects += [{"id": 10 * number + i, "image_id": number, "category_id": i % 2 + 1, "bbox": [2 + i, 3, 9, 8],
                     "keypoints": [3, 4, 2, 0, 0, 0]} for i in range(number)]  # fmt: skip
    truth = {
        "images": pictures,
        "annotations": objects,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    objects[0]["bbox"] = [5, 5, 5, 5]
    (folder / "moved.json").write_text(json.dumps(truth))
    make: Any = SOURCES.get("coco")
    given = {
        "images": str(folder),
        "annotations": "truth.json",
        "category": "cat",
        "num_points": 2,
        "base_dir": str(folder),
    }
    changes = [{"annotations": "moved.json"}, {"where": {"origin": ["web"]}}, {"category": "dog"}, {"num_points": 0}]
    return make(**given), [make(**{**given, **change}) for change in changes]


def in_files(folder: Path, kind: str, texts: dict[str, str], given: dict[str, Any], change: dict[str, Any]) -> Filled:
    """Return a source of four pictures and of the texts that annotate them, and another by one parameter."""
    rng = np.random.default_rng(1)
    for number in range(4):
        write_image(folder / "images" / f"{number}.jpg", rng.integers(0, 256, (20 + number, 30, 3), np.uint8))
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    make: Any = SOURCES.get(kind)
    given = {"images": "images", "base_dir": str(folder), **given}
    return make(**given), [make(**{**given, **change})]


def as_backgrounds(folder: Path) -> Filled:
    return in_files(folder, "folder", {}, {}, {"num_points": 1})


def as_wider(folder: Path) -> Filled:
    rows = "".join(f"{n}.jpg\n2\n1 2 9 {9 + n} 0 0 0 0 0 0\n5 5 8 8 0 0 0 1 0 0\n" for n in range(4))
    return in_files(folder, "wider", {"gt.txt": rows}, {"annotations": "gt.txt"}, {"num_points": 2})


def as_fddb(folder: Path) -> Filled:
    rows = "".join(f"{n}\n1\n9 5 1.2 12 1{n} 1\n" for n in range(4))
    return in_files(folder, "fddb", {"list.txt": rows}, {"annotations": "list.txt"}, {"num_points": 2})


def as_celeba(folder: Path) -> Filled:
    rows = "".join(f"{n}.jpg 1 2 9 {9 + n}\n" for n in range(4))
    parts = "".join(f"{n}.jpg {n % 2}\n" for n in range(4))
    texts = {"list_bbox_celeba.txt": f"4\nnames\n{rows}", "list_eval_partition.txt": parts}
    return in_files(folder, "celeba", texts, {"annotations": "."}, {"split": "val"})


def as_voc(folder: Path) -> Filled:
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    items = "".join(f"<object><name>{name}</name>{box}</object>" for name in ("cat", "dog"))
    texts = {f"xml/{n}.xml": f"<annotation>{items}</annotation>" for n in range(4)}
    return in_files(folder, "voc", texts, {"annotations": "xml", "category": "cat"}, {"others": "ignore"})


def as_yolo(folder: Path) -> Filled:
    texts = {f"labels/{n}.txt": f"0 0.5 0.5 0.{n + 1} 0.3\n1 0.2 0.2 0.1 0.1\n" for n in range(4)}
    return in_files(folder, "yolo", texts, {"annotations": "labels", "category": "0"}, {"category": "1"})


def as_lists(folder: Path) -> Filled:
    rows = "".join(f"{n}.jpg 1 2 9 {9 + n}\n" for n in range(4))
    return in_files(folder, "lists", {"list.txt": rows}, {"annotations": "list.txt"}, {"num_points": 1})


FILLED: dict[str, Callable[[Path], Filled]] = {
    "celeba": as_celeba, "coco": in_a_coco_file, "fddb": as_fddb, "folder": as_backgrounds, "lists": as_lists,
    "synthetic": drawn, "voc": as_voc, "wider": as_wider, "yolo": as_yolo,
}  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES.names())
def test_every_source(kind: str, tmp_path: Path) -> None:
    """A new source needs a function in `FILLED` that writes a small set for it."""
    source, others = FILLED[kind](tmp_path)
    objects = sum(len(source.annotations(index)) for index in range(len(source.pictures)))
    assert objects > 3 or kind == "folder"
    check_source(source, others=others)


class ASource(Source):
    """Drawn pictures of which one thing is replaced."""

    def __init__(self, **replaced: Any) -> None:
        self.inner = Synthetic(images=4, size_hw=(40, 64), object_px=(12, 30), objects=(1, 2))
        self.replaced = replaced

    def _changed(self, name: str, value: Any, *arguments: Any) -> Any:
        return self.replaced[name](value, *arguments) if name in self.replaced else value

    @property
    def pictures(self) -> list[Picture]:
        return self._changed("pictures", self.inner.pictures)

    def annotations(self, index: int) -> Annotations:
        return self._changed("annotations", self.inner.annotations(index), index)

    def read(self, index: int) -> Any:
        return self._changed("read", self.inner.read(index), index)

    def content_hash(self, index: int) -> str:
        return self._changed("content_hash", self.inner.content_hash(index))

    def digest(self) -> str:
        return self._changed("digest", self.inner.digest())

    def report(self) -> Any:
        return self._changed("report", {})


class Forgetful(ASource):
    """Comes out of a pickle with another seed behind the same digest."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for place in self.state_lost:
            setattr(self, place, changed_source(place))

    state_lost = ("inner",)


def changed_source(place: str) -> Source:
    inner = Synthetic(images=4, size_hw=(40, 64), object_px=(12, 30), objects=(1, 2))
    other = Synthetic(images=4, size_hw=(40, 64), object_px=(12, 30), objects=(1, 2), seed=0, num_points=0)
    return changed(other, digest=inner.digest)


def box(truth: Annotations, value: list[float]) -> Annotations:
    return truth.replace(boxes=np.tile(np.float32(value), (len(truth), 1)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (object, "is a cascade_det.data.sources.Source"),
        (lambda: ASource(pictures=lambda p: []), "lists no picture"),
        (lambda: ASource(pictures=lambda p: [x.name for x in p]), "must list Picture"),
        (lambda: ASource(pictures=lambda p: [p[0], p[0]]), "share the image_id 1"),
        (lambda: ASource(pictures=lambda p: [Picture(1, "a", (0, 4))]), r"image_hw=\(0, 4\)"),
        (lambda: ASource(pictures=lambda p: [Picture(1, "a", (64, 40))]), r"image_hw=\(64, 40\), it reads as"),
        (lambda: ASource(read=lambda image, i: image[:, :, 0]), r"reads as \(40, 64\) uint8"),
        (lambda: ASource(read=lambda image, i: image / 255), "float64"),
        (lambda: ASource(read=lambda image, index: None), "NoneType"),
        (lambda: ASource(read=lambda image, i: image // (1 + next(COUNTER))), "differently the second time"),
        (lambda: ASource(read=lambda image, index: [][index]), r"read\(0\).* raises IndexError"),
        (lambda: ASource(annotations=lambda t, i: t.boxes), "are a ndarray"),
        (lambda: ASource(annotations=lambda t, i: box(t, [5, 5, 5, 9])), "box 0 of .* finite and positive"),
        (lambda: ASource(annotations=lambda t, i: box(t, [0, 0, np.nan, 9])), "finite and positive"),
        (lambda: ASource(annotations=lambda t, i: t.replace(points=t.points + np.inf)), "point .* not finite"),
        (lambda: ASource(annotations=lambda t, i: t.replace(points_known=~t.points_known)), "must hold 0"),
        (lambda: ASource(annotations=lambda t, i: Annotations.of(t.boxes, i)), "has 1 points an object"),
        (lambda: ASource(annotations=lambda t, i: t.replace(extras={} if i else t.extras)), "extras"),
        (lambda: ASource(annotations=lambda t, i: box(t, [0, 0, 9, 9 + next(COUNTER)])), "differ the second time"),
        (lambda: ASource(content_hash=lambda value: ""), "content_hash .* must be a text"),
        (lambda: ASource(content_hash=lambda value: f"{next(COUNTER)}"), r"content_hash .* is \d+ and then"),
        (lambda: ASource(content_hash=lambda value: "same"), "pictures 0 and 1 differ, yet"),
        (lambda: ASource(digest=lambda value: None), "digest is None"),
        (lambda: ASource(digest=lambda value: f"{next(COUNTER)}"), r"digest is \d+ and then"),
        (lambda: ASource(digest=lambda value: "same"), r"others\[0\] delivers something else"),
        (lambda: ASource(report=lambda value: {"boxes left out": "many"}), "counts by reason"),
        (lambda: ASource(report=lambda value: {}), "a pickled copy .* raises .*lambda"),
        (Forgetful, "a pickled copy of the source has other truth"),
    ],
)  # fmt: skip
def test_a_broken_source(make: Make, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_source(make(), others=[changed(ASource(), digest=lambda: "same")])


def test_a_source_that_is_whole_passes() -> None:
    check_source(ASource())
