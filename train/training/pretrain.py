"""Pre-training of the backbone on frames, without the graph: which digit is where, and (if the backbone
takes differences of frames) how far did it move since the frame before?
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from rstg_pyg import VideoClassifier
from rstg_pyg.train.build import build_dataset, normalize
from rstg_pyg.train.config import Config, differences, to_dict
from rstg_pyg.train.errors import NonFiniteError, UserError
from rstg_pyg.train.run_folder.weights import open_weights, write_weights
from rstg_pyg.train.training.progress import on_terminal

#: Loss weight of the cells without a digit, of which there are many more.
_BACKGROUND = 0.1

#: The unit of steps in the loss, in pixels of the frame: about their standard deviation.
_STEP = 4.0


def pretrain(model: VideoClassifier, config: Config, device: torch.device) -> dict[str, Any]:
    """Trains the backbone to predict which digit is centered in which cell of its map, and where; or,
    if the backbone has ``out_channels``, how far it moved. If ``pretrain.file`` exists, takes the
    backbone from it instead; otherwise writes it, for other runs.

    Uses single frames of training digits (pairs of frames for a backbone that takes differences) and
    the generator's positions; the labels of the main task are not used.

    Args:
        model: The network.
        config: The experiment.
        device: Where to train.

    Returns:
        ``steps``, ``loss`` and ``accuracy`` (share of digits recognized in their cell) of the last
        step, ``steps_r2`` (see :class:`Filters`) of a backbone with ``out_channels``, and ``seconds``.

    Raises:
        NonFiniteError: If a loss or a gradient is NaN or infinite.
        UserError: If ``pretrain.file`` is of other settings, or cannot be read or written.
    """
    file = config.pretrain.file
    if file is not None and Path(file).exists():
        found = _read(model.backbone, config, Path(file))
        print(f"pretrain.file: the backbone is from {file}", flush=True)
        return found
    found = _train(model.backbone, config, device)
    if file is not None:
        write_weights(Path(file), model.backbone, config, "pre-training", pretraining=found)
    return found


def _read(backbone: torch.nn.Module, config: Config, path: Path) -> dict[str, Any]:
    """Loads the backbone from ``pretrain.file``; returns the results of its pre-training.

    Raises:
        UserError: If it cannot be read, or is of other settings.
    """
    weights = open_weights(path)
    theirs, ours = _settings(weights["config"]), _settings(to_dict(config))
    if changed := differences(theirs, ours):
        raise UserError(f"{path}: pre-trained with other settings; there and here: {changed[0]}")
    backbone.load_state_dict(weights["state_dict"])
    return weights["pretraining"]


def _settings(values: dict[str, Any]) -> dict[str, Any]:
    """What pre-training depends on, but for the seed: runs with other seeds may share the filters."""
    free = ["root", "num_workers", "curriculum", "paths", "num_frames"]
    free += ["train_videos", "val_videos", "test_videos"]
    data = {key: value for key, value in values["data"].items() if key not in free}
    settings = {key: value for key, value in values["pretrain"].items() if key != "file"}
    data["num_digits"] = settings.pop("num_digits") or data["num_digits"]
    backbone = values["model"]["backbone"]
    return {"data": data, "pretrain": settings, "model.backbone": backbone}


def _train(backbone: torch.nn.Module, config: Config, device: torch.device) -> dict[str, Any]:
    begin = time.perf_counter()
    settings = config.pretrain
    difference = config.model.backbone.difference
    per_video = 4 if difference else 1  # frames of which the loss is taken
    batch_size = max(settings.batch_size // per_video, 1)
    frames = build_dataset(
        config,
        "train",
        num_digits=settings.num_digits or config.data.num_digits,
        num_frames=per_video + difference,
        curriculum=0.0,
        num_videos=settings.steps * batch_size,
        seed=config.data.seed + 1,
    ).to(device)
    filters = Filters(backbone, config).to(device)
    frozen = [weight for weight in filters.parameters() if not weight.requires_grad]
    filters.requires_grad_(True)  # train.freeze is for the main training
    weights = list(filters.parameters())
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps, pct_start=0.15
    )
    steps = range(settings.steps)
    hidden = not (config.trainer.progress_bar and on_terminal())
    for step in track(steps, "pre-training", transient=True, disable=hidden):
        items = torch.arange(batch_size, device=device) + step * batch_size
        videos = frames.videos(items)
        batch = videos.clips, videos.classes, videos.corners
        loss, measured = filters(*batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, 2.0)
        loss = loss.detach()
        if not bool((loss + norm).isfinite()):
            raise NonFiniteError(
                f"pre-training, step {step + 1}: the loss is {float(loss)}, the gradient norm is "
                f"{float(norm)}; often a lower pretrain.lr (now {settings.lr:g}) helps"
            )
        optimizer.step()
        scheduler.step()
    if filters.moving:  # of the mean over the map, not of the sum
        with torch.no_grad():
            for weight in backbone.stages["out"].parameters():
                weight.mul_(map_cells(config)[0] ** 2)
    for weight in frozen:
        weight.requires_grad_(False)
    return {
        "steps": settings.steps,
        "loss": float(loss),
        **{name: float(value.detach()) for name, value in measured.items()},
        "seconds": time.perf_counter() - begin,
    }


class Filters(torch.nn.Module):
    """The backbone with a linear readout per cell, which is discarded afterwards. The readout predicts
    the class of the digit centered in the cell (or none) and the offset of its center from the cell's.

    Losses: a cross-entropy in which a digit is the target of the cells around its center, weighted by
    distance (the weights of a digit add up to one), and the squared error of the offsets.

    A backbone with ``out_channels`` learns these instead of offsets: for every class, how much of a
    digit is there (one), and how far it moved since the frame before (in units of 4 pixels of the
    frame). Losses: the squared errors in every cell, by the same weights, and of the sum over the map.
    Afterwards the layer is scaled so that the mean over the map is what the sum was: presence and steps
    of the digits, for the nodes of the graph, which are means over regions.

    Args:
        backbone: The filters.
        config: The experiment.
    """

    def __init__(self, backbone: torch.nn.Module, config: Config):
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.moving = config.model.backbone.out_channels is not None
        width = config.model.backbone.filters[-1]
        parts = 0 if self.moving else 2
        self.readout = torch.nn.Conv2d(width, 1 + (1 + parts) * config.data.num_classes, 1)
        if self.moving:  # sums over the map begin at zero; Glorot's initialization often dies here
            zeros = [*self.readout.parameters(), *backbone.stages["out"].parameters()]
            for weight in zeros:
                torch.nn.init.zeros_(weight)
            for stage in backbone.stages.values():
                if hasattr(stage, "conv"):
                    torch.nn.init.kaiming_uniform_(stage.conv.weight, nonlinearity="relu")

    def forward(
        self, clips: Tensor, digits: Tensor, corners: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss; and ``accuracy``, the share of digits recognized. Of a backbone with
        ``out_channels`` also ``steps_r2``, the share of the steps' variance that the sum over the map
        tells (coefficient of determination, of the right classes).

        Args:
            clips: Frames ``[B, 1, T, H, W]`` uint8. Of a backbone that takes differences, the first one
                is only there for the second.
            digits: The digits' classes ``[B, D]``.
            corners: Their top-left pixels ``[B, T, D, 2]``.
        """
        begin = int(self.config.model.backbone.difference)
        x, told_maps = normalize(clips, self.config), None
        half = self.config.trainer.precision == "bf16-mixed"
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=half):  # not of the loss
            for name, stage in self.backbone.stages.items():
                if name == "out":
                    told_maps = stage(x)[:, :, begin:].transpose(1, 2).flatten(0, 1).float()
                else:
                    x = stage(x)
            maps = self.readout(x[:, :, begin:].transpose(1, 2).flatten(0, 1)).float()
        # [B, *, h, w], B frames from here on
        digits = digits.repeat_interleave(corners.size(1) - begin, dim=0)
        data = self.config.data
        classes, side = data.num_classes, maps.size(-1)
        _, first, stride = map_cells(self.config)
        pixels = (corners + data.digit_size / 2) * (data.frame_size / data.canvas_size)  # [B, T, D, 2]
        cell = torch.arange(side, device=maps.device)
        places = (pixels.float()[:, begin:].flatten(0, 1) - first) / stride
        off = places.unsqueeze(-1) - cell  # [B, D, 2, side], in cells
        near = (1 - off.abs()).clamp(min=0)
        near = near[:, :, 0, :, None] * near[:, :, 1, None, :]  # [B, D, h, w]

        def by_class(x: Tensor) -> Tensor:  # [*, B, D, h, w] to [*, B, K, h, w]
            index = digits[:, :, None, None].expand(x.shape)
            shape = (*x.shape[:-3], classes, *x.shape[-2:])
            return torch.zeros(shape, device=x.device).scatter(-3, index, x)

        target = by_class(near)
        logits = maps[:, : classes + 1].log_softmax(1)
        empty = (1 - target.sum(1)).clamp(min=0)
        loss = -(target * logits[:, 1:]).sum() - _BACKGROUND * (empty * logits[:, 0]).sum()
        found = maps[:, classes + 1 :] if told_maps is None else told_maps
        found = found.unflatten(1, (-1, classes)).transpose(0, 1)  # [*, B, K, h, w]
        score = torch.einsum("bkhw,bdhw->bdk", logits[:, 1:], near)
        measured = {"accuracy": (score.argmax(-1) == digits).float().mean()}
        if told_maps is not None:
            step = pixels.float().diff(dim=1).flatten(0, 1) / _STEP  # [B, D, 2]
            told = torch.cat([torch.ones_like(step[..., :1]), step], -1).permute(2, 0, 1)  # [3, B, D]
            told = told[..., None, None]
            loss = loss + (found - by_class(near * told)).square().sum()
            wrong = found.sum((-1, -2), keepdim=True) - by_class(told)
            loss = loss + wrong.square().sum()
            moved = wrong[1:, :, :, 0, 0].gather(2, digits.expand(2, -1, -1))
            measured["steps_r2"] = 1 - moved.square().mean() / step.var()
        else:
            touched = (near > 0).float()
            offsets = [touched * off[:, :, 0, :, None], touched * off[:, :, 1, None, :]]
            wrong = found - by_class(torch.stack(offsets))
            loss = loss + (by_class(touched) * wrong.square()).sum()
        return loss / digits.numel(), measured


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
