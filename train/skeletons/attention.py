"""What a network attends to on skeletons: a picture of classes, and a page of one recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from rstg_pyg import VideoClassifier
from rstg_pyg.graphs import (
    ResampleFrames,
    attention_page,
    joint_names,
    relative_attention,
    skeleton_graph,
)
from rstg_pyg.train.data.skeletons import Recording, SkeletonClips
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.plots import new_figure, save_png
from rstg_pyg.train.schema_skeletons import SkeletonConfig
from rstg_pyg.train.skeletons.build import evaluation_clips, prepare, to_data


def has_attention(model: VideoClassifier) -> bool:
    """Whether a network on skeletons has attention between joints."""
    head = model.head
    return head.streams and len(head.network.convs) > 0 and head.network.convs[0].attend is not None


@torch.no_grad()
def coefficients(model: VideoClassifier, clips: Tensor) -> list[Tensor]:
    """The attention of every round, ``[R, T, E, heads]``.

    Raises:
        UserError: If the network has no attention.
    """
    if not has_attention(model):
        raise UserError("expected a network with attention on joints (this has none)")
    return model.head.run(model.features(clips), return_attention_weights=True)[1]


def joint_attention(model: VideoClassifier, data: SkeletonConfig, clips: Tensor) -> Tensor:
    """The attention that every joint receives in the last round, as a multiple of what it would receive
    if every joint attended to its neighbors equally: the mean over frames, ``[R, M N]``.

    Raises:
        UserError: If the network has no attention.
    """
    alpha = coefficients(model, clips)[-1]
    nodes = data.clip_shape[2] * data.clip_shape[3]
    return relative_attention(model.head.edge_index, alpha.mean(-1), nodes).mean(dim=1)


def draw_attention(
    model: VideoClassifier, data: SkeletonConfig, dataset: SkeletonClips, path: Path, most: int = 6
) -> None:
    """Draws the mean attention on the joints for some classes, one skeleton each."""
    graph = skeleton_graph(data.layout, data.bodies)
    classes = dataset.labels.unique().tolist()
    shown = classes[:: max(len(classes) // most, 1)][:most]
    figure, panels = new_figure(1.9 * len(shown), 2.9, len(shown))
    place, up = graph.pos, graph.parent
    for axes, number in zip(panels, shown):
        clips = [dataset[i][0] for i in (dataset.labels == number).nonzero().flatten().tolist()]
        heat = joint_attention(model, data, torch.stack(clips)).mean(0)
        for i, parent in enumerate(up.tolist()):
            axes.plot(*place[[i, parent]].T.tolist(), color="lightgray", linewidth=2, zorder=1)
        axes.scatter(
            place[:, 0].tolist(), place[:, 1].tolist(), s=60 * heat.clamp(min=0.1), c=heat,
            cmap="inferno_r", vmin=0.5, vmax=2, zorder=2,
        )  # fmt: skip
        axes.set_title(dataset.label_names[number], fontsize=8)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.set_axis_off()
    save_png(figure, path)


def skeleton_page(
    model: VideoClassifier, data: SkeletonConfig, recording: Recording, classes: list[str], title: str
) -> str:
    """The page of :func:`~rstg_pyg.graphs.attention_page` for a recording: the moving joints, the
    attention of every round, and the probabilities after every frame.

    Raises:
        UserError: If the network has no attention.
    """
    recording = prepare(data, recording)
    clip = evaluation_clips(data, "val")[0](recording)[None].to(next(model.parameters()).device)
    alpha, state = coefficients(model, clip), None
    logits: list[Any] = []
    with torch.no_grad():
        for frame in clip.split(1, dim=2):
            out, state = model.stream(frame, state)
            logits.append(out[0])
    moving: Data = ResampleFrames(data.num_frames)(to_data(recording))
    return attention_page(
        model.head.edge_index,
        [a[0] for a in alpha],
        moving.pos[..., :2] * torch.tensor([1.0, -1.0]),
        names=joint_names(data.layout) * data.bodies,
        type_names=["joint"],
        probabilities=torch.stack(logits).softmax(-1),
        classes=classes,
        title=title,
        subtitle=f"{recording.name}: attention between joints, seen from the camera",
    )
