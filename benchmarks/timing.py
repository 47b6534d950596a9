"""What every benchmark prints: the machine, the versions, and medians with their spread of interleaved rounds."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path


def print_machine(*packages: str) -> None:
    """Print processor, cores and versions."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        )
        if Path("/proc/cpuinfo").is_file()
        else iter(()),
        platform.processor() or platform.machine(),
    )
    print(f"machine: {model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}")
    named = ", ".join(f"{name} {version(name)}" for name in ("cascade_det", "numpy", *packages))
    print(f"versions: Python {platform.python_version()}, {named}")


def interleaved(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return seconds by side: after one call that is not counted, all sides in turn, round after round."""
    for call in sides.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return ``median (least to greatest)``."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"
