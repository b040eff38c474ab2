"""What a run prints before it starts and when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rstg_pyg.train.config import Config, config_hash
from rstg_pyg.train.data.folder import VideoFolder


def print_head(config: Config, folder: Path, dataset, model: torch.nn.Module) -> None:
    """Prints a summary of the run before it starts."""
    if isinstance(dataset, VideoFolder):
        print(dataset.summary())
    train = config.train
    count = sum(p.numel() for p in model.parameters())
    print(f"{config.name}: {count / 1e6:.2f} M parameters, config {config_hash(config)}, {folder}")
    print(f"precision: {config.trainer.precision}")
    if config.data.dataset == "something" and config.data.root is None:
        print(
            "data.root is not given: this uses the built-in mini-something, and the section 'demo' of "
            "the config"
        )
    print(f"data: {dataset.describe()}", flush=True)
    if config.lr != train.lr:
        print(
            f"learning rate {train.lr:g} for {train.base_batch} videos per step, {config.lr:g} for "
            f"{train.batch_size}"
        )


def print_tail(results: dict[str, Any], folder: Path) -> None:
    """Prints the results."""
    speed = results.get("training") or {}
    if "data_share" in speed:
        print(
            f"a step took {speed['step_ms']:.0f} ms, {speed['data_ms']:.1f} ms of it waiting for data "
            f"({speed['data_share']:.1%} in all; {speed['slow_data_steps']:.2%} of the steps waited "
            f"for more than a tenth of their time, the worst {speed['worst_data_share']:.1%}); "
            f"{speed['videos_per_second']:.0f} videos/s"
        )
    if results["loss"] is None:
        print(f"not evaluated, since there are no validation videos; written to {folder}", flush=True)
        return
    score = (
        f"mAP {results['mAP']:.2%}"
        if "mAP" in results
        else (f"top-1 {results['top1']:.2%}, top-5 {results['top5']:.2%}")
    )
    print(
        f"test: {score}, loss {results['loss']:.4f} on {results['num_videos']} videos "
        f"({results['data']}) after {results['steps']} steps and {results['seconds']:.0f} s"
    )
    if results["skipped"] is not None:
        left_out = ", ".join(f"{len(v)} of {k}" for k, v in results["skipped"]["videos"].items())
        print(
            f"{results['num_unread']} videos of the test could not be read and were not evaluated; "
            f"skipped in all: {left_out or 'none'}, see {folder / results['skipped']['file']}"
        )
    print(f"protocol: {results['protocol']}\nwritten to {folder}", flush=True)
