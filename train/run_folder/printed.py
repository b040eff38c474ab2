"""What a run prints before it starts and when it is done."""

from __future__ import annotations

import shlex
from pathlib import Path
from textwrap import indent, wrap
from typing import Any

import torch
from rich.markup import escape

from rstg_pyg.train.config import Config, config_hash
from rstg_pyg.train.data.folder import VideoFolder
from rstg_pyg.train.errors import counted
from rstg_pyg.train.training.progress import show

_FILES = ("results.json", "checkpoints/best.ckpt", "metrics.csv", "per_class.csv", "confusion.png")
_FILES += ("curves.png", "predictions.csv", "predictions.png")


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
    """Prints the results, where the files are, and what to do next."""
    here = shlex.quote(str(folder))
    run = folder if (folder / "checkpoints").is_dir() else results["checkpoint"]
    rows = {
        "test": _score(results),
        "network": results["checkpoint"] if results["loss"] is not None else "",
        "protocol": results["protocol"],
        "time": _time(results),
        "skipped": _skipped(results, folder),
        "files": f"{folder}: {', '.join(file for file in _FILES if (folder / file).is_file())}",
    }
    data = results["config"]["data"]
    video = "RECORDING" if data["dataset"] == "skeleton" else "CLIP.mp4"
    commands = {"next": f"rstg predict {video} --ckpt {shlex.quote(str(run))}"}
    if data.get("boxes") is not None:  # which predict cannot give to the network
        commands = {}
    commands["" if commands else "next"] = f"rstg report {here}"
    print()
    for name, text in (rows | commands).items():
        if name in rows:  # a command stays in one line
            text = "\n".join(wrap(text, 70, break_long_words=False, break_on_hyphens=False))
        if text:
            show(f"[bold]{name:10}[/bold]{escape(indent(text, ' ' * 10).strip())}")


def _score(results: dict[str, Any]) -> str:
    if results["loss"] is None:
        return "not evaluated, since there are no validation videos"
    names = ("mAP",) if "mAP" in results else ("top1", "top5")
    scores = [f"{name.replace('top', 'top-')} {results[name]:.2%}" for name in names]
    videos = f"{counted(results['num_videos'], 'video')} ({results['data']})"
    return f"{', '.join(scores)}, loss {results['loss']:.4f} on {videos}"


def _time(results: dict[str, Any]) -> str:
    text = f"{results['seconds'] / 60:.1f} minutes, {counted(results['steps'], 'step')}"
    speed = results.get("training") or {}
    if "data_share" not in speed:
        return text
    return (
        f"{text} of {speed['step_ms']:.0f} ms, {speed['videos_per_second']:,.0f} videos/s, "
        f"{speed['data_share']:.1%} of the time waiting for data"
    )


def _skipped(results: dict[str, Any], folder: Path) -> str:
    if results["skipped"] is None:
        return ""
    left_out = ", ".join(f"{len(v)} of {k}" for k, v in results["skipped"]["videos"].items())
    unread = results["num_unread"]
    return (
        f"{counted(unread, 'video')} of the test could not be read and "
        f"{'was' if unread == 1 else 'were'} not evaluated; "
        f"skipped in all: {left_out or 'none'}, see {folder / results['skipped']['file']}"
    )
