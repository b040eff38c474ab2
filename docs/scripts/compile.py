"""Whether ``torch.compile`` pays on this CPU: ``python docs/scripts/compile.py OUT.json``.

Times RSTG and ``torch.compile(RSTG)`` in turns: 14 nodes, 32 clips of 8 frames, float32, one thread,
with the memory kept that tensors free (as in all commands).
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch

from rstg_pyg import RSTG
from rstg_pyg.graphs import multiscale_grid
from rstg_pyg.train.run_folder.environment import device_name

REPEATS = 13
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}


def times(form: str, channels: int, training: bool) -> list[float]:
    """Medians in milliseconds, eager and compiled, of inference or of forward + backward."""
    torch.compiler.reset()
    torch.manual_seed(0)
    edge_index = multiscale_grid((3, 2, 1)).edge_index
    model = RSTG(channels, channels, form=form, num_rounds=1 if form == "skip" else 3)
    model.train(training)
    x = torch.randn(32, 8, 14, channels, requires_grad=training)

    def call(module) -> None:
        with torch.set_grad_enabled(training):
            out = module(x, edge_index)
        if training:
            torch.autograd.grad(out.sum(), [x, *model.parameters()], allow_unused=True)

    modules = model, torch.compile(model, fullgraph=True)
    found: list[list[float]] = [[], []]
    for n in range(REPEATS + 2):
        for module, seconds in zip(modules, found):
            start = time.perf_counter()
            call(module)
            if n >= 2:  # the first calls compile
                seconds.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(seconds) for seconds in found]


def main(out: Path) -> None:
    """Measures everything and writes the file."""
    torch.set_num_threads(1)
    rows = []
    for form in ("skip", "paper"):
        for channels in (64, 256):
            for training in (True, False):
                eager, compiled = times(form, channels, training)
                rows.append(
                    {"form": form, "rounds": 1 if form == "skip" else 3, "channels": channels,
                     "pass": "training" if training else "inference", "eager_ms": eager,
                     "compiled_ms": compiled}
                )  # fmt: skip
                print(rows[-1], flush=True)
    found = {
        "protocol": f"docs/scripts/compile.py; medians of {REPEATS} calls in turns after two; RSTG on "
        "14 nodes, 32 clips of 8 frames, float32; training: forward + backward; seed 0",
        "machine": f"{device_name(torch.device('cpu'))} ({torch.backends.cpu.get_cpu_capability()})",
        "threads": 1,
        "versions": f"Python {sys.version.split()[0]}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if any(name not in os.environ for name in KEPT):  # glibc reads them when it starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEPT})
    main(Path(sys.argv[1]))
