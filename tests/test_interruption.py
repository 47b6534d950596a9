"""Ctrl-C, SIGTERM and kill -9 at random moments of every step: the same command ends with the very same model."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# small pictures and short fits, but several shards and several checkpoints, so that there is unfinished work to keep
OVERRIDES = [
    "mine.shard_images=6", "mine.workers=2", "mine.val_images=6", "mine.backfill=1", "train.validations=4",
    "stages.pnet.train.samples=40_000", "stages.rnet.train.samples=6_000",
]  # fmt: skip
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
STEPS = ["pnet/mine", "pnet/fit", "pnet/calibrate", "rnet/mine", "rnet/fit", "rnet/calibrate", "evaluation"]
STEP = re.compile(r"^\[(\d+)/7\] (pnet|rnet|evaluate).*?(done before|: \d+ s)?$")


def start(recipe: Path, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start the command in a process group of its own with Ctrl-C heeded, as a terminal does."""
    command = [sys.executable, "-m", "cascade_det", "train", str(recipe), f"run_dir={folder}", *OVERRIDES]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # `nohup` and a shell's `&` leave it ignored to all below
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def await_step(process: subprocess.Popen[bytes], log: Path, number: int) -> bool:
    """Wait until the run begins with step `number` or a later one; say whether it did so before it ended."""
    while process.poll() is None:
        begun = [m for line in log.read_text().splitlines() if (m := STEP.match(line)) and not m[3]]
        if any(int(m[1]) >= number for m in begun):
            return True
        time.sleep(0.02)
    return False


def stop(process: subprocess.Popen[bytes], kind: signal.Signals) -> None:
    """Send a signal as users do: Ctrl-C to the whole group, the others to the one process that they know."""
    if kind == signal.SIGINT:
        os.killpg(process.pid, kind)
    else:
        process.send_signal(kind)
    process.wait(timeout=60)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_21_interruptions_change_nothing(tiny_recipe: object, tmp_path: Path) -> None:
    recipe = tiny_recipe()  # type: ignore[operator]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert start(recipe, whole, tmp_path / "whole.log").wait() == 0, (tmp_path / "whole.log").read_text()

    rng, codes = random.Random(0), []
    for number, step in enumerate(STEPS, start=1):
        seconds = json.loads((whole / step / "done.json").read_text())["seconds"]
        for kind in SIGNALS:
            log = tmp_path / f"{number}-{kind.name}.log"
            if step == STEPS[-1]:  # a second long: where it ended before its signal there is nothing left to interrupt
                (stopped / step / "done.json").unlink(missing_ok=True)
            process = start(recipe, stopped, log)
            assert await_step(process, log, number), log.read_text()
            time.sleep(rng.uniform(0, seconds / 3))  # the three together end about where the step does
            stop(process, kind)
            codes.append(process.returncode)
            text = log.read_text()
            ended = "\nmodel: " in text  # the last line: a signal after it meets an interpreter that shuts down
            if kind != signal.SIGKILL and process.returncode != 0 and not ended:
                assert process.returncode == 130, text
                assert "interrupted; the same command goes on where it stopped" in text
                assert "Traceback" not in text
    assert sum(code != 0 for code in codes) >= 20

    last = tmp_path / "last.log"
    assert start(recipe, stopped, last).wait() == 0, last.read_text()
    assert (stopped / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    scores = [json.loads((folder / "metrics.json").read_text())["AP50"] for folder in (whole, stopped)]
    assert scores[0] == scores[1]
