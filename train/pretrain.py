"""Training the filters alone, before the graph: which digit is where?"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from rstg_pyg import VideoClassifier
from rstg_pyg.train.assemble import build_dataset, normalise
from rstg_pyg.train.data.syncmnist import Videos
from rstg_pyg.train.schema import Config

#: Weight of the cells without a digit, of which there are many more.
_BACKGROUND = 0.1


def pretrain(model: VideoClassifier, config: Config, device: torch.device) -> dict[str, float]:
    """Trains the backbone to tell which digit is centred in which cell of its map, and where.

    Single frames of training digits; a linear readout per cell, thrown away afterwards, gives the
    class of the digit centred there (or none) and how far the centre is off the cell's. Losses:
    cross-entropy, in which a digit counts for the cells around its centre by their distance, and the
    squared error of the offsets. The labels of the main task are not used.

    Returns:
        ``steps``, ``loss`` and ``accuracy`` (share of digits recognised in their cell) of the last
        step, and ``seconds``.
    """
    begin = time.perf_counter()
    settings, classes = config.pretrain, config.data.num_classes
    frames = build_dataset(config, "train", num_frames=1, seed=config.data.seed + 1).to(device)
    backbone = model.backbone.to(device)
    width = backbone.channels[list(backbone.stages)[-1]]
    readout = torch.nn.Conv2d(width, 1 + 3 * classes, 1).to(device)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *readout.parameters()], lr=settings.lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.steps)
    for step in range(settings.steps):
        items = torch.arange(settings.batch_size, device=device) + step * settings.batch_size
        videos = frames.videos(items)
        maps = readout(backbone(normalise(videos.clips, config))[:, :, 0])  # [B, 1 + 3 K, h, w]
        loss, accuracy = _losses(maps, videos, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    return {
        "steps": settings.steps,
        "loss": float(loss.detach()),
        "accuracy": float(accuracy),
        "seconds": time.perf_counter() - begin,
    }


def _losses(maps: Tensor, videos: Videos, config: Config) -> tuple[Tensor, Tensor]:
    """Loss and share of digits recognised, from the readout ``[B, 1 + 3 K, h, w]``."""
    classes, side = config.data.num_classes, maps.size(-1)
    digits = videos.classes.numel()
    data, (_, first, stride) = config.data, config.model.backbone.maps(config.data.frame_size)[-1]
    pixels = (videos.corners[:, 0] + data.digit_size / 2) * (data.frame_size / data.canvas_size)
    cell = torch.arange(side, device=maps.device)
    off = ((pixels.float() - first) / stride).unsqueeze(-1) - cell  # [B, D, 2, side], in cells
    near = (1 - off.abs()).clamp(min=0)
    near = near[:, :, 0, :, None] * near[:, :, 1, None, :]  # [B, D, h, w]
    touched = (near > 0).float()
    offsets = torch.stack([touched * off[:, :, 0, :, None], touched * off[:, :, 1, None, :]])

    def by_class(x: Tensor) -> Tensor:  # [*, B, D, h, w] to [*, B, K, h, w]
        index = videos.classes[:, :, None, None].expand(x.shape)
        shape = (*x.shape[:-3], classes, side, side)
        return torch.zeros(shape, device=x.device).scatter(-3, index, x)

    target, mask = by_class(near), by_class(touched)
    logits = maps[:, : classes + 1].log_softmax(1)
    empty = (1 - target.sum(1)).clamp(min=0)
    loss = -(target * logits[:, 1:]).sum() - _BACKGROUND * (empty * logits[:, 0]).sum()
    errors = maps[:, classes + 1 :].unflatten(1, (2, classes)).transpose(0, 1) - by_class(offsets)
    loss = loss + (mask * errors.square()).sum()
    score = torch.einsum("bkhw,bdhw->bdk", logits[:, 1:], near)
    return loss / digits, (score.argmax(-1) == videos.classes).float().mean()
