"""Backfill: after a good stage few negatives are left for the next; what is missing is cut from earlier pools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.types import SampleRole
from cascade_det.data.shards import Pool
from cascade_det.training.mining import MiningJob, cut_windows


def backfill(
    job: MiningJob,
    folder: Path,
    shards: Sequence[Path],
    earlier: Sequence[Sequence[Path]],
    per_positive: float,
    say: Callable[[str], None],
) -> list[Path]:
    """Cut negatives of earlier pools again at this stage's size until there are `per_positive` for each positive.

    Decided once from the counts of the whole pool, so it does not depend on the number of workers. The pool of the
    stage just before is drawn from first: its negatives are the harder ones.

    Args:
        job: of this stage's mining.
        folder: where the further shards go.
        shards: this stage's own.
        earlier: the shards of each stage before, in order.
        per_positive: negatives wanted for each positive.
        say: writes one line for people.

    Returns:
        The further shards; none where nothing is missing.
    """
    role = Pool(shards).role
    positives, negatives = (int((role == r).sum()) for r in (SampleRole.positive, SampleRole.negative))
    missing = round(positives * per_positive) - negatives
    if missing <= 0 or not earlier:
        return []
    rng = np.random.default_rng([job.recipe.seed, 5, len(earlier)])
    groups = []
    for pool in (Pool(paths) for paths in reversed(earlier)):
        rows = np.flatnonzero(pool.role == SampleRole.negative)
        rows = np.sort(rng.permutation(rows)[:missing])
        missing -= len(rows)
        groups += [(*place, pool.plan(chosen)) for place, chosen in _by_picture(pool, rows)]
    taken = sum(len(plan) for _, _, plan in groups)
    say(f"{job.stage}: {negatives:,} negatives for {positives:,} positives; {taken:,} more are cut from earlier pools")
    return cut_windows(job, folder, groups, lambda done: None)


def _by_picture(pool: Pool, rows: NDArray[np.intp]) -> list[tuple[tuple[int, int], NDArray[np.intp]]]:
    """Group rows by (picture, view), so that each view is made once."""
    if len(rows) == 0:
        return []
    place = pool.column("image")[rows].astype(np.int64) * 1000 + pool.column("view")[rows]
    order = np.argsort(place, kind="stable")
    values, starts = np.unique(place[order], return_index=True)
    parts = np.split(rows[order], starts[1:])
    return [((int(value // 1000), int(value % 1000)), part) for value, part in zip(values, parts, strict=True)]
