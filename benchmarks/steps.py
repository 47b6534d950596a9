"""Seconds, pictures a second and peak memory of every step of a training, each in a process of its own.

    python benchmarks/steps.py [RECIPE] [KEY=VALUE ...]

The memory is that of the largest single process of a step: mining has one for each worker, a fit runs in a child.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import print_machine

from cascade_det.core.recipe import load_recipe
from cascade_det.training.plan import Plan, Step


def run(arguments: list[str]) -> tuple[float, float]:
    """Run the command line; return seconds and the peak MiB of its largest process."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "cascade_det", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = process.stderr.read() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(said)
    return time.perf_counter() - begin, usage.ru_maxrss / 1024  # Linux counts KiB


def main() -> None:
    """Print one row a step."""
    name, *overrides = sys.argv[1:] or ["quickstart"]
    print_machine("torch", "pytorch-lightning")
    print(f"recipe: {' '.join([name, *overrides])}")
    with tempfile.TemporaryDirectory() as folder:
        given = [name, *overrides, f"run_dir={folder}/run"]
        plan = Plan(load_recipe(*given))
        print(f"{'step':<16} {'seconds':>8} {'of work':>8} {'pictures/s':>11} {'peak MiB':>9}")
        for step in plan.steps:
            part = ["--stage", step.stage, "--step", step.kind] if step.stage else []
            seconds, peak_mib = run(["train", *given, *part])
            print(f"{step!s:<16} {seconds:>8.0f} {_row(plan, step)} {peak_mib:>9,.0f}", flush=True)


def _row(plan: Plan, step: Step) -> str:
    done = plan.done(step) or {}
    spent = float(done["seconds"])
    path = Path(plan.path(step)) / "report.json"
    images = json.loads(path.read_text())["images"] if path.is_file() else 0
    rate = f"{images / spent:,.0f}" if images and spent else "-"
    return f"{spent:>8.0f} {rate:>11}"


if __name__ == "__main__":
    main()
