"""Seconds and peak memory of detection in one huge picture, from reading its file to the result.

    python benchmarks/huge_picture.py [--model mtcnn_face] [--side 12000] [--threads N] [--picture FILE]

Without --picture a square JPEG of drawn pictures side by side is made in a temporary folder. Detection runs in a
process of its own, so that the peak is of loading the model, decoding and detecting alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import print_machine

from cascade_det import Cascade
from cascade_det.core.imaging import write_image
from cascade_det.data.synthetic import Synthetic

_CELL_PX = 600


def draw_mosaic(path: Path, side_px: int) -> None:
    """Write a square JPEG of drawn pictures with faces of 24 to 300 px."""
    across = -(-side_px // _CELL_PX)
    cells = Synthetic(images=across * across, size_hw=(_CELL_PX, _CELL_PX), objects=(2, 8), object_px=(24, 300))
    mosaic = np.empty((across * _CELL_PX, across * _CELL_PX, 3), np.uint8)
    for number in range(across * across):
        top, left = (value * _CELL_PX for value in divmod(number, across))
        mosaic[top : top + _CELL_PX, left : left + _CELL_PX] = cells.read(number)
    write_image(path, np.ascontiguousarray(mosaic[:side_px, :side_px]))


def peak_gib() -> float:
    """Return the peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # Linux counts KiB


def detect(model: str, picture: str, threads: int | None) -> tuple[float, float, float, int]:
    """Return (peak GiB with the model loaded, peak GiB at the end, seconds from file to result, objects)."""
    cascade = Cascade.load(model, device="cpu", threads=threads)
    cascade(np.zeros((64, 64, 3), np.uint8))
    before, begin = peak_gib(), time.perf_counter()
    found = cascade(picture)
    return before, peak_gib(), time.perf_counter() - begin, len(found)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="mtcnn_face")
    parser.add_argument("--side", type=int, default=12_000)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--picture", default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        picture = given.picture
        if picture is None:
            picture = str(Path(folder) / "mosaic.jpg")
            # in a process of its own: a child would count what its parent holds
            draw = multiprocessing.get_context("spawn").Process(target=draw_mosaic, args=(Path(picture), given.side))
            draw.start()
            draw.join()
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            before, peak, seconds, objects = pool.apply(detect, (given.model, picture, given.threads))
        size_mib = Path(picture).stat().st_size / (1 << 20)
    print_machine("torch", "opencv-python-headless")
    print(f"picture: {given.picture or f'{given.side} x {given.side} px, drawn'}, {size_mib:.0f} MiB on disk")
    print(f"seconds: {seconds:.1f}, {objects} objects by {given.model}")
    print(f"peak memory: {peak:.2f} GiB resident, of which {before:.2f} GiB before the picture was read")


if __name__ == "__main__":
    main()
