"""How much memory a training step needs: ``python train/footprint.py --cfg NAME [key.path=value ...]``.

Counts what autograd keeps for the backward pass of one clip (measured on the CPU, by storage), and adds
weights, gradients and optimizer state. Mixed precision is counted by autocast's own casts. What a GPU
needs beyond that (workspaces of cuDNN, fragments) is not in it: leave a tenth or two.

With ``--stream FRAMES`` it feeds so many frames to the network one by one instead, and measures what is
held on the way; see ``train/benchmarking/stream_memory.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from rstg_pyg import VideoClassifier
from rstg_pyg.train.benchmarking.stream_memory import stream_memory
from rstg_pyg.train.build import build_model, normalize
from rstg_pyg.train.command import command
from rstg_pyg.train.config import (
    Config,
    load_config,
)
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import output_file, write_json
from rstg_pyg.train.run_folder.results import environment
from rstg_pyg.train.schema.sizes import sizes_named

GIB = 2**30


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

    def run(function, *inputs: Any) -> tuple[torch.Tensor, int]:
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
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
        for name in model.backbone.stages:
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


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="footprint.py", description="How much memory a training step needs.", allow_abbrev=False
    )
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="config values")
    parser.add_argument("--cfg", required=True, metavar="NAME", help="a config: a path or a known name")
    parser.add_argument("--classes", type=int, default=174, help="number of classes (default: 174)")
    parser.add_argument("--stream", type=int, metavar="FRAMES", help="measure a stream of frames")
    parser.add_argument("--json", metavar="OUT", help="with --stream: also write the figures to a file")
    arguments = parser.parse_intermixed_args(argv)
    config = load_config(arguments.cfg, arguments.overrides, demo=False)
    if arguments.classes < 1:
        raise UserError(f"--classes: expected at least 1 (got {arguments.classes})")
    if arguments.stream is None and arguments.json is not None:
        raise UserError("--json: writes the figures of --stream FRAMES; give that, too")
    if arguments.json is not None:
        output_file("--json", arguments.json, (".json",))
    with sizes_named(config):
        if arguments.stream is not None:
            return _stream(config, arguments)
        parts = footprint(config, arguments.classes)
    clips = config.train.batch_size // config.train.accumulate
    data = config.data
    checkpointing = "on" if config.model.grad_checkpointing else "off"
    print(
        f"{config.name}: {clips} clips of {data.num_frames} x {data.size} x {data.size}, "
        f"{config.trainer.precision}, checkpointing {checkpointing}"
    )
    for name, value in parts.items():
        print(f"  {name:12s} {value:7.2f} GiB")
    print(f"  {'together':12s} {sum(parts.values()):7.2f} GiB")
    return 0


def _stream(config: Config, arguments: argparse.Namespace) -> int:
    """Measures a stream and prints what was found."""
    found = stream_memory(config, arguments.classes, arguments.stream)
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
    if arguments.json is not None:
        write_json(Path(arguments.json), {**environment(torch.device("cpu")), **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
