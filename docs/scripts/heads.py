"""Heads compared on few clips: ``python docs/scripts/heads.py TRANSFER OUT``.

``TRANSFER`` is the folder that ``docs/scripts/transfer.py`` wrote. All heads have the same backbone,
data, recipe and seeds; each run leaves a file in ``OUT``, and those that are there are not run again.
"""

import json
import sys
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor

from rstg_pyg import VideoClassifier
from rstg_pyg.graphs import AreaPool
from rstg_pyg.train.build import build_dataset, build_model
from rstg_pyg.train.config import load_config
from rstg_pyg.train.files import write_json
from rstg_pyg.train.run_folder.environment import device_name, versions
from rstg_pyg.train.training.task import VideoTask
from rstg_pyg.train.training.trainer import eval_loader, make_trainer, train_loader

SEEDS = (0, 1, 2)
#: What is changed in ``model.rstg``, or another head.
HEADS = {
    "RSTG": {},
    "RSTG, all_time": {"residual": "all_time"},
    "RSTG, paper": {"form": "paper", "residual": True},
    "RSTG, dot attention": {"attention": "dot"},
    "RSTG, even attention": {"attention": None},
    "RSTG, no messages": {"space_stages": False},
    "transformer": "transformer",
    "mean": "mean",
}


class TransformerHead(torch.nn.Module):
    """Two pre-norm transformer blocks over all nodes of all frames, and their mean.

    The nodes are those of RSTG; a learned vector for each node and for each frame is added.

    Shapes:
        - **input:** feature map :math:`(B, C, T, H, W)`
        - **output:** :math:`(B, C)`
    """

    def __init__(self, channels: int, num_frames: int, scales=(3, 2, 1), heads: int = 4):
        super().__init__()
        self.channels = self.out_channels = channels
        self.pool = AreaPool(scales)
        self.node = torch.nn.Parameter(torch.randn(sum(s * s for s in scales), channels) * 0.02)
        self.frame = torch.nn.Parameter(torch.randn(num_frames, 1, channels) * 0.02)
        layer = torch.nn.TransformerEncoderLayer(
            channels, heads, 2 * channels, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = torch.nn.TransformerEncoder(
            layer, 2, torch.nn.LayerNorm(channels), enable_nested_tensor=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """From the map to the mean of all nodes."""
        nodes = self.pool(x) + self.node + self.frame  # [B, T, N, C]
        return self.blocks(nodes.flatten(1, 2)).mean(dim=1)


def train(head, seed: int, data: Path, folder: Path) -> dict:
    """Trains one network as ``folder.yaml`` says; returns what is measured."""
    changes = head if isinstance(head, dict) else {}
    config = load_config(
        "folder.yaml",
        [f"data.root={data}", f"seed={seed}", "data.val_fraction=0", "data.num_workers=0"]
        + ["trainer.progress_bar=false", "trainer.precision=32-true"]
        + [f"model.rstg.{key}={json.dumps(value)}" for key, value in changes.items()],
    )
    pl.seed_everything(seed, verbose=False)
    torch.set_num_threads(1)
    model = build_model(config, 20)
    if not isinstance(head, dict):
        other = TransformerHead(64, config.data.num_frames) if head == "transformer" else None
        model = VideoClassifier(model.backbone, 20, head=other)
    splits = {split: build_dataset(config, split) for split in ("train", "test")}
    loader = train_loader(config, splits["train"])
    task = VideoTask(
        model, config, loader.steps, splits["train"].origin, splits["train"].label_names
    )
    trainer = make_trainer(config, folder, [])
    begin = time.perf_counter()
    trainer.fit(task, loader)
    seconds = time.perf_counter() - begin
    trainer.test(task, eval_loader(config, splits["test"], trainer), verbose=False)
    return {
        "top1": float(task.test_results["top1"]),
        "top5": float(task.test_results["top5"]),
        "seed": seed,
        "steps": trainer.global_step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(seconds, 1),
        "protocol": splits["test"].protocol_text,
        "changes": changes,
        "device": device_name(torch.device("cpu")),
        "threads": 1,
        "versions": versions(),
    }


if __name__ == "__main__":
    data, out = Path(sys.argv[1], "twenty"), Path(sys.argv[2])
    for seed in SEEDS:
        for name, head in HEADS.items():
            file = out / f"{name.replace(', ', '_').replace(' ', '_')}_{seed}.json"
            if not file.exists():
                results = {"head": name, **train(head, seed, data, out)}
                write_json(file, results)
                print(f"{name}, seed {seed}: {results['top1']:.1%}", flush=True)
