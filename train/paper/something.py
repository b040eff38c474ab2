"""The Something-Something table: the paper's rows, and what was measured here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import load_config
from rstg_pyg.train.files import write_text
from rstg_pyg.train.paper.cells import NOT_MEASURED, Cell, read_cell, settings
from rstg_pyg.train.report import count_flops
from rstg_pyg.train.text_tables import as_markdown

NEEDS_DATA = "needs the data"
#: Classes of Something-Something v1.
CLASSES = 174
#: Overrides of ``--demo``: smaller clips and fewer epochs than the demos of the configs, so that a row
#: takes some minutes of one CPU core.
DEMO = ("data.short_side=36", "data.crop_size=32", "train.epochs=4", "train.validate_every=250")


class SomethingRow(NamedTuple):
    """A row of the table.

    Attributes:
        name: The name of its config, ``smt/NAME.yaml``.
        title: The paper's name for it.
        backbone: The paper's words.
        top1: The paper's top-1 in percent.
        top5: Its top-5; ``None`` if it has none.
        known: Parameters (millions) and multiply-adds (billions per clip) as they were counted on the
            public code, or for MFNet, which has none, on its specification.
    """

    name: str
    title: str
    backbone: str
    top1: float
    top5: float | None = None
    known: tuple[Any, Any] = ("-", "-")

    @property
    def cfg(self) -> str:
        """The config."""
        return f"smt/{self.name}.yaml"


_ROWS = [
    SomethingRow("c2d", "C2D", "2D ResNet-50", 31.7, 64.7),
    SomethingRow("trn", "TRN", "2D Inception", 34.4, None, (13.14, 16.3)),
    SomethingRow("c2d_rstg_vec", "C2D + RSTG", "2D ResNet-50", 42.8, 73.6),
    SomethingRow("mfnet_c50", "MFNet-C50", "3D ResNet-50", 40.3, 70.9, (57.3, 90.0)),
    SomethingRow("i3d", "I3D (Wang and Gupta)", "3D ResNet-50", 41.6, 72.2),
    SomethingRow("nonlocal_i3d", "Non-Local I3D", "3D ResNet-50", 44.4, 76.0),
    SomethingRow("nonlocal_i3d_gcn", "Non-Local I3D + Joint GCN", "3D ResNet-50", 46.1, 76.8),
    SomethingRow("eco_lite", "ECO-Lite 16F", "2D Inception + 3D ResNet-18", 42.2, None, (37.39, 46.5)),
    SomethingRow("mfnet_c101", "MFNet-C101", "3D ResNet-101", 43.9, 73.1, (76.3, "-")),
    SomethingRow("i3d_inception", "I3D (Xie et al.)", "3D Inception", 45.8, 76.5, (12.47, 111.2)),
    SomethingRow("s3dg", "S3D-G", "3D Inception", 48.2, 78.7, (9.32, 79.0)),
    SomethingRow("i3d_rstg_vec", "RSTG-to-vec", "3D ResNet-50", 47.7, 77.9),
    SomethingRow("i3d_rstg_map_res2", "RSTG-to-map res2", "3D ResNet-50", 46.9, 76.8),
    SomethingRow("i3d_rstg_map_res3", "RSTG-to-map res3", "3D ResNet-50", 47.7, 77.8),
    SomethingRow("i3d_rstg_map_res4", "RSTG-to-map res4", "3D ResNet-50", 48.4, 78.1),
    SomethingRow("i3d_rstg_map_res3_res4", "RSTG-to-map res3-4", "3D ResNet-50", 49.2, 78.8),
]

#: The rows of the table by name, in the paper's order.
SOMETHING_ROWS: dict[str, SomethingRow] = {row.name: row for row in _ROWS}


def write_something_table(out: Path, demo: bool) -> str:
    """Writes ``table.md``; returns the Markdown.

    Args:
        out: The folder with the runs, ``ROW/seed*/results.json``.
        demo: Whether they are runs on the built-in data.

    Raises:
        UserError: If a file is damaged or cannot be written, or runs of a row differ in more than the
            seed.
    """
    cells = {name: read_cell(row, out / name) for name, row in SOMETHING_ROWS.items()}
    text = page({name: cell for name, cell in cells.items() if cell is not None}, demo)
    write_text(out / "table.md", text)
    return text


def page(cells: dict[str, Cell], demo: bool) -> str:
    """The table, the sizes of the networks, and how it was measured."""
    scores, sizes = [], []
    for name, row in SOMETHING_ROWS.items():
        scores.append(_scores(row, cells.get(name), demo))
        sizes.append(_sizes(row))
    words = ("model", "backbone", "protocol", "config", "clip")
    first, second = (as_markdown(rows, set(rows[0]) - set(words)) for rows in (scores, sizes))
    if demo:
        title = "Something-Something, small rows on the built-in data"
        about = (
            "Here: small versions of the networks, trained for a few minutes on mini-something "
            "(rendered clips of 20 classes). All that this shows is that every row trains: the numbers "
            "are not the paper's, and their order says nothing about the networks of full size."
        )
    else:
        title = "Something-Something v1"
        about = f"Here: networks of full size. '{NEEDS_DATA}': data.root=FOLDER trains the row."
    lines = [f"# {title}", "", first, "", f"Top-1 and top-5 in percent. {about}", ""]
    lines += [f"## The networks in full size, {CLASSES} classes", "", second, ""]
    lines += [
        "Multiply-adds: of one clip forward, half the FLOPs that torch counts. Known: counted on the "
        "public code; on a specification of MFNet, which has none.",
        "",
    ]
    runs = [run for cell in cells.values() for run in cell.runs]
    if runs:
        lines += [*settings(runs, {"epochs": [str(run.config.train.epochs) for run in runs]}), ""]
    return "\n".join(lines)


def _scores(row: SomethingRow, cell: Cell | None, demo: bool) -> dict[str, Any]:
    """A line of the table."""
    line: dict[str, Any] = {"model": row.title, "backbone": row.backbone}
    missing = NOT_MEASURED if demo else NEEDS_DATA
    line |= {"top-1, paper": row.top1, "top-1, here": cell or missing}
    line |= {"top-5, paper": row.top5 or "-", "top-5, here": _top5(cell) if cell else missing}
    line["protocol"] = "" if cell is None else cell.runs[0].config.data.protocol
    if demo:
        line["parameters"] = "" if cell is None else f"{cell.runs[0].parameters:,}"
        line["minutes"] = "" if cell is None else f"{cell.seconds / 60:.1f}"
    return {**line, "config": f"`{row.cfg}`"}


def _sizes(row: SomethingRow) -> dict[str, Any]:
    """What the network of a row costs, next to what is known of the public code's."""
    data = load_config(row.cfg, demo=False).data
    parameters, multiply_adds = full_size(row)
    return {
        "model": row.title,
        "clip": " x ".join(map(str, data.clip_shape[1:])),
        "parameters": f"{parameters:,}",
        "known, millions": row.known[0],
        "multiply-adds, billions": f"{multiply_adds / 1e9:.1f}",
        "known, billions": row.known[1],
    }


def _top5(cell: Cell) -> str:
    known = [100 * run.top5 for run in cell.runs if run.top5 is not None]
    return f"{sum(known) / len(known):.1f}" if known else "-"


def full_size(row: SomethingRow) -> tuple[int, int]:
    """Parameters and multiply-adds of one clip of a row's network, counted on the ``meta`` device."""
    config = load_config(row.cfg, demo=False)
    with torch.device("meta"):
        model: Any = build_model(config, CLASSES)
    parameters = sum(p.numel() for p in model.parameters())
    return parameters, count_flops(config, parameters) // 2
