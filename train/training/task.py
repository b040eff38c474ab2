"""The training task for Lightning: loss, metrics, optimizer, schedule."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MultilabelAveragePrecision,
)
from torchmetrics.utilities import dim_zero_cat
from torchvision import tv_tensors
from torchvision.transforms import v2

from rstg_pyg import VideoClassifier
from rstg_pyg.train.build import freeze, normalize
from rstg_pyg.train.config import Config, to_dict
from rstg_pyg.train.data.boxes import BoxedClip
from rstg_pyg.train.data.loaders import VideoLoader, video_names
from rstg_pyg.train.data.skipped import UNREAD, gathered
from rstg_pyg.train.errors import NonFiniteError, some
from rstg_pyg.train.run_folder.predictions import Tested, true_classes

_MOST_NAMES = 16  # videos in a message
_SAMPLES = 8  # clips of the test that are drawn


class VideoTask(pl.LightningModule):
    """Classifies videos with cross-entropy; with several labels per video, a sigmoid and binary
    cross-entropy for each class.

    Args:
        model: The network.
        config: The experiment.
        total_steps: Optimizer steps of the whole training, for the schedule.
        origin: A description of the data, stored in checkpoints.
        label_names: The class names, stored in checkpoints.
        multi_label: Whether videos have several labels.

    Attributes:
        score (str): The metric by which networks are compared: ``"top1"``, or with several labels
            per video the mean average precision ``"mAP"``.
        videos (str, optional): Which videos it is trained with, stored in checkpoints.

    Batches are ``(clips, labels)``, from a :class:`VideoLoader` or any ``DataLoader``. Labels are
    classes ``[B]`` or, with several per video, zeros and ones ``[B, num_classes]``.
    """

    def __init__(
        self,
        model: VideoClassifier,
        config: Config,
        total_steps: int,
        origin: str,
        label_names: list[str],
        multi_label: bool = False,
    ):
        super().__init__()
        train, classes = config.train, model.num_classes
        freeze(model, train.freeze)
        self.model = model
        self.config = config
        self.total_steps = total_steps
        self.origin = origin
        self.label_names = label_names
        self.multi_label = multi_label
        self.score = "mAP" if multi_label else "top1"
        self.videos: str | None = None
        self.train_metrics = self._metrics()
        self.train_metrics.persistent(True)  # partly accumulated at a checkpoint
        self.eval_metrics = self._metrics()
        # validate_args would read back from the device.
        if multi_label:
            self.precision = _Precision(classes, average="none", validate_args=False)
        self.confusion = MulticlassConfusionMatrix(classes, validate_args=False)
        self.class_weights: Tensor | None = None  # in the loss
        alphas = {v2.MixUp: train.mixup, v2.CutMix: train.cutmix}
        mixes = [mix(alpha=a, num_classes=classes) for mix, a in alphas.items() if a]
        self.mix = v2.RandomChoice(mixes) if mixes else None
        self.samples: list[tuple[Tensor, Tensor, Tensor]] = []  # of the test
        self.predicted: list[tuple[list[int], Tensor, Tensor, Tensor]] = []  # of the test, per batch
        self.finite: list[Tensor] = []  # whether the losses of an evaluation are finite, per batch

    def _metrics(self) -> MetricCollection:
        classes, five = self.model.num_classes, min(5, self.model.num_classes)
        found: dict[str, Any] = {"loss": MeanMetric(nan_strategy="disable")}  # NaN must not be ignored
        if not self.multi_label:
            for name, k in (("top1", 1), ("top5", five)):
                found[name] = MulticlassAccuracy(classes, k, "micro", validate_args=False)
        return MetricCollection(found, compute_groups=False)

    def forward(self, clips: Tensor | BoxedClip) -> Tensor:
        """Logits of ``uint8`` clips ``[B, C, T, H, W]`` or ``[B, L, C, T, H, W]``, perhaps with boxes.

        Clips go through the network in batches of the same size as in training.
        """
        clips, *boxes = clips if isinstance(clips, BoxedClip) else (clips,)
        if clips.dim() == 5:
            return self._logits(clips, *boxes)
        train = self.config.train
        count = max(train.batch_size // train.accumulate, 1)
        parts = zip(*(each.flatten(0, 1).split(count) for each in (clips, *boxes)))
        logits = torch.cat([self._logits(*part) for part in parts])
        return logits.unflatten(0, clips.shape[:2]).mean(dim=1)

    def _logits(self, clips: Tensor, *boxes: Tensor) -> Tensor:
        clips = normalize(clips, self.config)
        return self.model(clips, boxes=boxes[0]) if boxes else self.model(clips)

    def loss(self, clips: Tensor | BoxedClip, labels: Tensor) -> Tensor:
        """The loss of a batch."""
        return self._loss(self(clips), labels)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss for classes ``[B]``, or for shares of classes ``[B, num_classes]``."""
        if _blank(labels):
            return 0 * logits.sum()
        smoothing, weight = self.config.train.label_smoothing, self.class_weights
        if self.multi_label:
            labels = labels * (1 - smoothing) + smoothing / 2
            return F.binary_cross_entropy_with_logits(logits, labels, weight)
        how: dict[str, Any] = {"label_smoothing": smoothing, "reduction": "none"}
        # torch's mean is divided by the weights of the batch, which may be a part of one, or one video.
        return F.cross_entropy(logits, labels, weight, **how).mean()

    def on_train_start(self) -> None:
        """Counts the training videos of the classes, if the loss is to be balanced."""
        if self.config.train.class_weights is not None:
            labels = self.trainer.train_dataloader.dataset.labels
            counts = (
                labels.sum(0) if self.multi_label else labels.bincount(minlength=len(self.label_names))
            )
            weights = counts.sum() / (len(counts) * counts.clamp(min=1))
            self.class_weights = weights.to(self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        clips, labels = batch
        targets = labels
        if self.mix is None or _blank(labels):
            logits = self(clips)
        else:
            videos = tv_tensors.Video(normalize(clips, self.config).transpose(1, 2))
            videos, targets = self.mix(videos, labels)
            logits = self.model(videos.as_subclass(Tensor).transpose(1, 2))
        self._update(self.train_metrics, logits.detach(), labels)
        return self._share(labels) * self._loss(logits, targets)

    def _share(self, labels: Tensor) -> Tensor | int:
        """The weight of this process's loss, so that the mean of the gradients of all processes is the
        mean over the videos that could be read.
        """
        if getattr(self.config.data, "on_error", "raise") != "skip" or self.trainer.world_size == 1:
            return 1
        count = torch.tensor(0.0 if _blank(labels) else float(len(labels)), device=self.device)
        total = self.trainer.strategy.reduce(count.clone(), reduce_op="sum")
        return count * self.trainer.world_size / total.clamp(min=1)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds a batch to the metrics."""
        self._evaluate(batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds a batch to the metrics, the confusion and the predictions, and keeps some clips."""
        logits = self._evaluate(batch)
        if _blank(batch[1]):
            return
        if not self.multi_label:
            self.confusion.update(logits, batch[1])
        batches = sum(self.trainer.num_test_batches)
        clips, labels = batch
        scores = logits.float().sigmoid() if self.multi_label else logits.float().softmax(-1)
        if isinstance(loader := self.trainer.test_dataloaders, VideoLoader):
            self.predicted.append((loader.items(batch_idx), labels, *scores.max(dim=-1)))
        clips = clips.clip if isinstance(clips, BoxedClip) else clips
        pictures = clips.dtype == torch.uint8  # not features of skeletons
        if pictures and batch_idx % -(-batches // _SAMPLES) == 0:
            for clip, label, score in zip(clips, labels, scores[: -(-_SAMPLES // batches)]):
                clip = clip if clip.dim() == 4 else clip[0]  # of several clips per video, the first
                self.samples.append((clip.cpu(), label.cpu(), score.cpu()))

    def _evaluate(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        clips, labels = batch
        logits = self(clips)
        self.finite.append(self._update(self.eval_metrics, logits, labels).isfinite().all())
        if self.multi_label:
            # A process without a video takes part in the exchange, too: of no rows.
            found, labels = (logits[:0], logits[:0]) if _blank(labels) else (logits, labels)
            # Otherwise torchmetrics takes batches with all logits in 0 to 1 for probabilities.
            self.precision.update(found.double().sigmoid(), labels.long())
        return logits

    def _update(self, metrics: MetricCollection, logits: Tensor, labels: Tensor) -> Tensor:
        """Updates the metrics with a batch; returns the losses of the videos that could be read."""
        if _blank(labels):
            return logits.new_zeros(0)
        logits = logits.float()
        if self.multi_label:
            losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)
        else:
            losses = F.cross_entropy(logits, labels, reduction="none")
            metrics["top1"].update(logits, labels)
            metrics["top5"].update(logits, labels)
        metrics["loss"].update(losses)
        return losses

    def _begin_evaluation(self) -> None:
        self.eval_metrics.reset()
        self.finite = []
        if self.multi_label:
            self.precision.reset()

    def _results(self, what: str, loader: Any) -> dict[str, float]:
        """The metrics of the videos of all processes.

        Raises:
            NonFiniteError: If the network's output is not finite.
        """
        values = {k: float(v) for k, v in self.eval_metrics.compute().items()}
        if not math.isfinite(values["loss"]):
            broken = [number for number, finite in enumerate(self.finite) if not finite]
            where = f"\nthe first batch: {batch_names(loader, 1, broken[0])}" if broken else ""
            raise NonFiniteError(
                f"{what} after step {self.trainer.global_step}: the loss is {values['loss']}, in "
                f"{len(broken)} of {len(self.finite)} batches{where}"
            )
        if self.multi_label:
            self.class_precision = self.precision.compute().reshape(-1).cpu()
            values["mAP"] = float(self.class_precision.nanmean())
        return values

    def on_validation_epoch_start(self) -> None:
        """Starts the metrics afresh."""
        self._begin_evaluation()

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics (in the progress bar, too)."""
        values = self._results("validation", self.trainer.val_dataloaders)
        # Meter passes them to the loggers, with the step number.
        self.log_dict({f"val/{k}": v for k, v in values.items()}, prog_bar=True, logger=False)

    def on_test_epoch_start(self) -> None:
        """Starts the metrics afresh."""
        self._begin_evaluation()
        self.confusion.reset()
        self.samples, self.predicted = [], []

    def on_test_epoch_end(self) -> None:
        """Computes the metrics, of the videos of all processes."""
        if not self.multi_label:
            classes = self.model.num_classes  # torchmetrics returns a scalar for one class
            self.test_confusion = self.confusion.compute().reshape(classes, classes).cpu().numpy()
        self.test_results = self._results("test", self.trainer.test_dataloaders)
        rows: list[Tested] = []
        for items, labels, scores, best in self.predicted:
            columns = (map(true_classes, labels.cpu()), best.tolist(), scores.tolist())
            rows += (Tested(*row) for row in zip(items, *columns, strict=True))
        self.test_predictions = sorted(row for part in gathered(rows) for row in part)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer, with weight decay on matrices only (biases may be stacked to one: TRN's, those
        of positions in Swin) and the backbone's own rate, if it has one, and the schedule: warm-up,
        then cosine, constant or in steps.
        """
        train = self.config.train
        trained = [p for p in self.parameters() if p.requires_grad]
        parts = [(trained, self.config.lr)]
        if train.backbone_lr is not None:
            backbone = set(self.model.backbone.parameters())
            scale = self.config.lr / train.lr
            parts = [([p for p in trained if p not in backbone], self.config.lr)]
            parts += [([p for p in trained if p in backbone], train.backbone_lr * scale)]
        biases = {p for name, p in self.named_parameters() if "bias" in name.rpartition(".")[2]}
        groups: list[dict[str, Any]] = []
        for parameters, lr in parts:
            matrices = [p for p in parameters if p.dim() > 1 and p not in biases]
            vectors = [p for p in parameters if p.dim() <= 1 or p in biases]
            groups += [{"params": matrices, "lr": lr, "weight_decay": train.weight_decay}]
            groups += [{"params": vectors, "lr": lr, "weight_decay": 0.0}]
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
        """The learning rate of a step, as a fraction of the highest."""
        train = self.config.train
        warmup = max(1, round(train.warmup * self.total_steps))
        rate = min(1.0, (step + 1) / warmup)
        if train.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.total_steps)))
        elif train.schedule == "multistep":
            rate *= 0.1 ** sum(step >= part * self.total_steps for part in train.milestones)
        return rate

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores config, data description and classes in the checkpoint."""
        checkpoint["config"] = to_dict(self.config)
        checkpoint["origin"] = self.origin
        checkpoint["label_names"] = self.label_names
        checkpoint["multi_label"] = self.multi_label
        checkpoint["videos"] = self.videos


class _Precision(MultilabelAveragePrecision):
    """The average precision of every class, ``[num_classes]``; NaN for one without videos."""

    def compute(self) -> Tensor:
        """The average precisions of the videos of all processes."""
        there = dim_zero_cat(self.target).sum(dim=0) > 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchmetrics says so, and gives zero
            return super().compute().where(there, torch.nan)


def batch_names(loader: Any, count: int, number: int | None = None) -> str:
    """The names of the videos in some batches, for messages.

    Args:
        loader: The loader. Only a :class:`VideoLoader` knows the names.
        count: The number of batches.
        number: The index of the first batch. (default: the most recent batches)
    """
    if not isinstance(loader, VideoLoader):
        return "unknown (the loader is not a VideoLoader)" if number is None else f"number {number}"
    first = loader.step - count if number is None else number
    visits = torch.cat([loader.visits(first + i) for i in range(count)]).tolist()
    return some(video_names(loader.dataset, visits), _MOST_NAMES)


def _blank(labels: Tensor) -> bool:
    """Whether no video of a batch could be read, see :class:`VideoLoader`."""
    return labels.dim() == 1 and len(labels) == 1 and int(labels) == UNREAD
