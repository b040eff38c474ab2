"""Sequences of PyG graphs, one graph per frame, as one batch with nodes matched over time."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

import torch
from torch_geometric.data import Batch, Data

#: The attributes added to every frame.
_KEYS = ("node", "frame", "sequence")


def join_sequences(sequences: Iterable[Iterable[Data]], node_id: str | None = None) -> Batch:
    r"""Joins sequences of graphs into one PyG batch, the input of :class:`~rstg_pyg.RSTG`.

    The graphs of the batch are the frames, sequence by sequence and in the given order, with all
    their attributes (``x``, ``edge_index``, ``edge_attr``, ``y``, ...). Nothing is padded: frames may
    differ in their edges and nodes, and sequences in their length. A sequence is any iterable of
    ``Data``, such as the signals of PyTorch Geometric Temporal. You can use this function as the
    ``collate_fn`` of a data loader over a data set of sequences.

    Args:
        sequences: The sequences, each with one ``Data`` per frame, in temporal order.
        node_id: The name of an integer attribute ``[num_nodes]`` of every frame with node ids: nodes
            with the same id in the same sequence are the same node at different times. By default
            node :math:`i` of every frame is node :math:`i` of the sequence.

    Returns:
        The batch, which also has ``node`` :math:`(R)`, node indices that are unique across
        sequences, ``frame`` :math:`(R)`, the frame of every row in its sequence, and ``sequence``
        :math:`(R)`.

    Raises:
        ValueError: If there is no frame, or one without ``edge_index``, if ``node_id`` is not one
            integer per node or occurs twice in a frame, or if it is not given and the number of nodes
            changes.

    Example:
        >>> pair, none = torch.tensor([[0, 1], [1, 0]]), torch.empty(2, 0, dtype=torch.long)
        >>> tracks = [Data(x=torch.randn(2, 8), edge_index=pair, track=torch.tensor([7, 9])),
        ...           Data(x=torch.randn(1, 8), edge_index=none, track=torch.tensor([9]))]
        >>> batch = join_sequences([tracks], node_id="track")
        >>> batch.node
        tensor([0, 1, 1])
        >>> model = RSTG(8, 16)
        >>> model(batch.x, batch.edge_index, node=batch.node, batch=batch.batch).shape
        torch.Size([3, 16])
    """
    frames, nodes = [], 0
    for number, sequence in enumerate(sequences):
        if isinstance(sequence, Data):
            raise ValueError("Expected a list of sequences (got a list of 'Data': wrap it in a list)")
        sequence = [_copy(data) for data in sequence]
        ids = [_ids(data, node_id, number, t) for t, data in enumerate(sequence)]
        if node_id is None and len({len(i) for i in ids}) > 1:
            raise ValueError(
                f"Expected 'node_id', because the number of nodes changes in sequence {number} "
                f"(got {[len(i) for i in ids]} nodes)"
            )
        if not ids:
            continue
        names, numbers = torch.cat(ids).unique(return_inverse=True)
        for t, (data, node) in enumerate(zip(sequence, numbers.split([len(i) for i in ids]))):
            data.node = node + nodes
            data.frame = torch.full_like(node, t)
            data.sequence = torch.full_like(node, number)
            frames.append(data)
        nodes += len(names)
    if not frames:
        raise ValueError("Expected at least one frame (got none)")
    return Batch.from_data_list(frames)


def _copy(data: Data) -> Data:
    """A shallow copy of a graph; a batch of graphs becomes one graph."""
    if not isinstance(data, Data):
        raise ValueError(f"Expected every frame to be a 'Data' (got {type(data).__name__})")
    taken = [key for key in _KEYS if key in data]
    if taken:
        raise ValueError(f"Expected frames without {taken}: these attributes are added here")
    if not isinstance(data, Batch):
        return copy(data)
    values = {key: value for key, value in data.to_dict().items() if key not in ("batch", "ptr")}
    return Data.from_dict(values)


def _ids(data: Data, node_id: str | None, sequence: int, frame: int) -> torch.Tensor:
    """The node ids of one frame."""
    if data.edge_index is None:
        raise ValueError(
            f"Expected every frame to have 'edge_index' (got none in frame {frame} of sequence "
            f"{sequence})"
        )
    if node_id is None:
        return torch.arange(data.num_nodes, device=data.edge_index.device)
    ids = data.get(node_id)
    where = f"in frame {frame} of sequence {sequence}"
    if not isinstance(ids, torch.Tensor) or ids.shape != (data.num_nodes,) or ids.is_floating_point():
        found = "none" if ids is None else list(getattr(ids, "shape", ())) or type(ids).__name__
        raise ValueError(
            f"Expected '{node_id}' to hold one integer for each of {data.num_nodes} nodes {where} "
            f"(got {found})"
        )
    if len(ids.unique()) != len(ids):
        raise ValueError(f"Expected '{node_id}' to be unique {where} (got {ids.tolist()})")
    return ids
