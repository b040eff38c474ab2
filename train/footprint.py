"""How much memory a training step needs: ``python train/footprint.py --cfg NAME [key.path=value ...]``.

Counts the tensors that autograd saves for the backward pass of one clip (measured on the CPU, by
storage), and adds weights, gradients and optimizer state. Mixed precision uses autocast's own casts.
Additional GPU memory (cuDNN workspaces, fragmentation) is not included: leave 10 to 20 percent free.

With ``--stream FRAMES`` it instead feeds this number of frames to the network one by one, and
measures the memory in use.
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from rstg_pyg.train.build import build_model, example_boxes, freeze, normalize
from rstg_pyg.train.command import command
from rstg_pyg.train.config import Config, load_config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import output_file, write_json
from rstg_pyg.train.run_folder.environment import environment

#: Maximum length of the clip with which a stream is compared.
_COMPARED = 200


def footprint(config: Config, num_classes: int) -> dict[str, float]:
    """Memory of a training step in GiB by category, for the config's batch (divided by ``accumulate``).

    ``activations`` are kept from the forward to the backward pass; ``recomputed`` is the memory of the
    most expensive stage while gradient checkpointing recomputes it. Both are extrapolated from one and
    two clips: what does not grow, such as autocast's casts of weights, counts once. ``weights`` has
    their moving average, too (``train.ema``).
    """
    model, data = build_model(config, num_classes).train(), config.data
    freeze(model, config.train.freeze)
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
            out = function(*inputs)  # kept alive, so that no storage is reused
        return out, sum(kept.values())

    def held(clips: int) -> tuple[int, int]:
        """Of the whole network, and of its largest stage."""
        boxes = {name: value.expand(clips, -1, -1, -1) for name, value in example_boxes(config).items()}
        x = normalize(torch.zeros(clips, *data.clip_shape, dtype=torch.uint8), config)
        _, whole = run(functools.partial(model, **boxes), x)
        largest = 0
        if model.grad_checkpointing:
            backbone: Any = model.backbone
            for name in backbone.stages:
                x, stage = run(model.stage, name, x.detach())
                largest = max(largest, stage)
        return whole, largest

    clips = config.train.batch_size // config.train.accumulate
    activations, recomputed = (one + (clips - 1) * (two - one) for one, two in zip(held(1), held(2)))
    slots = 2 if config.train.optimizer == "adamw" else int(config.train.momentum > 0)
    sizes = {p: p.numel() * p.element_size() for p in model.parameters()}
    size, trained = sum(sizes.values()), sum(n for p, n in sizes.items() if p.requires_grad)
    found = {"weights": size * (1 + (config.train.ema is not None))}
    found |= {"gradients": trained, "optimizer": slots * trained}
    found |= {"activations": activations, "recomputed": recomputed}
    return {name: number / 2**30 for name, number in found.items()}


@torch.no_grad()
def stream_memory(config: Config, num_classes: int, frames: int) -> dict[str, Any]:
    """Feeds random frames to the (untrained) network of a config, one by one.

    Returns:
        ``rows`` with ``frame``, ``state_bytes`` (the recurrent state), ``tensor_bytes`` (all live
        tensors, weights included) and ``resident_bytes`` (of the process, if the system reports it);
        ``compared_frames``, ``largest_difference`` and ``largest_logit``: the logits after the first
        frames compared with those of the same frames as one clip; ``seed``.

    Raises:
        UserError: If the network cannot stream.
    """
    if frames < 1:
        raise UserError(f"--stream: expected at least one frame (got {frames})")
    torch.manual_seed(config.seed)
    model = build_model(config, num_classes).eval()
    if not model.streams:
        raise UserError(
            f"--stream: the network of {config.name} combines frames, so it needs the complete clip; "
            f"try --cfg syncmnist_mini.yaml"
        )
    for weight in model.parameters():  # some are initialized to zero
        weight.add_(0.1 * torch.randn_like(weight))

    def random_frames(count: int) -> Iterator[Tensor]:
        """The same ``[1, C, 1, H, W]`` for every call."""
        generator = torch.Generator().manual_seed(config.seed)
        channels, _, rows, columns = config.data.clip_shape
        shape = (1, channels, 1, rows, columns)
        return (torch.randn(shape, generator=generator) for _ in range(count))

    compared = min(_COMPARED, frames)
    marks = {m * 10**k for k in range(1, 12) for m in (1, 2, 5)} | {frames}
    rows, state = [], None
    for number, frame in enumerate(random_frames(frames), 1):
        logits, state = model.stream(frame, state)
        if number == compared:
            streamed = logits.tolist()
        if number in marks:
            gc.collect()
            own, everything = _bytes(tree_leaves(state)), _bytes(gc.get_objects())
            row = {"frame": number, "state_bytes": own, "tensor_bytes": everything}
            rows.append({**row, "resident_bytes": _resident()})
    whole = model(torch.cat(list(random_frames(compared)), dim=2))
    return {
        "rows": rows,
        "compared_frames": compared,
        "largest_difference": float((torch.tensor(streamed) - whole).abs().max()),
        "largest_logit": float(whole.abs().max()),
        "seed": config.seed,
    }


def _bytes(values: list[Any]) -> int:
    tensors = (x for x in values if type(x) in (Tensor, torch.nn.Parameter))
    storages = (x.untyped_storage() for x in tensors if x.layout == torch.strided)
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def _resident() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not on every system
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


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
    add("--json", metavar="OUT", help="also write the results to a file")
    arguments = parser.parse_intermixed_args(argv)
    config = load_config(arguments.cfg, arguments.overrides, demo=False)
    if arguments.classes < 1:
        raise UserError(f"--classes: expected at least 1 (got {arguments.classes})")
    out = None if arguments.json is None else output_file("--json", arguments.json, (".json",))
    shape = config.data.clip_shape
    if arguments.stream is not None:
        found = stream_memory(config, arguments.classes, arguments.stream)
        print(f"{config.name}: frames of {shape[2]} x {shape[3]}, one by one")
        print(f"{'frame':>10s} {'state, bytes':>14s} {'all tensors, bytes':>20s} {'RSS, MiB':>15s}")
        for frame, state, tensors, resident in (row.values() for row in found["rows"]):
            print(f"{frame:10,d} {state:14,d} {tensors:20,d} {resident / 2**20:15.1f}")
        print(
            f"logits after {found['compared_frames']:,} frames and of the complete clip: largest "
            f"difference {found['largest_difference']:.1e} (logits up to {found['largest_logit']:.2g})"
        )
    else:
        gib = footprint(config, arguments.classes)
        found = {"gib": {**gib, "together": sum(gib.values())}}
        checkpointing = "on" if config.model.grad_checkpointing else "off"
        print(
            f"{config.name}: {config.train.batch_size // config.train.accumulate} clips of "
            f"{shape[1]} x {shape[2]} x {shape[3]}, {config.trainer.precision}, "
            f"checkpointing {checkpointing}"
        )
        for name, value in found["gib"].items():
            print(f"  {name:12s} {value:7.2f} GiB")
    if out is not None:
        write_json(out, {**environment(torch.device("cpu")), **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
