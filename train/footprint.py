"""How much memory a training step needs: ``python train/footprint.py --cfg NAME [key.path=value ...]``.

Counts what autograd keeps for the backward pass of one clip (measured on the CPU, by storage), and adds
weights, gradients and optimizer state. Mixed precision is counted by autocast's own casts. What a GPU
needs beyond that (workspaces of cuDNN, fragments) is not in it: leave a tenth or two.

With ``--stream FRAMES`` it feeds so many frames to the network one by one instead, and measures what is
held on the way.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from rstg_pyg import VideoClassifier
from rstg_pyg.train.build import build_model, normalize
from rstg_pyg.train.command import command
from rstg_pyg.train.config import Config, load_config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import output_file, write_json
from rstg_pyg.train.run_folder.results import environment

GIB = 2**30
#: Frames of the whole clip that a stream is compared with, at most.
_COMPARED = 200


def saved_bytes(model: VideoClassifier, config: Config) -> tuple[int, int]:
    """What autograd keeps for one clip, weights excluded, in bytes.

    Returns:
        The bytes kept from the forward to the backward pass; and, with gradient checkpointing, those
        that the most expensive stage holds while it is computed again.
    """
    data = config.data
    clip = torch.zeros(1, data.channels, data.num_frames, data.size, data.size, dtype=torch.uint8)
    weights = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    autocast = torch.autocast("cpu", torch.bfloat16, config.trainer.precision == "bf16-mixed")

    def run(function: Callable, *inputs: Any) -> tuple[Tensor, int]:
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
            out = function(*inputs)  # as long as it lives, no storage is used twice
        return out, sum(kept.values())

    model.train()
    x = normalize(clip, config)
    _, kept = run(model, x)
    again = 0
    if model.grad_checkpointing:
        backbone: Any = model.backbone
        for name in backbone.stages:
            x, held = run(model.stage, name, x.detach())
            again = max(again, held)
    return kept, again


def footprint(config: Config, num_classes: int) -> dict[str, float]:
    """GiB of a training step by what they hold, for the config's batch (divided by ``accumulate``)."""
    clips = config.train.batch_size // config.train.accumulate
    model = build_model(config, num_classes)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    slots = 2 if config.train.optimizer == "adamw" else int(config.train.momentum > 0)
    kept, again = saved_bytes(model, config)
    return {
        "weights": weights / GIB,
        "gradients": weights / GIB,
        "optimizer": slots * weights / GIB,
        "activations": clips * kept / GIB,
        "recomputed": clips * again / GIB,
    }


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

    def random_frames(count: int) -> Iterator[Tensor]:
        """The same ``[1, C, 1, H, W]`` for every call."""
        generator = torch.Generator().manual_seed(config.seed)
        shape = (1, config.data.channels, 1, config.data.size, config.data.size)
        return (torch.randn(shape, generator=generator) for _ in range(count))

    compared = min(_COMPARED, frames)
    marks = {m * 10**k for k in range(1, 12) for m in (1, 2, 5)} | {frames}
    rows, state = [], None
    begin = time.perf_counter()
    for number, frame in enumerate(random_frames(frames), 1):
        logits, state = model.stream(frame, state)
        if number == compared:
            streamed = logits.tolist()
        if number in marks:
            rows.append({"frame": number, **_held(state)})
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        whole = model(torch.cat(list(random_frames(compared)), dim=2))
    return {
        "rows": rows,
        "compared_frames": compared,
        "largest_difference": float((torch.tensor(streamed) - whole).abs().max()),
        "largest_logit": float(whole.abs().max()),
        "seconds": seconds,
        "seed": config.seed,
    }


def _held(state: Any) -> dict[str, int]:
    gc.collect()
    alive = [x for x in gc.get_objects() if type(x) in (Tensor, torch.nn.Parameter)]
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident = pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not on every system
        resident = 0
    in_state = [x for x in tree_leaves(state) if isinstance(x, Tensor)]
    return {
        "state_bytes": _bytes(in_state), "tensor_bytes": _bytes(alive), "resident_bytes": resident
    }  # fmt: skip


def _bytes(tensors: list[Tensor]) -> int:
    storages = (x.untyped_storage() for x in tensors if x.layout == torch.strided)
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="footprint.py", description="How much memory a training step needs.", allow_abbrev=False
    )
    add = parser.add_argument
    add("overrides", nargs="*", metavar="key.path=value", help="config values")
    add("--cfg", required=True, metavar="NAME", help="a config: a path or a known name")
    add("--classes", type=int, default=174, help="number of classes (default: 174)")
    add("--stream", type=int, metavar="FRAMES", help="measure a stream of frames")
    add("--json", metavar="OUT", help="with --stream: also write the figures to a file")
    arguments = parser.parse_intermixed_args(argv)
    config = load_config(arguments.cfg, arguments.overrides, demo=False)
    if arguments.classes < 1:
        raise UserError(f"--classes: expected at least 1 (got {arguments.classes})")
    if arguments.stream is None and arguments.json is not None:
        raise UserError("--json: writes the figures of --stream FRAMES; give that, too")
    out = None if arguments.json is None else output_file("--json", arguments.json, (".json",))
    if arguments.stream is not None:
        found = stream_memory(config, arguments.classes, arguments.stream)
        _print_stream(config, found)
        if out is not None:
            write_json(out, {**environment(torch.device("cpu")), **found})
        return 0
    gib = footprint(config, arguments.classes)
    clips = config.train.batch_size // config.train.accumulate
    data = config.data
    checkpointing = "on" if config.model.grad_checkpointing else "off"
    print(
        f"{config.name}: {clips} clips of {data.num_frames} x {data.size} x {data.size}, "
        f"{config.trainer.precision}, checkpointing {checkpointing}"
    )
    for name, value in {**gib, "together": sum(gib.values())}.items():
        print(f"  {name:12s} {value:7.2f} GiB")
    return 0


def _print_stream(config: Config, found: dict[str, Any]) -> None:
    print(f"{config.name}: frames of {config.data.size} x {config.data.size}, one by one")
    print(f"  {'frame':>8s} {'state, bytes':>14s} {'all tensors, bytes':>20s} {'resident, MiB':>15s}")
    for row in found["rows"]:
        print(
            f"  {row['frame']:8,d} {row['state_bytes']:14,d} {row['tensor_bytes']:20,d} "
            f"{row['resident_bytes'] / 2**20:15.1f}"
        )
    print(
        f"  logits after {found['compared_frames']:,} frames against the whole clip: largest "
        f"difference {found['largest_difference']:.1e} (logits up to {found['largest_logit']:.2g})"
    )


if __name__ == "__main__":
    sys.exit(main())
