"""Pascal VOC (Everingham et al., IJCV 2010): an XML file for each picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from cascade_det.core.registry import register_source
from cascade_det.core.types import MAX_PIXELS, PICTURE_SUFFIXES
from cascade_det.data.formats.categories import Categories
from cascade_det.data.formats.coco_records import shown
from cascade_det.data.formats.objects import Objects
from cascade_det.data.formats.picture_files import Listed, Parsed, PictureFiles, file_size
from cascade_det.data.formats.text_lines import finite, picture_name, read_lines, read_text
from cascade_det.errors import DataError

_EDGES = ("xmin", "ymin", "xmax", "ymax")
_EXTRAS = ("occluded", "pose", "truncated")
_WHAT = "the folder of the XML files (Annotations)"
_LAYOUT = "the folder of the pictures (JPEGImages), each named as its XML file or as the `filename` in it"


@dataclass(frozen=True, slots=True)
class VocPicture:
    """What one XML file says.

    Attributes:
        filename: as it stands, "" where there is none.
        image_hw: height and width in pixels, None where they are not stated.
        names: the category of each of G objects.
        edges: xmin ymin xmax ymax of each, as they stand.
        difficult: whether each is marked so.
        extras: by name the text of each, "" where it has none.
    """

    filename: str
    image_hw: tuple[int, int] | None
    names: list[str]
    edges: list[list[float]]
    difficult: list[bool]
    extras: Mapping[str, list[str]]


@register_source("voc")
class Voc(PictureFiles):
    """Pictures annotated in Pascal VOC's XML files.

    Args:
        images: folder of the pictures (``JPEGImages``). A picture is found by the name of its XML file or else by the
            `filename` in it; pictures that are not there are left out.
        annotations: folder of the XML files (``Annotations``).
        listed: text file whose lines begin with the names of the XML files to read, without suffix, such as
            ``ImageSets/Main/train.txt``; by default all are read.
        category: name of the category to find, or names; by default the only one or, of several, the object of the
            recipe.
        others: what objects of other categories are: background, ignore, or refuse where there must be none.
        one_based: coordinates count pixels from 1 and include the last one, as in the original: the edges of a box are
            xmin - 1 and xmax. With false they are edges as they stand, as newer tools write them.
        num_points: how many points an object has; none is known here.
        base_dir: folder that relative paths are resolved against.
        object_category: what the recipe calls its object.
        max_pixels: a picture of more pixels is refused before it is decoded.

    An object marked `difficult` is ignored. `extras` are occluded, pose and truncated as texts.

    Raises:
        TypeError, ValueError: a parameter has another form than these, or a value that there is not.
    """

    version = 1

    def __init__(
        self,
        *,
        images: str,
        annotations: str,
        listed: str | None = None,
        category: str | Sequence[str] | None = None,
        others: str = "background",
        one_based: bool = True,
        num_points: int = 0,
        base_dir: str = ".",
        object_category: str = "",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        folder = Path(base_dir) / images
        super().__init__(folder, Path(base_dir) / annotations, num_points=num_points, max_pixels=max_pixels)
        self._listed = None if listed is None else Path(base_dir) / listed
        self._categories = Categories(category, others, object_category)
        self._one_based = one_based

    def _parse(self) -> Parsed:
        digest, pictures = hashlib.sha256(), []
        stems = self._stems()
        for stem in stems:
            file = self._file / f"{stem}.xml"
            text, file_hash = read_text(file, _WHAT)
            digest.update(f"{stem}:{file_hash}".encode())
            pictures.append(parse_voc(text, str(file)))
        edges = np.array([box for own in pictures for box in own.edges], np.float64).reshape(-1, 4)
        objects = Objects.of(
            np.repeat(np.arange(len(pictures)), [len(own.names) for own in pictures]),
            edges - np.array([1, 1, 0, 0]) * self._one_based,
            self._num_points,
            ignore=[flag for own in pictures for flag in own.difficult],
            category=[name for own in pictures for name in own.names],
            extras={key: np.array([v for own in pictures for v in own.extras[key]], np.str_) for key in _EXTRAS},
        )
        return self._on_disk(
            Listed(
                self._folder,
                [self._picture_of(stem, own.filename) for stem, own in zip(stems, pictures, strict=True)],
                [{}] * len(pictures),
                objects,
                digest.hexdigest(),
                _LAYOUT,
                params=[self._one_based],
                sizes_hw=[own.image_hw for own in pictures],
            ),
            self._categories,
        )

    def _stems(self) -> list[str]:
        """Return the XML files to read, relative to their folder and without suffix."""
        if not self._file.is_dir():
            raise DataError(f"{self._file}: no such folder. `annotations` must name {_WHAT}.")
        if self._listed is not None:
            lines, _ = read_lines(self._listed, "`listed`, a text file with the name of an XML file a line")
            return [line.name(line.text.split()[0]) for line in lines]
        stems = sorted(file.relative_to(self._file).with_suffix("").as_posix() for file in self._file.rglob("*.xml"))
        if not stems:
            raise DataError(f"{self._file}: holds no XML file. `annotations` must name {_WHAT}.")
        return stems

    def _picture_of(self, stem: str, filename: str) -> str:
        """Return the name of a picture: of the file named as the XML file, or else of the `filename` in it.

        The latter goes wrong more often: it stays as it was when files are renamed.
        """
        for suffix in dict.fromkeys([Path(filename).suffix or ".jpg", *PICTURE_SUFFIXES]):
            if file_size(self._folder / f"{stem}{suffix}") >= 0:
                return f"{stem}{suffix}"
        return picture_name(f"{self._file / stem}.xml", filename) if filename else f"{stem}.jpg"


def parse_voc(text: str, place: str) -> VocPicture:
    """Return what the text of an XML file says; `place` names it in errors.

    A file with a DOCTYPE is refused before it is parsed: its entities could fill the memory or name other files.

    Raises:
        DataError: it is no XML or not of this form; the message names the object and the value.
    """
    if "<!DOCTYPE" in text:
        raise DataError(f"{place}: has a DOCTYPE, which no annotation needs and which can do harm. Remove it.")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{place}: is no XML ({error}). Correct or remove the file.") from error
    if root.tag != "annotation":
        raise DataError(f"{place}: its top is <{root.tag}>, not <annotation>. `annotations` must name {_WHAT}.")
    names, edges, difficult = [], [], []
    extras: dict[str, list[str]] = {key: [] for key in _EXTRAS}
    for number, item in enumerate(root.iterfind("object"), start=1):
        own = f"{place}: object {number}"
        name = _text(item, "name")
        if not name:
            raise DataError(f"{own} has no <name>. Give it its category.")
        names.append(name)
        edges.append([_number(item, f"bndbox/{edge}", own) for edge in _EDGES])
        difficult.append(_flag(item, "difficult", own))
        for key, texts in extras.items():
            texts.append(_text(item, key))
    return VocPicture(_text(root, "filename"), _size(root, place), names, edges, difficult, extras)


def _text(item: ElementTree.Element, path: str) -> str:
    return (item.findtext(path) or "").strip()


def _number(item: ElementTree.Element, path: str, place: str) -> float:
    value = finite(_text(item, path))
    if value is None:
        raise DataError(f"{place} has <{path}> {shown(_text(item, path))}, which is no finite number. Correct it.")
    return value


def _flag(item: ElementTree.Element, path: str, place: str) -> bool:
    text = _text(item, path)
    if text not in ("", "0", "1"):
        raise DataError(f"{place} has <{path}> {shown(text)}. Choices: 0, 1.")
    return text == "1"


def _size(root: ElementTree.Element, place: str) -> tuple[int, int] | None:
    """Return the stated height and width; None where there are none, or 0 as some tools write for not known."""
    texts = [_text(root, f"size/{side}") for side in ("height", "width")]
    if all(text in ("", "0") for text in texts):
        return None
    if not all(text.isdecimal() and 0 < int(text) <= 1_000_000 for text in texts):
        raise DataError(f"{place}: has <size> of height {shown(texts[0])} and width {shown(texts[1])}. Correct it.")
    return int(texts[0]), int(texts[1])
