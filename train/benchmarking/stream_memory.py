"""What a stream of frames holds in memory, frame after frame."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import Config
from rstg_pyg.train.errors import UserError

#: Frames of the whole clip that the stream is compared with, at most.
_COMPARED = 200
#: Rows per factor of ten.
_MARKS = (1, 2, 5)


def stream_memory(config: Config, num_classes: int, frames: int) -> dict[str, Any]:
    """Feeds random frames to the (untrained) network of a config, one by one.

    Args:
        config: The experiment.
        num_classes: Number of classes.
        frames: How many frames.

    Returns:
        ``rows`` with ``frame``, ``state_bytes`` (what the stream carries on), ``tensor_bytes`` (all
        tensors that are alive, weights included) and ``resident_bytes`` (of the process);
        ``compared_frames``, ``largest_difference`` and ``largest_logit``: the logits after the first
        frames against those of the same frames as one clip; ``seconds``, ``seed``.

    Raises:
        UserError: If the network cannot stream.
    """
    if frames < 1:
        raise UserError(f"--stream: expected at least one frame (got {frames})")
    torch.manual_seed(config.seed)
    model = build_model(config, num_classes).eval()
    if not model.streams:
        raise UserError(
            f"--stream: the network of {config.name} looks across frames, so it needs the whole clip; "
            f"try --cfg syncmnist_mini.yaml"
        )
    for weight in model.parameters():  # some begin at zero
        weight.data += 0.1 * torch.randn_like(weight)
    compared = min(_COMPARED, frames)
    marks = {m * 10**k for k in range(1, 12) for m in _MARKS} | {frames}
    rows, state = [], None
    begin = time.perf_counter()
    for number, frame in enumerate(_frames(config, frames), 1):
        logits, state = model.stream(frame, state)
        if number == compared:
            streamed = logits.tolist()
        if number in marks:
            rows.append({"frame": number, **_held(state)})
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        whole = model(torch.cat(list(_frames(config, compared)), dim=2))
    return {
        "rows": rows,
        "compared_frames": compared,
        "largest_difference": float((torch.tensor(streamed) - whole).abs().max()),
        "largest_logit": float(whole.abs().max()),
        "seconds": seconds,
        "seed": config.seed,
    }


def _frames(config: Config, count: int) -> Iterator[Tensor]:
    """The same random frames ``[1, C, 1, H, W]`` for every call."""
    generator = torch.Generator().manual_seed(config.seed)
    shape = (1, config.data.channels, 1, config.data.size, config.data.size)
    return (torch.randn(shape, generator=generator) for _ in range(count))


def _held(state: Any) -> dict[str, int]:
    gc.collect()
    alive = [x for x in gc.get_objects() if type(x) in (Tensor, torch.nn.Parameter)]
    return {
        "state_bytes": _bytes(_tensors(state)),
        "tensor_bytes": _bytes(alive),
        "resident_bytes": _resident(),
    }


def _tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    if not isinstance(state, (dict, list, tuple)):  # a number of frames, or nothing
        return []
    parts = state.values() if isinstance(state, dict) else state
    return [x for part in parts for x in _tensors(part)]


def _bytes(tensors: list[Tensor]) -> int:
    storages = (x.untyped_storage() for x in tensors if x.layout == torch.strided)
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def _resident() -> int:
    """The resident set of this process, in bytes; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
