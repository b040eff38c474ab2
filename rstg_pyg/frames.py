"""How the nodes of many frames lie in memory: all of them in every frame, or rows that come and go.

:class:`~rstg_pyg.RSTG` runs its stages on any of these forms. Each knows how a space stage runs over
all frames, how a time stage runs over all histories, and how nodes are reordered before and after.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch_geometric.typing import Adj, SparseTensor
from torch_geometric.utils import is_sparse, is_torch_sparse_tensor, to_edge_index

from rstg_pyg.cells import Cell, CellState, Histories
from rstg_pyg.checks import ORDER, check_edges, edge_tensor
from rstg_pyg.fast.autograd import eager
from rstg_pyg.means import first_frames
from rstg_pyg.normalize import normalize

#: One value for all frames, or one per frame.
PerFrame = Union[Tensor, Sequence[Tensor]]


def over_frames(name: str, value: PerFrame, clips: int, frames: int, own: int) -> Tensor:
    """The values of every frame of every clip, ``[B, T, *]``, from those of all (``[*]``, with ``own``
    dimensions), of every frame (``[T, *]``, or a list), or of every frame of every clip.

    Raises:
        ValueError: If there are values for another number of frames or clips.
    """
    if not isinstance(value, Tensor):
        shapes = sorted({tuple(one.shape) for one in value})
        if len(shapes) != 1:
            raise ValueError(f"Expected '{name}' to have one shape in all frames (got {shapes})")
        value = torch.stack(list(value))
        value = value.unsqueeze(-1) if value.dim() == own else value  # one number per edge
    lead, shape = tuple(value.shape[: value.dim() - own]), value.shape[value.dim() - own :]
    if lead not in ((), (frames,), (clips, frames)):
        raise ValueError(
            f"Expected '{name}' to be the same in all frames, or to have the leading dimensions "
            f"[{frames}] (frames) or [{clips}, {frames}] (clips, frames) (got {list(value.shape)})"
        )
    return value.expand(clips, frames, *shape)


def _space(
    conv: torch.nn.Module, x: Tensor, graph: Tuple, extras: Dict[str, Any], seen: Optional[List[Any]]
) -> Tensor:
    if seen is None:
        return conv(x, *graph, **extras)
    x, (_, alpha) = conv(x, *graph, **extras, return_attention_weights=True)
    seen.append(alpha)
    return x


class DenseFrames:
    """All nodes in all frames and one graph for all: nodes ``[B, T, N, C]``.

    Values of nodes and edges are the same in all frames (``[N, *]``), or change from frame to frame
    (``[T, N, *]``), or differ between the clips as well (``[B, T, N, *]``).
    """

    def __init__(
        self,
        x: Tensor,
        edge_index: Any,
        edge_attr: Optional[PerFrame],
        pos: Optional[Tensor],
        node_type: Optional[Tensor],
        edge_weight: Optional[Tensor],
    ):
        clips, frames = x.shape[:2]
        if is_sparse(edge_index):
            edge_tensor(edge_index)  # which says so
        whole = isinstance(edge_index, Tensor) and edge_index.dtype in (torch.int64, torch.int32)
        if whole and edge_index.device.type == "cpu" and edge_index.dim() == 2 and eager():
            check_edges(edge_index, x.size(2), ORDER)

        def time_first(name: str, value: Optional[PerFrame], own: int) -> Optional[Tensor]:
            if value is None or (isinstance(value, Tensor) and value.dim() <= own):
                return value
            return over_frames(name, value, clips, frames, own).transpose(0, 1)

        self.graph = (edge_index, time_first("edge_attr", edge_attr, 2))
        self.extras = dict(
            pos=time_first("pos", pos, 2),
            node_type=node_type,
            edge_weight=time_first("edge_weight", edge_weight, 1),
        )

    def enter(self, x: Tensor) -> Tensor:
        """The nodes as the projection and the norm get them."""
        return x

    def norm(self, module: torch.nn.Module, how: Any, x: Tensor) -> Tensor:
        """The norm before the first round, of each frame."""
        return normalize(module, how, x)

    def start(self, x: Tensor) -> Tensor:
        """The nodes as the stages get them."""
        return x.transpose(0, 1)  # [T, B, N, C]: time first is what the cells want

    def space(self, conv: torch.nn.Module, x: Tensor, seen: Optional[List[Any]]) -> Tensor:
        """One space stage in every frame; appends its attention to ``seen``."""
        return _space(conv, x, self.graph, self.extras, seen)

    def time(self, cell: Cell, x: Tensor, state: Optional[CellState]) -> Tuple[Tensor, CellState]:
        """One time stage over the histories of all nodes."""
        z, state = cell(x.flatten(1, 2), state)  # [T, B * N, C]
        return z.view(x.shape), state

    def leave(self, x: Tensor) -> Tensor:
        """The nodes as they go out."""
        return x.transpose(0, 1)

    def leave_edges(self, alpha: Tensor) -> Any:
        """Attention as it goes out, ``[B, T, E, H]``."""
        return alpha.transpose(0, 1)


class FlatFrames:
    """One row per node and frame: ``[R, C]``, and edges between rows of the same frame.

    This is a PyG batch whose graphs are the frames, so anything that PyG allows works: any graph in
    any frame, nodes that come and go, sequences of different lengths.
    """

    def __init__(
        self,
        edge_index: Adj,
        edge_attr: Optional[Tensor],
        pos: Optional[Tensor],
        node_type: Optional[Tensor],
        edge_weight: Optional[Tensor],
        node: Tensor,
        batch: Tensor,
        num_nodes: int,
    ):
        self.graph = (edge_index, edge_attr)
        self.extras = dict(pos=pos, node_type=node_type, edge_weight=edge_weight, batch=batch)
        self.batch = batch
        self.histories = Histories(node, batch, num_nodes)

    @classmethod
    def from_rows(
        cls,
        x: Tensor,
        edge_index: Adj,
        edge_attr: Any,
        node: Optional[Tensor],
        batch: Optional[Tensor],
        known: int,
        **values: Optional[Tensor],
    ) -> "FlatFrames":
        """Checks rows as the caller has them, after frames with ``known`` nodes."""
        rows = x.size(0)
        if node is None:
            if batch is not None or known not in (0, rows):
                raise ValueError(
                    "Expected 'node', which says what rows are one node at different times, with "
                    "'batch' and where the number of nodes changes between calls "
                    f"(got {rows} rows and a state of {known} nodes)"
                )
            node = torch.arange(rows, device=x.device)
        batch = torch.zeros_like(node) if batch is None else batch
        for name, value in (("node", node), ("batch", batch)):
            if value.shape != (rows,) or value.is_floating_point() or value.dtype == torch.bool:
                raise ValueError(
                    f"Expected '{name}' to hold one integer for each of {rows} rows of 'x' "
                    f"(got {list(value.shape)}, {value.dtype})"
                )
        node, batch = node.long(), batch.long()
        if rows > 0 and int(node.min()) < 0:
            raise ValueError(f"Expected 'node' to count nodes from 0 (got {int(node.min())})")
        if is_torch_sparse_tensor(edge_index):
            target, source = to_edge_index(edge_index)[0]
        elif isinstance(edge_index, SparseTensor):
            target, source, _ = edge_index.coo()
        else:
            source, target = check_edges(edge_index, rows)
        across = (batch[source] != batch[target]).nonzero()
        if len(across) > 0:
            i = int(across[0])
            raise ValueError(
                "Expected edges between rows of the same frame (got an edge from frame "
                f"{int(batch[source[i]])} to frame {int(batch[target[i]])})"
            )
        num_nodes = max(known, int(node.max()) + 1 if rows > 0 else 0)
        return cls(edge_index, edge_attr, node=node, batch=batch, num_nodes=num_nodes, **values)

    def enter(self, x: Tensor) -> Tensor:
        """The nodes as the projection and the norm get them."""
        return x

    def norm(self, module: torch.nn.Module, how: Any, x: Tensor) -> Tensor:
        """The norm before the first round, of each frame."""
        return normalize(module, how, x, self.batch)

    def start(self, x: Tensor) -> Tensor:
        """The nodes as the stages get them."""
        return x

    def space(self, conv: torch.nn.Module, x: Tensor, seen: Optional[List[Any]]) -> Tensor:
        """One space stage in every frame; appends its attention to ``seen``."""
        return _space(conv, x, self.graph, self.extras, seen)

    def time(self, cell: Cell, x: Tensor, state: Optional[CellState]) -> Tuple[Tensor, CellState]:
        """One time stage over the histories of all nodes."""
        return self.histories.run(cell, x, state)

    def leave(self, x: Tensor) -> Tensor:
        """The nodes as they go out."""
        return x

    def leave_edges(self, alpha: Tensor) -> Any:
        """Attention as it goes out, ``[E, H]``."""
        return alpha


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
        self.edges = edges = PresentEdges(edge_index, present)
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

    def leave_edges(self, alpha: Tensor) -> Any:
        """Attention as it goes out, zero where an end is absent: ``[B, T, E, H]``, or a list with one
        ``[B, E, H]`` for each frame.
        """
        edges = self.edges
        out = alpha.new_zeros(self.shape[0], sum(edges.counts), alpha.size(-1))
        out = out.index_put((edges.clip, edges.edge), alpha)
        if edges.shared:
            return out.view(*self.shape[:2], edges.counts[0] if edges.counts else 0, alpha.size(-1))
        return list(out.split(edges.counts, 1))


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
            edges = check_edges(edge_index, nodes, ORDER)
            topologies = [edges] * self.frames
            self.counts = [edges.size(1)] * self.frames
        else:
            topologies = [check_edges(edges, nodes, ORDER) for edges in edge_index]
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
        whole = isinstance(value, Tensor)
        found = list(value.shape) if isinstance(value, Tensor) else [len(one) for one in value]
        if whole or found != self.counts:
            raise ValueError(
                f"Expected '{name}' to be a list like 'edge_index', of {self.counts} edges "
                f"(got {found})"
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
