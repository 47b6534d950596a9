"""The report on a pool before a stage is fitted on it: counts, coverage, mix, size, a sheet of windows, and refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascade_det.core.imaging import write_image
from cascade_det.core.schema import Recipe
from cascade_det.core.types import CropTruth, SampleRole
from cascade_det.data.batch_plan import DEFAULT_MIX
from cascade_det.data.shards import Pool, read_manifest
from cascade_det.errors import MiningError
from cascade_det.visual.contact_sheet import window_sheet

_SHEET_ROWS = 48
ROLE_ORDER = ("positive", "part", "negative", "points")


def mining_report(shards: Sequence[Path], mix: Mapping[str, float] | str | None, samples: int = 0) -> dict[str, Any]:
    """Return rows by role, covered objects, whether the mix is reachable, and the size on disk in MiB.

    Args:
        shards: the pool, backfill included.
        mix: as `BatchPlan` takes it.
        samples: length of the fit; "passes" says how often it goes through the rows of each role.
    """
    manifests = [read_manifest(folder) for folder in shards]
    rows = {name: sum(m["roles"].get(name, 0) for m in manifests) for name in ROLE_ORDER}
    objects = sum(m["objects"] for m in manifests)
    covered = sum(m["covered"] for m in manifests)
    size = sum(file.stat().st_size for folder in shards for file in folder.iterdir())
    asked = {name: share for name, share in mix.items() if share > 0} if isinstance(mix, Mapping) else {}
    wanted = rows if isinstance(mix, str) else asked or DEFAULT_MIX
    shares = {name: share for name, share in wanted.items() if rows.get(name)}
    return {
        "images": sum(m["images"] for m in manifests),
        "skipped_images": sum(m["skipped"] for m in manifests),
        "rows": rows,
        "objects": objects,
        "objects_covered": covered / objects if objects else None,
        "roles_without_rows": [name for name in asked if not rows.get(name)],
        "passes": {n: round(samples * s / sum(shares.values()) / rows[n], 2) for n, s in shares.items()},
        "size_mib": round(size / 2**20, 1),
    }


def write_sheet(
    path: Path, shards: Sequence[Path], recipe: Recipe, stage: str, *, rows: int = _SHEET_ROWS, origin: str = ""
) -> None:
    """Write a contact sheet of at most `rows` random windows of each role, with their truth drawn."""
    pool = Pool(shards)
    rng = np.random.default_rng([recipe.seed, 4])
    chosen = {}
    for name in ROLE_ORDER if len(pool) else ():
        every = np.flatnonzero(pool.role == SampleRole[name])
        shown = np.sort(rng.permutation(every)[:rows])
        chosen[f"{name}, {len(every):,} in all, shown"] = (
            pool.pixels(shown),
            _in_crop(pool.truth(shown), recipe.stages[stage].context),
        )
    write_image(path, window_sheet(chosen, heading=f"windows mined for {stage}" + (f" ({origin})" if origin else "")))


def _in_crop(truth: CropTruth, context: float) -> CropTruth:
    """Return truth told relative to windows as shares of their crops, which are `context` times as wide and high."""
    return truth.replace(box=(truth.box - 0.5) / context + 0.5, points=(truth.points - 0.5) / context + 0.5)


def lines(stage: str, report: Mapping[str, Any]) -> list[str]:
    """Return the report as lines for people."""
    rows = ", ".join(f"{name} {count:,}" for name, count in report["rows"].items())
    covered = report["objects_covered"]
    text = [f"{stage}: mined {report['images']:,} pictures, {report['size_mib']:,} MiB: {rows}"]
    if covered is not None:
        text.append(f"{stage}: {covered:.1%} of {report['objects']:,} objects teach in at least one window")
    if any(report["passes"].values()):
        often = ", ".join(f"{name} {passes:.1f}" for name, passes in report["passes"].items())
        text.append(f"{stage}: passes of the fit through the rows of each role: {often}")
    if report["roles_without_rows"]:
        text.append(f"{stage}: no rows for {', '.join(report['roles_without_rows'])}; their share goes to the others")
    if report["skipped_images"]:
        text.append(f"{stage}: skipped {report['skipped_images']} unreadable pictures")
    return text


def refuse_poor(stage: str, report: Mapping[str, Any], recipe: Recipe) -> None:
    """Raise a `MiningError` where the pool is too small to fit a stage that learns to score."""
    rows = report["rows"]
    floors = {"positive": recipe.mine.min_positives, "negative": recipe.mine.min_negatives}
    for name, floor in floors.items():
        if rows[name] < floor:
            other = "positive" if name == "negative" else "part"
            raise MiningError(
                f"stage {stage!r}: {rows[name]} {name} rows were mined, below mine.min_{name}s={floor} "
                f"({rows[other]} {other} rows). Look at mined.png; add pictures, raise the sampler's tries or caps, "
                f"lower the stage before's mining threshold (calibrate.mine_recall closer to 1), or lower the floor."
            )
