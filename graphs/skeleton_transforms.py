"""Transforms of sequences of skeletons, in PyG's style: they take and give a ``Data`` and can be joined
with :class:`torch_geometric.transforms.Compose`.

A sequence is one ``Data`` with the joints' positions ``pos [T, N, 3]`` (x to the right, y up), which of
them are there (``mask [T, N]``, bool; absent joints are at the origin), and ``layout``, a name of
:func:`~rstg_pyg.graphs.skeleton_graph`. Random numbers come from torch's global generator.
:class:`torch_geometric.transforms.RandomScale` and ``RandomRotate(degrees, axis=1)`` fit in, too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from rstg_pyg.graphs.skeletons import joint_names, skeleton_graph


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), device="cpu"))


def _index(data: Data, *names: str) -> list[int]:
    known = joint_names(data.layout)
    return [known.index(name) for name in names]


@functools.lru_cache
def _body(layout: str, joints: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of a layout and a number of joints: the parents, which joints are on the way from the hip to each
    (itself and the hip included, ``[N, N]``), and the usual lengths of the bones.
    """
    graph = skeleton_graph(layout, joints // len(joint_names(layout)))
    chain = torch.eye(joints)
    for joint in range(joints):
        above = joint
        while graph.parent[above] != above:
            above = int(graph.parent[above])
            chain[joint, above] = 1
    return graph.parent, chain, graph.length


def _body_of(data: Data) -> tuple[Tensor, Tensor, Tensor]:
    """The same of the body of ``data``, on its device."""
    parent, chain, length = _body(data.layout, data.pos.size(1))
    device = data.pos.device
    return parent.to(device), chain.to(device), length.to(device)


def _hip(data: Data, hip: int) -> Tensor:
    """Where the hip of a body is, ``[T, 3]``: in frames without it, where it was last, or is next; if
    it is in no frame, the mean of the joints beside it that are there, or of all of the body.
    """
    parent, chain, _ = _body_of(data)
    pos, there = data.pos[:, hip], data.mask[:, hip]
    if not there.any():
        beside, body = data.mask & (parent == hip), data.mask & (chain[:, hip] > 0)
        which = torch.where(beside.any(1, keepdim=True), beside, body)
        weight = which.unsqueeze(-1).to(pos)
        pos, there = (data.pos * weight).sum(1) / weight.sum(1).clamp(min=1), which.any(1)
    frames = torch.arange(len(pos), device=pos.device)
    last = torch.where(there, frames, -1).cummax(0).values
    return pos[torch.where(last < 0, there.int().argmax(), last)]


def _bones(data: Data) -> tuple[Tensor, Tensor, Tensor]:
    """The positions relative to the parents (of the hip: its position), what makes positions of them,
    and the usual lengths. An absent joint is where its parent is, an absent hip as in :func:`_hip`.
    """
    parent, chain, length = _body_of(data)
    pos, root = data.pos, parent == torch.arange(len(parent), device=data.pos.device)
    if not data.mask.all():
        pos = pos.clone()
        for joint in chain.sum(1).argsort().tolist():  # from the hip outwards
            instead = _hip(data, joint) if root[joint] else pos[:, parent[joint]]
            pos[:, joint] = torch.where(data.mask[:, joint, None], pos[:, joint], instead)
    return torch.where(root.unsqueeze(-1), pos, pos - pos[:, parent]), chain, length


def _with_bones(data: Data, bones: Tensor, chain: Tensor) -> Data:
    data.pos = (chain.to(bones) @ bones) * data.mask.unsqueeze(-1)
    return data


class ResampleFrames(BaseTransform):
    r"""Resamples a sequence to :math:`T` frames, evenly spaced, by linear interpolation.

    A joint is there in a new frame if it is there in both of the frames beside it.

    Args:
        num_frames: Frames :math:`T`.
        crop: Shares of the sequence between which the length of a random part of it is drawn.
            (default: ``(1, 1)``, all of it)
        warp: How unevenly the part is sampled: its time is
            :math:`t + w \sin(\pi t) / \pi`, with :math:`w` from ``-warp`` to ``warp``. (default: 0)
        shift: Where a part begins that is not random, as a share of what is left over.
            (default: random)
    """

    def __init__(
        self,
        num_frames: int,
        crop: tuple[float, float] = (1.0, 1.0),
        warp: float = 0.0,
        shift: float | None = None,
    ):
        self.num_frames, self.crop, self.warp, self.shift = num_frames, crop, warp, shift

    def forward(self, data: Data) -> Data:
        """"""
        last = data.pos.size(0) - 1
        length = last * _uniform(*self.crop)
        begin = (last - length) * (_uniform(0, 1) if self.shift is None else self.shift)
        t = torch.linspace(0, 1, self.num_frames, device=data.pos.device)
        t = t + _uniform(-self.warp, self.warp) * (math.pi * t).sin() / math.pi
        place = (begin + length * t).clamp(0, last)
        low = place.long().clamp(max=max(last - 1, 0))
        high = (low + 1).clamp(max=last)
        share = (place - low).view(-1, 1, 1).to(data.pos)
        data.pos = torch.lerp(data.pos[low], data.pos[high], share)
        before, after = data.mask[low], data.mask[high]
        data.mask = torch.where(
            share[..., 0] == 0, before, torch.where(share[..., 0] == 1, after, before & after)
        )
        data.pos = data.pos * data.mask.unsqueeze(-1)
        return data


class Smooth(BaseTransform):
    """Takes the noise out of positions: a weighted mean (1, 2, 1) over the frames that have the joint,
    some times.

    Args:
        times: How often.
    """

    def __init__(self, times: int = 1):
        self.times = times

    def forward(self, data: Data) -> Data:
        """"""
        there = data.mask.unsqueeze(-1).to(data.pos)

        def added(x: Tensor) -> Tensor:
            return torch.cat([x[:1], x[:-1]]) + 2 * x + torch.cat([x[1:], x[-1:]])

        for _ in range(self.times):
            data.pos = added(data.pos * there) / added(there).clamp(min=1) * there
        return data


class FaceForward(BaseTransform):
    """Turns the sequence about the vertical axis so that the first body's shoulders and hips are, on
    average over the frames, parallel to the x axis: the person faces the camera.
    """

    def forward(self, data: Data) -> Data:
        """"""
        across = data.pos.new_zeros(3)
        for part in ("shoulder", "hip"):
            left, right = _index(data, f"left {part}", f"right {part}")
            there = data.mask[:, left] & data.mask[:, right]
            across = across + (data.pos[there, right] - data.pos[there, left]).sum(0)
        size = math.hypot(float(across[0]), float(across[2]))
        if size > 1e-6:
            data.pos = _turned(data.pos, float(across[0]) / size, float(across[2]) / size)
        return data


def _turned(pos: Tensor, cos: float, sin: float) -> Tensor:
    """Turned about the y axis, so that the direction (cos, ., sin) becomes that of x."""
    x, y, z = pos.unbind(-1)
    return torch.stack([cos * x + sin * z, y, cos * z - sin * x], dim=-1)


class RandomTurn(BaseTransform):
    """Turns the sequence by a random angle about the vertical axis, and tilts it by another one about
    the axis across.

    Args:
        degrees: Largest angle, in degrees.
        tilt: Largest angle of the tilt, in degrees. (default: 0)
    """

    def __init__(self, degrees: float, tilt: float = 0.0):
        self.degrees, self.tilt = degrees, tilt

    def forward(self, data: Data) -> Data:
        """"""
        angle = math.radians(_uniform(-self.degrees, self.degrees))
        pos = _turned(data.pos, math.cos(angle), math.sin(angle))
        angle = math.radians(_uniform(-self.tilt, self.tilt))
        x, y, z = pos.unbind(-1)
        cos, sin = math.cos(angle), math.sin(angle)
        data.pos = torch.stack([x, cos * y - sin * z, sin * y + cos * z], dim=-1)
        return data


class RandomSize(BaseTransform):
    """Scales the sequence by random factors, one for each axis.

    Args:
        most: Largest relative change.
    """

    def __init__(self, most: float):
        self.most = most

    def forward(self, data: Data) -> Data:
        """"""
        data.pos = data.pos * (1 + self.most * (2 * torch.rand(3, device=data.pos.device) - 1))
        return data


class RandomBones(BaseTransform):
    """Scales every bone by a random factor, the same in all frames: another body does the same.

    Args:
        most: Largest relative change.
    """

    def __init__(self, most: float):
        self.most = most

    def forward(self, data: Data) -> Data:
        """"""
        bones, chain, length = _bones(data)
        factor = 1 + self.most * (2 * torch.rand(len(length), device=length.device) - 1)
        factor[length == 0] = 1  # the hip has no bone
        return _with_bones(data, bones * factor.unsqueeze(-1), chain)


class SameBones(BaseTransform):
    """Gives all bones their usual lengths (``length`` of :func:`~rstg_pyg.graphs.skeleton_graph`), so
    that everybody has the same body.
    """

    def forward(self, data: Data) -> Data:
        """"""
        bones, chain, length = _bones(data)
        same = torch.nn.functional.normalize(bones, dim=-1) * length.unsqueeze(-1)
        return _with_bones(data, torch.where(length.unsqueeze(-1) > 0, same, bones), chain)


class JitterJoints(BaseTransform):
    """Adds normal noise to positions.

    Args:
        std: Its standard deviation, in the unit of the positions.
    """

    def __init__(self, std: float):
        self.std = std

    def forward(self, data: Data) -> Data:
        """"""
        data.pos = data.pos + self.std * torch.randn_like(data.pos) * data.mask.unsqueeze(-1)
        return data


class DropJoints(BaseTransform):
    """Removes random joints from all frames of a sequence.

    Args:
        share: The probability of each joint to be removed.
    """

    def __init__(self, share: float):
        self.share = share

    def forward(self, data: Data) -> Data:
        """"""
        data.mask = data.mask & (torch.rand(data.pos.size(1), device=data.mask.device) >= self.share)
        data.pos = data.pos * data.mask.unsqueeze(-1)
        return data


class SkeletonFeatures(BaseTransform):
    """Makes node features ``x [T, N, C]`` of positions, three channels for each kind:

    - ``joint``: position relative to the first body's hip (in frames without it: to where it was last,
      or is next; if it is in no frame, to the mean of the joints beside it)
    - ``bone``: position relative to the parent
    - ``motion``, ``bone_motion``: how these change from frame to frame (zero in the first)
    - ``motion_2``, ``motion_4``, ``motion_8``: how ``joint`` changes in so many frames (at the begin:
      since the first)
    - ``acceleration``: how ``motion`` changes

    Features that need a joint that is not there are zero.

    Args:
        kinds: Which of them. (default: the first three)
        motion_scale: A factor of all kinds of motion and ``acceleration``. (default: 1)
    """

    KINDS = (
        "joint", "bone", "motion", "bone_motion", "acceleration", "motion_2", "motion_4", "motion_8",
    )  # fmt: skip

    def __init__(self, kinds: Sequence[str] = KINDS[:3], motion_scale: float = 1.0):
        unknown = [kind for kind in kinds if kind not in self.KINDS]
        if unknown or not kinds:
            raise ValueError(
                f"Expected 'kinds' to be some of {', '.join(self.KINDS)} (got {list(kinds)})"
            )
        self.kinds, self.motion_scale = tuple(kinds), motion_scale

    def forward(self, data: Data) -> Data:
        """"""
        (hip,), mask = _index(data, "hip"), data.mask
        parent = _body_of(data)[0]
        joint = (data.pos - _hip(data, hip).unsqueeze(1)) * mask.unsqueeze(-1)
        bone = (data.pos - data.pos[:, parent]) * (mask & mask[:, parent]).unsqueeze(-1)

        def change(x: Tensor, frames: int = 1) -> Tensor:
            before = (torch.arange(len(x), device=x.device) - frames).clamp(min=0)
            return (x - x[before]) * (mask & mask[before]).unsqueeze(-1)

        found = {"joint": joint, "bone": bone}
        if "motion" in self.kinds or "acceleration" in self.kinds:
            found["motion"] = self.motion_scale * change(joint)
        if "bone_motion" in self.kinds:
            found["bone_motion"] = self.motion_scale * change(bone)
        for frames in (2, 4, 8):
            if f"motion_{frames}" in self.kinds:
                found[f"motion_{frames}"] = self.motion_scale * change(joint, frames)
        if "acceleration" in self.kinds:
            found["acceleration"] = change(found["motion"])
        data.x = torch.cat([found[kind] for kind in self.kinds], dim=-1)
        return data
