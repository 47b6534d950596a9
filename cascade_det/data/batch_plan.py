"""Which rows of a pool form batch number t: a decision on arrays, keyed by (seed, stage, batch number) alone.

So a resumed fit goes on with the very next batch, and no number of workers or ranks changes what is drawn.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.types import SampleRole

DEFAULT_MIX = {"negative": 3.0, "positive": 1.0, "part": 1.0, "points": 2.0}


class BatchPlan:
    """Decides the rows of every batch.

    Args:
        role: ``(M,)`` roles of the pool's rows.
        batch_size: rows of a batch, over all ranks.
        mix: rows of each role as proportions, "natural" for the pool shuffled as it is, or None for 3:1:1:2. The share
            of a role without rows goes to the others.
        seed: keys of the stream.

    Each role is gone through in a fresh order again and again, without replacement within a pass.
    """

    def __init__(
        self, role: NDArray[Any], batch_size: int, mix: Mapping[str, float] | str | None, seed: Sequence[int]
    ) -> None:
        self._seed = list(seed)
        if mix == "natural":
            wanted: Mapping[str, float] = {"natural": 1.0}
            pools = {"natural": np.arange(len(role))}
        else:
            wanted = DEFAULT_MIX if mix is None or isinstance(mix, str) else mix
            pools = {name: np.flatnonzero(role == SampleRole[name]) for name, share in wanted.items() if share > 0}
        shares = {name: float(wanted[name]) for name, rows in pools.items() if len(rows)}
        self.counts = apportion(shares, batch_size)
        self._pools = {name: pools[name] for name in self.counts}
        self._orders: dict[tuple[str, int], NDArray[np.intp]] = {}

    def rows(self, batch: int) -> NDArray[np.intp]:
        """Return the rows of batch number `batch`, ``(batch_size,)``, in mixed order; none of an empty pool."""
        parts = [np.zeros(0, np.intp)] + [self._take(name, batch * count, count) for name, count in self.counts.items()]
        return self._rng("mix", batch).permutation(np.concatenate(parts))

    def _take(self, name: str, start: int, count: int) -> NDArray[np.intp]:
        size = len(self._pools[name])
        passes = np.arange(start, start + count) // size
        places = np.arange(start, start + count) % size
        parts = [self._order(name, int(n))[places[passes == n]] for n in np.unique(passes)]
        return np.concatenate(parts)

    def _order(self, name: str, number: int) -> NDArray[np.intp]:
        if (name, number) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != name or key[1] >= number - 1}
            self._orders[name, number] = self._rng(name, number).permutation(self._pools[name])
        return self._orders[name, number]

    def _rng(self, name: str, number: int) -> np.random.Generator:
        return np.random.default_rng([*self._seed, zlib.crc32(name.encode()), number])


def apportion(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Split `total` by proportions into whole numbers that add up, at least 1 each (even where `total` is less)."""
    if not shares:
        return {}
    exact = {name: total * share / sum(shares.values()) for name, share in shares.items()}
    counts = {name: max(1, int(value)) for name, value in exact.items()}
    while sum(counts.values()) > max(total, len(counts)):  # the least shares were raised to 1: the largest pays
        counts[max(counts, key=lambda name: counts[name])] -= 1
    by_rest = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in (by_rest * (total + 1))[: max(0, total - sum(counts.values()))]:
        counts[name] += 1
    return counts
