"""Does memory grow? ``python tests/memory_growth.py [--out memory.json]`` (Linux; some minutes).

Trains 2,000 steps, evaluates 500 times (each with its checkpoint) and predicts 10,000 frames of a
video as a stream, each in a process of its own, and measures the resident set after the first tenth and
at the end. Ends with exit code 1 if one of them grew by 2 % or more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytorch_lightning as pl
import torch

from rstg_pyg.train.build import build_dataset, build_model
from rstg_pyg.train.config import Config, load_config
from rstg_pyg.train.data.protocols import PROTOCOLS
from rstg_pyg.train.data.sources import open_video
from rstg_pyg.train.files import write_json
from rstg_pyg.train.predictor import Predictor
from rstg_pyg.train.run_folder.checkpoints import Checkpoints
from rstg_pyg.train.run_folder.results import environment
from rstg_pyg.train.training.task import VideoTask
from rstg_pyg.train.training.trainer import eval_loader, make_trainer, prepare_torch, train_loader
from rstg_pyg.train.training.watch import Meter

LENGTHS = {"training steps": 2_000, "evaluations": 500, "streamed frames": 10_000}
MOST_GROWTH = 0.02
SMALL = [
    "data.digits=builtin", "data.num_frames=4", "data.val_videos=8", "train.batch_size=8",
    "model.backbone.filters=[8, 8, 8]", "model.rstg.hidden_channels=16", "pretrain.steps=0",
    "trainer.accelerator=cpu", "trainer.threads=1", "trainer.progress_bar=false",
]  # fmt: skip


def resident() -> int:
    """Bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Sampler(pl.Callback):
    """Measures after every step or after every evaluation."""

    def __init__(self, evaluations: bool):
        self.evaluations = evaluations
        self.samples: list[int] = []

    def on_train_batch_end(self, *args) -> None:
        """After a step."""
        if not self.evaluations:
            self.samples.append(resident())

    def on_validation_end(self, *args) -> None:
        """After an evaluation."""
        if self.evaluations:
            self.samples.append(resident())


def trained(steps: int, validate_every: int, folder: Path, sampler: pl.Callback) -> None:
    """A training as ``train/run.py`` does it, without its tests at the end."""
    config = load_config("syncmnist_mini.yaml", [*SMALL, f"train.max_steps={steps}"])
    prepare_torch(config)
    train, val = (build_dataset(config, split) for split in ("train", "val"))
    model = build_model(config, len(train.label_names))
    loader = train_loader(config, train)
    task = VideoTask(model, config, loader.steps, train.origin, train.label_names)
    meter = Meter(folder / "metrics.csv", config.train.log_every, config.train.batch_size, loader)
    callbacks = [meter, Checkpoints(folder / "checkpoints"), sampler]
    trainer = make_trainer(config, folder, callbacks, validate_every)
    trainer.fit(task, loader, eval_loader(config, val, trainer))


def streamed(config: Config, video: Path, frames: int) -> list[int]:
    """Predicts a video frame by frame; a measurement after each."""
    model = build_model(config, 11).eval()
    names = [str(i) for i in range(11)]
    predictor = Predictor(model, config, names, PROTOCOLS["center1"])
    predictor.num_frames = frames  # all of them
    source, name = open_video(str(video))
    return [resident() for _ in predictor.stream(source, name)]


def write_video(path: Path, frames: int) -> None:
    """A square that moves about."""
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        for i in range(frames):
            picture = torch.zeros(64, 64, 3, dtype=torch.uint8)
            row, column = i % 48, (i // 7) % 48
            picture[row : row + 16, column : column + 16] = 255
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")))
        file.mux(stream.encode())


def measured(part: str, length: int, folder: Path) -> list[int]:
    """The resident set over the whole of a part."""
    if part == "streamed frames":
        config = load_config("syncmnist_mini.yaml", SMALL)
        prepare_torch(config)
        video = folder / "video.mp4"
        write_video(video, length)
        return streamed(config, video, length)
    sampler = Sampler(evaluations=part == "evaluations")
    trained(length, 1 if sampler.evaluations else length, folder, sampler)
    return sampler.samples


def summary(samples: list[int]) -> dict[str, float]:
    """Resident set after the first tenth and at the end, in MiB, and its growth."""
    warm, end = samples[len(samples) // 10], samples[-1]
    mib = {"after_a_tenth_mib": warm, "end_mib": end, "most_mib": max(samples)}
    found = {k: round(v / 2**20, 2) for k, v in mib.items()}
    return {"measurements": len(samples), **found, "growth": round(end / warm - 1, 5)}


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="memory_growth.py", description="Does memory grow?")
    parser.add_argument("--out", metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--part", choices=list(LENGTHS), help="only this, in this process")
    arguments = parser.parse_args(argv)
    if arguments.part is not None:
        with tempfile.TemporaryDirectory() as folder:
            samples = measured(arguments.part, LENGTHS[arguments.part], Path(folder))
        print(json.dumps(summary(samples)))
        return 0
    figures = {}
    for part in LENGTHS:
        command = [sys.executable, __file__, "--part", part]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        figures[part] = json.loads(done.stdout.splitlines()[-1])
        print(f"{part}: {figures[part]}", flush=True)
    if arguments.out is not None:
        found = {"figures": figures, "most_growth": MOST_GROWTH, **environment(torch.device("cpu"))}
        write_json(Path(arguments.out), {**found, "command": "python tests/memory_growth.py"})
    return int(any(figure["growth"] >= MOST_GROWTH for figure in figures.values()))


if __name__ == "__main__":
    sys.exit(main())
