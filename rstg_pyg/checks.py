"""Checks of the layers' inputs, with one-sentence errors, and their conversion to the plain form."""

import inspect
from numbers import Integral
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import Adj, PairTensor, SparseTensor
from torch_geometric.utils import is_sparse, is_torch_sparse_tensor


def check_keywords(module: torch.nn.Module, layer: type, kwargs: Dict[str, Any]) -> None:
    """Checks the further arguments of a module, which are those of its layers.

    Raises:
        TypeError: If the layer has no such argument.
        ValueError: If it is one of :class:`~torch_geometric.nn.conv.MessagePassing` that has no meaning
            here.
    """
    name, known = module.__class__.__name__, inspect.signature(layer).parameters
    for key in sorted(set(kwargs) - set(known)):
        raise TypeError(f"{name} got an unexpected keyword argument '{key}'")
    # Nodes are the dimension before the last everywhere, and messages no linear function of them.
    for key, usual in (("decomposed_layers", (1,)), ("node_dim", (-2, 0))):
        if kwargs.get(key, usual[0]) not in usual:
            raise ValueError(f"'{name}' does not support '{key}'={kwargs[key]}")


def check_form(form: str) -> None:
    """Checks the name of a form.

    Raises:
        ValueError: If there is none of that name.
    """
    if form not in ("skip", "paper"):
        raise ValueError(f"Expected 'form' to be 'skip' or 'paper' (got {form!r})")


def check_numbers(least: int, **values: int) -> None:
    """Checks that arguments are whole numbers.

    Raises:
        ValueError: If one is not, or is less than ``least``.
    """
    for name, value in values.items():
        if not isinstance(value, Integral):
            raise ValueError(f"Expected '{name}' to be a whole number (got {value!r})")
        if value < least:
            raise ValueError(f"Expected '{name}' to be at least {least} (got {value})")


