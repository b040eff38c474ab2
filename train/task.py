"""The training task for Lightning: loss, metrics, optimiser, schedule."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from rstg_pyg import VideoClassifier
from rstg_pyg.train.assemble import normalise
from rstg_pyg.train.data.skipped import UNREAD
from rstg_pyg.train.schema import Config
from rstg_pyg.train.settings import to_dict


class VideoTask(pl.LightningModule):
    """Classifies videos with cross-entropy.

    Args:
        model: The network.
        config: The experiment.
        total_steps: Optimiser steps of the whole training, for the schedule.
        origin: Which data this is, for the checkpoints.
        label_names: The names of the classes, for the checkpoints.
    """

    def __init__(
        self,
        model: VideoClassifier,
        config: Config,
        total_steps: int,
        origin: str,
        label_names: list[str],
    ):
        super().__init__()
        self.model = model
        self.config = config
        self.total_steps = total_steps
        self.origin = origin
        self.label_names = label_names
        self.train_metrics = self._metrics()
        self.train_metrics.persistent(True)  # half-filled at a checkpoint
        self.eval_metrics = self._metrics()
        self.confusion = MulticlassConfusionMatrix(model.num_classes, validate_args=False)

    def _metrics(self) -> MetricCollection:
        classes = self.model.num_classes
        return MetricCollection(
            {
                "loss": MeanMetric(),
                "top1": MulticlassAccuracy(classes, average="micro"),
                "top5": MulticlassAccuracy(classes, average="micro", top_k=min(5, classes)),
            },
            compute_groups=False,
        )

    def forward(self, clips: Tensor) -> Tensor:
        """Logits of byte clips ``[B, C, T, H, W]`` or ``[B, L, C, T, H, W]``.

        The clips of a video go through the network a few at a time, as many as in training.
        """
        if clips.dim() == 5:
            return self.model(normalise(clips, self.config))
        train = self.config.train
        parts = clips.flatten(0, 1).split(max(train.batch_size // train.accumulate, 1))
        logits = torch.cat([self.model(normalise(part, self.config)) for part in parts])
        return logits.unflatten(0, clips.shape[:2]).mean(dim=1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        clips, labels = batch
        logits = self(clips)
        if _blank(labels):
            return 0 * logits.sum()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.train.label_smoothing)
        _update(self.train_metrics, logits.detach(), labels)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds a batch to the metrics."""
        clips, labels = batch
        _update(self.eval_metrics, self(clips), labels)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds a batch to the metrics and to the confusion matrix."""
        clips, labels = batch
        logits = self(clips)
        _update(self.eval_metrics, logits, labels)
        if not _blank(labels):
            self.confusion.update(logits, labels)

    def on_validation_epoch_start(self) -> None:
        """Starts the metrics afresh."""
        self.eval_metrics.reset()

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics (in the progress bar, too)."""
        values = self.eval_metrics.compute()
        self.log_dict({f"val/{k}": v for k, v in values.items()}, prog_bar=True, logger=True)

    def on_test_epoch_start(self) -> None:
        """Starts the metrics afresh."""
        self.eval_metrics.reset()
        self.confusion.reset()

    def on_test_epoch_end(self) -> None:
        """Computes the metrics, of the videos of all processes."""
        self.test_confusion = self.confusion.compute().cpu().numpy()  # [classes, predicted classes]
        self.test_results = {k: float(v) for k, v in self.eval_metrics.compute().items()}

    def configure_optimizers(self) -> dict[str, Any]:
        """Weight decay on matrices only; warm-up, then cosine or constant."""
        train = self.config.train
        parameters = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": train.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        if train.optimizer == "adamw":
            betas = (train.momentum, train.beta2)
            optimizer = torch.optim.AdamW(groups, lr=self.config.lr, betas=betas)
        else:
            optimizer = torch.optim.SGD(
                groups, lr=self.config.lr, momentum=train.momentum, nesterov=train.momentum > 0
            )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _rate(self, step: int) -> float:
        """The learning rate of a step, as a share of ``train.lr``."""
        train = self.config.train
        warmup = max(1, round(train.warmup * self.total_steps))
        rate = min(1.0, (step + 1) / warmup)
        if train.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.total_steps)))
        return rate

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts config, kind of data and names of the classes beside the weights."""
        checkpoint["config"] = to_dict(self.config)
        checkpoint["origin"] = self.origin
        checkpoint["label_names"] = self.label_names


def _blank(labels: Tensor) -> bool:
    """Whether no video of a batch could be read, see :class:`VideoLoader`."""
    return len(labels) == 1 and int(labels) == UNREAD


def _update(metrics: MetricCollection, logits: Tensor, labels: Tensor) -> None:
    if _blank(labels):
        return
    logits = logits.float()
    losses = F.cross_entropy(logits, labels, reduction="none")
    metrics["loss"].update(losses)
    metrics["top1"].update(logits, labels)
    metrics["top5"].update(logits, labels)
