"""The predictions of the test, as a table in the run folder, and some of them as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rstg_pyg.train.drawing.clips import draw_clips
from rstg_pyg.train.files import write_atomically, write_csv

_MOST_FRAMES = 8
_SIDE = 80  # pixels of a frame's longer side, before it is drawn


class Tested(NamedTuple):
    """What the network said of a video of the test.

    Attributes:
        item: The video's number in the test split.
        true: Its classes: one, or any number.
        predicted: The likeliest class.
        probability: That of this class: softmax over all classes, or sigmoid if videos have several.
    """

    item: int
    true: list[int]
    predicted: int
    probability: float


def true_classes(label: Tensor) -> list[int]:
    """The classes of a label: of a number, or of zeros and ones ``[num_classes]``."""
    return (label.nonzero().flatten() if label.dim() else label.reshape(1)).tolist()


def write_table(
    folder: Path, rows: Sequence[Tested], ids: Sequence[Any], names: list[str], several: bool
) -> None:
    """Writes ``predictions.csv``: the test's videos with their classes and the likeliest one.

    Args:
        folder: The run folder.
        rows: The predictions.
        ids: What the videos are called.
        names: The class names.
        several: Whether videos have several labels: then they are a list, as in one's own tables.

    Raises:
        UserError: If the file cannot be written.
    """

    def text(classes: list[int]) -> str:
        found = [names[i] for i in classes]
        return json.dumps(found, ensure_ascii=False) if several else "".join(found)

    table = [
        {
            "video": ids[row.item],
            "true": text(row.true),
            "predicted": names[row.predicted],
            "probability": f"{row.probability:.4f}",
            "right": int(row.predicted in row.true),
        }
        for row in rows
    ]
    write_csv(folder / "predictions.csv", table, ("video", "true", "predicted", "probability", "right"))


def draw_predictions(
    folder: Path, samples: Sequence[tuple[Tensor, Tensor, Tensor]], names: list[str]
) -> None:
    """Writes ``predictions.png``: a row of frames per clip, with its class and the prediction.

    Args:
        folder: The run folder.
        samples: Clips ``[C, T, H, W]`` uint8, their class (or zeros and ones ``[num_classes]``, if
            videos have several labels), and the probabilities ``[num_classes]``.
        names: The class names.

    Raises:
        UserError: If the picture cannot be written.
    """
    captions = []
    for _, label, probabilities in samples:
        classes = true_classes(label)
        true = ", ".join(names[i] for i in classes) or "none"
        score, best = probabilities.max(dim=0)
        right = "right" if int(best) in classes else "wrong"
        captions.append(f"{right}: {names[int(best)]} ({float(score):.0%}); true: {true}")
    if samples:
        draw = draw_clips([_small(clip) for clip, _, _ in samples], captions, ".png")
        write_atomically(folder / "predictions.png", draw)


def _small(clip: Tensor) -> Tensor:
    frames, side = clip.shape[1], max(clip.shape[2:])
    clip = clip[:, torch.linspace(0, frames - 1, min(frames, _MOST_FRAMES)).round().long()]
    size = [max(1, round(length * _SIDE / side)) for length in clip.shape[2:]]
    return F.interpolate(clip.float(), size, mode="area").round().to(torch.uint8)
