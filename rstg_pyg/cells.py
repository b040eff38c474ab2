"""The recurrent cells of time stages: torch's own kernels, also inside a compiled graph; and the
histories of nodes that come and go, over which one call of a cell runs.

``torch.compile`` does not look into :class:`torch.nn.LSTM` and :class:`torch.nn.GRU`: the graph breaks
before and after each. Made to look (``torch._dynamo.config.allow_rnn``), it writes out the step of
every frame, which takes several times as long to compile, and again for another number of frames. So
a compiled graph holds a cell as one operation that is not looked into, and what runs is what runs in
eager mode (cuDNN, oneDNN).
"""

from typing import Any, Callable, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch.fx.experimental import symbolic_shapes
from torch.nn.utils.rnn import PackedSequence
from torch_geometric.nn.inits import glorot

from rstg_pyg.fast.autograd import SIZES_CAN_BE_ASKED, autocast_to, eager, opaque
from rstg_pyg.fast.linear import has_onednn

#: Up to how many sequences a single step is faster by itself than by the kernel for sequences.
MOST_ROWS = 128

#: What a recurrent cell carries from one chunk of frames to the next.
CellState = Union[Tensor, Tuple[Tensor, Tensor]]


def list_of_parts(state: CellState) -> List[Tensor]:
    """The tensors of a state: of an LSTM two, of a GRU one."""
    return [state] if isinstance(state, Tensor) else list(state)


def state_of_parts(parts: Sequence[Tensor]) -> CellState:
    """A state as torch has it, from its tensors."""
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


class Cell(torch.nn.RNNBase):
    r"""One layer of :class:`torch.nn.LSTM` or :class:`torch.nn.GRU`: the same parameters and numbers,
    and no graph break in :func:`torch.compile`.

    Args:
        mode (str): ``"LSTM"`` or ``"GRU"``.
        in_channels (int): Size of each input sample.
        hidden_channels (int): Size of each output sample and of the state.

    Shapes:
        - **input:** sequences :math:`(T, M, C)`, or packed ones; the state before,
          :math:`(1, M, D)` or of an LSTM a pair of it *(optional, zeros)*
        - **output:** sequences :math:`(T, M, D)`, or packed ones; the state after

    Raises:
        ValueError: If the state is of another cell or of other sequences.
    """

    def __init__(self, mode: str, in_channels: int, hidden_channels: int):
        super().__init__(mode, in_channels, hidden_channels)
        self.num_parts = 2 if mode == "LSTM" else 1

    def forward(
        self, x: Union[Tensor, PackedSequence], state: Optional[CellState] = None
    ) -> Tuple[Union[Tensor, PackedSequence], CellState]:
        """Runs the forward pass of the module."""
        rows, sizes = (x.data, x.batch_sizes) if isinstance(x, PackedSequence) else (x, None)
        memory = self._memory(rows, sizes, state)
        weights = [getattr(self, name) for name in self._flat_weights_names]
        if opaque() and not (sizes is None and _one_step(rows)):
            whole = self.mode == "LSTM" and sizes is None
            kept = _bytes_to_keep(rows, self.hidden_size) if whole else 0
            out, last, _ = torch.ops.rstg_pyg.cell(
                rows, sizes, torch.cat(memory), weights, self.training, autocast_to(rows), kept
            )
            after = list(last.split(1))
        else:
            if rows.is_cuda and len({weight.untyped_storage().data_ptr() for weight in weights}) > 1:
                self.flatten_parameters()  # moves them, which a CUDA graph does not survive
            # cuDNN knows gradients in training mode only; without dropout, modes do not differ.
            train = self.training or (rows.is_cuda and torch.is_grad_enabled())
            out, *after = _run(rows, sizes, memory, weights, train)
        return out if sizes is None else PackedSequence(out, sizes), state_of_parts(after)

    def _memory(
        self, rows: Tensor, sizes: Optional[Tensor], state: Optional[CellState]
    ) -> List[Tensor]:
        """The parts of the state, of sequences that begin zeros."""
        if state is None:
            count = rows.size(1) if sizes is None else int(sizes[0])
            return [rows.new_zeros(1, count, self.hidden_size)] * self.num_parts
        memory = [part.to(rows.dtype) for part in list_of_parts(state)]  # it may come out of autocast
        found = [list(part.shape) for part in memory]
        if sizes is None and found != [[1, rows.size(1), self.hidden_size]] * self.num_parts:
            raise ValueError(
                f"Expected the state of a stream of the same batch and size, for {self.mode} "
                f"{self.num_parts} of shape {[1, rows.size(1), self.hidden_size]} (got {found}); a new "
                "stream begins with none"
            )
        return memory

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.mode!r}, {super().extra_repr()}"


