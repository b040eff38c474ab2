"""Nodes ``[B, T, N, C]`` of which some are absent, or whose graph changes from frame to frame."""

from typing import Optional, Sequence, Union

import torch
from torch import Tensor

from rstg_pyg.running import first_frames
from rstg_pyg.sequences import FlatFrames, PerFrame, check_edges, over_frames


class MaskedFrames(FlatFrames):
    """The rows of the nodes that are present, and the edges among them.

    Args:
        x (torch.Tensor): The nodes ``[B, T, N, C]``.
        edge_index (torch.Tensor or list): The edges of all frames, or a list with those of each.
        edge_attr (torch.Tensor or list, optional): Edge features.
        pos (torch.Tensor or list, optional): Positions.
        node_type (torch.Tensor, optional): Node types ``[N]``.
        edge_weight (torch.Tensor or list, optional): Weights of the attention logits.
        mask (torch.Tensor, optional): Which nodes are there, ``[B, T, N]``.
        lengths (torch.Tensor or list, optional): How many frames of each clip are there.
    """

    def __init__(
        self,
        x: Tensor,
        edge_index: PerFrame,
        edge_attr: Optional[PerFrame],
        *,
        pos: Optional[PerFrame],
        node_type: Optional[Tensor],
        edge_weight: Optional[PerFrame],
        mask: Optional[Tensor],
        lengths: Union[Tensor, Sequence[int], None],
    ):
        self.shape = clips, frames, nodes = x.shape[:3]
        present = _present(x, mask, lengths)
        clip, frame, node = present.nonzero(as_tuple=True)
        self.rows = (clip * frames + frame) * nodes + node
        if pos is not None:
            pos = over_frames("pos", pos, clips, frames, 2)
            if pos.size(2) != nodes:
                raise ValueError(f"Expected 'pos' to have {nodes} rows (got {list(pos.shape)})")
            pos = pos[clip, frame, node]
        if node_type is not None:
            if node_type.shape != (nodes,):
                raise ValueError(
                    f"Expected 'node_type' to have shape [{nodes}] (got {list(node_type.shape)})"
                )
            node_type = node_type[node]
        edges = PresentEdges(edge_index, present)
        super().__init__(
            edges.index,
            None if edge_attr is None else edges.select("edge_attr", edge_attr, 2),
            pos=pos,
            node_type=node_type,
            edge_weight=None if edge_weight is None else edges.select("edge_weight", edge_weight, 1),
            node=clip * nodes + node,
            batch=clip * frames + frame,
            num_nodes=clips * nodes,
        )

    def enter(self, x: Tensor) -> Tensor:
        """The rows of the nodes that are there; nothing ever sees the others."""
        return x.flatten(0, 2).index_select(0, self.rows)

    def leave(self, x: Tensor) -> Tensor:
        """The nodes as they go out: zeros where a node is absent."""
        out = x.new_zeros(self.shape.numel(), x.size(-1)).index_copy(0, self.rows, x)
        return out.view(*self.shape, x.size(-1))


class PresentEdges:
    """The edges of all frames of all clips whose both ends are present, between rows.

    Args:
        edge_index (torch.Tensor or list): The edges of all frames, or a list with those of each.
        present (torch.Tensor): Which nodes are there, ``[B, T, N]``. They are the rows.
    """

    def __init__(self, edge_index: PerFrame, present: Tensor):
        self.clips, self.frames, nodes = present.shape
        self.shared = not isinstance(edge_index, (list, tuple))
        if self.shared:
            edges = check_edges(edge_index, nodes)
            topologies = [edges] * self.frames
            self.counts = [edges.size(1)] * self.frames
        else:
            topologies = [check_edges(edges, nodes) for edges in edge_index]
            self.counts = [edges.size(1) for edges in topologies]
        if len(topologies) != self.frames:
            raise ValueError(
                f"Expected 'edge_index' to be one tensor, or a list with one for each of {self.frames} "
                f"frames (got {len(topologies)})"
            )
        # The edges of a clip over its T * N nodes, and which of them are there in which clip.
        shifted = [edges + t * nodes for t, edges in enumerate(topologies)]
        source, target = torch.cat(shifted, dim=1) if shifted else present.new_zeros(2, 0).long()
        there = present.flatten(1)
        self.clip, self.edge = (there[:, source] & there[:, target]).nonzero(as_tuple=True)
        row = (there.flatten().cumsum(0) - 1).view(there.shape)
        ends = torch.stack([source, target])[:, self.edge]
        self.index = row[self.clip, ends]  # [2, number of edges that are there]

    def select(self, name: str, value: PerFrame, own: int) -> Tensor:
        """The values of these edges, from those of all frames (tensors with ``own`` dimensions)."""
        if self.shared:
            count = self.counts[0] if self.counts else 0
            if isinstance(value, Tensor) and value.dim() < own:
                value = value.unsqueeze(-1)
            value = over_frames(name, value, self.clips, self.frames, own)
            if value.size(2) != count:
                raise ValueError(f"Expected '{name}' to be of {count} edges (got {value.size(2)})")
            return value[self.clip, self.edge // max(count, 1), self.edge % max(count, 1)]
        found = None if isinstance(value, Tensor) else [len(one) for one in value]
        if found != self.counts:
            raise ValueError(
                f"Expected '{name}' to be a list like 'edge_index', of {self.counts} edges "
                f"(got {list(value.shape) if found is None else found})"
            )
        return torch.cat(list(value))[self.edge]


def _present(x: Tensor, mask: Optional[Tensor], lengths: Union[Tensor, Sequence[int], None]) -> Tensor:
    """Which nodes are there, ``[B, T, N]``."""
    clips, frames = x.shape[:2]
    present = torch.ones(x.shape[:3], dtype=torch.bool, device=x.device)
    if mask is not None:
        if mask.shape != present.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"Expected 'mask' to be of bool and of shape {list(present.shape)} "
                f"(got {mask.dtype}, {list(mask.shape)})"
            )
        present = mask
    if lengths is not None:
        present = present & first_frames(lengths, clips, frames, x.device).unsqueeze(-1)
    return present
