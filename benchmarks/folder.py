"""Pictures a second and peak memory of `cascade-det detect` on folders of growing size.

    python benchmarks/folder.py PICTURES_DIR [--counts 200 2000] [--model mtcnn_face]

The folders hold links to the same pictures, as many as the smallest count, again and again until there are enough.
Memory is flat where the peak does not grow with their number.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import print_machine


def main() -> None:
    """Print one row a size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--model", default="mtcnn_face")
    given = parser.parse_args()
    print_machine("torch", "opencv-python-headless")
    files = sorted(path for path in given.pictures.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    if not files:
        raise SystemExit(f"{given.pictures}: holds no .jpg or .png")
    files = files[:: max(1, len(files) // min(given.counts))][: min(given.counts)]
    for count in given.counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "pictures"
            folder.mkdir()
            for number in range(count):
                path = files[number % len(files)]
                (folder / f"{number:06d}{path.suffix}").symlink_to(path.resolve())
            command = [
                sys.executable,
                "-m",
                "cascade_det",
                "detect",
                given.model,
                str(folder),
                "--out",
                f"{name}/found",
            ]
            begin = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        rate, peak = count / seconds, usage.ru_maxrss / 1024  # Linux counts KiB
        print(
            f"{count:,} pictures: exit {process.returncode}, {seconds:.0f} s, {rate:.1f} a second, peak {peak:,.0f} MiB"
        )


if __name__ == "__main__":
    main()
