"""The LightningModule of one stage: the joint loss of its heads, and validation figures in the field's units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from cascade_det.core.schema import Part
from cascade_det.heads.base import Head, Reduction
from cascade_det.heads.losses import reduce_rows
from cascade_det.stages.network import StageNetwork
from cascade_det.training.optimisation import optimisation


@dataclass(frozen=True)
class HeadLoss:
    """How one head enters the joint loss: alpha_j, and how its rows are reduced."""

    weight: float
    reduction: Reduction
    hardest_share: float


class StageModule(pl.LightningModule):
    """Fits one stage network: min sum_i sum_j alpha_j beta_ij L_ij (Zhang et al. 2016, eq. 4).

    Args:
        network: the net with its heads.
        heads: the heads by name.
        losses: weight and reduction of each head.
        pixels: (mean, scale) of ``(pixel - mean) * scale``.
        optimizer: class of torch.optim with parameters.
        schedule: class of torch.optim.lr_scheduler with parameters.
        lr: peak learning rate.
        steps: length of the fit in optimizer steps.
    """

    def __init__(
        self,
        network: StageNetwork,
        heads: Mapping[str, Head],
        losses: Mapping[str, HeadLoss],
        pixels: tuple[float, float],
        optimizer: Part,
        schedule: Part,
        lr: float,
        steps: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.head_objects = dict(heads)
        self._losses = dict(losses)
        self._pixels = pixels
        self._optimizer, self._schedule, self._lr, self._steps = optimizer, schedule, lr, steps
        self._sums: dict[str, torch.Tensor] = {}
        self._losses_of_epoch: dict[str, list[torch.Tensor]] = {}

    def _raw(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        mean, scale = self._pixels
        outputs = self.network((images.float() - mean).mul_(scale))
        return {name: value.flatten(1) for name, value in outputs.items()}

    def training_step(self, batch: dict[str, Any], batch_index: int) -> torch.Tensor:
        raw = self._raw(batch["images"])
        total = torch.zeros((), device=self.device)
        for name, head in self.head_objects.items():
            target, mask = batch["targets"][name]
            rows = mask if mask.ndim == 1 else mask.any(dim=1)
            how = self._losses[name]
            loss = reduce_rows(head.loss(raw[name], target, mask), rows, how.reduction, how.hardest_share)
            self._note(f"train/{name}_loss", loss)
            total = total + how.weight * loss
        self._note("train/loss", total)
        return total

    def _note(self, name: str, loss: torch.Tensor) -> None:
        """Keep a loss for the epoch's mean: to log each step costs a small network a tenth of its time."""
        self._losses_of_epoch.setdefault(name, []).append(loss.detach())

    def on_train_epoch_end(self) -> None:
        for name, losses in self._losses_of_epoch.items():
            self.log(name, torch.stack(losses).mean(), prog_bar=name == "train/loss")
        self._losses_of_epoch = {}

    def on_validation_epoch_start(self) -> None:
        self._sums = {}

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        raw = self._raw(batch["images"])
        for name, head in self.head_objects.items():
            target, mask = batch["targets"][name]
            told = raw[name][:, : target.shape[1]]  # more columns than targets say how sure these are
            if head.field == "scores":
                self._add(_score_counts(told, target, mask))
            elif head.field == "boxes":
                self._add(_box_overlaps(told, target, mask))
            elif head.field == "points":
                self._add(_point_errors(told, target, mask))

    def _add(self, sums: Mapping[str, torch.Tensor]) -> None:
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=self.device)) + value

    def on_validation_epoch_end(self) -> None:
        sums = {k: self.trainer.strategy.reduce(v, reduce_op="sum") for k, v in self._sums.items()}
        ratios = {
            "val/recall": ("hits", "positives"),
            "val/precision": ("hits", "claims"),
            "val/iou_before": ("iou_before", "boxes"),
            "val/iou_after": ("iou_after", "boxes"),
            "val/point_error": ("point_error", "points"),
        }
        for name, (above, below) in ratios.items():
            if above in sums and float(sums[below]) > 0:
                self.log(name, sums[above] / sums[below], prog_bar=name in ("val/recall", "val/precision"))
        if "hits" in sums:
            f1 = 2 * sums["hits"] / torch.clamp(sums["positives"] + sums["claims"], min=1)
            self.log("val/f1", f1)

    def configure_optimizers(self) -> Any:
        optimizer, schedule = optimisation(self.parameters(), self._optimizer, self._schedule, self._lr, self._steps)
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _score_counts(raw: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    claimed, true = (raw[:, 0] >= 0) & mask, (target[:, 0] > 0.5) & mask
    return {"hits": (claimed & true).sum(), "claims": claimed.sum(), "positives": true.sum()}


def _box_overlaps(raw: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sum the IoU with the truth of the window itself and of the corrected window, in the window's frame."""
    window = torch.tensor([0.0, 0.0, 1.0, 1.0], device=raw.device)
    truth = (target + window)[mask]
    before = _pairwise_iou(window.expand_as(truth), truth).sum()
    after = _pairwise_iou((raw + window)[mask], truth).sum()
    return {"iou_before": before, "iou_after": after, "boxes": mask.sum()}


def _pairwise_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    sides = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    common = sides.prod(dim=1)
    areas = [(c[:, 2:] - c[:, :2]).clamp(min=0).prod(dim=1) for c in (a, b)]
    return common / (areas[0] + areas[1] - common).clamp(min=1e-9)


def _point_errors(raw: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sum the distances of known points in units of the window's side: a stage's own measure, no NME yet."""
    distance = (raw - target).reshape(len(raw), raw.shape[1] // 2, 2).norm(dim=2)
    return {"point_error": (distance * mask).sum(), "points": mask.sum()}
