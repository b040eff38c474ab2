"""Checks and prepares data: ``python train/prepare.py check|pack|bench-data|show ...``.

``check`` and ``pack`` take the folder of a data set of videos (``--root``); ``show`` takes a config
(``--cfg``); ``bench-data`` takes either, or compares readers of videos (``--readers``).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from rstg_pyg.train.benchmarking.readers import compare_readers
from rstg_pyg.train.build import build_dataset
from rstg_pyg.train.command import command
from rstg_pyg.train.config import available_configs, load_config, to_dict
from rstg_pyg.train.data.check import check
from rstg_pyg.train.data.label_files import KINDS
from rstg_pyg.train.data.loaders import VideoLoader
from rstg_pyg.train.data.packing import pack
from rstg_pyg.train.data.throughput import measure
from rstg_pyg.train.drawing.clips import draw_clips
from rstg_pyg.train.errors import UserError, counted
from rstg_pyg.train.files import output_file, write_atomically, write_json
from rstg_pyg.train.run_folder.environment import device_name, environment
from rstg_pyg.train.text_tables import as_markdown


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = parse_arguments(argv)
    return arguments.command(arguments) or 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line.

    Raises:
        UserError: If there is no config where one is needed.
    """
    parser = argparse.ArgumentParser(prog="prepare.py", description="Check and prepare data.")
    commands = parser.add_subparsers(required=True, metavar="check|pack|bench-data|show")

    def subcommand(name: str, function: Callable, words: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=words)
        found.set_defaults(command=function)
        return found

    check_parser = subcommand("check", check_data, "report problems of a data set")
    check_parser.add_argument("--deep", action="store_true", help="read every frame of every video")

    pack_parser = subcommand("pack", pack_data, "store resized frames in one large file")
    pack_parser.add_argument("--out", required=True, metavar="FOLDER")
    pack_parser.add_argument("--source", default="auto", choices=("auto", "frames", "video"))
    pack_parser.add_argument("--short-side", type=int, default=256, help="pixels (default: 256)")
    pack_parser.add_argument("--quality", type=int, default=90, help="JPEG quality (default: 90)")

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for sub in (check_parser, pack_parser):
        sub.add_argument("--root", required=True, metavar="FOLDER", help="the data set")
        sub.add_argument("--annotations", default="auto", choices=("auto", "folder", *KINDS))
        sub.add_argument("--workers", type=int, default=cores, help=f"processes (default: {cores})")

    show_parser = subcommand("show", show, "save sample clips with their labels")
    show_parser.add_argument("--out", required=True, metavar="FILE.png|FILE.gif")
    show_parser.add_argument("--split", default="train", choices=("train", "val", "test"))
    show_parser.add_argument("--count", type=int, default=6, help="number of clips (default: 6)")

    bench_parser = subcommand("bench-data", bench_data, "measure how fast clips are made or read")
    bench_parser.add_argument("--root", metavar="FOLDER", help="a data set of videos, or a packed one")
    bench_parser.add_argument("--readers", action="store_true", help="compare with other libraries")
    bench_parser.add_argument("--seconds", type=float, default=5.0, help="per measurement (default: 5)")
    bench_parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="with --cfg")
    bench_parser.add_argument("--out", metavar="FILE.json", help="also write the results to a file")

    for sub in (show_parser, bench_parser):
        sub.add_argument("overrides", nargs="*", metavar="key.path=value")
        sub.add_argument("--cfg", nargs="?", metavar="NAME")
    arguments, rest = parser.parse_known_args(argv)
    wrong = [text for text in rest if text.startswith("-") or not hasattr(arguments, "overrides")]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if getattr(arguments, "workers", 1) < 1:
        raise UserError(f"--workers: expected at least 1 (got {arguments.workers})")
    if getattr(arguments, "root", None) == "":  # it would be the working folder
        raise UserError("--root: expected a folder (got nothing)")
    for name in ("root", "readers"):
        if getattr(arguments, name, None) not in (None, False):
            if getattr(arguments, "cfg", None) or getattr(arguments, "overrides", None) or rest:
                raise UserError(f"--{name}: cannot be combined with a config or key.path=value")
            return arguments
    arguments.overrides += rest  # overrides after an option
    if not arguments.cfg:
        raise UserError(f"--cfg needs the name of a config: {', '.join(available_configs())}")
    return arguments


def check_data(arguments: argparse.Namespace) -> int:
    """Reports on a data set; returns 2 if something is wrong with it."""
    report = check(
        arguments.root, arguments.annotations, arguments.deep, arguments.workers, _show_progress
    )
    print(report.text())
    return 0 if report.ok else 2


def pack_data(arguments: argparse.Namespace) -> None:
    """Creates a packed store."""
    packed = pack(
        arguments.root, arguments.out, arguments.annotations, arguments.source, arguments.short_side,
        arguments.quality, arguments.workers, _show_progress,
    )  # fmt: skip
    print(
        f"{packed.store}: {counted(packed.videos, 'video')} ({packed.added:,} new), "
        f"{packed.size / 1e9:.2f} GB\n{packed.made}\nuse it with data.root={packed.store}"
    )


def _show_progress(done: int, total: int) -> None:
    live = sys.stderr.isatty()  # a file gets one line at the end
    if live or done == total:
        start, end = "\r" * live, "\n" * (done == total)
        print(f"{start}{done:,} of {counted(total, 'video')}", end=end, file=sys.stderr)


