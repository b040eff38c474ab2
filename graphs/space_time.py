"""Space and time as one graph: the nodes of all frames, with edges between temporal neighbors."""

from __future__ import annotations

import torch
from torch import Tensor


def space_time_edges(edge_index: Tensor, num_nodes: int, num_frames: int) -> Tensor:
    r"""The edges of a graph in every frame, and edges between every node and itself in the next frame.

    Node :math:`i` of frame :math:`t` has the index :math:`t N + i`. The edges within frames come
    first, frame by frame in the given order, then those between frames, in both directions, sorted by
    target. (`"Recurrent Space-time Graph Neural Networks" <https://arxiv.org/abs/1904.05582>`_, the
    homogeneous model of the ablation in section 4.1.)

    Args:
        edge_index: The edges of one frame, ``[2, E]``.
        num_nodes: The number of nodes :math:`N` of one frame.
        num_frames: The number of frames :math:`T`.

    Returns:
        ``[2, T * E + 2 * (T - 1) * N]``

    Example:
        >>> space_time_edges(torch.tensor([[0, 1], [1, 0]]), num_nodes=2, num_frames=2)
        tensor([[0, 1, 2, 3, 2, 3, 0, 1],
                [1, 0, 3, 2, 0, 1, 2, 3]])
    """
    frames = torch.arange(num_frames, device=edge_index.device)
    space = edge_index.unsqueeze(1) + (frames * num_nodes).view(1, -1, 1)  # [2, T, E]
    nodes = torch.arange(num_frames * num_nodes, device=edge_index.device)
    earlier, later = nodes[: nodes.numel() - num_nodes], nodes[num_nodes:]
    pairs = torch.stack([torch.cat([later, earlier]), torch.cat([earlier, later])])
    pairs = pairs[:, (pairs[1] * nodes.numel() + pairs[0]).argsort()]
    return torch.cat([space.flatten(1), pairs], dim=1)
