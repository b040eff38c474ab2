"""Generated recordings of simple actions, for use without data."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rstg_pyg.graphs import joint_names, skeleton_graph
from rstg_pyg.train.data.skeletons import Recording

_ARM = ("elbow", "wrist", "hand")
_LEG = ("knee", "ankle")
#: How an action turns limbs, at times ``t [T]`` from 0 to 1: angles in radians from hanging down, to
#: the side and to the front, by joint.
_Turns = dict[str, "tuple[Tensor, Tensor]"]


def _limb(side: str, joints: tuple[str, ...], out: Tensor, front: Tensor) -> _Turns:
    return {f"{side} {joint}": (out, front) for joint in joints}


def _wave(t: Tensor) -> _Turns:
    return _limb("right", _ARM, 2.6 + 0.5 * (6 * math.pi * t).sin(), 0 * t)


def _wave_both(t: Tensor) -> _Turns:
    out = 2.6 + 0.5 * (6 * math.pi * t).sin()
    return _limb("right", _ARM, out, 0 * t) | _limb("left", _ARM, out, 0 * t)


def _punch(t: Tensor) -> _Turns:
    return _limb("right", _ARM, 0 * t, 1.5 * (math.pi * t).sin())


def _clap(t: Tensor) -> _Turns:
    out = -0.3 + 0.5 * (4 * math.pi * t).cos()
    return _limb("right", _ARM, out, 0 * t + 1.4) | _limb("left", _ARM, out, 0 * t + 1.4)


def _kick_forward(t: Tensor) -> _Turns:
    return _limb("right", _LEG, 0 * t, 1.2 * (math.pi * t).sin())


def _kick_side(t: Tensor) -> _Turns:
    return _limb("right", _LEG, 1.1 * (math.pi * t).sin(), 0 * t)


def _jog(t: Tensor) -> _Turns:
    swing = 0.7 * (6 * math.pi * t).sin()
    turns = _limb("right", _LEG, 0 * t, swing) | _limb("left", _LEG, 0 * t, -swing)
    return turns | _limb("right", _ARM, 0 * t, -swing) | _limb("left", _ARM, 0 * t, swing)


def _raise_and_lower(t: Tensor) -> _Turns:
    return _limb("right", _ARM, 3.0 * (math.pi * t).sin(), 0 * t)


#: The actions, numbered from 1.
ACTIONS: tuple[Callable[[Tensor], _Turns], ...] = (
    _wave, _wave_both, _punch, _clap, _kick_forward, _kick_side, _jog, _raise_and_lower,
)  # fmt: skip


def generate_recordings(
    subjects: int = 6, repetitions: int = 3, seed: int = 0, layout: str = "msr20", bodies: int = 1
) -> list[Recording]:
    """Recordings of eight simple actions. Subjects differ in their bones and in how they stand,
    recordings in speed, amplitude and noise.

    Args:
        subjects: Number of persons, from 1.
        repetitions: Recordings of every action by every person.
        seed: Random seed.
        layout: The joints, see :func:`~rstg_pyg.graphs.skeleton_graph`.
        bodies: Bodies of a recording, of which the first one is there.
    """
    out, joints = [], len(joint_names(layout))
    for subject in range(1, subjects + 1):
        generator = torch.Generator().manual_seed(1000 * seed + subject)
        size = 1 + 0.12 * (2 * torch.rand(joints, generator=generator) - 1)
        angle = 0.5 * float(torch.rand((), generator=generator) - 0.5)
        for action, turns in enumerate(ACTIONS, 1):
            for repetition in range(1, repetitions + 1):
                pos = _record(turns, size, angle, layout, generator)
                pos = torch.nn.functional.pad(pos, (0, 0, 0, 0, 0, bodies - 1))
                mask = torch.zeros(pos.shape[:-1], dtype=torch.bool)
                mask[:, 0] = True
                name = f"a{action:02d}_s{subject:02d}_e{repetition:02d}"
                out.append(Recording(name, action, subject, pos, mask, layout))
    return out


def _record(
    turns: Callable, size: Tensor, angle: float, layout: str, generator: torch.Generator
) -> Tensor:
    """Positions ``[T, 1, N, 3]``."""
    graph, names = skeleton_graph(layout), joint_names(layout)
    length = int(torch.randint(24, 56, (), generator=generator))
    late = 0.15 * float(torch.rand((), generator=generator))
    t = (torch.linspace(-late, 1 + late, length)).clamp(0, 1)
    strength = 0.85 + 0.3 * float(torch.rand((), generator=generator))
    place = graph.pos * torch.tensor([1.0, -1.0])
    bones = torch.nn.functional.pad(place - place[graph.parent], (0, 1))
    bones = torch.nn.functional.normalize(bones, dim=-1) * (graph.length * size).unsqueeze(-1)
    bones = bones.expand(length, -1, -1).clone()
    for name, (out, front) in turns(t).items():
        i, side = names.index(name), 1.0 if name.startswith("right") else -1.0
        out, front = strength * out, strength * front
        way = torch.stack([side * out.sin() * front.cos(), -out.cos() * front.cos(), -front.sin()], -1)
        bones[:, i] = way * graph.length[i] * size[i]
    pos, done = torch.zeros_like(bones), {names.index("hip")}
    while len(done) < len(names):
        for i, parent in enumerate(graph.parent.tolist()):
            if i not in done and parent in done:
                pos[:, i] = pos[:, parent] + bones[:, i]
                done.add(i)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y, z = pos.unbind(-1)
    pos = torch.stack([cos * x + sin * z, y, cos * z - sin * x + 2.5], dim=-1)
    return (pos + 0.01 * torch.randn(pos.shape, generator=generator)).unsqueeze(1)
