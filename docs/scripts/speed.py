"""What became faster since an earlier commit: ``python docs/scripts/speed.py OLD THREADS OUT.json``.

``OLD`` is a checkout of the earlier commit (``git worktree add OLD COMMIT``). Times steps and inference
of several networks in three ways in turns: at that commit, now, and now with the memory kept that
tensors free, as all commands of the package do (``rstg_pyg.train.command``). Each network is timed in a
process of its own, in float32 and under bfloat16 autocast.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
ROUNDS, SECONDS, REPEATS = 2, 4.0, 15


def networks():
    """The network or layer and its input by name, and how it is called."""
    import torch

    from rstg_pyg import RSTG, RSTGBlock, RSTGConv, VideoClassifier
    from rstg_pyg.backbones import SimpleConv, i3d_resnet50
    from rstg_pyg.graphs import multiscale_grid
    from rstg_pyg.published import published_arguments

    edges = multiscale_grid((3, 2, 1)).edge_index

    def demo():
        form = dict(form="skip", attention="additive", shared_rounds=False, residual="time")
        head = RSTGBlock(64, to="vec", num_rounds=2, **form)
        model = VideoClassifier(SimpleConv(3, (16, 32, 64), padding=1), 20, head=head)
        return model, torch.randn(32, 3, 8, 48, 48)

    def syncmnist():
        head = RSTGBlock(64, to="vec", form="paper", attention="additive", num_rounds=3)
        return VideoClassifier(SimpleConv(1, (16, 32, 64)), 46, head=head), torch.randn(
            32, 1, 10, 64, 64
        )

    def published(batch):
        head = RSTGBlock(512, to="vec", **published_arguments(first_batch_norm=True))
        model = VideoClassifier(SimpleConv(1, [512] * 3), 46, head=head)
        return model, torch.randn(batch, 1, 10, 64, 64)

    def graph():
        block = RSTGBlock(512, to="vec", **published_arguments())
        return block, torch.randn(4, 512, 16, 14, 14)

    def i3d():
        blocks = {k: RSTGBlock(c, hidden_channels=512) for k, c in {"res3": 512, "res4": 1024}.items()}
        return VideoClassifier(i3d_resnet50(), 174, blocks=blocks), torch.randn(1, 3, 16, 224, 224)

    def layer(module, *shape):
        return module, torch.randn(*shape, 14, module.in_channels)

    conv = partial(RSTGConv, form="paper")
    return edges, {
        "smt.yaml demo, 32 clips": demo,
        "SyncMNIST 64 x 64, filters 16-32-64, D = 64, three rounds, 32 clips": syncmnist,
        "published SyncMNIST network, batch 2": partial(published, 2),
        "published SyncMNIST network, batch 8": partial(published, 8),
        "published graph block, 14 x 14 map, T 16, batch 4": graph,
        "I3D + RSTG in res3 and res4, 16 frames of 224 x 224": i3d,
        "RSTGConv, 14 nodes, D = 64, 640 frames": lambda: layer(conv(64, 64), 640),
        "RSTGConv, 14 nodes, D = 512, 64 frames": lambda: layer(conv(512, 512), 64),
        "RSTG, three rounds, D = 512, 16 frames, batch 4": lambda: layer(
            RSTG(512, 512, form="paper"), 4, 16
        ),
    }


def measure(name: str, threads: int) -> dict[str, float]:
    """Medians in milliseconds of inference and of steps (forward, backward and AdamW)."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    edges, makers = networks()
    model, x = makers[name]()
    arguments = (edges,) if "nodes" in name or name.startswith("RSTG,") else ()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def call(step: bool, half: bool) -> None:
        model.train(step)
        with torch.set_grad_enabled(step), torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = model(x, *arguments)
        if step:
            optimizer.zero_grad()
            out.float().square().mean().backward()
            optimizer.step()

    found = {}
    for half in (False, True):
        for step in (False, True):
            what = f"{'step' if step else 'inference'}, {'bfloat16' if half else 'float32'}"
            call(step, half)
            call(step, half)
            times, start = [], time.perf_counter()
            while len(times) < 3 or (len(times) < REPEATS and time.perf_counter() - start < SECONDS):
                before = time.perf_counter()
                call(step, half)
                times.append(1e3 * (time.perf_counter() - before))
            found[what] = statistics.median(times)
    found["peak, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def package(checkout: Path, folder: Path) -> Path:
    """A folder with the package of a checkout, whose rooms lie beside it there."""
    shutil.copytree(checkout / "rstg_pyg", folder / "rstg_pyg")
    for room in ("graphs", "backbones", "train"):
        shutil.copytree(checkout / room, folder / "rstg_pyg" / room)
    return folder


def commit(checkout: Path) -> str:
    """The commit that is checked out."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main(old: Path, threads: int, out: Path) -> None:
    """Measures everything in turns, and writes the file."""
    import torch
    import torch_geometric

    from rstg_pyg.train.run_folder.environment import device_name

    commits = f"times in ms of commits {commit(old)} (before) and {commit(HERE)} (now)"
    runs: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        before, now = (package(x, Path(folder) / n) for x, n in ((old, "before"), (HERE, "now")))
        kept = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}
        ways = {"before": (before, {}), "now, memory not kept": (now, {}), "now": (now, kept)}
        for _ in range(ROUNDS):
            for name in networks()[1]:
                for way, (path, more) in ways.items():
                    environment = {
                        **os.environ,
                        "PYTHONPATH": str(path),
                        "GOMP_SPINCOUNT": "3000",
                        **more,
                    }
                    command = [sys.executable, __file__, "--measure", name, str(threads)]
                    done = subprocess.run(
                        command, env=environment, cwd=folder, capture_output=True, text=True, check=True
                    )
                    runs.setdefault(name, {}).setdefault(way, []).append(json.loads(done.stdout))
                    print(name, way, runs[name][way][-1], flush=True)
    rows = [
        {"network": name, "what": what}
        | {way: statistics.median(run[what] for run in found) for way, found in by_way.items()}
        for name, by_way in runs.items()
        for what in by_way["now"][0]
    ]
    found = {
        "what": commits,
        "protocol": f"docs/scripts/speed.py; medians of {ROUNDS} runs in turns, each of 3 to "
        f"{REPEATS} calls after two; bfloat16 by autocast; peak: of the process; seed 0",
        "machine": f"{device_name(torch.device('cpu'))} ({torch.backends.cpu.get_cpu_capability()})",
        "threads": threads,
        "versions": f"Python {sys.version.split()[0]}, torch {torch.__version__}, "
        f"torch-geometric {torch_geometric.__version__}",
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), Path(sys.argv[3]))