def reset_cell(cell: Cell):
    """Draws a cell's weights anew: Glorot uniform, every gate by itself; biases zero."""
    for name, parameter in cell.named_parameters():
        if name.startswith("weight"):
            for gate in parameter.split(cell.hidden_size):
                glorot(gate)
        else:
            torch.nn.init.zeros_(parameter)


class Histories:
    r"""Which rows are the history of one node, and in what order a recurrent cell reads them.

    A node's history is the rows it has: frames in which it is absent are skipped. The
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
        parts = [x.new_zeros(1, 0, cell.hidden_size)] * cell.num_parts
        if state is not None:
            parts = list_of_parts(state)
        new = self.num_nodes - parts[0].size(1)
        parts = [torch.nn.functional.pad(part, (0, 0, 0, new)) for part in parts]
        if x.size(0) > 0:
            # Packed by hand: torch's own functions start from a padded tensor.
            packed = PackedSequence(x.index_select(0, self.order), self.sizes)
            first = [part.index_select(1, self.present) for part in parts]
            out, last = cell(packed, state_of_parts(first))
            x = out.data.index_select(0, self.back)
            parts = [
                part.to(end.dtype).index_copy(1, self.present, end)
                for part, end in zip(parts, list_of_parts(last))
            ]
        else:  # no node is present; the weights still get a (zero) gradient, which DDP waits for
            x = x + sum(weight.sum() for weight in cell.parameters())
        return x, state_of_parts(parts)


def _one_step(x: Tensor) -> bool:
    """Whether this is the next frame of a stream on a CPU: there a step alone takes half the time of
    oneDNN's kernel for sequences, which reorders the weights first.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return False
    if not (eager() or (SIZES_CAN_BE_ASKED and opaque())):
        return False
    few = symbolic_shapes.statically_known_true(x.size(1) <= MOST_ROWS)
    return x.size(0) == 1 and few and autocast_to(x) is None


def _run(
    x: Tensor, sizes: Optional[Tensor], memory: Sequence[Tensor], weights: List[Tensor], train: bool
) -> Tuple[Tensor, ...]:
    """Outputs and the parts of the new state, by torch's kernel."""
    kernel: Callable[..., Tuple[Tensor, ...]] = torch.lstm if len(memory) == 2 else torch.gru
    state = state_of_parts(memory)
    how = (True, 1, 0.0, train, False)  # with biases, one layer, no dropout, one direction
    if sizes is None and _one_step(x):
        step: Any = torch.lstm_cell if len(memory) == 2 else torch.gru_cell
        after = list_of_parts(step(x[0], state_of_parts([part[0] for part in memory]), *weights))
        after = [part.unsqueeze(0) for part in after]
        return (after[0], *after)
    if sizes is None:
        return kernel(x, state, weights, *how, False)  # time first
    return kernel(x, sizes, state, weights, *how)


def _lstm(x: Tensor, weights: Sequence[Tensor], state: Tensor) -> Tuple[Tensor, ...]:
    """The LSTM of oneDNN: outputs, both parts of the new state, and what the backward pass needs."""
    how: Any = (False, [], 2, state.size(-1), 1, True, False, False, True)  # one layer, with biases
    with torch.enable_grad():  # otherwise it keeps nothing
        return torch.ops.aten.mkldnn_rnn_layer(x, *weights, state[:1], state[1:], *how)


