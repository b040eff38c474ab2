"""Compares runs in one table: ``python train/report.py RUN... [--out report.md|.html|.csv]``.

Reads nothing but the ``results.json`` of each run folder. Runs that differ only in the seed share
a row: mean and standard deviation.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import html
import io
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from rstg_pyg.fast.autograd import plain_paths
from rstg_pyg.train.build import build_model
from rstg_pyg.train.command import command
from rstg_pyg.train.config import (
    Config,
    parse_config,
    to_dict,
)
from rstg_pyg.train.data.protocols import PROTOCOLS
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import output_file, write_text
from rstg_pyg.train.schema.model import RSTGConfig

_NUMBER = (int, float)
_NEEDED = {"top1": _NUMBER, "top5": _NUMBER, "num_videos": int, "protocol": str, "seed": int}
_NEEDED |= {"parameters": int, "steps": int, "seconds": _NUMBER, "device": str, "config": dict}
_NEEDED |= {"config_hash": str}
_OPTIONAL = {"data": str, "versions": dict}
_MOST = 1e15  # of a number; JSON has them of any length
_SUFFIXES = (".md", ".html", ".csv")
_NOTE = (
    "FLOPs: of one clip forward, a multiplication and an addition counted as two. Several seeds: mean "
    "and standard deviation over the runs."
)
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #1f2328; }
table { border-collapse: collapse; }
th, td { padding: .45rem .7rem; text-align: left; border-bottom: 1px solid #d8dee4; }
th { background: #f3f5f7; white-space: nowrap; position: sticky; top: 0; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr:hover td { background: #fafbfc; }
p { color: #59636e; max-width: 60rem; }
"""

#: Headings, and whether the column holds numbers.
COLUMNS = {
    "name": False,
    "model": False,
    "top-1 %": True,
    "top-5 %": True,
    "videos": True,
    "protocol": False,
    "seed": True,
    "parameters": True,
    "GFLOPs": True,
    "steps": True,
    "seconds": True,
    "machine": False,
    "config": False,
}


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="report.py", description="Compare runs in one table.", allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders (with a results.json)")
    parser.add_argument("--out", metavar="FILE", help="also write the table: .md, .html or .csv")
    parser.add_argument("--no-flops", action="store_true", help="do not build the models to count")
    arguments = parser.parse_args(argv)
    out = None if arguments.out is None else output_file("--out", arguments.out, _SUFFIXES)
    runs = [read_run(Path(run)) for run in arguments.runs]
    rows = table(runs, flops=not arguments.no_flops)
    print(markdown(rows))
    if out is not None:
        write_text(out, {".md": markdown, ".html": as_html, ".csv": as_csv}[out.suffix](rows))
        print(f"\nwritten to {out}")
    return 0


def read_run(folder: Path) -> dict[str, Any]:
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
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{path}: not whole JSON ({e})") from e
    there = results if isinstance(results, dict) else {}
    missing = [key for key in _NEEDED if key not in there]
    if missing:
        raise UserError(f"{path}: expected the results of a run (it has no '{missing[0]}')")
    for key, kind in {**_NEEDED, **{k: v for k, v in _OPTIONAL.items() if k in results}}.items():
        value = results[key]
        number = kind in (int, _NUMBER)
        if not isinstance(value, kind) or (number and (value is True or not 0 <= value <= _MOST)):
            shown = "a long number" if isinstance(value, int) else repr(value)[:60]
            raise UserError(f"{path}: expected the results of a run (its '{key}' is {shown})")
    name = path.stem if path == folder else folder.resolve().name
    return {**results, "config": parse_config(results.get("config"), str(path)), "folder": name}


def table(runs: Sequence[dict[str, Any]], flops: bool = True) -> list[dict[str, str]]:
    """The rows of the table, best top-1 first.

    Args:
        runs: What :func:`read_run` gives.
        flops: Whether to count FLOPs, which builds and runs every model once.
    """
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for run in runs:
        key = (_hash_without_seed(run["config"]), run["protocol"], run["steps"])
        again = 0  # the same seed once more is not another seed
        while any(other["seed"] == run["seed"] for other in groups.get((*key, again), [])):
            again += 1
        groups.setdefault((*key, again), []).append(run)
    best = sorted(groups.values(), key=lambda group: -statistics.fmean(r["top1"] for r in group))
    return [_row(group, flops) for group in best]


