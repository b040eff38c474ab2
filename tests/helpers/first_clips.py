"""Training on a few clips of the built-in data, without a trainer."""

import torch

from rstg_pyg.train.build import build_dataset, build_model
from rstg_pyg.train.config import load_config
from rstg_pyg.train.data.loaders import VideoLoader
from rstg_pyg.train.training.task import VideoTask

#: Eight small clips, in batches of four.
FEW = ["data.builtin={train: 8, validation: 4, size: 32, num_frames: 6}", "data.num_frames=4",
       "data.short_side=32", "data.crop_size=32", "data.num_workers=0", "train.batch_size=4",
       "train.base_batch=4"]  # fmt: skip


def train_on_few(name, *changes, steps=40):
    """The task after some steps of a config's demo on few clips, its data, and the losses."""
    torch.manual_seed(0)
    config = load_config(name, [*FEW, *changes])
    dataset = build_dataset(config, "train")
    task = VideoTask(build_model(config, 20), config, 1, dataset.origin, dataset.label_names)
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    losses = []
    for batch, labels in VideoLoader(dataset, 4, steps=steps):
        loss = task.loss(batch, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return task, dataset, losses
