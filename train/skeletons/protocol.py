"""MSR Action3D, cross-subject: what was tried by cross-validation over the training subjects, and the
comparison on the other subjects. ``python train/reproduce.py skeletons`` runs it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rstg_pyg.train.config import load_config
from rstg_pyg.train.files import write_text
from rstg_pyg.train.paper.cells import read_cell
from rstg_pyg.train.paper.jobs import Job
from rstg_pyg.train.report import read_run
from rstg_pyg.train.text_tables import as_markdown

CONFIG = "skeleton/msr_action3d.yaml"
SUBJECTS = (1, 3, 5, 7, 9)
#: The rows of the comparison: name and overrides.
SKELETON_ROWS: dict[str, tuple[str, ...]] = {
    "RSTG": (),
    "time-only": ("model.rstg.space_stages=false",),
    "ST-GCN-like": ("model.rstg=null", "model.head={kind: st_gcn, num_blocks: 2, dropout: 0.1}"),
}
#: What can be tried on the training subjects: the rows, and changes of the config.
CANDIDATES: dict[str, tuple[str, ...]] = {
    **SKELETON_ROWS,
    "LSTM": ("model.rstg.cell=lstm",),
    "one time stage": ("model.rstg.time_stages=last",),
    "two rounds": ("model.rstg.num_rounds=2",),
    "mean over time": ("data.max_over_time=false",),
    "joint, bone and motion": ("data.features=[joint, bone, motion]",),
    "motion over 8 frames": ("data.features=[joint, bone, motion, motion_2, motion_4, motion_8]",),
    "joints added up": ("data.sum_joints=true",),
    "one body for all": ("data.same_bones=true",),
    "hands, head and feet joined": ("data.together=true",),
    "half the epochs": ("train.epochs=40",),
    "no augmentation": (
        "data.crop=1", "data.warp=0", "data.turn=0", "data.tilt=0", "data.scale=0",
        "data.bone_scale=0", "data.jitter=0", "data.test_clips=1",
    ),
}  # fmt: skip


def choosing_jobs(
    out: Path, changes: Mapping[str, Sequence[str]], overrides: Sequence[str]
) -> list[Job]:
    """For every change one run per training subject, who is left out of the training and tested."""
    jobs = []
    for (name, change), subject in itertools.product(changes.items(), SUBJECTS):
        others = [s for s in SUBJECTS if s != subject]
        fold = [f"data.train_subjects={others}", f"data.test_subjects=[{subject}]"]
        folder = out / "choosing" / _folder(name) / f"subject{subject}"
        arguments = (*_COMMON, *change, *fold, *overrides)
        load_config(CONFIG, arguments)
        jobs.append(Job(f"{name}, subject {subject}", folder, CONFIG, arguments))
    return jobs


def test_jobs(
    out: Path, rows: Mapping[str, Sequence[str]], seeds: Sequence[int], overrides: Sequence[str]
) -> list[Job]:
    """For every row and seed a run on all training subjects, tested on the others."""
    jobs = []
    for seed, (name, row) in itertools.product(seeds, rows.items()):
        arguments = (*_COMMON, *row, f"seed={seed}", *overrides)
        load_config(CONFIG, arguments)
        folder = out / _folder(name) / f"seed{seed}"
        jobs.append(Job(f"{name}, seed {seed}", folder, CONFIG, arguments))
    return jobs


_COMMON = ("trainer.progress_bar=false",)


def _folder(name: str) -> str:
    return name.lower().replace(",", "").replace(" ", "_").replace("-", "_")


def write_skeleton_tables(out: Path) -> str:
    """Writes ``choosing.md`` and ``table.md`` from the ``results.json`` of finished runs; returns their
    text.

    Raises:
        UserError: If a file is damaged, or the runs of a row differ in more than the seed.
    """
    text = []
    rows: list[dict[str, Any]] = []
    for name in CANDIDATES:
        folds = [_read(out / "choosing" / _folder(name) / f"subject{s}") for s in SUBJECTS]
        if None in folds:
            continue
        count = sum(fold.num_videos for fold in folds)
        right = sum(fold.top1 * fold.num_videos for fold in folds)
        row = {"on the training subjects": name, "top-1": f"{right / count:.1%}"}
        rows.append(row | {f"subject {s}": f"{f.top1:.1%}" for s, f in zip(SUBJECTS, folds)})
    if rows:
        text.append(as_markdown(rows) + "\n")
        write_text(out / "choosing.md", text[-1])
    rows = []
    for name in SKELETON_ROWS:
        cell = read_cell(name, out / _folder(name))
        if cell is not None:
            top1 = torch.tensor([run.top1 for run in cell.runs], dtype=torch.double)
            spread = f" ± {100 * float(top1.std()):.1f}" if len(top1) > 1 else ""
            row = {"network": name, "top-1": f"{100 * float(top1.mean()):.1f}{spread} %"}
            rows.append(row | {"seeds": len(top1), "parameters": f"{cell.runs[0].parameters:,}"})
    if rows:
        text.append(as_markdown(rows) + "\n")
        write_text(out / "table.md", text[-1])
    return "\n".join(text)


def _read(folder: Path) -> Any:
    return read_run(folder) if (folder / "results.json").is_file() else None
