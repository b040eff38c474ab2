"""Is there memory for what a config asks for? The system would end the process without a word."""

from __future__ import annotations

from pathlib import Path

import torch

from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import Config
from rstg_pyg.train.data.syncmnist import CHUNK
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.schema.sizes import largest

_GIB = 2**30
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def check_memory(config: Config, num_classes: int, training: bool = True) -> None:
    """Compares the least that the network and a batch need with what is free.

    Counted are weights (with gradients and the optimizer's state), a batch of clips as bytes and as
    numbers, and what generated videos are painted on; no activations, so this is a lower bound.

    Args:
        config: The experiment.
        num_classes: The number of classes.
        training: Whether there are gradients and an optimizer.

    Raises:
        UserError: If there is too little; the message names the values to lower.
    """
    free = free_bytes()
    if free is None:
        return
    with torch.device("meta"):  # shapes without memory
        model = build_model(config, num_classes)
    weights = sum(p.numel() * p.element_size() for p in [*model.parameters(), *model.buffers()])
    train, data = config.train, config.data
    if training and not torch.cuda.is_available():  # else these are elsewhere
        weights *= 4 if train.optimizer == "adamw" else 3
    clip = data.channels * data.num_frames * data.size**2
    clips = train.batch_size // train.accumulate * clip * 5
    if data.dataset == "syncmnist":
        clips += CHUNK * data.num_frames * data.canvas_size**2
    if weights + clips > free:
        raise UserError(
            f"there is not enough memory: weights need {weights / _GIB:.1f} GiB, clips of a batch "
            f"{clips / _GIB:.1f} GiB at least, {free / _GIB:.1f} GiB are free; lower "
            f"{', '.join(largest(config))}"
        )


def free_bytes() -> int | None:
    """The memory that this process can still get; ``None`` where the system does not say."""
    found = []
    try:
        lines = _MEMINFO.read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
        found.append(sizes["MemAvailable"] + sizes["SwapFree"])
    except (OSError, KeyError, ValueError, IndexError):
        pass
    try:  # inside a container
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        kinds = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        cached = int(kinds["inactive_file"]) + int(kinds["active_file"])  # given up when needed
        found.append(limit - used + cached)
    except (OSError, KeyError, ValueError):  # there is none, or no limit ("max")
        pass
    return max(min(found), 0) if found else None