def _bytes_to_keep(x: Tensor, hidden_channels: int) -> int:
    """How many bytes the LSTM of oneDNN keeps of ``x`` for its backward pass, which a compiler has to
    know; 0 where it is not used, or a size is a symbol.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or autocast_to(x) is not None:
        return 0
    if not SIZES_CAN_BE_ASKED or not torch.is_grad_enabled():
        return 0
    if not all(symbolic_shapes.has_static_value(size) for size in x.shape):
        return 0
    return _measured_bytes(*x.shape, hidden_channels)


@torch.compiler.assume_constant_result
def _measured_bytes(frames: int, rows: int, in_channels: int, hidden_channels: int) -> int:
    if not has_onednn(torch.zeros(1)):
        return 0
    width = 4 * hidden_channels
    weights = [torch.zeros(width, size) for size in (in_channels, hidden_channels)]
    weights += [torch.zeros(width)] * 2
    state = torch.zeros(2, rows, hidden_channels)
    return _lstm(torch.zeros(frames, rows, in_channels), weights, state)[3].numel()


# The operation of compiled graphs. The parts of a state lie in one tensor [parts, M, D], and no two
# tensors that it gives share memory. Compiled graphs have no autocast: its type comes as an argument.
# The third result is what an LSTM keeps for its backward pass, so many bytes; with 0, the backward pass
# computes the forward pass once more, because a kernel's saved tensors cannot be accessed.
torch.library.define(
    "rstg_pyg::cell",
    "(Tensor x, Tensor? sizes, Tensor state, Tensor[] weights, bool train, ScalarType? autocast, "
    "int kept) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "rstg_pyg::cell_backward",
    "(Tensor grad, Tensor grad_state, Tensor x, Tensor? sizes, Tensor state, Tensor[] weights, "
    "ScalarType? autocast) -> (Tensor, Tensor, Tensor[])",
)
torch.library.define(
    "rstg_pyg::lstm_backward",
    "(Tensor grad, Tensor grad_state, Tensor x, Tensor state, Tensor[] weights, Tensor out, "
    "Tensor last, Tensor kept) -> (Tensor, Tensor, Tensor[])",
)


def _cell(x, sizes, state, weights, train, autocast, kept):
    if kept > 0:
        out, *after, workspace = _lstm(x, weights, state)
        if workspace.numel() != kept:
            raise RuntimeError(f"Expected oneDNN to keep {kept} bytes (got {workspace.numel()})")
        return out.contiguous(), torch.cat(after), workspace
    with torch.autocast(x.device.type, autocast, enabled=autocast is not None):
        out, *after = _run(x, sizes, state.split(1), weights, train)
    kind = x.dtype if autocast is None else autocast
    return out.to(kind).contiguous(), torch.cat(after).to(kind), x.new_empty(0, dtype=torch.uint8)


@torch.library.register_fake("rstg_pyg::cell")
def _cell_shapes(x, sizes, state, weights, train, autocast, kept):
    kind = x.dtype if autocast is None else autocast
    out = x.new_empty((*x.shape[:-1], state.size(-1)), dtype=kind)
    return out, x.new_empty(state.shape, dtype=kind), x.new_empty(kept, dtype=torch.uint8)


def _cell_backward(grad, grad_state, x, sizes, state, weights, autocast):
    inputs = [value.detach().requires_grad_() for value in (x, state, *weights)]
    with torch.enable_grad():
        out = _cell(inputs[0], sizes, inputs[1], inputs[2:], True, autocast, 0)[:2]
    grads = torch.autograd.grad(out, inputs, (grad, grad_state))
    grads = [value.clone(memory_format=torch.contiguous_format) for value in grads]
    return grads[0], grads[1], grads[2:]


@torch.library.register_fake("rstg_pyg::cell_backward")
def _cell_backward_shapes(grad, grad_state, x, sizes, state, weights, autocast):
    x, state, *weights = (value.new_empty(value.shape) for value in (x, state, *weights))
    return x, state, weights


def _lstm_backward(grad, grad_state, x, state, weights, out, last, kept):
    """From what the forward pass kept."""
    parts = (state[:1], state[1:], out, last[:1], last[1:], grad, grad_state[:1], grad_state[1:])
    how = (False, 2, state.size(-1), 1, True, True, False, [], False)
    grads = torch.ops.aten.mkldnn_rnn_layer_backward(x, *weights, *parts, *how, kept)
    x, ih, hh, bias, _, *state = (value.contiguous() for value in grads)
    return x, torch.cat(state), [ih, hh, bias, bias.clone()]


@torch.library.register_fake("rstg_pyg::lstm_backward")
def _lstm_backward_shapes(grad, grad_state, x, state, weights, out, last, kept):
    return _cell_backward_shapes(grad, grad_state, x, None, state, weights, None)


def _keep(ctx, inputs, output):
    x, ctx.sizes, state, weights, _, ctx.autocast, kept = inputs
    ctx.count = len(weights)
    ctx.save_for_backward(x, state, *weights, *(output if kept > 0 else ()))


def _differentiate(ctx, grad, grad_state, _):
    x, state, *more = ctx.saved_tensors
    weights, output = more[: ctx.count], more[ctx.count :]
    if output:
        grads = torch.ops.rstg_pyg.lstm_backward(grad, grad_state, x, state, weights, *output)
    else:
        grads = torch.ops.rstg_pyg.cell_backward(
            grad, grad_state, x, ctx.sizes, state, weights, ctx.autocast
        )
    x, state, weights = grads
    return x, None, state, weights, None, None, None


torch.library.impl("rstg_pyg::cell", "CompositeExplicitAutograd", _cell)
torch.library.impl("rstg_pyg::cell_backward", "CompositeExplicitAutograd", _cell_backward)
torch.library.impl("rstg_pyg::lstm_backward", "CompositeExplicitAutograd", _lstm_backward)
torch.library.register_autograd("rstg_pyg::cell", _differentiate, setup_context=_keep)
