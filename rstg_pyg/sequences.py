"""How the nodes of many frames lie in memory: all of them in every frame, or rows that come and go.

:class:`~rstg_pyg.RSTG` runs its stages on either. Both know how a space stage runs over all frames, how
a time stage runs over all histories, and how the nodes come in and go out.
"""

import inspect
from typing import Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import Adj
from torch_geometric.utils import is_torch_sparse_tensor

from rstg_pyg.cells import Cell, CellState
from rstg_pyg.histories import Histories

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


def edge_tensor(edge_index: Tensor) -> Tensor:
    """The edges as a plain tensor.

    Raises:
        ValueError: If they are no integers ``[2, E]``.
    """
    if not isinstance(edge_index, Tensor) or is_torch_sparse_tensor(edge_index):
        found = edge_index.layout if isinstance(edge_index, Tensor) else type(edge_index).__name__
        raise ValueError(f"Expected 'edge_index' to be a tensor [2, num_edges] (got {found})")
    edges = edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index
    if edges.dim() != 2 or edges.size(0) != 2 or edges.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            "Expected 'edge_index' to hold integers of shape [2, num_edges] "
            f"(got {list(edges.shape)}, {edges.dtype})"
        )
    return edges


def check_edges(edge_index: Tensor, num_nodes: int) -> Tensor:
    """The edges as a plain tensor, of which every end exists.

    Raises:
        ValueError: If they are no integers ``[2, E]``.
        IndexError: If they name a node that does not exist.
    """
    edges = edge_tensor(edge_index)
    if edges.numel() > 0:
        low, high = (int(end) for end in edges.aminmax())
        if low < 0 or high >= num_nodes:
            raise IndexError(
                f"Found indices in 'edge_index' from {low} to {high}, but there are {num_nodes} nodes "
                f"(expected indices from 0 to {num_nodes - 1})"
            )
    return edges


def check_norms(module: torch.nn.Module) -> None:
    """Refuses norms that need all nodes in all frames.

    Args:
        module (torch.nn.Module): A norm that is called on rows, with the frame of each as ``batch``
            if it takes that.

    Raises:
        ValueError: If its statistics are over frames or clips as dimensions.
    """
    for norm in module.modules():
        joint = getattr(norm, "num_joint_dims", None)
        told = norm is module and takes_batch(norm) and joint == 2
        if joint is not None and not told:
            raise ValueError(
                f"'{norm}' takes its statistics over frames as a dimension, and where nodes come and "
                "go there is none: expected a norm of each node (LayerNorm), of all of them "
                "(ChannelBatchNorm) or of each frame (JointLayerNorm)"
            )


def takes_batch(module: torch.nn.Module) -> bool:
    """Whether a norm wants to know the graph of every row."""
    return "batch" in inspect.signature(module.forward).parameters


class DenseFrames:
    """All nodes in all frames and one graph for all: nodes ``[B, T, N, C]``.

    Values of nodes and edges are the same in all frames (``[N, *]``), or change from frame to frame
    (``[T, N, *]``), or differ between the clips as well (``[B, T, N, *]``).
    """

    def __init__(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Optional[Tensor],
        pos: Optional[Tensor],
        node_type: Optional[Tensor],
        edge_weight: Optional[Tensor],
    ):
        clips, frames = x.shape[:2]

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

    def norm(self, module: torch.nn.Module, x: Tensor) -> Tensor:
        """The norm before the first round."""
        return module(x)

    def start(self, x: Tensor) -> Tensor:
        """The nodes as the stages get them."""
        return x.transpose(0, 1)  # [T, B, N, C]: time first is what the cells want

    def space(self, conv: torch.nn.Module, x: Tensor) -> Tensor:
        """One space stage in every frame."""
        return conv(x, *self.graph, **self.extras)

    def time(self, cell: Cell, x: Tensor, state: Optional[CellState]) -> Tuple[Tensor, CellState]:
        """One time stage over the histories of all nodes."""
        z, state = cell(x.flatten(1, 2), state)  # [T, B * N, C]
        return z.view(x.shape), state

    def leave(self, x: Tensor) -> Tensor:
        """The nodes as they go out."""
        return x.transpose(0, 1)


class FlatFrames:
    """One row per node and frame: ``[R, C]``, and edges between rows of the same frame.

    This is a PyG batch whose graphs are the frames, and with it come all its freedoms: any graph in
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
        edge_attr: Optional[Tensor],
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
        if isinstance(edge_index, Tensor) and not is_torch_sparse_tensor(edge_index):
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

    def norm(self, module: torch.nn.Module, x: Tensor) -> Tensor:
        """The norm before the first round, told which frame every row is in if it asks."""
        return module(x, batch=self.batch) if takes_batch(module) else module(x)

    def start(self, x: Tensor) -> Tensor:
        """The nodes as the stages get them."""
        return x

    def space(self, conv: torch.nn.Module, x: Tensor) -> Tensor:
        """One space stage in every frame."""
        return conv(x, *self.graph, **self.extras)

    def time(self, cell: Cell, x: Tensor, state: Optional[CellState]) -> Tuple[Tensor, CellState]:
        """One time stage over the histories of all nodes."""
        return self.histories.run(cell, x, state)

    def leave(self, x: Tensor) -> Tensor:
        """The nodes as they go out."""
        return x
