"""Data sets and networks of skeletons from a config."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform, Compose

from rstg_pyg import RSTG
from rstg_pyg.graphs import (
    DropJoints,
    FaceForward,
    JitterJoints,
    RandomBones,
    RandomSize,
    RandomTurn,
    ResampleFrames,
    SameBones,
    SkeletonFeatures,
    Smooth,
    skeleton_graph,
)
from rstg_pyg.train.data.paths import home
from rstg_pyg.train.data.skeletons import Recording, SkeletonClips, read_recordings
from rstg_pyg.train.data.skeletons.clips import Transform
from rstg_pyg.train.data.skeletons.readers import JOINTS
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.schema import SkeletonConfig
from rstg_pyg.train.schema_model import JointsConfig, RSTGConfig, STGCNConfig
from rstg_pyg.train.skeletons.generated import generate_recordings
from rstg_pyg.train.skeletons.parts import STGCN, JointEncoder, JointHead


def recordings_of(data: SkeletonConfig) -> tuple[list[Recording], str]:
    """The recordings of a config, and what results call them.

    Raises:
        UserError: If there are none, or a file is damaged.
    """
    if data.root is None:
        size = (data.builtin.subjects, data.builtin.repetitions)
        made = generate_recordings(*size, layout=data.layout, bodies=data.bodies)
        return made, "generated skeletons"
    recordings, empty = _read(str(home(data.root)), data.bodies)
    if data.layout != recordings[0].layout:
        raise UserError(
            f"data.layout: the recordings in {data.root} are of the layout {recordings[0].layout} (got "
            f"{data.layout})"
        )
    unnamed = [recording.name for recording in recordings if recording.action < 0]
    if unnamed:
        raise UserError(
            f"{data.root}: the name {unnamed[0]} says no action; see docs/tutorials/skeletons.md"
        )
    left_out = f" ({len(empty)} empty left out)" if empty else ""
    return recordings, f"skeletons{left_out}"


@functools.lru_cache(maxsize=2)
def _read(root: str, bodies: int) -> tuple[list[Recording], list[str]]:
    return read_recordings(root, bodies)


def build_skeletons(data: SkeletonConfig, split: str, changes: dict) -> SkeletonClips:
    """The data set of a split: recordings of its subjects.

    Raises:
        UserError: If there are none, or a subject of train is in another split.
    """
    recordings, kind = recordings_of(data)
    everybody = {recording.subject for recording in recordings}
    train, val = set(data.train_subjects), set(data.val_subjects)
    test = everybody - train - val if data.test_subjects is None else set(data.test_subjects)
    twice = sorted((train & val) | (train & test))
    if twice:
        raise UserError(f"data.train_subjects: subject {twice[0]} is in another split, too; choose one")
    chosen = {"train": train, "val": val, "test": test}[split]
    mine = [recording for recording in recordings if recording.subject in chosen]
    if not mine:
        raise UserError(
            f"data.{split}_subjects: expected some of {', '.join(map(str, sorted(everybody)))} (got "
            f"{', '.join(map(str, sorted(chosen))) or 'none'})"
        )
    actions = sorted({recording.action for recording in recordings})
    prepared = [prepare(data, recording) for recording in mine]
    clips = training_clips(data) if split == "train" else evaluation_clips(data, split)
    arguments: dict[str, Any] = {"seed": data.seed, "kind": kind, "names": data.class_names} | changes
    return SkeletonClips(prepared, actions, clips, split, **arguments)


def to_data(recording: Recording) -> Data:
    """A recording as one ``Data``: ``pos [T, M N, 3]``, ``mask [T, M N]`` and ``layout``."""
    return Data(
        pos=recording.pos.flatten(1, 2), mask=recording.mask.flatten(1, 2), layout=recording.layout
    )


def prepare(data: SkeletonConfig, recording: Recording) -> Recording:
    """What is the same in every epoch: smoothing, view, and body."""
    steps: list[BaseTransform] = [Smooth(data.smooth)] if data.smooth else []
    steps += [FaceForward()] if data.face_forward else []
    steps += [SameBones()] if data.same_bones else []
    made = Compose(steps)(to_data(recording))
    shape = recording.mask.shape
    return replace(recording, pos=made.pos.view(*shape, 3), mask=made.mask.view(shape))


def training_clips(data: SkeletonConfig) -> list[Transform]:
    """What makes a random clip."""
    steps: list[BaseTransform] = [ResampleFrames(data.num_frames, (data.crop, 1.0), data.warp)]
    steps += [RandomTurn(data.turn, data.tilt)] if data.turn or data.tilt else []
    steps += [RandomSize(data.scale)] if data.scale else []
    steps += [RandomBones(data.bone_scale)] if data.bone_scale else []
    steps += [JitterJoints(data.jitter)] if data.jitter else []
    steps += [DropJoints(data.drop_joints)] if data.drop_joints else []
    return [_Clip(steps, data)]


def evaluation_clips(data: SkeletonConfig, split: str) -> list[Transform]:
    """What makes the clips of a recording that are evaluated: all of it, and with ``test_clips`` parts
    of it, in the test split.
    """
    steps = [ResampleFrames(data.num_frames)]
    more = data.test_clips - 1 if split == "test" else 0
    share = (1 + data.crop) / 2
    steps += [
        ResampleFrames(data.num_frames, (share, share), shift=i / max(more - 1, 1)) for i in range(more)
    ]
    drop = data.test_drop if split == "test" else 0.0
    lost: list[BaseTransform] = [DropJoints(drop)] if drop else []
    return [_Clip([step, *lost], data) for step in steps]


def skeleton_clips(data: SkeletonConfig, recording: Recording, path: Path) -> Tensor:
    """The clips of a file's recording as they are tested, ``[L, C, T, M, N]``.

    Raises:
        UserError: If the network takes other bodies.
    """
    recording = prepare(data, recording)
    if recording.layout != data.layout:
        raise UserError(f"{path}: expected a recording of {data.layout} (got {recording.layout})")
    one = SkeletonClips([recording], [recording.action], evaluation_clips(data, "test"), "test")
    clip = one[0][0]
    return clip if one.num_clips > 1 else clip.unsqueeze(0)


class _Clip:
    """Makes a random or fixed clip ``[C + 1, T, M, N]`` of a recording: the features of its joints, and
    which of them are there.
    """

    def __init__(self, steps: list[BaseTransform], data: SkeletonConfig):
        self.transform = Compose([*steps, SkeletonFeatures(data.features, data.motion_scale)])

    def __call__(self, recording: Recording) -> Tensor:
        made = self.transform(to_data(recording))
        clip = torch.cat([made.x, made.mask.unsqueeze(-1).to(made.x.dtype)], dim=-1)  # [T, M N, C + 1]
        return clip.permute(2, 0, 1).unflatten(2, (recording.pos.size(1), -1))


def build_joints(backbone: JointsConfig, data: Any) -> JointEncoder:
    """The encoder of joints.

    Raises:
        ValueError: If the data are not skeletons.
    """
    if not isinstance(data, SkeletonConfig):
        raise ValueError("Expected data.dataset=skeleton for the backbone 'joints'")
    return JointEncoder(
        data.channels - 1, backbone.channels, data.bodies, JOINTS[data.layout], backbone.dropout
    )


def build_joint_head(
    head: RSTGConfig | STGCNConfig, feature_map: Tensor, data: SkeletonConfig
) -> JointHead:
    """RSTG or ST-GCN on the joints, for a map ``[B, D + 1, T, M, N]``.

    Raises:
        ValueError: If a setting has no meaning for joints.
    """
    width, pooling = feature_map.size(1) - 1, (data.sum_joints, data.max_over_time)
    with torch.device("cpu"):  # with numbers, also where the network has none (meta)
        graph = skeleton_graph(data.layout, data.bodies, together=data.together)
    if isinstance(head, STGCNConfig):
        network = STGCN(width, head.num_blocks, graph, head.kernel_size, head.dropout)
        return JointHead(width + 1, width, network, graph, *pooling)
    usual = RSTGConfig()
    given = ("homogeneous", "published", "in_norm", "norm", "out_norm", "map_size", "typed_update")
    for name in given:
        if getattr(head, name) != getattr(usual, name):
            raise ValueError(f"Expected no '{name}' for skeletons (got {getattr(head, name)!r})")
    names = ["num_rounds", "time_stages", "space_stages", "cell", "residual", "shared_rounds", "form"]
    arguments = {name: getattr(head, name) for name in names}
    if head.space_stages:
        names = ["attention", "heads", "attention_scale", "dropout", "num_update_layers"]
        arguments |= {name: getattr(head, name) for name in names}
        arguments["pos_channels"] = 2 if head.positions else 0
    hidden = head.hidden_channels or width
    return JointHead(width + 1, hidden, RSTG(width, hidden, **arguments), graph, *pooling)
