"""Aligned crops: wherever an object lies in a picture and however it is turned, its upright crop is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import cascade_det
from cascade_det.core.imaging import write_image
from cascade_det.core.recipe import load_recipe
from cascade_det.core.shipped import shipped_names
from cascade_det.visual.alignment import FACE_POINTS, FACE_TEMPLATE, align, alignable, template_of

FACE = np.array(FACE_TEMPLATE)
THREE = np.array([[0.2, 0.3], [0.8, 0.3], [0.5, 0.9]])


def pattern(u: Any, v: Any) -> NDArray[np.uint8]:
    """Return the colours of the object at shares (u, v) of its upright crop: waves that differ along and across."""
    waves = (np.sin(19 * u + 3 * v), np.sin(23 * v - 2 * u), np.sin(13 * u + 11 * v))
    return np.asarray(np.round(127 + 120 * np.stack(waves, axis=-1)), np.uint8)


def upright(size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    v, u = np.meshgrid(*((np.arange(side) + 0.5) / side for side in size_hw), indexing="ij")
    return pattern(u, v)


def scene(
    side: float, angle_deg: float, centre_xy: tuple[float, float], image_hw: tuple[int, int] = (300, 300)
) -> tuple[NDArray[np.uint8], Any]:
    """Return a picture of the object, `side` pixels large, turned about `centre_xy`, and the function to its pixels."""
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    turn = np.array([[cos, -sin], [sin, cos]])
    rows, columns = np.meshgrid(*(np.arange(length) + 0.5 for length in image_hw), indexing="ij")
    local = (np.stack([columns, rows], axis=-1) - centre_xy) @ turn / side + 0.5
    return pattern(local[..., 0], local[..., 1]), lambda unit: (unit - 0.5) * side @ turn.T + centre_xy


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.parametrize(("size_hw", "count"), [((112, 112), 5), ((24, 12), 5), ((8, 8), 3)])
def test_no_objects(size_hw: tuple[int, int], count: int) -> None:
    template = None if count == 5 else THREE
    crops = align(np.zeros((9, 7, 3), np.uint8), np.zeros((0, count, 2)), size_hw, template)
    assert crops.shape == (0, *size_hw, 3)
    assert crops.dtype == np.uint8
    assert alignable(np.zeros((0, count, 2)), template).shape == (0,)


def test_an_object_in_place_is_cut_to_the_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 180, 3), np.uint8)
    assert np.array_equal(cascade_det.align(image, FACE * 112 + [30, 40]), image[40:152, 30:142])


@pytest.mark.parametrize(
    ("side", "angle_deg", "centre_xy"),
    [
        (112, 0, (150, 150)),
        (112, 0, (150.5, 149.5)),
        (112, 30, (150, 140)),
        (112, -75, (141.3, 150.8)),
        (112, 180, (150, 150)),
        (60, 20, (100, 200)),
        (200, -40, (150, 150)),
        (260, 10, (150.25, 150.75)),
    ],
)
@pytest.mark.parametrize("size_hw", [(112, 112), (56, 56)])
def test_turn_size_and_place_do_not_show(
    side: float, angle_deg: float, centre_xy: tuple[float, float], size_hw: tuple[int, int]
) -> None:
    image, place = scene(side, angle_deg, centre_xy)
    crop = align(image, place(FACE), size_hw)
    inside = slice(2, -2)  # a pixel of the frame's edge may lie beyond the small picture
    assert difference(crop[inside, inside], upright(size_hw)[inside, inside]) < 1.5
    shifted = align(
        image, place(FACE + np.array([0.5 / 112, 0])), size_hw
    )  # by half a pixel: the figure above would show it
    assert difference(shifted[inside, inside], upright(size_hw)[inside, inside]) > 2.5


def test_a_crop_that_is_not_square() -> None:
    size_hw = (90, 60)
    image, place = scene(120, 25, (150, 150))
    unit = (THREE - 0.5) * [0.5, 0.75] + 0.5  # where the object has the points that a crop of 60 x 90 shows
    crop = align(image, place(unit), size_hw, THREE)
    assert difference(crop, upright((120, 120))[15:105, 30:90]) < 1.5


def test_large_objects_do_not_alias() -> None:
    rows, columns = np.indices((900, 900))
    checks = np.repeat((255 * ((rows + columns) % 2)).astype(np.uint8)[:, :, None], 3, axis=2)
    crop = align(checks, FACE * 800 + 40.3)
    assert crop.std() < 3
    assert abs(float(crop.mean()) - 127.5) < 2


def test_what_lies_outside_the_picture_is_black() -> None:
    image = np.full((60, 60, 3), 200, np.uint8)
    crop = align(image, FACE * 112 - 56)
    assert (crop[:55] == 0).all()
    assert (crop[:, :55] == 0).all()
    assert (crop[57:, 57:] == 200).all()


def test_objects_do_not_see_each_other() -> None:
    image, place = scene(90, 35, (140, 160))
    rng = np.random.default_rng(1)
    points = place(FACE) + rng.normal(0, 30, (6, 1, 2)) + rng.normal(0, 3, (6, 5, 2))
    together = align(image, points, (40, 48))
    assert together.shape == (6, 40, 48, 3)
    assert len({crop.tobytes() for crop in together}) == 6
    assert np.array_equal(together, np.stack([align(image, one, (40, 48)) for one in points]))
    assert np.array_equal(together[::-1], align(image, points[::-1], (40, 48)))


def test_a_face_in_a_mirror_is_not_mirrored_back() -> None:
    image, place = scene(112, 0, (150, 150))
    mirrored = align(image[:, ::-1], (place(FACE)[[1, 0, 2, 4, 3]]) * [-1, 1] + [300, 0])
    assert difference(mirrored, upright((112, 112))[:, ::-1]) < 6  # the template itself is nearly symmetric
    assert difference(mirrored, upright((112, 112))) > 30


def test_pictures_of_other_kinds(tmp_path: Path) -> None:
    image, place = scene(80, 10, (60, 60), (120, 130))
    write_image(tmp_path / "a.png", image)
    wanted = align(image, place(FACE))
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(image)):
        assert np.array_equal(align(same, place(FACE)), wanted)


GREY = np.zeros((20, 20, 3), np.uint8)
ONE_PLACE = np.full((5, 2), 7.1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((GREY, None), r"got None \(this cascade finds no points\)"),
        ((GREY, FACE[0]), r"points must have shape \(K, 2\) or \(N, K, 2\), got shape \(2,\)"),
        ((GREY, np.zeros((1, 5, 3))), r"got shape \(1, 5, 3\)"),
        ((GREY[..., 0], FACE), "a picture is an"),
        ((GREY.astype(float), FACE), "a picture is an"),
        ((GREY, FACE, (0, 10)), r"size_hw=\(0, 10\) must be a height and a width"),
        ((GREY, FACE, (10.5, 10)), "size_hw"),
        ((GREY, FACE, (10,)), "size_hw"),
        ((GREY, THREE), r"no usual template of 3 points; pass template=.*left_eye"),
        ((GREY, np.zeros((0, 0, 2))), "no usual template of 0 points"),
        ((GREY, THREE, (9, 9), FACE), "template must be 3 finite points"),
        ((GREY, THREE, (9, 9), THREE * np.nan), "template must be 3 finite points"),
        ((GREY, THREE, (9, 9), THREE * 0), "do not all coincide"),
        ((GREY, ONE_PLACE), r"objects \[0\] fix no turn"),
        ((GREY, np.stack([FACE, ONE_PLACE, FACE, FACE * np.inf])), r"objects \[1, 3\] fix no turn"),
    ],
)
def test_refusals(arguments: Any, told: str) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=told):
        align(*arguments)


def test_what_can_be_aligned_is() -> None:
    points = np.stack([FACE * 30, ONE_PLACE, FACE * 30 + 1e6, FACE * 1e-3 + 5])
    assert alignable(points).tolist() == [True, False, True, True]
    crops = align(GREY + 9, points[[0, 2, 3]])
    assert crops[0].any()
    assert not crops[1].any()  # far outside the picture
    assert (crops[2] == 9).all()


@pytest.mark.parametrize("name", shipped_names("recipes", ".yaml"))
def test_shipped_recipes_of_faces_name_the_usual_template(name: str) -> None:
    section = load_recipe(name).object
    usual = template_of(section.points)
    assert (usual is not None) == (tuple(section.points) == FACE_POINTS)
    if usual is not None:
        assert section.align_template is not None
        assert np.abs(np.array(section.align_template) - usual).max() < 1e-6


@pytest.mark.parametrize("names", [[], ["left_eye"], list(FACE_POINTS[::-1])])
def test_other_points_have_no_usual_template(names: list[str]) -> None:
    assert template_of(names) is None
