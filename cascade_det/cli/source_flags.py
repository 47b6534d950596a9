"""The flags by which verbs name annotated pictures: format, images, annotations, further parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from cascade_det.errors import DataError, RecipeError, choices

if TYPE_CHECKING:
    from cascade_det.data.sources import Source

FormatOption = Annotated[
    str, typer.Option("--format", help="Format of the truth: celeba, coco, fddb, lists, voc, wider or yolo.")
]
ParamOption = Annotated[
    Optional[list[str]],
    typer.Option("--param", metavar="KEY=VALUE", help="A further parameter of the format, such as level=hard."),
]


def source_of(
    data_format: str,
    images: Path,
    annotations: Path | None,
    params: Sequence[str],
    *,
    num_points: int,
    category: str,
    max_pixels: int,
) -> Source:
    """Return the annotated pictures that flags name; all paths start at the current folder.

    Args:
        data_format, images, annotations, params: the flags; `annotations` is None for pictures without any.
        num_points: how many points an object has.
        category: what is to be found, where the annotation has several categories.
        max_pixels: a picture of more pixels is refused before it is decoded.

    Raises:
        RecipeError: there is no such format or parameter.
        DataError: there is no such folder of pictures.
    """
    from cascade_det.core.recipe import plain_values
    from cascade_det.core.registry import SOURCES

    needed = {"images"} if annotations is None else {"images", "annotations"}
    known = [name for name in SOURCES.names() if needed <= set(SOURCES.parameters(name))]
    if data_format not in known:
        raise RecipeError(f"--format {data_format!r}: {choices(data_format, known)}.")
    if not images.is_dir():
        raise DataError(f"--images {images}: no such folder; name the one that the annotations' file names start from.")
    own: dict[str, Any] = {"images": str(images), **({} if annotations is None else {"annotations": str(annotations)})}
    source: Source = SOURCES.build(
        data_format,
        {**plain_values(params), **own},
        f"--format {data_format}",
        num_points=num_points,
        object_category=category,
        base_dir=".",
        max_pixels=max_pixels,
    )
    return source
