"""Writes a trained network as ONNX or ``.pt2``: ``python train/export.py CKPT --out MODEL.onnx``.

A name without an ending is a folder: it gets the weights, config and class names for
``VideoClassifier.from_pretrained``, and a model card. Everything else here is about the other two.

The exported model takes ``uint8`` clips (``clip [B, C, T, H, W]``), normalizes them and returns
``logits [B, classes]``. It runs without this package: ``.onnx`` with onnxruntime and others, ``.pt2``
with ``torch.export.load``. Before the file gets its final name, its outputs are compared with those of
the original network, on random and on rendered clips. With ``--stream`` the file is one step of a
stream: its inputs are the next frame and the state, its outputs the logits of all frames so far and the
new state.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import io
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rstg_pyg.export import (
    ONNX_PACKAGES,
    export_onnx,
    export_program,
    export_stream,
    export_stream_onnx,
)
from rstg_pyg.train.build import normalize
from rstg_pyg.train.command import command
from rstg_pyg.train.config import Config
from rstg_pyg.train.data.mini import MiniSomething
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.exported import ExportedNetwork, open_session
from rstg_pyg.train.files import output_file, write_atomically, write_json
from rstg_pyg.train.predictor import Predictor
from rstg_pyg.train.pretrained import load_network, measured_weights
from rstg_pyg.train.run_folder.environment import environment, package_version

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_PACKAGES = (*ONNX_PACKAGES, "onnxruntime")
#: Largest difference in float32, relative to the largest logit, that rounding can explain.
_ROUNDING = 1e-3
_SEED = 0


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = parse_arguments(argv)
    out = Path(arguments.out)
    if not out.suffix:
        load_network(measured_weights(arguments.checkpoint)).save_pretrained(out)
        print(f"{out}: model.safetensors and its card, for VideoClassifier.from_pretrained")
        return 0
    predictor = Predictor.load(arguments.checkpoint, "cpu")
    if isinstance(predictor.model, ExportedNetwork):
        raise UserError(f"{arguments.checkpoint}: is exported already; give the run it is from")
    if predictor.takes_skeletons:
        raise UserError(
            f"{arguments.checkpoint}: takes skeletons, which this command does not write as ONNX or "
            f".pt2; give --out FOLDER, or use rstg_pyg.export in Python"
        )
    found = export(predictor, out, arguments.dtype, arguments.stream)
    _report(found, arguments.out, predictor.title)
    if arguments.json is not None:
        write_json(Path(arguments.json), {**environment(torch.device("cpu")), **found})
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line.

    Raises:
        UserError: If an argument cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="export.py", description="Write a trained network as ONNX or .pt2.", allow_abbrev=False
    )
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="a run folder, a checkpoint, or safetensors weights")
    add("--out", required=True, metavar="MODEL.onnx|MODEL.pt2|FOLDER", help="the file, or a folder")
    add("--dtype", choices=tuple(_DTYPES), default="float32",
        help="bfloat16: the complete network in .pt2, the stored weights in .onnx (default: float32)",
    )  # fmt: skip
    add("--stream", action="store_true",
        help="one step of a stream: a frame and the state in, logits and the new state out",
    )  # fmt: skip
    add("--json", metavar="OUT", help="also write what was measured to a file")
    arguments = parser.parse_args(argv)
    if Path(arguments.out).suffix:
        output_file("--out", arguments.out, (".onnx", ".pt2"))
    if arguments.json is not None:
        output_file("--json", arguments.json, (".json",))
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if Path(arguments.out).suffix == ".onnx" and missing:
        raise UserError(
            f'--out: ONNX needs {", ".join(missing)}; pip install -e ".[export]", or choose .pt2'
        )
    return arguments


class FromPixels(torch.nn.Module):
    """``uint8`` clips to logits; includes the normalization, so that nobody can forget it.

    Args:
        model: The network.
        config: The experiment that it comes from.
        dtype: What it computes in.
    """

    def __init__(self, model: torch.nn.Module, config: Config, dtype: torch.dtype):
        super().__init__()
        self.model: Any = copy.deepcopy(model).to(dtype)
        self.config, self.dtype = config, dtype

    def forward(self, clip: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` uint8 to ``[B, classes]`` float32."""
        return self.model(normalize(clip, self.config).to(self.dtype)).float()

    def stream(self, frames: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The same for the next frames of a stream, and its state."""
        logits, state = self.model.stream(normalize(frames, self.config).to(self.dtype), state)
        return logits.float(), state


def export(predictor: Predictor, out: Path, dtype: str, stream: bool = False) -> dict[str, Any]:
    """Writes a network, and checks the file before it gets its final name.

    Args:
        predictor: The network, on the CPU.
        out: The file, ``.onnx`` or ``.pt2``.
        dtype: ``"float32"`` or ``"bfloat16"``.
        stream: Whether to write one step of a stream, for one video and a frame at a time.

    Returns:
        What was written (``format``, ``dtype``, ``bytes``, ``input``, ``classes``, ``any_frames``,
        ``stream``) and how far its logits are from those of the network in float32: ``differences`` by
        kind of clips, ``largest_logit``, ``same_top1``.

    Raises:
        UserError: If the file cannot be written, if its outputs differ from the network's (in float32),
            or if the network cannot stream.
    """
    clips, onnx = example_clips(predictor), out.suffix == ".onnx"
    network = FromPixels(predictor.model, predictor.config, torch.float32 if onnx else _DTYPES[dtype])
    exact = FromPixels(predictor.model, predictor.config, torch.float32).eval()
    example = clips["random"][:1, :, :1] if stream else clips["random"]
    program, any_frames = capture(network.eval(), example, stream)
    if stream:
        clips = {kind: clip[:1] for kind, clip in clips.items()}
    elif not any_frames:
        del clips["longer"]
    reference: Step = exact.stream if stream else lambda clip, state: (exact(clip), None)
    with torch.no_grad():
        wanted = {kind: logits_of(reference, clip, stream) for kind, clip in clips.items()}
    about = json.dumps(_about(predictor))
    found: dict[str, Any] = {}

    def write(path: Path) -> None:
        if onnx:
            options: Any = {"bfloat16_weights": dtype == "bfloat16", "metadata": {"rstg_pyg": about}}
            if stream:
                export_stream_onnx(program, example, path, **options)
            else:
                export_onnx(program, example, path, any_frames=any_frames, **options)
        else:
            buffer = io.BytesIO()  # torch wants a name that ends in .pt2
            torch.export.save(program, buffer, extra_files={"rstg_pyg.json": about})
            path.write_bytes(buffer.getvalue())
        step = open_file(path, onnx, stream)
        with torch.no_grad():
            logits = {kind: logits_of(step, clip, stream) for kind, clip in clips.items()}
        apart = {kind: float((logits[kind] - wanted[kind]).abs().max()) for kind in clips}
        worst, most = max(apart.values()), max(float(x.abs().max()) for x in wanted.values())
        same = all(bool((logits[k].argmax(1) == wanted[k].argmax(1)).all()) for k in clips)
        found.update(bytes=path.stat().st_size, differences=apart, largest_logit=most, same_top1=same)
        if dtype == "float32" and not worst <= _ROUNDING * max(1.0, most):
            raise UserError(
                f"{out}: the outputs of the file differ from the network's (largest difference "
                f"{worst:.1e}, logits up to {most:.2g}), so it is not kept; please report this, "
                f"with the versions of torch, onnx and onnxruntime"
            )

    write_atomically(out, write)
    batch, frames = 1 if stream else "batch", "frames" if any_frames else example.size(2)
    return {
        "network": predictor.config.name,
        "format": out.suffix[1:],
        "dtype": dtype,
        "input": [batch, example.size(1), frames, *example.shape[3:]],
        "classes": len(predictor.names),
        "any_frames": any_frames,
        "stream": stream,
        "seed": _SEED,
        "packages": {name: package_version(name) for name in _PACKAGES} if onnx else {},
        **found,
    }


def capture(
    network: FromPixels, example: Tensor, stream: bool
) -> tuple[torch.export.ExportedProgram, bool]:
    """The program, and whether it accepts any number of frames (not every network does).

    Raises:
        UserError: With ``stream``, if modules other than the recurrent cells combine frames.
    """
    if stream:
        try:
            return export_stream(network, example), False
        except ValueError as e:
            raise UserError(f"--stream: {e}") from e
    logging.getLogger("torch.export").setLevel(logging.CRITICAL)  # what is tried here may fail
    try:
        return export_program(network, example), True
    except ValueError:
        return export_program(network, example, any_frames=False), False


def example_clips(predictor: Predictor) -> dict[str, Tensor]:
    """``uint8`` clips for the comparison: random, longer random, and rendered ones."""
    frames, size, channels = predictor.num_frames, predictor.size, predictor.config.data.channels
    generator = torch.Generator().manual_seed(_SEED)
    shape = (3, channels, frames, size, size)
    longer = (1, channels, frames + 3, size, size)
    scenes = MiniSomething(size=max(size, 16), num_frames=max(frames, 2), seed=_SEED)
    scene = np.stack([scenes.render("test", item) for item in range(2)])
    rendered = torch.from_numpy(scene).permute(0, 4, 1, 2, 3)[:, :, :frames, :size, :size]
    return {
        "random": torch.randint(256, shape, generator=generator, dtype=torch.uint8),
        "longer": torch.randint(256, longer, generator=generator, dtype=torch.uint8),
        "rendered": predictor.channels(rendered).contiguous(),
    }


#: Logits of the next frames and the state after them, from frames ``[1, C, T, H, W]`` and a state.
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]


def open_file(path: Path, onnx: bool, stream: bool) -> Step:
    """The outputs of the file, run without this package; without ``stream`` there is no state."""
    if onnx:
        session = open_session(path)
        inputs, kinds = session.get_inputs(), {"tensor(float)": torch.float32}
        start = [torch.zeros(x.shape, dtype=kinds.get(x.type, torch.int64)) for x in inputs[1:]]

        def call(*values: Tensor) -> list[Tensor]:
            feed = {x.name: value.numpy() for x, value in zip(inputs, values, strict=True)}
            return [torch.from_numpy(value) for value in session.run(None, feed)]

    else:
        with open(path, "rb") as file:
            program = torch.export.load(file)
        module, start = program.module(), program.example_inputs[0][1:]

        def call(*values: Tensor) -> list[Tensor]:
            return module(*values) if stream else [module(*values)]

    def step(frames: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        logits, *state = call(frames, *(state or start))
        return logits, state

    return step


def logits_of(step: Step, clip: Tensor, stream: bool) -> Tensor:
    """The logits of clips, or those after every frame of a clip."""
    state, found = None, []
    for frames in clip.split(1 if stream else clip.size(2), dim=2):
        logits, state = step(frames, state)
        found.append(logits)
    return torch.cat(found)


def _about(predictor: Predictor) -> dict[str, Any]:
    """Metadata for programs that run the file."""
    return {
        "network": predictor.config.name,
        "classes": predictor.names,
        "frames": predictor.num_frames,
        "multi_label": predictor.model.multi_label,
        "sampling": predictor.sampling,
        "stride": predictor.stride,
        "short_side": predictor.short_side,
        "size": predictor.size,
        "channels": predictor.config.data.channels,
        "version": package_version("rstg_pyg"),
    }


def _report(found: dict[str, Any], out: str, title: str) -> None:
    shape = ", ".join(map(str, found["input"]))
    what, state, batch = ("frames", " and state", 1) if found["stream"] else ("clip", "", "batch")
    print(
        f"{out}: {title} in {found['dtype']}, {found['bytes'] / 1e6:.1f} MB; {what} uint8 "
        f"[{shape}]{state} to logits float32 [{batch}, {found['classes']}]{state}"
    )
    runner = f"onnxruntime {found['packages']['onnxruntime']}" if found["packages"] else "torch"
    print(f"run by {runner}; largest difference from the network in float32:")
    for kind, difference in found["differences"].items():
        print(f"  {difference:.1e}  {kind} clips")
    same = "is the same for all clips" if found["same_top1"] else "differs for some clip"
    print(f"logits are up to {found['largest_logit']:.2g}; the best class {same}")
    if found["stream"]:
        print("compared after every frame of a clip; the initial state of a stream is zeros")
    elif not found["any_frames"]:
        print(f"for clips of {found['input'][2]} frames: this network needs this number")


if __name__ == "__main__":
    sys.exit(main())
