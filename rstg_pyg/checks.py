"""What a space stage is given: made plain, or what does not fit in one sentence each."""

import inspect
from typing import Any, Dict, Optional, Tuple, Union

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import Adj, PairTensor, SparseTensor
from torch_geometric.utils import is_sparse

from rstg_pyg.parts import SendMLP


def check_keywords(module: torch.nn.Module, layer: type, kwargs: Dict[str, Any]) -> None:
    """Checks the further arguments of a module, which are those of its layers.

    Raises:
        TypeError: If the layer has no such argument.
        ValueError: If it is one of :class:`~torch_geometric.nn.conv.MessagePassing` that has no meaning
            here.
    """
    name, known = module.__class__.__name__, inspect.signature(layer.__init__).parameters
    for key in sorted(set(kwargs) - set(known)):
        raise TypeError(f"{name} got an unexpected keyword argument '{key}'")
    # Nodes are the dimension before the last everywhere, and messages no linear function of them.
    for key, usual in (("decomposed_layers", (1,)), ("node_dim", (-2, 0))):
        if kwargs.get(key, usual[0]) not in usual:
            raise ValueError(f"'{name}' does not support '{key}'={kwargs[key]}")


def check_inputs(
    name: str,
    send: SendMLP,
    x: Tuple[Optional[Tensor], Optional[Tensor]],
    pos: Tuple[Optional[Tensor], Optional[Tensor]],
    pos_channels: int,
    node_type: Optional[Tensor],
    num_node_types: int,
    edge_attr: Optional[Tensor],
    edge_dim: Optional[int],
    edge_weight: Optional[Tensor],
    has_attention: bool,
    edges: Optional[Tuple[int, ...]],
    batch: Optional[Tensor] = None,
) -> None:
    """Checks the inputs of a space stage.

    Args:
        name: The layer's name.
        send: Its send function, which knows the channels (-1 while lazy).
        x: Source and target features.
        pos: Source and target positions.
        pos_channels: Channels that positions should have; 0 for none.
        node_type: Types of the target nodes.
        num_node_types: Number of types.
        edge_attr: Edge features.
        edge_dim: Channels that they should have, if any.
        edge_weight: Weights of the logits.
        has_attention: Whether there are logits.
        edges: Shape of the edges: ``(E,)``, or ``(N, N)`` for all pairs. ``None`` if not known.
        batch: The graph of every target node.

    Raises:
        ValueError: If something does not fit.
    """
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
    lead = x[1].shape[:-2]
    if x[0].dim() < 2 or x[1].dim() < 2 or x[0].shape[:-2] != lead:
        raise ValueError(
            f"Expected 'x' to have shape [*, num_nodes, channels], equal in all leading dimensions "
            f"(got {list(x[0].shape)} and {list(x[1].shape)})"
        )
    for side, features, lin in zip(("source", "target"), x, (send.lin_src, send.lin_dst)):
        if lin.in_channels not in (-1, features.size(-1)):
            raise ValueError(
                f"Expected the {side} features 'x' to have {lin.in_channels} channels "
                f"(got {features.size(-1)})"
            )
    for features, position in zip(x, pos):
        wanted = (features.size(-2), pos_channels) if pos_channels > 0 else None
        found = None if position is None else tuple(position.shape[-2:])
        if found != wanted:
            raise ValueError(
                f"Expected 'pos' to have shape {wanted} (got {found}); 'pos_channels' is {pos_channels}"
                if wanted is not None
                else f"Expected no 'pos' (got {found}): 'pos_channels' of the layer is 0"
            )
    if num_node_types > 1 and (
        node_type is None
        or node_type.shape != x[1].shape[-2:-1]
        or node_type.is_floating_point()
        or node_type.dtype == torch.bool
    ):
        found = "none" if node_type is None else f"{_shape(node_type)}, {node_type.dtype}"
        raise ValueError(
            f"Expected 'node_type' to give one of {num_node_types} types (an integer) for each of the "
            f"{x[1].size(-2)} nodes (got {found})"
        )
    if (edge_attr is None) != (edge_dim is None):
        raise ValueError(
            f"Expected 'edge_attr' exactly if 'edge_dim' is set (got {_shape(edge_attr)}, 'edge_dim' "
            f"is {edge_dim}); numbers that weigh the attention are 'edge_weight'"
        )
    if batch is not None and (batch.shape != x[1].shape[-2:-1] or batch.is_floating_point()):
        raise ValueError(
            f"Expected 'batch' to give the graph, an integer, of each of the {x[1].size(-2)} nodes "
            f"(got {_shape(batch)}, {batch.dtype})"
        )
    if edge_weight is not None and not has_attention:
        raise ValueError(
            "Expected no 'edge_weight': it multiplies the attention logits, and 'attention' is None"
        )
    if edges is None:
        return
    width = None if edge_attr is None else send.lin_edge.in_channels
    if width == -1:  # lazy
        width = edge_attr.size(-1) if edge_attr.dim() > len(edges) else 1
    for what, value, wanted in [
        ("edge_attr", edge_attr, (*edges, width)),
        ("edge_weight", edge_weight, edges),
    ]:
        if value is None:
            continue
        shape = tuple(value.shape)
        if what == "edge_attr" and width == 1 and shape == edges:
            continue  # viewed as [E, 1]
        if shape[-len(wanted) :] != wanted or shape[: -len(wanted)] not in ((), tuple(lead)):
            raise ValueError(f"Expected '{what}' to have shape {list(wanted)} (got {list(shape)})")


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
            if wanted not in (None, found):
                raise ValueError(
                    f"Encountered tensor with size {found} in dimension -2, but expected size {wanted}."
                )
        edge_index = edge_index.as_tensor()
    if is_sparse(edge_index) or edge_index.is_floating_point() or edge_index.dtype == torch.bool:
        return edge_index
    return edge_index.long()


def _kind(value: object) -> str:
    return f"'{type(value).__name__}'"


def _shape(value: Optional[Tensor]) -> str:
    return "none" if value is None else str(list(value.size()))
