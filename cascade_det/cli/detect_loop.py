"""The loop of detect over pictures, which goes on where an earlier run of the same command was cut off."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_det.cli.common import numbered_name, progress_bar, say
from cascade_det.cli.detect_files import DRAWN, JOURNAL, remove_drawings
from cascade_det.errors import DataError

if TYPE_CHECKING:
    from cascade_det.cascade import Cascade
    from cascade_det.cli.crops import CropWriter
    from cascade_det.cli.detect_files import Result
    from cascade_det.evaluation.journal import Journal

    Failures = list[tuple[Path, str]]  # (picture, reason)


def detect_journal(
    folder: Path, files: Sequence[Path], cascade: Cascade, header: Mapping[str, object], options: Mapping[str, Any],
    *, draw: bool, crops: Path | None, resume: bool,
) -> Journal:  # fmt: skip
    """Return the journal of this run; that of an earlier one where `resume` says so, which is told.

    Pictures are taken over up to the first whose drawing or crops are gone.

    Args:
        folder: of `--out`.
        files: all pictures.
        cascade, options: the detector, and `min_object_px` and `score`.
        header: what else decides the results, by the words in which an error names it.
        draw, crops, resume: the flags; `crops` is the folder.

    Raises:
        RunError: what is there is of a run that differs; the message names the difference.
    """
    from cascade_det.data.formats.picture_files import file_size
    from cascade_det.evaluation.journal import Journal, entries_of

    settings = cascade.settings(**options)
    sizes = json.dumps([[str(path.absolute()), file_size(path)] for path in files])
    everything = {
        **header,
        "the threshold of the last stage (--score)": settings[-1].score,
        "the smallest object in px (--min-object)": settings[0].min_object_px,
        "settings of the stages": [asdict(values) for values in settings],
        "--draw": draw,
        "--crops": str(crops.resolve()) if crops else None,
        "PATH (a hash of names and sizes of the pictures)": hashlib.sha256(sizes.encode()).hexdigest()[:16],
    }
    path = folder / JOURNAL
    if not resume:
        dropped = entries_of(path)
        if dropped:
            say(f"{len(dropped):,} pictures of a run that was cut off are done again; --resume takes them over")
            remove_drawings(folder, set(_drawings(dropped)), files)
        return Journal.begin(path, everything)
    journal = Journal.resume(path, everything)
    journal.keep(_whole(journal.entries, folder / DRAWN if draw else None, crops))
    say(f"{len(journal.entries):,} of {len(files):,} pictures are taken over from the run that was cut off")
    return journal


def _drawings(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the name of the drawing of each picture that was read."""
    read = [Path(entry["picture"]) for entry in entries if entry["found"] is not None]
    return [numbered_name(number, path, ".jpg") for number, path in enumerate(read, start=1)]


def _whole(entries: Sequence[Mapping[str, Any]], drawn_in: Path | None, crops: Path | None) -> int:
    """Return how many entries there are before the first of which a file is gone; one that failed has none."""
    drawings = iter(_drawings(entries))
    for index, entry in enumerate(entries):
        drawing = next(drawings) if entry["found"] is not None else None
        if entry["errors"]:
            continue
        drawn = drawn_in is None or drawing is None or (drawn_in / drawing).is_file()
        if not drawn or (crops is not None and not all((crops / line[0]).is_file() for line in entry["crops"])):
            return index
    return len(entries)


def detect_all(
    cascade: Cascade,
    files: Sequence[Path],
    drawn_in: Path | None,
    crops: CropWriter | None,
    options: Mapping[str, Any],
    journal: Journal | None,
) -> tuple[list[Result], Failures]:
    """Return (file, its size, what was found) of each picture, and (file, reason) of each failure.

    A picture that cannot be read has no result; one whose crops or drawing cannot be written has.

    Args:
        cascade, options: the detector, and what it is called with.
        files: the pictures.
        drawn_in: folder for drawings, if any are wanted.
        crops: writes the objects, if they are wanted.
        journal: what is finished, and where what gets finished is noted.
    """
    from cascade_det.evaluation.journal import pack, unpack

    results: list[Result] = []
    errors: Failures = []
    before = journal.entries if journal is not None else []
    with progress_bar("detect", len(files)) as tick:
        for entry in before:
            if entry["found"] is not None:
                height, width = entry["image_hw"]
                results.append((Path(entry["picture"]), (height, width), unpack(entry["found"])))
            errors += [(Path(entry["picture"]), reason) for reason in entry["errors"]]
            tick(1)
        for path in files[len(before) :]:
            written = len(crops.lines) if crops is not None else 0
            left_out = crops.left_out if crops is not None else 0
            result, reasons = _detect_one(cascade, path, len(results) + 1, drawn_in, crops, options)
            results += [result] if result is not None else []
            errors += [(path, reason) for reason in reasons]
            tick(1)
            if journal is not None:
                journal.append(
                    {
                        "picture": str(path),
                        "image_hw": list(result[1]) if result is not None else None,
                        "found": pack(result[2]) if result is not None else None,
                        "errors": reasons,
                        "crops": crops.lines[written:] if crops is not None else [],
                        "crops_left_out": crops.left_out - left_out if crops is not None else 0,
                    }
                )
    return results, errors


def _detect_one(
    cascade: Cascade,
    path: Path,
    number: int,
    drawn_in: Path | None,
    crops: CropWriter | None,
    options: Mapping[str, Any],
) -> tuple[Result | None, list[str]]:
    """Return what was found in a picture, None where it cannot be read, and why anything of it failed."""
    from cascade_det.core.imaging import read_image, write_image
    from cascade_det.visual.drawing import draw

    try:
        image = read_image(path, max_pixels=cascade.recipe.image.max_pixels)
        found = cascade.run([image], **options)[0]
    except DataError as error:
        return None, [str(error)]
    reasons: list[str] = []
    if drawn_in is not None:
        with _listed_if_unwritten(reasons):
            write_image(drawn_in / numbered_name(number, path, ".jpg"), draw(image, found))
    if crops is not None:
        with _listed_if_unwritten(reasons):
            crops.add(number, path, image, found)
    return (path, (image.shape[0], image.shape[1]), found), reasons


@contextlib.contextmanager
def _listed_if_unwritten(reasons: list[str]) -> Iterator[None]:
    """Add to `reasons` where a file cannot be written: that ends no run of a thousand pictures."""
    try:
        yield
    except (DataError, OSError) as error:
        reasons.append(str(error))
