"""Pictures of a folder in which there is no object: backgrounds, to learn from what must not be found."""

from __future__ import annotations

import posixpath
from pathlib import Path

from cascade_det.core.registry import register_source
from cascade_det.core.types import MAX_PIXELS
from cascade_det.data.formats.objects import Objects
from cascade_det.data.formats.picture_files import Listed, Parsed, PictureFiles, list_pictures
from cascade_det.data.formats.selection import Where


@register_source("folder")
class Folder(PictureFiles):
    """All pictures of a folder and of the folders in it, without any object.

    Args:
        images: the folder.
        where: keep only pictures whose field `folder`, as seen from `images`, has one of these values.
        where_not: leave out pictures whose field has one of these values.
        num_points: how many points an object has, as far as there is one elsewhere.
        base_dir: folder that relative paths are resolved against.
        max_pixels: a picture of more pixels is refused before it is decoded.

    Raises:
        TypeError: `where` or `where_not` gives no list of values for a field.
    """

    version = 1
    turned_by_exif = True

    def __init__(
        self,
        *,
        images: str,
        where: Where | None = None,
        where_not: Where | None = None,
        num_points: int = 0,
        base_dir: str = ".",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        folder = Path(base_dir) / images
        super().__init__(folder, folder, where=where, where_not=where_not, num_points=num_points, max_pixels=max_pixels)

    def _parse(self) -> Parsed:
        names = list_pictures(self._folder)
        fields = [{"folder": posixpath.dirname(name)} for name in names]
        return self._on_disk(Listed(self._folder, names, fields, Objects.of([], [], self._num_points), "", "pictures"))