def show(arguments: argparse.Namespace) -> None:
    """Saves sample clips as a picture or an animation."""
    config = load_config(arguments.cfg, arguments.overrides)
    path = output_file("--out", arguments.out, (".png", ".gif"))
    if arguments.count < 1:
        raise UserError(f"--count: expected at least 1 (got {arguments.count})")
    dataset: Any = build_dataset(config, arguments.split)
    samples = [dataset[i] for i in range(min(arguments.count, len(dataset)))]
    captions = [_caption(dataset.label_names, label) for _, label in samples]
    boxes = _pairs(dataset, len(samples)) if config.data.dataset == "syncmnist" else None
    write = draw_clips([clip for clip, _ in samples], captions, path.suffix, boxes)
    write_atomically(path, write)
    what = dataset.digits.detail if config.data.dataset == "syncmnist" else dataset.origin
    print(f"{counted(len(samples), 'clip')} of {what} written to {path}")


def _pairs(dataset: Any, count: int) -> list[torch.Tensor]:
    """Boxes around the synchronous pair of digits in each of the first videos, ``[T, 2 or 0, 4]``."""
    videos = dataset.videos(list(range(count)))
    factor, side = dataset.frame_size / dataset.canvas_size, dataset.digit_size
    boxes = []
    for corners, synchronous in zip(videos.corners, videos.synchronous.tolist()):
        low = corners[:, : 2 * synchronous].flip(-1).float()  # row and column to x and y
        boxes.append(factor * torch.cat([low, low + side], dim=-1))
    return boxes


def _caption(names: list[str], label: Any) -> str:
    if isinstance(label, torch.Tensor) and label.dim():  # several per video, zeros and ones
        return ", ".join(name for name, one in zip(names, label) if one) or "none"
    return names[label]


def bench_data(arguments: argparse.Namespace) -> None:
    """Prints how many clips per second a process reads or generates."""
    if not 0 < arguments.seconds < float("inf"):
        raise UserError(f"--seconds: expected a positive number (got {arguments.seconds})")
    out = None if arguments.out is None else output_file("--out", arguments.out, (".json",))
    bench = _bench_reading if arguments.root is not None else _bench_making
    figures = (_bench_readers if arguments.readers else bench)(arguments)
    if out is not None:
        write_json(out, {**figures, **environment(torch.device(arguments.device))})


def _bench_reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """Training clips per second from every kind of source in a folder."""
    torch.set_num_threads(1)  # as in a worker
    rates = measure(arguments.root, arguments.seconds)
    print(
        f"training clips of 32 frames, crop 224 of short side 256; one process, one thread, "
        f"{device_name(torch.device('cpu'))}, torch {torch.__version__}"
    )
    for rate in rates:
        print(
            f"{rate['source']}: {rate['clips_per_second']:.1f} clips/s per worker, median "
            f"{rate['milliseconds']:.1f} ms ({rate['detail']})"
        )
    return {"rates": rates}


def _bench_readers(arguments: argparse.Namespace) -> dict[str, Any]:
    """Clips per second of our data sets and of other libraries."""
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the profiler
    found = compare_readers(arguments.seconds, lambda text: print(text, file=sys.stderr))
    cells: dict[str, dict[str, str]] = {}
    for row in found["rows"]:
        cell = cells.setdefault(f"{row['data']}, {row['frames']} frames", {})
        cell[row["reader"]] = f"{row['clips_per_second']:.1f} (±{row['spread'] / 2:.0%})"
    readers = list(dict.fromkeys(row["reader"] for row in found["rows"]))
    print("clips/s, short side 256, crop 224; one process, one thread")
    print(
        as_markdown(
            [{"clips/s": name, **{r: cell.get(r) for r in readers}} for name, cell in cells.items()]
        )
    )
    for name, reason in found["absent"].items():
        print(f"{name}: absent ({reason})")
    return found


def _bench_making(arguments: argparse.Namespace) -> dict[str, Any]:
    """Generated videos per second, in batches of the config and one by one."""
    config = load_config(arguments.cfg, arguments.overrides)
    data, batch_size = config.data, config.train.batch_size
    if data.dataset != "syncmnist":
        raise UserError("--cfg: expected generated videos (SyncMNIST); for others give --root FOLDER")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: PyTorch sees no CUDA device here; leave it out to use the CPU")
    device = torch.device(arguments.device)
    dataset: Any = build_dataset(config, "train")
    dataset = dataset.to(device)
    print(
        f"{data.num_digits} digits, {data.frame_size} x {data.frame_size} pixels, {data.num_frames} "
        f"frames; {dataset.digits.detail}; {device_name(device)}, torch {torch.__version__}"
    )
    loader = VideoLoader(dataset, batch_size, steps=10**9, shuffle=True)
    batches = _rate((len(labels) for _, labels in loader), arguments.seconds, device)
    print(f"batches of {batch_size}: {batches:,.0f} videos/s")
    one_by_one = (1 for i in range(10**9) if dataset[i % len(dataset)])
    single = _rate(one_by_one, arguments.seconds, device)
    print(f"one by one: {single:,.0f} videos/s per process")
    return {
        "videos_per_second": batches,
        "batch_size": batch_size,
        "videos_per_second_one_by_one": single,
        "seconds_measured_each": arguments.seconds,
        "digits": dataset.digits.source,
        "data": to_dict(config)["data"],
    }


def _rate(counts: Iterator[int], seconds: float, device: torch.device) -> float:
    """Videos per second of an endless source, after a warm-up of three."""
    for _ in range(3):
        next(counts)
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        done += next(counts)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return done / (time.perf_counter() - begin)


if __name__ == "__main__":
    sys.exit(main())
