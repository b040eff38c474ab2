"""Looks at data: ``python train/prepare.py show|bench-data --cfg NAME [key.path=value ...]``."""

from __future__ import annotations

import argparse
import platform
import sys
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message=".*torch.jit.script.*")  # PyG's own, on import

import torch  # noqa: E402

from rstg_pyg.train.assemble import build_dataset  # noqa: E402
from rstg_pyg.train.checkpoints import write_atomically  # noqa: E402
from rstg_pyg.train.data.loaders import VideoLoader  # noqa: E402
from rstg_pyg.train.errors import UserError  # noqa: E402
from rstg_pyg.train.pictures import draw_clips  # noqa: E402
from rstg_pyg.train.results import device_name, environment, write_json  # noqa: E402
from rstg_pyg.train.settings import available_configs, load_config, to_dict  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    try:
        arguments = parse_arguments(argv)
        arguments.command(arguments)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line.

    Raises:
        UserError: If there is no config.
    """
    parser = argparse.ArgumentParser(prog="prepare.py", description="Look at data.")
    commands = parser.add_subparsers(required=True, metavar="show|bench-data")

    show_parser = commands.add_parser("show", help="save sample clips with their labels")
    show_parser.add_argument("--out", required=True, metavar="FILE.png|FILE.gif")
    show_parser.add_argument("--split", default="train", choices=("train", "val", "test"))
    show_parser.add_argument("--count", type=int, default=6, help="number of clips (default: 6)")
    show_parser.set_defaults(command=show)

    bench_parser = commands.add_parser("bench-data", help="measure how fast videos are made")
    bench_parser.add_argument("--batch-size", type=int, default=None)
    bench_parser.add_argument("--seconds", type=float, default=5.0, help="per way (default: 5)")
    bench_parser.add_argument("--device", default="cpu")
    bench_parser.add_argument("--out", metavar="FILE.json", help="also write the figures to a file")
    bench_parser.set_defaults(command=bench_data)

    for sub in (show_parser, bench_parser):
        sub.add_argument("overrides", nargs="*", metavar="key.path=value")
        sub.add_argument("--cfg", nargs="?", metavar="NAME")
    arguments, rest = parser.parse_known_args(argv)
    wrong = [text for text in rest if text.startswith("-")]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    arguments.overrides += rest  # overrides after an option
    if not arguments.cfg:
        raise UserError(f"--cfg needs the name of a config: {', '.join(available_configs())}")
    return arguments


def show(arguments: argparse.Namespace) -> None:
    """Saves sample clips as a picture or an animation."""
    config = load_config(arguments.cfg, arguments.overrides)
    path = Path(arguments.out)
    if path.suffix not in (".png", ".gif"):
        raise UserError(f"--out: expected a name that ends in .png or .gif (got {path.name})")
    if arguments.count < 1:
        raise UserError(f"--count: expected at least 1 (got {arguments.count})")
    dataset = build_dataset(config, arguments.split)
    samples = [dataset[i] for i in range(min(arguments.count, len(dataset)))]
    captions = [dataset.label_names[label] for _, label in samples]
    write = draw_clips([clip for clip, _ in samples], captions, path.suffix)
    write_atomically(path, write)
    print(f"{len(samples)} clips of {dataset.digits.detail} written to {path}")


def bench_data(arguments: argparse.Namespace) -> None:
    """Prints videos per second, in batches and one by one."""
    config = load_config(arguments.cfg, arguments.overrides)
    batch_size = arguments.batch_size or config.train.batch_size
    if batch_size < 1 or arguments.seconds <= 0:
        raise UserError("--batch-size and --seconds: expected positive numbers")
    try:
        device = torch.device(arguments.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:
        raise UserError(
            f"--device: {arguments.device} cannot be used ({str(e).splitlines()[0]})"
        ) from e
    dataset = build_dataset(config, "train").to(device)
    data = config.data
    print(
        f"{data.num_digits} digits, {data.frame_size} x {data.frame_size} pixels, {data.num_frames} "
        f"frames; {dataset.digits.detail}; {device_name(device)}, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
    loader = VideoLoader(dataset, batch_size, steps=10**9, shuffle=True)
    batches = _rate((len(labels) for _, labels in loader), arguments.seconds, device)
    print(f"batches of {batch_size}: {batches:,.0f} videos/s")
    single = (1 for i in range(10**9) if dataset[i % len(dataset)])
    single = _rate(single, arguments.seconds, device)
    print(f"one by one: {single:,.0f} videos/s per process")
    if arguments.out:
        figures = {
            "videos_per_second": batches,
            "batch_size": batch_size,
            "videos_per_second_one_by_one": single,
            "seconds_measured_each": arguments.seconds,
            "digits": dataset.digits.source,
            "data": to_dict(config)["data"],
            **environment(device),
        }
        write_json(Path(arguments.out), figures)


def _rate(counts, seconds: float, device: torch.device) -> float:
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
