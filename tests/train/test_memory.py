"""Nothing is kept from one step, evaluation or frame to the next. (Resident sets: tests/fuzz.)"""

import gc
import json
import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from helpers.tiny_run import ONE_FILTER, write_tiny

from rstg_pyg.train.build import build_dataset, build_model
from rstg_pyg.train.config import load_config
from rstg_pyg.train.training.callbacks import Meter
from rstg_pyg.train.training.checkpoints import Checkpoints
from rstg_pyg.train.training.task import VideoTask
from rstg_pyg.train.training.trainer import eval_loader, make_trainer, train_loader


def held():
    """Tensors that are alive, and their bytes (sparse ones have no storage)."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
    tensors = [x for x in tensors if x.layout == torch.strided]
    return len(tensors), sum(x.untyped_storage().nbytes() for x in tensors)


@pytest.fixture
def config(tmp_path):
    data = {"num_frames": 2, "frame_size": 8, "train_videos": 96, "val_videos": 4}
    train = {"batch_size": 4, "validate_every": 4, "log_every": 2}
    return load_config(str(write_tiny(tmp_path, data=data, model=ONE_FILTER, train=train)))


class Counter(pl.Callback):
    """Counts after the later evaluations; the first ones warm up."""

    def __init__(self):
        self.counts = []

    def on_validation_end(self, trainer, task):
        if trainer.global_step >= 8:
            self.counts.append(held())


@pytest.mark.slow
def test_training_and_evaluation(config, tmp_path):
    train, val = (build_dataset(config, split) for split in ("train", "val"))
    loader = train_loader(config, train)
    task = VideoTask(build_model(config, 4), config, loader.steps, train.origin, train.label_names)
    counter = Counter()
    meter = Meter(tmp_path / "metrics.csv", 2, 4, loader)
    callbacks = [meter, Checkpoints(tmp_path / "checkpoints"), counter]
    trainer = make_trainer(config, tmp_path, callbacks, validate_every=4)
    trainer.fit(task, loader, eval_loader(config, val, trainer))
    assert trainer.global_step == 24 and len(counter.counts) == 5
    assert len(set(counter.counts)) == 1, counter.counts


def test_the_figures_in_the_docs_come_from_the_results_file():
    docs = Path(__file__).resolve().parents[2] / "docs"
    figures = json.loads((docs / "results" / "memory.json").read_text())["figures"]
    page = (docs / "reliability.md").read_text()
    rows = re.findall(r"^\| ([\d,]+) (.+) \| (\S+) MiB \| (\S+) MiB \| (\S+) % \|$", page, re.M)
    assert [row[1] for row in rows] == list(figures)
    for count, part, warm, end, growth in rows:
        found = figures[part]
        assert count == f"{found['measurements']:,}"
        assert warm == f"{found['after_a_tenth_mib']:,.1f}" and end == f"{found['end_mib']:,.1f}"
        assert growth == f"{100 * found['growth']:.2f}" and found["growth"] < 0.02
