"""The training that tests run: videos of two digits, and a network of a few channels."""

import yaml

from rstg_pyg.train.config import _merge

TINY = {
    "name": "tiny",
    "data": {
        "digits": "builtin", "num_digits": 2, "num_classes": 3, "num_frames": 3, "frame_size": 16,
        "canvas_size": 16, "digit_size": 8, "max_step": 3, "none_probability": 0.0,
        "train_videos": 64, "val_videos": 24, "test_videos": 30, "mean": 20.0, "std": 50.0,
    },
    "model": {
        "backbone": {"filters": [8, 16], "padding": 1},
        "rstg": {"hidden_channels": 16, "scales": [2, 1], "num_rounds": 2, "residual": True},
    },
    "train": {"batch_size": 16, "lr": 0.003},
    "trainer": {"accelerator": "cpu", "threads": 1, "progress_bar": False},
}  # fmt: skip
#: Changes with which the network is smaller still.
ONE_FILTER = {
    "backbone": {"filters": [4]},
    "rstg": {"hidden_channels": 4, "num_rounds": 1, "residual": False},
}


def tiny_config(**changes):
    """Its values with some changed: ``tiny_config(train={"epochs": 3})``."""
    return _merge(TINY, changes)


def write_tiny(folder, **changes):
    """Writes ``tiny.yaml`` into a folder; its path."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_config(**changes)))
    return path
