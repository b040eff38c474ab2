"""Streams: the time from a frame to the logits after it, in each form that a network runs in."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from rstg_pyg import RSTG, VideoClassifier
from rstg_pyg.export import export_stream, export_stream_onnx
from rstg_pyg.graphs import multiscale_grid
from rstg_pyg.train.benchmarking.cases import timed
from rstg_pyg.train.benchmarking.tables import Row

Step = Callable[..., tuple]


class _Nodes(torch.nn.Module):
    """An RSTG on nodes ``[B, T, 14, 256]`` that come as a stream."""

    edge_index: Tensor

    def __init__(self):
        super().__init__()
        self.rstg = RSTG(256, 256, num_rounds=3)
        self.register_buffer("edge_index", multiscale_grid().edge_index)

    def stream(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The nodes after the next frame, and the state."""
        return self.rstg(x, self.edge_index, state=state, return_state=True)


@torch.no_grad()
def stream_rows(quick: bool) -> list[Row]:
    """Latencies on the CPU with one thread. Every form continues a stream of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    demo = VideoClassifier.from_pretrained("smt_demo").eval()
    networks: dict[str, tuple[Any, Tensor]] = {
        "smt_demo, 48 x 48 pixels": (demo, torch.randn(1, 3, 1, 48, 48)),
        "RSTG, D = 256, 14 nodes, 3 rounds": (_Nodes().eval(), torch.randn(1, 1, 14, 256)),
    }
    rows = []
    for case, (model, frame) in networks.items():
        calls = {name: _stream(*form, frame) for name, form in _forms(model, frame, not quick).items()}
        for _ in range(3):
            found = {name: torch.as_tensor(call()) for name, call in calls.items()}
        for name, out in found.items():
            torch.testing.assert_close(out, found["eager"], rtol=1e-3, atol=1e-4, msg=f"{case}: {name}")
        figures = timed(calls, 1000, 4 if quick else 15, "cpu")
        rows += [
            {
                "section": "streams", "case": case, "dtype": "float32", "threads": 1, "variant": name,
                "pass": "one frame", **row, "frames_per_s": 1e3 / row["ms"],
            }
            for name, row in zip(calls, figures)
        ]  # fmt: skip
    torch.set_num_threads(threads)
    return rows


def _forms(model: Any, frame: Tensor, compiled: bool) -> dict[str, tuple[Step, list]]:
    """Steps from a frame and the state (further arguments) to the result and the next state; and the
    state that each begins with.
    """
    program = export_stream(model, frame)
    begin = list(program.example_inputs[0][1:])
    step: Any = program.module()
    forms: dict[str, tuple[Step, list]] = {"eager": (model.stream, [None]), ".pt2": (step, begin)}
    if compiled:
        torch.compiler.reset()
        forms["torch.compile"] = torch.compile(model.stream), [None]
    try:
        runtime: Any = import_module("onnxruntime")
    except ImportError:
        return forms
    with TemporaryDirectory() as folder:
        path = Path(folder, "step.onnx")
        export_stream_onnx(program, frame, path)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = runtime.InferenceSession(str(path), options)
    names = [value.name for value in session.get_inputs()]

    def run(frame: Any, *state: Any) -> tuple:
        return tuple(session.run(None, dict(zip(names, [frame.numpy(), *state]))))

    forms[f"ONNX, onnxruntime {runtime.__version__}"] = run, [value.numpy() for value in begin]
    return forms


def _stream(step: Step, state: list, frame: Tensor) -> Callable[[], Any]:
    """Feeds the frame again and again."""

    def call() -> Any:
        nonlocal state
        out, *state = step(frame, *state)
        return out

    return call
