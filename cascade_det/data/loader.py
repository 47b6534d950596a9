"""Batches of crops: which rows form batch number t, and the Lightning data module that delivers them.

The rows of a batch depend on (seed, stage, batch number) alone, so a resumed fit goes on with the very next batch, and
the ranks of a distributed fit take disjoint parts of the same batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from cascade_det.core.schema import JitterSection
from cascade_det.core.types import CropTruth, SampleRole
from cascade_det.data.augment import jitter_batch
from cascade_det.data.shards import Pool
from cascade_det.heads.base import Head

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
        self.counts = _apportion(shares, batch_size)
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


def _apportion(shares: Mapping[str, float], total: int) -> dict[str, int]:
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


def head_targets(
    heads: Mapping[str, Head], truth: CropTruth, allowed: Mapping[str, NDArray[np.bool_]]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return (target, mask) of each head for a batch; `allowed` ``(B,)`` is what the sources of the rows teach."""
    result = {}
    for name, head in heads.items():
        mask = head.teaches(truth)
        narrowed = mask & allowed[name].reshape(-1, *[1] * (mask.ndim - 1))
        result[name] = (torch.from_numpy(head.encode(truth)), torch.from_numpy(narrowed))
    return result


class Batches(Dataset[dict[str, Any]]):
    """Batches number `first` to `first + count` of a pool, as tensors.

    Args:
        pool: the crops.
        plan: their rows by batch.
        heads: heads by name, for the targets.
        teaches: per source the names of the heads it teaches, None for all; empty: every source teaches all.
        jitter: changes of the crops, or None for validation.
        flip_points: ``(K,)``.
        seed: keys of the jitter's chance.
        span: (first batch, number of batches).
        part: (rank, world size): which part of each batch this process takes.
    """

    def __init__(
        self,
        pool: Pool,
        plan: BatchPlan,
        heads: Mapping[str, Head],
        teaches: Sequence[Sequence[str] | None],
        jitter: JitterSection | None,
        flip_points: NDArray[np.intp],
        seed: Sequence[int],
        span: tuple[int, int],
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._pool, self._plan, self._heads = pool, plan, heads
        self._jitter, self._flip_points, self._seed = jitter, flip_points, list(seed)
        self._span, self._part = span, part
        self._table = {
            name: np.array([row is None or name in row for row in teaches] or [True], bool) for name in heads
        }

    def __len__(self) -> int:
        return self._span[1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        batch = self._span[0] + index
        rank, world = self._part
        rows = self._plan.rows(batch)[rank::world]
        pixels, truth = self._pool.pixels(rows), self._pool.truth(rows)
        crops: NDArray[Any] = pixels
        if self._jitter is not None:
            rng = np.random.default_rng([*self._seed, 3, batch, rank])
            crops, truth = jitter_batch(pixels, truth, self._jitter, self._flip_points, rng)
        source = self._pool.column("source")[rows]
        allowed = {name: row[np.minimum(source, len(row) - 1)] for name, row in self._table.items()}
        images = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2)
        return {"images": images, "targets": head_targets(self._heads, truth, allowed)}


class CropData(pl.LightningDataModule):
    """Delivers the batches of one stage; an epoch is the stretch between two validations.

    Args:
        train: makes the dataset of batches (first, count) for (rank, world size).
        val: batches of validation windows, or None.
        batches_per_epoch: length of an epoch.
        workers: loader processes; the batches are the same for any number.
    """

    def __init__(self, train: Any, val: Dataset[Any] | None, batches_per_epoch: int, workers: int = 0) -> None:
        super().__init__()
        self._train, self._val = train, val
        self._batches_per_epoch, self._workers = batches_per_epoch, workers

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        assert trainer is not None
        first = trainer.current_epoch * self._batches_per_epoch
        dataset = self._train((first, self._batches_per_epoch), (trainer.global_rank, trainer.world_size))
        return DataLoader(dataset, batch_size=None, shuffle=False, num_workers=self._workers)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if self._val is None:
            return []
        return DataLoader(self._val, batch_size=None, shuffle=False, num_workers=0)
