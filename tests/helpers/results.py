"""What runs write: tables, and ``results.json`` without a run."""

import csv

from rstg_pyg.train.config import config_hash, to_dict

#: Overrides with which a row of the SyncMNIST table takes seconds.
TINY_ROW = (
    *("data.digits=builtin", "data.train_videos=96", "data.val_videos=16", "data.test_videos=40"),
    *("data.num_frames=3", "pretrain.steps=2", "train.validate_every=3", "train.log_every=2"),
    *("trainer.accelerator=cpu", "trainer.progress_bar=false", "model.backbone.filters=[4,4,8]"),
)


def results_of(config, **changes):
    """What a run of a config could have written."""
    results = dict(top1=0.5, top5=1.0, num_videos=10_000, protocol="single | clip", seed=config.seed)
    results |= dict(parameters=1234, steps=10, seconds=120.0, device="a machine", data="MNIST digits")
    results |= dict(config=to_dict(config), config_hash=config_hash(config))
    return {**results, **changes}


def rows_of(path):
    """The rows of a table."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
