"""Some clips of the test with their predictions, as a picture in the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rstg_pyg.train.drawing.clips import draw_clips
from rstg_pyg.train.files import write_atomically

_MOST_FRAMES = 8
_SIDE = 80  # pixels of a frame's longer side, before it is drawn


def write_predictions(
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
        labels = label.nonzero() if label.dim() else label.reshape(1)
        true = ", ".join(names[i] for i in labels.flatten().tolist()) or "none"
        score, best = probabilities.max(dim=0)
        right = "right" if int(best) in labels else "wrong"
        captions.append(f"{right}: {names[int(best)]} ({float(score):.0%}); true: {true}")
    if samples:
        draw = draw_clips([_small(clip) for clip, _, _ in samples], captions, ".png")
        write_atomically(folder / "predictions.png", draw)


def _small(clip: Tensor) -> Tensor:
    frames, side = clip.shape[1], max(clip.shape[2:])
    clip = clip[:, torch.linspace(0, frames - 1, min(frames, _MOST_FRAMES)).round().long()]
    size = [max(1, round(length * _SIDE / side)) for length in clip.shape[2:]]
    return F.interpolate(clip.float(), size, mode="area").round().to(torch.uint8)