def _hash_without_seed(config: Config) -> str:
    values = {k: v for k, v in to_dict(config).items() if k != "seed"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _row(group: list[dict[str, Any]], flops: bool) -> dict[str, str]:
    first, config = group[0], group[0]["config"]
    folders = dict.fromkeys(run["folder"] for run in group)
    also = f" ({', '.join(folders)})" if list(folders) != [config.name] else ""
    row = {
        "name": f"{config.name}{also}",
        "model": describe_model(config),
        "top-1 %": _spread([100 * run["top1"] for run in group], ".2f"),
        "top-5 %": _spread([100 * run["top5"] for run in group], ".2f"),
        "videos": f"{first['num_videos']:,}",
        "protocol": first["protocol"],
        "seed": ", ".join(str(seed) for seed in sorted(run["seed"] for run in group)),
        "parameters": f"{first['parameters'] / 1e6:.2f} M",
        "GFLOPs": f"{count_flops(config, first['parameters']) / 1e9:.3g}" if flops else "",
        "steps": f"{first['steps']:,}",
        "seconds": _spread([run["seconds"] for run in group], ",.0f"),
        "machine": "; ".join(dict.fromkeys(run["device"] for run in group)),
        "config": ", ".join(dict.fromkeys(run["config_hash"] for run in group)),
    }
    return {column: row[column] for column in COLUMNS}


def _spread(values: list[float], how: str) -> str:
    mean = format(statistics.fmean(values), how)
    return mean if len(values) == 1 else f"{mean} ± {format(statistics.stdev(values), how)}"


def describe_model(config: Config) -> str:
    """A network in words: its backbone, and where its graphs are."""
    model = config.model
    backbone = model.backbone
    if backbone.kind == "simple_conv":
        words = f"SimpleConv {'-'.join(map(str, backbone.filters))}"
    elif backbone.kind == "torchvision":
        words = backbone.network
    else:
        whole = (backbone.depths, backbone.width) == ([3, 4, 6, 3], 64)
        depths = "-".join(map(str, backbone.depths))
        size = "-50" if whole else f" of depths {depths}, width {backbone.width}"
        words = f"{backbone.kind.upper()} ResNet{size}"
        if backbone.nonlocal_stages:
            words += f", non-local in {' and '.join(backbone.nonlocal_stages)}"
    parts = [] if model.rstg is None else [_describe_graph(model.rstg)]
    if model.head is not None:
        parts.append(f"LSTM over {'flattened' if model.head.spatial else 'averaged'} maps")
    return f"{words}; {' and '.join(parts) or 'no graph'}"


def _describe_graph(rstg: RSTGConfig) -> str:
    inner = [place for place in rstg.places if place != "head"]
    words = [f"RSTG-to-map at {' and '.join(inner)}"] if inner else []
    words += ["RSTG-to-vec"] if "head" in rstg.places else []
    scales = "-".join("x".join(map(str, s)) if isinstance(s, tuple) else str(s) for s in rstg.scales)
    details = [f"scales {scales}", f"{rstg.num_rounds} rounds", f"{rstg.hidden_channels} channels"]
    details += [] if rstg.space_stages else ["no messages"]
    if rstg.homogeneous:
        details.append("time as space")
    elif rstg.time_stages != "all":
        details.append(f"time stages: {rstg.time_stages}")
    return f"{' and '.join(words)} ({', '.join(details)})"


def count_flops(config: Config, parameters: int) -> int:
    """FLOPs of one clip forward, on the CPU, at the size of the protocol's clips.

    Args:
        config: The experiment.
        parameters: The network's, which tell the number of classes.
    """
    model = build_model(config, 1)
    one = sum(p.numel() for p in model.parameters())
    classes = 1 + (parameters - one) // (model.lin.in_features + 1)
    model = build_model(config, max(classes, 1)).eval()
    data = config.data
    whole = PROTOCOLS[data.protocol].whole if data.dataset == "something" else False
    size = data.short_side if whole else data.size
    # PyTorch's counter does not know the CPU's LSTM, nor the products of the fast paths.
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.mkldnn_rnn_layer: _lstm_flops}
    )
    with torch.no_grad(), plain_paths(), counter:
        model(torch.zeros(1, data.channels, data.num_frames, size, size))
    return counter.get_total_flops()


def _lstm_flops(shape, weight_in, weight_state, *_, out_shape=None, **__) -> int:
    time, batch, _ = shape
    return 2 * time * batch * (weight_in[0] * weight_in[1] + weight_state[0] * weight_state[1])


def markdown(rows: list[dict[str, str]]) -> str:
    """The table in Markdown."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        f"|{'|'.join('---:' if number else '---' for number in COLUMNS.values())}|",
    ]
    for row in rows:
        cells = [value.replace("|", "\\|") for value in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _NOTE, ""])


def as_html(rows: list[dict[str, str]]) -> str:
    """The table as a page that needs nothing else."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in COLUMNS)
    body = []
    for row in rows:
        cells = [
            f'<td class="number">{html.escape(v)}</td>' if number else f"<td>{html.escape(v)}</td>"
            for v, number in zip(row.values(), COLUMNS.values())
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Runs</title>\n'
        f"<style>{_STYLE}</style>\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(body)
        + f"\n</tbody>\n</table>\n<p>{_NOTE}</p>\n</html>\n"
    )


def as_csv(rows: list[dict[str, str]]) -> str:
    """The table as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())
