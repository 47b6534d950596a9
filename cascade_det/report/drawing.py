"""Plots and tiles of a report as `data:` addresses, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cascade_det.core.geometry import box_sides
from cascade_det.core.imaging import Resample, Resampler, encode_image, read_image
from cascade_det.data.sources import Source
from cascade_det.errors import DataError
from cascade_det.evaluation.given import Given, corners_of
from cascade_det.evaluation.protocol import Curve
from cascade_det.report.examples import Example
from cascade_det.visual.contact_sheet import FAINT
from cascade_det.visual.drawing import FOUND, IGNORED, TRUTH, Colour, Pixels, dots, frame
from cascade_det.visual.plots import Curve as LoggedCurve
from cascade_det.visual.plots import by_quantity, plot_funnel, plot_scores, plot_training_curves

_TILE_PX = 160
_CONTEXT = 2.2  # side of a tile over the longer side of its box
_SMALLEST_VIEW_PX = 32  # of the picture that a tile shows: less is a blur
_QUALITY = 82
_SHEET_QUALITY = 80
_PANEL_IN = (4.6, 3.6)  # so that letters stay readable on a phone
_TITLES = {
    "precision-recall": "Precision over recall",
    "roc": "ROC: recall over the number of false positives",
    "miss-rate": "Miss rate over false positives per image",
    "ced": "Error of points, cumulated over objects",
}


@dataclass(frozen=True)
class Figure:
    """A picture on the page.

    Attributes:
        address: `data:` address of SVG or JPEG.
        title: what it shows, also read out instead of it.
        lines: below it, the first one standing out; none where the title stands there.
    """

    address: str
    title: str
    lines: tuple[str, ...] = ()


def score_figures(curves: Sequence[Curve]) -> list[Figure]:
    """Return a plot for each kind of curve that a report shows, in the order of the kinds."""
    figures = []
    for kind, title in _TITLES.items():
        chosen = [curve for curve in curves if curve.kind == kind]
        if chosen:
            drawn = io.BytesIO()
            plot_scores(chosen, drawn, "", panel_in=_PANEL_IN)
            figures.append(Figure(_svg(drawn), title))
    return figures


def funnel_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Return the plot of what each stage keeps."""
    drawn = io.BytesIO()
    plot_funnel(rows, drawn)
    return Figure(_svg(drawn), "Recall and candidates by stage")


def training_figures(name: str, curves: Mapping[str, LoggedCurve]) -> list[Figure]:
    """Return a plot for each quantity that was logged while fitting the stage `name`."""
    figures = []
    for quantity, names in by_quantity(curves).items():
        drawn = io.BytesIO()
        plot_training_curves({key: curves[key] for key in names}, drawn, "", x_label="optimizer steps")
        figures.append(Figure(_svg(drawn), f"{name}: {quantity}"))
    return figures


def sheet_figure(path: Path, title: str) -> Figure | None:
    """Return a sheet that a run has drawn, as JPEG; None where the file cannot be read."""
    try:
        sheet = read_image(path)
    except DataError:
        return None
    return Figure(_jpeg(sheet, _SHEET_QUALITY), title)


def tiles(
    examples: Sequence[Example], given: Given, source: Source, index_of: Sequence[int], notes: Sequence[str]
) -> list[Figure]:
    """Return a tile for each example: its surroundings with truth (dashed) and, for a detection, what was found.

    Args:
        examples: of one kind.
        given: detections and truth.
        source: where the pixels are; examples in a picture that can no longer be read are left out.
        index_of: index in the source of each row of pictures.
        notes: a further line for each, "" for none.
    """
    drawn: dict[int, Figure] = {}
    for picture in sorted({example.picture for example in examples}):
        try:
            resampler = Resampler(source.read(index_of[picture]), Resample.area, border_value=FAINT[0])
        except DataError:
            continue
        for place, example in enumerate(examples):
            if example.picture == picture:
                image = _tile(resampler, example, given)
                name = source.pictures[index_of[picture]].name
                drawn[place] = Figure(_jpeg(image, _QUALITY), name, _caption(example, name, notes[place]))
    return [drawn[place] for place in sorted(drawn)]


def _caption(example: Example, name: str, note: str) -> tuple[str, ...]:
    height = f"{example.box_xyxy[3] - example.box_xyxy[1]:.0f} px"
    score = "" if example.score is None else f"{example.score:.2f} · "
    return tuple(line for line in (score + height, note, PurePosixPath(name).name) if line)


def _tile(resampler: Resampler, example: Example, given: Given) -> Pixels:
    """Return ``(160, 160, 3)`` around an example; what the tile is about has a thicker line."""
    box = np.asarray(example.box_xyxy)
    width, height = box_sides(box[None])
    side = max(_CONTEXT * float(max(width[0], height[0])), _SMALLEST_VIEW_PX)
    corner = (box[:2] + box[2:]) / 2 - side / 2
    tile = np.array(resampler.crops(np.concatenate([corner, corner + side])[None], (_TILE_PX, _TILE_PX))[0])
    origin, scale = np.tile(corner, 2), _TILE_PX / side
    objects = np.flatnonzero(given.truth.picture == example.picture)
    for truth, ignored in zip(corners_of(given.truth.boxes_xywh[objects]), given.ignore[objects], strict=True):
        own = example.found is None and np.allclose(truth, box)
        colour: Colour = IGNORED if ignored else TRUTH
        frame(tile, (truth - origin) * scale, colour, 2 if own else 1, dash_px=4)
    if example.found is not None:
        frame(tile, (box - origin) * scale, FOUND, 2)
        flat = given.found.records[example.found].get("keypoints")
        if flat:
            points = (np.asarray(flat, np.float64).reshape(-1, 3)[:, :2] - corner) * scale
            dots(tile, points, np.isfinite(points).all(axis=1), 2)
    return tile


def _svg(drawn: io.BytesIO) -> str:
    data = drawn.getvalue()
    return _address("image/svg+xml", data[data.index(b"<svg") :])  # without the address of its document type


def _jpeg(image: Pixels, quality: int) -> str:
    return _address("image/jpeg", encode_image(image, ".jpg", quality=quality))


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