def check_inputs(
    stage: Any,
    x: Tuple[Optional[Tensor], Optional[Tensor]],
    pos: Tuple[Optional[Tensor], Optional[Tensor]],
    node_type: Optional[Tensor],
    edge_attr: Optional[Tensor],
    edge_weight: Optional[Tensor],
    edges: Optional[Tuple[int, ...]],
    batch: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    """Checks the inputs of a space stage.

    Args:
        stage: The layer, a :class:`~rstg_pyg.stage.SpaceStage`.
        x: Source and target features.
        pos: Source and target positions.
        node_type: Types of the target nodes.
        edge_attr: Edge features.
        edge_weight: Weights of the edges.
        edges: Shape of the edges: ``(E,)``, or ``(N, N)`` for all pairs. ``None`` if not known.
        batch: The graph of every target node.

    Returns:
        Source and target features.

    Raises:
        ValueError: If something does not fit.
    """
    name, send, pos_channels = stage.__class__.__name__, stage.send, stage.pos_channels
    num_node_types, edge_dim = stage.num_node_types, stage.edge_dim
    for what, pair in (("x", x), ("pos", pos)):
        for value in pair:
            if not isinstance(value, (Tensor, type(None))):
                raise ValueError(
                    f"Expected '{what}' to be a tensor or a pair of tensors (got {_kind(value)})"
                )
    if x[0] is None or x[1] is None:
        raise ValueError(
            f"'{name}' needs the features of source and target nodes (got 'None' for one of them)"
        )
    ends = source, target = x[0], x[1]
    lead, nodes = target.shape[:-2], target.shape[-2:-1]
    if source.dim() < 2 or target.dim() < 2 or source.shape[:-2] != lead:
        raise ValueError(
            f"Expected 'x' to have shape [*, num_nodes, channels], equal in all leading dimensions "
            f"(got {list(source.shape)} and {list(target.shape)})"
        )
    for side, features, lin in zip(("source", "target"), ends, (send.lin_src, send.lin_dst)):
        # Comparisons, not `in`: torch 2.11 compiles `in` with a dynamic size to False.
        if lin.in_channels != -1 and lin.in_channels != features.size(-1):
            raise ValueError(
                f"Expected the {side} features 'x' to have {lin.in_channels} channels "
                f"(got {features.size(-1)})"
            )
    for features, position in zip(ends, pos):
        wanted = (features.size(-2), pos_channels) if pos_channels > 0 else None
        found = None if position is None else tuple(position.shape)
        if found is not None and found[:-2] == features.shape[:-2]:
            found = found[-2:]  # different ones for each sample
        if found != wanted:
            raise ValueError(
                f"Expected 'pos' to have shape {wanted} (got {found}), or those after the leading "
                f"dimensions of 'x'; 'pos_channels' is {pos_channels}"
                if wanted is not None
                else f"Expected no 'pos' (got {found}): 'pos_channels' of the layer is 0"
            )
    if num_node_types > 1 and (
        node_type is None
        or node_type.shape != nodes
        or node_type.is_floating_point()
        or node_type.dtype == torch.bool
    ):
        kind = "" if node_type is None else f", {node_type.dtype}"
        raise ValueError(
            f"Expected 'node_type' to give one of {num_node_types} types (an integer) for each of the "
            f"{nodes[0]} nodes (got {_shape(node_type)}{kind})"
        )
    if (edge_attr is None) != (edge_dim is None):
        raise ValueError(
            f"Expected 'edge_attr' exactly if 'edge_dim' is set (got {_shape(edge_attr)}, 'edge_dim' "
            f"is {edge_dim}); numbers that weigh the attention are 'edge_weight'"
        )
    if batch is not None and (batch.shape != nodes or batch.is_floating_point()):
        raise ValueError(
            f"Expected 'batch' to give the graph, an integer, of each of the {nodes[0]} nodes "
            f"(got {_shape(batch)}, {batch.dtype})"
        )
    if edge_weight is not None and stage.attend is None and stage.edge_weight_on == "logits":
        raise ValueError(
            "Expected no 'edge_weight': it multiplies the attention logits, and 'attention' is None"
        )
    if edges is None:
        return ends
    if edge_attr is not None:
        width = send.lin_edge.in_channels
        if width == -1:  # lazy
            width = edge_attr.size(-1) if edge_attr.dim() > len(edges) else 1
        if width != 1 or edge_attr.shape != edges:  # which is viewed as [E, 1]
            _check_edge_values("edge_attr", edge_attr, (*edges, width), lead)
    if edge_weight is not None:
        _check_edge_values("edge_weight", edge_weight, edges, lead)
    return ends


def _check_edge_values(name: str, value: Tensor, wanted: Tuple[int, ...], lead: torch.Size) -> None:
    shape = tuple(value.shape)
    if shape[-len(wanted) :] != wanted or shape[: -len(wanted)] not in ((), tuple(lead)):
        raise ValueError(f"Expected '{name}' to have shape {list(wanted)} (got {list(shape)})")


def count_edges(edge_index: Adj) -> Optional[Tuple[int]]:
    """The shape ``(E,)`` of one number per edge; ``None`` where PyG has an error to report.

    Raises:
        ValueError: If these are no edges, or a sparse matrix with more than one number per entry.
    """
    if not isinstance(edge_index, (Tensor, SparseTensor)):
        raise ValueError(
            f"Expected 'edge_index' to be a tensor of shape [2, num_edges] or a sparse matrix "
            f"(got {_kind(edge_index)})"
        )
    if not is_sparse(edge_index):
        return (edge_index.size(1),) if edge_index.dim() == 2 else None
    if edge_index.dim() != 2:
        raise ValueError(
            f"Expected the sparse 'edge_index' to hold one weight per entry (got a matrix of shape "
            f"{_shape(edge_index)}); pass features as 'edge_attr', in the order of the entries"
        )
    return (edge_index.nnz() if isinstance(edge_index, SparseTensor) else edge_index._nnz(),)


def as_pair(
    name: str, value: Union[Tensor, PairTensor, None]
) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """What belongs to the source and to the target nodes."""
    if not isinstance(value, (tuple, list)):
        return value, value
    if len(value) != 2:
        raise ValueError(f"Expected '{name}' to be a tensor or a pair of them (got {len(value)} items)")
    return value[0], value[1]


def plain_edges(edge_index: Adj, size: Tuple[int, int]) -> Adj:
    """Edges as every kernel takes them, ``[2, E]`` of int64. Sparse matrices stay, and so does what PyG
    has an error for.
    """
    if isinstance(edge_index, EdgeIndex):  # its order and caches would not be used
        for found, wanted in zip(size, edge_index.sparse_size()):
            if wanted is not None and wanted != found:
                raise ValueError(
                    f"Encountered tensor with size {found} in dimension -2, but expected size {wanted}."
                )
        edge_index = edge_index.as_tensor()
    if is_sparse(edge_index) or edge_index.is_floating_point() or edge_index.dtype == torch.bool:
        return edge_index
    return edge_index.long()


def edge_tensor(edge_index: Any) -> Tensor:
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


#: What a sequence of nodes looks like, for messages.
ORDER = "; nodes are [B, T, N, C]: clips, frames, nodes, channels"


def check_edges(edge_index: Any, num_nodes: int, hint: str = "") -> Tensor:
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
                f"(expected indices from 0 to {num_nodes - 1}{hint})"
            )
    return edges


def nodes_of_state(state: Sequence[Any], stages: int, cell: Optional[Any]) -> Optional[int]:
    """The number of nodes of a state.

    Args:
        state: The state, with one entry per time stage.
        stages: How many time stages there are.
        cell: One of their cells; all have the same kind and width. ``None`` if there is none.

    Raises:
        ValueError: If it is the state of another network.
    """
    if len(state) != stages:
        raise ValueError(
            f"Expected 'state' to have one entry for each of {stages} time stages (got {len(state)})"
        )
    if cell is None:
        return None
    parts = cell.num_parts
    entries = [entry if isinstance(entry, (tuple, list)) else (entry,) for entry in state]
    whole = all(len(entry) == parts for entry in entries)
    shapes = {tuple(part.shape) if isinstance(part, Tensor) else () for one in entries for part in one}
    shape = next(iter(shapes))
    if not whole or len(shapes) > 1 or len(shape) != 3 or shape[::2] != (1, cell.hidden_size):
        raise ValueError(
            f"Expected 'state' as returned with 'return_state=True', {parts} tensor(s) of shape [1, "
            f"nodes, {cell.hidden_size}] for each time stage (got {[len(entry) for entry in entries]} "
            f"of {sorted(shapes)})"
        )
    return shape[1]


def _kind(value: object) -> str:
    return f"'{type(value).__name__}'"


def _shape(value: Optional[Tensor]) -> str:
    return "none" if value is None else str(list(value.size()))
