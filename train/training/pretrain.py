"""Pre-training of the backbone on frames, without the graph: which digit is where, and (if the backbone
takes differences of frames) how far did it move?
"""

from __future__ import annotations

import math
import time

import torch
from rich.progress import track
from torch import Tensor

from rstg_pyg import VideoClassifier
from rstg_pyg.train.build import build_dataset, normalize
from rstg_pyg.train.config import Config
from rstg_pyg.train.errors import NonFiniteError
from rstg_pyg.train.training.progress import on_terminal

#: Loss weight of the cells without a digit, of which there are many more.
_BACKGROUND = 0.1


def pretrain(model: VideoClassifier, config: Config, device: torch.device) -> dict[str, float]:
    """Trains the backbone to predict which digit is centered in which cell of its map, and where.

    Uses single frames of training digits (pairs of frames for a backbone that takes differences); the
    labels of the main task are not used.

    Args:
        model: The network.
        config: The experiment.
        device: Where to train.

    Returns:
        ``steps``, ``loss`` and ``accuracy`` (share of digits recognized in their cell) of the last
        step, and ``seconds``.

    Raises:
        NonFiniteError: If a loss or a gradient is NaN or infinite.
    """
    begin = time.perf_counter()
    settings = config.pretrain
    per_video = 4 if config.model.backbone.difference else 1  # frames of which the loss is taken
    count = per_video + config.model.backbone.difference
    frames = build_dataset(config, "train", num_frames=count, seed=config.data.seed + 1).to(device)
    batch_size = max(settings.batch_size // per_video, 1)
    filters = Filters(model.backbone, config).to(device)
    optimizer = torch.optim.AdamW(filters.parameters(), lr=settings.lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.steps)
    steps = range(settings.steps)
    hidden = not (config.trainer.progress_bar and on_terminal())
    for step in track(steps, "pre-training", transient=True, disable=hidden):
        items = torch.arange(batch_size, device=device) + step * batch_size
        videos = frames.videos(items)
        batch = videos.clips, videos.classes, videos.corners
        loss, accuracy = filters(*batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(filters.backbone.parameters(), 1.0)
        norm = norm + torch.nn.utils.clip_grad_norm_(filters.readout.parameters(), math.inf)
        loss = loss.detach()
        if not bool((loss + norm).isfinite()):
            raise NonFiniteError(
                f"pre-training, step {step + 1}: the loss is {float(loss)}, the gradient norm is "
                f"{float(norm)}; often a lower pretrain.lr (now {settings.lr:g}) helps"
            )
        optimizer.step()
        scheduler.step()
    return {
        "steps": settings.steps,
        "loss": float(loss),
        "accuracy": float(accuracy),
        "seconds": time.perf_counter() - begin,
    }


class Filters(torch.nn.Module):
    """The backbone with a linear readout per cell, which is discarded afterwards. The readout predicts
    the class of the digit centered in the cell (or none) and the offset of its center from the cell's.

    Losses: a cross-entropy in which a digit is the target of the cells around its center, weighted by
    distance, and the squared error of the offsets. For a backbone that takes differences of frames also
    the squared error of the digits' steps, in cells, by the same weights, and zero in other cells: so
    the sum over a region is the step of the digit in it.

    Args:
        backbone: The filters.
        config: The experiment.
    """

    def __init__(self, backbone: torch.nn.Module, config: Config):
        super().__init__()
        self.config = config
        self.backbone = backbone
        width = backbone.channels[list(backbone.stages)[-1]]
        parts = 5 if config.model.backbone.difference else 3
        self.readout = torch.nn.Conv2d(width, 1 + parts * config.data.num_classes, 1)

    def forward(self, clips: Tensor, digits: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and share of digits recognized.

        Args:
            clips: Frames ``[B, 1, T, H, W]`` uint8. Of a backbone that takes differences, the first one
                is only there for the second.
            digits: The digits' classes ``[B, D]``.
            corners: Their top-left pixels ``[B, T, D, 2]``.
        """
        begin = int(self.config.model.backbone.difference)
        maps = self.backbone(normalize(clips, self.config))[:, :, begin:]
        maps = self.readout(maps.transpose(1, 2).flatten(0, 1))  # [B, *, h, w], B frames from here on
        digits = digits.repeat_interleave(corners.size(1) - begin, dim=0)
        data = self.config.data
        classes, side = data.num_classes, maps.size(-1)
        _, first, stride = map_cells(self.config)
        pixels = (corners + data.digit_size / 2) * (data.frame_size / data.canvas_size)
        cell = torch.arange(side, device=maps.device)
        places = (pixels.float() - first) / stride  # [B, T, D, 2], in cells
        off = places[:, begin:].flatten(0, 1).unsqueeze(-1) - cell  # [B, D, 2, side]
        near = (1 - off.abs()).clamp(min=0)
        near = near[:, :, 0, :, None] * near[:, :, 1, None, :]  # [B, D, h, w]
        touched = (near > 0).float()
        offsets = torch.stack([touched * off[:, :, 0, :, None], touched * off[:, :, 1, None, :]])

        def by_class(x: Tensor) -> Tensor:  # [*, B, D, h, w] to [*, B, K, h, w]
            index = digits[:, :, None, None].expand(x.shape)
            shape = (*x.shape[:-3], classes, side, side)
            return torch.zeros(shape, device=x.device).scatter(-3, index, x)

        target, mask = by_class(near), by_class(touched)
        logits = maps[:, : classes + 1].log_softmax(1)
        empty = (1 - target.sum(1)).clamp(min=0)
        loss = -(target * logits[:, 1:]).sum() - _BACKGROUND * (empty * logits[:, 0]).sum()
        found = maps[:, classes + 1 :].unflatten(1, (-1, classes)).transpose(0, 1)  # [*, B, K, h, w]
        loss = loss + (mask * (found[:2] - by_class(offsets)).square()).sum()
        if begin:
            step = places.diff(dim=1).flatten(0, 1)[..., None, None]  # [B, D, 2, 1, 1]
            moved = by_class(torch.stack([near * step[:, :, 0], near * step[:, :, 1]]))
            loss = loss + (found[2:] - moved).square().sum()
        score = torch.einsum("bkhw,bdhw->bdk", logits[:, 1:], near)
        return loss / digits.numel(), (score.argmax(-1) == digits).float().mean()


def map_cells(config: Config) -> tuple[int, float, float]:
    """Positions of the cells of the last feature map of a ``simple_conv``.

    Returns:
        The number of cells per side, the center of the first one, and the distance between neighboring
        cells, both in pixels (pixel ``i`` spans ``i .. i + 1``).
    """
    backbone = config.model.backbone
    stages = len(backbone.filters)
    pools = [backbone.pool] * stages if isinstance(backbone.pool, bool) else backbone.pool
    side, first, stride = config.data.size, 0.5, 1.0
    for pool in pools:
        side += 2 * backbone.padding - 2
        first += (1 - backbone.padding) * stride
        if pool:
            side, first, stride = side // 2, first + stride / 2, stride * 2
    return side, first, stride
