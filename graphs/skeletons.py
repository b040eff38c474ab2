"""Skeletons as graphs: joints are nodes, bones are edges."""

from __future__ import annotations

import torch
from torch_geometric.data import Data

#: Of each layout, the joints in the order of their files: name, the joint toward the hip (the hip has
#: itself), a place for drawing (x to the right, y downwards, from 0 to 1), and the usual distance from
#: the joint toward the hip, in meters.
_LAYOUTS: dict[str, list[tuple[str, str, float, float, float]]] = {
    "msr20": [
        ("left shoulder", "neck", 0.36, 0.24, 0.21),
        ("right shoulder", "neck", 0.64, 0.24, 0.21),
        ("neck", "spine", 0.50, 0.21, 0.28),
        ("spine", "hip", 0.50, 0.37, 0.215),
        ("left hip", "hip", 0.42, 0.54, 0.215),
        ("right hip", "hip", 0.58, 0.54, 0.215),
        ("hip", "hip", 0.50, 0.51, 0.0),
        ("left elbow", "left shoulder", 0.25, 0.36, 0.27),
        ("right elbow", "right shoulder", 0.75, 0.36, 0.27),
        ("left wrist", "left elbow", 0.17, 0.49, 0.29),
        ("right wrist", "right elbow", 0.83, 0.49, 0.29),
        ("left hand", "left wrist", 0.14, 0.55, 0.07),
        ("right hand", "right wrist", 0.86, 0.55, 0.07),
        ("left knee", "left hip", 0.40, 0.73, 0.52),
        ("right knee", "right hip", 0.60, 0.73, 0.52),
        ("left ankle", "left knee", 0.38, 0.91, 0.41),
        ("right ankle", "right knee", 0.62, 0.91, 0.41),
        ("left foot", "left ankle", 0.34, 0.96, 0.17),
        ("right foot", "right ankle", 0.66, 0.96, 0.17),
        ("head", "neck", 0.50, 0.07, 0.24),
    ],
    "ntu25": [
        ("hip", "hip", 0.50, 0.51, 0.0),
        ("spine", "hip", 0.50, 0.37, 0.28),
        ("neck", "shoulders", 0.50, 0.15, 0.08),
        ("head", "neck", 0.50, 0.07, 0.16),
        ("left shoulder", "shoulders", 0.36, 0.24, 0.18),
        ("left elbow", "left shoulder", 0.25, 0.36, 0.27),
        ("left wrist", "left elbow", 0.17, 0.49, 0.25),
        ("left hand", "left wrist", 0.14, 0.55, 0.07),
        ("right shoulder", "shoulders", 0.64, 0.24, 0.18),
        ("right elbow", "right shoulder", 0.75, 0.36, 0.27),
        ("right wrist", "right elbow", 0.83, 0.49, 0.25),
        ("right hand", "right wrist", 0.86, 0.55, 0.07),
        ("left hip", "hip", 0.42, 0.54, 0.08),
        ("left knee", "left hip", 0.40, 0.73, 0.4),
        ("left ankle", "left knee", 0.38, 0.91, 0.38),
        ("left foot", "left ankle", 0.34, 0.96, 0.12),
        ("right hip", "hip", 0.58, 0.54, 0.08),
        ("right knee", "right hip", 0.60, 0.73, 0.4),
        ("right ankle", "right knee", 0.62, 0.91, 0.38),
        ("right foot", "right ankle", 0.66, 0.96, 0.12),
        ("shoulders", "spine", 0.50, 0.22, 0.22),
        ("left fingers", "left hand", 0.12, 0.60, 0.09),
        ("left thumb", "left hand", 0.18, 0.58, 0.06),
        ("right fingers", "right hand", 0.88, 0.60, 0.09),
        ("right thumb", "right hand", 0.82, 0.58, 0.06),
    ],
}
LAYOUTS = tuple(_LAYOUTS)
#: Edges besides the bones: parts of the body that act together.
_TOGETHER = (
    ("left hand", "right hand"),
    ("left hand", "head"),
    ("right hand", "head"),
    ("left hand", "hip"),
    ("right hand", "hip"),
    ("left foot", "right foot"),
    ("left foot", "hip"),
    ("right foot", "hip"),
)


def joint_names(layout: str) -> list[str]:
    """The joints of a layout, in order.

    Raises:
        ValueError: If there is no such layout.
    """
    if layout not in _LAYOUTS:
        raise ValueError(f"Expected 'layout' to be one of {', '.join(LAYOUTS)} (got {layout!r})")
    return [name for name, *_ in _LAYOUTS[layout]]


def skeleton_graph(layout: str = "msr20", bodies: int = 1, *, together: bool = False) -> Data:
    """The graph of one or more bodies, which have no edges between them.

    Args:
        layout: ``"msr20"``, the 20 joints of the first Kinect in the order of MSR Action3D, or
            ``"ntu25"``, the 25 joints of the second in the order of NTU RGB+D. Left and right are those
            of the person.
        bodies: How many bodies.
        together: Whether hands, head, hip and feet are joined besides the bones.

    Returns:
        A :class:`~torch_geometric.data.Data` with

        - ``edge_index [2, E]``: bones in both directions, sorted by target; no self loops
        - ``parent [N]``: the next joint toward the hip (the hip has itself)
        - ``body [N]``: the body of each joint
        - ``pos [N, 2]``: a place for drawing, ``(x, y)`` in 0..1, ``y`` downwards; bodies side by side
        - ``joint [N]``: the index of the joint in :func:`joint_names`
        - ``length [N]``: the usual length of the bone between the joint and its parent, in meters

    Raises:
        ValueError: If there is no such layout, or no body.

    Example:
        >>> skeleton_graph("msr20").edge_index.shape
        torch.Size([2, 38])
    """
    number = {name: i for i, name in enumerate(joint_names(layout))}
    if bodies < 1:
        raise ValueError(f"Expected 'bodies' to be at least 1 (got {bodies})")
    rows, count = _LAYOUTS[layout], len(number)
    parent = torch.tensor([number[up] for _, up, *_ in rows])
    pairs = [(i, p) for i, p in enumerate(parent.tolist()) if i != p]
    if together:
        pairs += [(number[a], number[b]) for a, b in _TOGETHER]
    edges = torch.tensor(sorted({*pairs, *((b, a) for a, b in pairs)}, key=lambda e: (e[1], e[0]))).T
    place = torch.tensor([[x, y] for _, _, x, y, _ in rows])
    body = torch.arange(bodies).repeat_interleave(count)
    first = body * count
    return Data(
        num_nodes=bodies * count,
        edge_index=torch.cat([edges + b * count for b in range(bodies)], dim=1),
        parent=parent.repeat(bodies) + first,
        body=body,
        pos=torch.cat([(place + torch.tensor([float(b), 0.0])) for b in range(bodies)])
        / torch.tensor([float(bodies), 1.0]),
        joint=torch.arange(count).repeat(bodies),
        length=torch.tensor([length for *_, length in rows]).repeat(bodies),
    )
