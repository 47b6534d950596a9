"""Batches of crops as tensors, and the Lightning data module that delivers them; the ranks of a distributed fit take
disjoint parts of the same batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from cascade_det.core.schema import JitterSection
from cascade_det.core.types import CropTruth
from cascade_det.data.augment import jitter_batch
from cascade_det.data.batch_plan import BatchPlan
from cascade_det.data.shards import Pool
from cascade_det.heads.base import Head


def head_targets(
    heads: Mapping[str, Head], truth: CropTruth, allowed: Mapping[str, NDArray[np.bool_]]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return (target, mask) of each head for a batch; `allowed` ``(B,)`` is what the sources of the rows teach."""
    unknown = dict.fromkeys({name for head in heads.values() for name in head.extras}, np.full(len(truth), ""))
    truth = truth.replace(extras={**unknown, **truth.extras})
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
    """

    def __init__(self, train: Any, val: Dataset[Any] | None, batches_per_epoch: int) -> None:
        super().__init__()
        self._train, self._val = train, val
        self._batches_per_epoch = batches_per_epoch

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        assert trainer is not None
        first = trainer.current_epoch * self._batches_per_epoch
        dataset = self._train((first, self._batches_per_epoch), (trainer.global_rank, trainer.world_size))
        return DataLoader(dataset, batch_size=None, shuffle=False, num_workers=0)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if self._val is None:
            return []
        return DataLoader(self._val, batch_size=None, shuffle=False, num_workers=0)
