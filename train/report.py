"""Compares runs in one table: ``python train/report.py RUN... [--out report.html|.md|.csv]``.

Reads the ``results.json`` of each run folder, and for a page its ``metrics.csv``. Runs that differ
only in the seed or in the fold of a cross-validation share a row: mean and standard deviation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, ValidationError
from torch.utils.flop_counter import FlopCounterMode

from rstg_pyg.fast.autograd import plain_paths
from rstg_pyg.train.build import build_model, example_boxes
from rstg_pyg.train.command import command
from rstg_pyg.train.config import Config, parse_config, to_dict
from rstg_pyg.train.data.protocols import PROTOCOLS
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import output_file, write_csv, write_text
from rstg_pyg.train.report_page import report_page
from rstg_pyg.train.schema import ClipsConfig
from rstg_pyg.train.text_tables import as_markdown

_Number = Annotated[float, Field(strict=True, ge=0, le=1e15)]
_Count = Annotated[int, Field(strict=True, ge=0, le=10**15)]
_NUMBERS = (
    "top-1 %", "top-5 %", "mAP %", "videos", "seed", "fold", "parameters", "GFLOPs", "steps", "seconds"
)  # fmt: skip
_KINDS = (".html", ".md", ".csv")
_NOTE = (
    "FLOPs: of one clip forward, a multiplication and an addition counted as two. Several seeds or "
    "folds: mean and standard deviation over the runs."
)


class Run(BaseModel):
    """The results of a run that the table shows."""

    top1: _Number | None  # null if videos have several labels, or none were evaluated
    top5: _Number | None
    mAP: _Number | None = None
    num_videos: _Count
    protocol: str
    seed: _Count
    parameters: _Count
    steps: _Count
    seconds: _Number
    device: str
    config_hash: str
    config: Any  # the checked Config
    data: str = "unknown"
    versions: dict[str, Any] = {}
    folder: str = ""
    path: Path = Path()

    @property
    def fold(self) -> int:
        """The part of the training videos that is for validation (``data.val_fold``)."""
        return getattr(self.config.data, "val_fold", 0)

    def fits(self, other: Run) -> bool:
        """Whether the two can share a row: another fold, or the same videos with another seed."""
        if self.fold != other.fold:
            return True
        same = (self.steps, self.num_videos) == (other.steps, other.num_videos)
        return same and self.seed != other.seed


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="report.py", description="Compare runs in one table.", allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders (with a results.json)")
    parser.add_argument("--out", metavar="FILE", help="also write the table: .html, .md or .csv")
    parser.add_argument("--no-flops", action="store_true", help="do not build the models to count")
    arguments = parser.parse_args(argv)
    out = None if arguments.out is None else output_file("--out", arguments.out, _KINDS)
    runs = [read_run(Path(run)) for run in arguments.runs]
    groups = grouped(runs)
    rows = table(groups, flops=not arguments.no_flops)
    page = f"{as_markdown(rows, right=_NUMBERS)}\n\n{_NOTE}\n"
    print(page)
    if out is not None:
        if out.suffix == ".html":
            folders = [[run.path for run in group] for group in groups]
            page = report_page(rows, folders, _NUMBERS, _NOTE, out)
        if out.suffix == ".csv":
            write_csv(out, rows)
        else:
            write_text(out, page)
        print(f"\nwritten to {out}")
    return 0


def read_run(folder: Path) -> Run:
    """The results of a run folder (or of a copy of its ``results.json``), with its checked config.

    Raises:
        UserError: If there is no ``results.json``, or it is not one of this project.
    """
    path = folder if folder.suffix == ".json" else folder / "results.json"
    if not path.is_file():
        what = "the run has not ended" if (folder / "config.yaml").is_file() else "not a run folder"
        what = what if folder.is_dir() else "there is no such folder"
        raise UserError(f"{folder}: expected a run folder with results.json ({what})")
    try:
        run = Run.model_validate_json(path.read_bytes())
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path}: expected the results of a run ({key}: {first['msg']})") from e
    run.config = parse_config(run.config, str(path))
    run.folder = path.stem if path == folder else folder.resolve().name
    run.path = path.parent
    return run


def grouped(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ only in seed or fold together, best top-1 (or mAP) first."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        values = to_dict(run.config)
        values.pop("seed")
        values["data"].pop("val_fold", None)
        key = (json.dumps(values, sort_keys=True), run.protocol, run.data)
        again = 0
        while not all(run.fits(other) for other in groups.get((*key, again), [])):
            again += 1
        groups.setdefault((*key, again), []).append(run)
    return sorted(
        groups.values(), key=lambda group: -statistics.fmean(r.top1 or r.mAP or 0 for r in group)
    )


def table(groups: Sequence[list[Run]], flops: bool = True) -> list[dict[str, str]]:
    """The rows of the table.

    Args:
        groups: The runs of each row, from :func:`grouped`.
        flops: Whether to count FLOPs, which builds and runs every model once.
    """
    rows = [_row(group, flops) for group in groups]
    runs = [run for group in groups for run in group]
    unused = {"mAP %"} if all(run.mAP is None for run in runs) else set()
    unused |= set() if any(run.fold for run in runs) else {"fold"}
    return [{k: v for k, v in row.items() if k not in unused} for row in rows]


def _percent(shares: list[float | None]) -> str:
    known = [100 * share for share in shares if share is not None]
    return _spread(known, ".2f") if known else ""


def _row(group: list[Run], flops: bool) -> dict[str, str]:
    first, config = group[0], group[0].config
    folders = list(dict.fromkeys(run.folder for run in group))
    return {
        "name": config.name + (f" ({', '.join(folders)})" if folders != [config.name] else ""),
        "model": describe_model(config),
        "top-1 %": _percent([run.top1 for run in group]),
        "top-5 %": _percent([run.top5 for run in group]),
        "mAP %": _percent([run.mAP for run in group]),
        "videos": f"{sum({run.fold: run.num_videos for run in group}.values()):,}",
        "protocol": first.protocol,
        "seed": ", ".join(map(str, sorted({run.seed for run in group}))),
        "fold": ", ".join(map(str, sorted({run.fold for run in group}))),
        "parameters": f"{first.parameters / 1e6:.2f} M",
        "GFLOPs": f"{count_flops(config, first.parameters) / 1e9:.3g}" if flops else "",
        "steps": ", ".join(dict.fromkeys(f"{run.steps:,}" for run in group)),
        "seconds": _spread([run.seconds for run in group], ",.0f"),
        "machine": "; ".join(dict.fromkeys(run.device for run in group)),
        "config": ", ".join(dict.fromkeys(run.config_hash for run in group)),
    }


def _spread(values: list[float], how: str) -> str:
    mean = format(statistics.fmean(values), how)
    return mean if len(values) == 1 else f"{mean} ± {format(statistics.stdev(values), how)}"


def describe_model(config: Config) -> str:
    """A short description of the network: ``i3d + RSTG at res3, res4``."""
    model = config.model
    words = [getattr(model.backbone, "network", model.backbone.kind)]
    words += [] if model.rstg is None else [f"RSTG at {', '.join(model.rstg.places)}"]
    words += [] if model.head is None else [{"lstm": "LSTM"}.get(model.head.kind, model.head.kind)]
    return " + ".join(words)


def count_flops(config: Config, parameters: int) -> int:
    """FLOPs of the forward pass of one clip of the protocol's size, counted on the ``meta`` device.

    Args:
        config: The experiment.
        parameters: The network's number of parameters, from which the number of classes follows.
    """
    with torch.device("meta"):
        model = build_model(config, 1).eval()
    last = model.lin.in_features
    more = max(parameters - sum(p.numel() for p in model.parameters()), 0) // (last + 1)  # classes
    data: Any = config.data
    channels, frames, *sides = data.clip_shape
    if isinstance(data, ClipsConfig) and PROTOCOLS[data.protocol].whole:
        sides = [data.short_side] * 2
    with torch.device("meta"):
        boxes = example_boxes(config)
    clip = torch.empty(1, channels, frames, *sides, device="meta")
    with torch.no_grad(), plain_paths(), FlopCounterMode(display=False) as counter:
        model(clip, **boxes)
    return counter.get_total_flops() + 2 * last * more


if __name__ == "__main__":
    sys.exit(main())
