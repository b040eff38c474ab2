"""What trained networks of skeletons do with less: ``python -m rstg_pyg.train.skeletons.examine``.

Accuracy after each frame of the test clips (streamed) and against the share of joints that are taken
away, for every run, and for the first run a picture of the attention on the joints. Writes
``examined.json`` and ``attention.png``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rstg_pyg import VideoClassifier
from rstg_pyg.train.build import build_dataset
from rstg_pyg.train.command import command
from rstg_pyg.train.config import change_config, parse_config
from rstg_pyg.train.data.skeletons import SkeletonClips
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import write_json
from rstg_pyg.train.pretrained import find_weights, load_network
from rstg_pyg.train.run_folder.folder import named_folder
from rstg_pyg.train.schema_skeletons import SkeletonConfig
from rstg_pyg.train.skeletons.attention import draw_attention, has_attention

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def load(run: str | Path, *overrides: str) -> tuple[VideoClassifier, SkeletonConfig, SkeletonClips]:
    """The network of a run, the settings of its data, and its test recordings (one clip of each).

    Raises:
        UserError: If there is no run, or it is none of skeletons.
    """
    file = find_weights(run)
    model: Any = load_network(file)
    config = parse_config(model.config, str(file))
    if config.data.dataset != "skeleton":
        raise UserError(f"{run}: expected a run on skeletons (its data are {config.data.dataset})")
    config = change_config(config, ["data.test_clips=1", *overrides])
    dataset: Any = build_dataset(config, "test")
    data: Any = config.data
    return model.eval(), data, dataset


def clips_of(dataset: SkeletonClips) -> Tensor:
    """All clips of a data set, ``[R, C, T, M, N]``."""
    return torch.stack([dataset[i][0] for i in range(len(dataset))])


@torch.no_grad()
def by_frames(model: VideoClassifier, dataset: SkeletonClips) -> list[float]:
    """The accuracy after each frame, which are fed one by one."""
    state, out = None, []
    for frame in clips_of(dataset).split(1, dim=2):
        logits, state = model.stream(frame, state)
        out.append(_accuracy(logits, dataset.labels))
    return out


@torch.no_grad()
def by_dropped(run: str | Path) -> dict[str, float]:
    """The accuracy by the share of joints that are absent, others for each recording."""
    out = {}
    for share in SHARES:
        model, _, dataset = load(run, f"data.test_drop={share}")
        out[f"{share:g}"] = _accuracy(model(clips_of(dataset)), dataset.labels)
    return out


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(-1) == labels).float().mean())


@command
def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="examine", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where results go")
    arguments = parser.parse_args(argv)
    out = named_folder(arguments.out)
    found = {}
    for run in arguments.runs:
        model, _, dataset = load(run)
        row: dict[str, Any] = {"dropped": by_dropped(run)}
        if model.streams:
            row["frames"] = by_frames(model, dataset)
        found[run] = row
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "examined.json", found)
    model, data, dataset = load(arguments.runs[0])
    if has_attention(model):
        draw_attention(model, data, dataset, out / "attention.png")
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
