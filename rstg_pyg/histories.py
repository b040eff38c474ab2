"""One call of a recurrent cell over the histories of nodes that come and go."""

from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rstg_pyg.cells import Cell, CellState


def nodes_of_state(state: Sequence[CellState], stages: int, cell: Cell) -> Optional[int]:
    """The number of nodes of a state.

    Args:
        state: The state, with one entry per time stage.
        stages: How many time stages there are.
        cell: One of their cells; all have the same kind and width.

    Raises:
        ValueError: If it is the state of another network.
    """
    if len(state) != stages:
        raise ValueError(
            f"Expected 'state' to have one entry for each of {stages} time stages (got {len(state)})"
        )
    if stages == 0:
        return None
    parts = 2 if cell.mode == "LSTM" else 1
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


class Histories:
    r"""Which rows are the history of one node, and in what order a recurrent cell reads them.

    A node's history is the rows it has: a frame in which it is absent is no step of the cell. The
    histories of all nodes are packed as cuDNN wants them (first all first steps, then all second
    steps, ..., longest histories first), so there is no padding and one call of the cell.

    Args:
        node (torch.Tensor): The node of every row, :math:`(R)`, from 0 to ``num_nodes - 1``.
        frame (torch.Tensor): The frame of every row, :math:`(R)`; frames are in order of time.
        num_nodes (int): Number of nodes, those without a row among them.

    Raises:
        ValueError: If a node has two rows in one frame.
    """

    def __init__(self, node: Tensor, frame: Tensor, num_nodes: int):
        rows = frame.argsort(stable=True)
        rows = rows[node[rows].argsort(stable=True)]  # by node, and in order of time
        node, frame = node[rows], frame[rows]
        twice = (node[1:] == node[:-1]) & (frame[1:] == frame[:-1])
        if bool(twice.any()):
            i = int(twice.nonzero()[0])
            raise ValueError(
                f"Expected every node at most once in a frame (got node {int(node[i])} twice in "
                f"frame {int(frame[i])})"
            )
        lengths = torch.bincount(node, minlength=num_nodes)
        step = torch.arange(node.numel(), device=node.device) - (lengths.cumsum(0) - lengths)[node]
        longest = lengths.argsort(descending=True, stable=True)
        rank = longest.argsort()
        self.num_nodes = num_nodes
        self.present = longest[: int((lengths > 0).sum())]  # the nodes that have a history
        self.order = rows[(step * num_nodes + rank[node]).argsort()]
        self.back = self.order.argsort()
        self.sizes = torch.bincount(step).cpu()  # how many histories reach each step

    def run(self, cell: Cell, x: Tensor, state: Optional[CellState]) -> Tuple[Tensor, CellState]:
        r"""Runs a cell over all histories.

        Args:
            cell (Cell): The cell.
            x (torch.Tensor): The rows, :math:`(R, C)`.
            state (torch.Tensor or tuple, optional): The state of the nodes before,
                :math:`(1, M, C)`; nodes beyond are new and start from zero.

        Returns:
            The rows, and the state of all nodes after. A node without a row keeps its state.
        """
        is_lstm = cell.mode == "LSTM"
        if state is None:
            state = x.new_zeros(1, 0, cell.hidden_size)
            state = (state, state) if is_lstm else state
        new = self.num_nodes - (state[0] if is_lstm else state).size(1)
        before = [
            torch.nn.functional.pad(part, (0, 0, 0, new)) for part in (state if is_lstm else [state])
        ]
        if x.size(0) > 0:
            # Packed by hand: torch's own functions start from a padded tensor.
            packed = PackedSequence(x.index_select(0, self.order), self.sizes)
            first = tuple(part.index_select(1, self.present) for part in before)
            packed, last = cell(packed, first if is_lstm else first[0])
            x = packed.data.index_select(0, self.back)
            before = [
                part.to(end.dtype).index_copy(1, self.present, end)
                for part, end in zip(before, last if is_lstm else [last])
            ]
        return x, (tuple(before) if is_lstm else before[0])
