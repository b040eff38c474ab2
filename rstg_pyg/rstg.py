"""Rounds of time and space stages on sequences of node features."""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch_geometric.nn.inits import reset
from torch_geometric.typing import Adj

from rstg_pyg.cells import Cell, CellState, reset_cell
from rstg_pyg.checks import check_form, check_keywords, check_numbers, nodes_of_state
from rstg_pyg.conv import RSTGConv
from rstg_pyg.fast.linear import Linear
from rstg_pyg.frames import DenseFrames, FlatFrames, MaskedFrames
from rstg_pyg.normalize import NormLike, PerGraph, check_norms, convention, make_norm
from rstg_pyg.stage import unusual

_CELLS = {"lstm": "LSTM", "gru": "GRU"}


class RSTG(torch.nn.Module):
    r"""The recurrent space-time graph of the `"Recurrent Space-time Graph Neural Networks"
    <https://arxiv.org/abs/1904.05582>`_ paper (section 3, algorithm 1).

    For :math:`K` rounds, every node first looks back at its own history and then at its neighbors;
    a last time stage follows:

    .. math::
        \mathbf{v}_i^{t} &\leftarrow \mathbf{v}_i^{t} + f_\text{time} ( \mathbf{v}_i^{t},
        \mathbf{h}_i^{t-1, k} ) \qquad \text{(a recurrent cell over the node's own frames)}

        \mathbf{v}_i^{t} &\leftarrow f_\text{space} ( \mathbf{v}_i^{t},
        \{ \mathbf{v}_j^{t} \}_{j \in \mathcal{N}(i)} ) \qquad \text{(an RSTGConv in every frame)}

    A time stage is one call of a cell over the sequences of all nodes (cuDNN on a GPU), a space
    stage one call of :class:`RSTGConv` over all frames. The time stages of the rounds add to the
    nodes: the outputs of a new LSTM are a fifth of its inputs, and what several in a row leave of the
    nodes takes long to learn from. The last time stage and the space stages replace the nodes; with
    ``residual="all_time"``, the last time stage adds to them, too. With ``residual=True`` all stages
    are the pre-norm residual branches :math:`\mathbf{v} + f(\mathrm{LN} (\mathbf{v}))`. With
    ``form="paper"`` there are three rounds, all stages replace the nodes, and the space stage is the
    paper's.

    The whole is causal in time: a video may be fed in chunks, down to one frame, with the state
    carried on, and gives the same numbers as fed whole. (Norms of PyG see one frame each. Only batch
    norms in training, and :class:`JointLayerNorm` with more dimensions, look across frames.)

    Nodes and graphs need not be the same in all frames. On :math:`(B, T, N, C)`, ``mask`` and
    ``lengths`` say which nodes are there, and ``edge_index`` may be a list with a graph per frame. On
    rows :math:`(R, C)`, a PyG batch whose graphs are the frames, ``node`` says which rows are one
    node's history (:func:`~rstg_pyg.graphs.join_sequences` makes both from lists of ``Data``). While
    a node is absent, its LSTM state is not updated. To start from a zero state again, a node needs a
    new number in ``node`` (or its own place in ``N``).

    Args:
        in_channels (int): Channels of the nodes, or :obj:`-1` to take them from the first input;
            projected if they differ from ``hidden_channels`` (if lazy, always).
        hidden_channels (int): Channels :math:`D` inside and at the output.
        num_rounds (int, optional): Rounds :math:`K`. (default: :obj:`None`, that is 1, or 3 in the
            paper's form)
        time_stages (str or list, optional): ``"all"``: a time stage before the space stage of every
            round and one at the end; ``"last"``: only the one at the end; ``"none"``: no time
            stage (space-only); or a list of the rounds (from 0) that begin with a time stage, with
            one more at the end. (default: :obj:`"all"`)
        space_stages (bool, optional): If set to :obj:`False`, nodes exchange nothing (time-only).
            (default: :obj:`True`)
        cell (str, optional): ``"lstm"`` or ``"gru"``. (default: :obj:`"lstm"`)
        residual (bool or str, optional): ``"time"``: the time stages of the rounds add to the nodes;
            ``"all_time"``: the last time stage, too; :obj:`True`: pre-norm residual stages and a norm
            at the end; :obj:`False`: all stages replace the nodes. (default: :obj:`None`, that is
            ``"time"``, or :obj:`False` in the paper's form)
        shared_rounds (bool, optional): Whether all rounds share their weights, as published; the
            last time stage always has its own. (default: :obj:`True`)
        in_norm (callable or str, optional): A norm of the (projected) nodes before the first round, as
            ``norm`` of :class:`RSTGConv`; each frame is a graph. (default: :obj:`None`)
        form (str, optional): ``"skip"`` or ``"paper"``, see :class:`RSTGConv`. (default: ``"skip"``)
        **kwargs (optional): Additional arguments of :class:`RSTGConv` (``attention``, ``heads``,
            ``pos_channels``, ``num_node_types``, ...).

    Shapes:
        - **input:** nodes :math:`(B, T, N, C)`, edge indices :math:`(2, E)` or a list of :math:`T` of
          them; or rows :math:`(R, C)`, edge indices :math:`(2, E)` between rows, ``node`` :math:`(R)`
        - **output:** nodes :math:`(B, T, N, D)`, or rows :math:`(R, D)`

    Raises:
        ValueError: If ``time_stages``, ``cell`` or ``residual`` is unknown, a listed round does not
            exist, what is given has another shape than expected, a node is twice in a frame, an edge
            joins two frames, or a norm needs all nodes in all frames and they are not there.
        IndexError: If ``edge_index`` names a node that does not exist.

    Example:
        >>> grid = rstg_pyg.graphs.multiscale_grid((3, 2, 1))
        >>> model = RSTG(64, 32, pos_channels=36)
        >>> model(torch.randn(2, 10, 14, 64), grid.edge_index, pos=grid.pos_map).shape
        torch.Size([2, 10, 14, 32])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_rounds: Optional[int] = None,
        time_stages: Union[str, Sequence[int]] = "all",
        *,
        space_stages: bool = True,
        cell: str = "lstm",
        residual: Union[bool, str, None] = None,
        shared_rounds: bool = True,
        in_norm: Optional[NormLike] = None,
        form: str = "skip",
        **kwargs,
    ):
        super().__init__()
        check_form(form)
        if num_rounds is None:
            num_rounds = 3 if form == "paper" else 1
        check_numbers(1, hidden_channels=hidden_channels, num_rounds=num_rounds)
        if in_channels != -1:  # lazy
            check_numbers(1, in_channels=in_channels)
        if cell not in _CELLS:
            raise ValueError(f"Expected 'cell' to be one of {sorted(_CELLS)} (got {cell!r})")
        if residual is None:
            residual = False if form == "paper" else "time"
        if residual not in (False, True, "time", "all_time"):
            raise ValueError(
                f"Expected 'residual' to be a bool, 'time' or 'all_time' (got {residual!r})"
            )
        check_keywords(self, RSTGConv, kwargs)
        if not space_stages and time_stages == "none":
            raise ValueError(
                "Expected at least one kind of stage (got 'time_stages'='none' and "
                "'space_stages'=False)"
            )
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.num_rounds = num_rounds
        self.time_stages = time_stages
        self.space_stages = space_stages
        self.cell = cell
        self.form = form
        self.residual = residual
        self._branches = residual is True  # every stage
        self.shared_rounds = shared_rounds
        self.time_rounds = _time_rounds(time_stages, num_rounds)
        # torch.compile treats bools as constants, but numbers as symbols that it cannot resolve here.
        self._time_first = [k in self.time_rounds for k in range(num_rounds)]

        dim = hidden_channels
        self.lin_in = None
        if in_channels != dim:
            self.lin_in = Linear(
                in_channels, dim, weight_initializer="glorot", bias_initializer="zeros"
            )
        self.in_norm = None if in_norm is None else make_norm(in_norm, dim)
        self.in_norm_how = None if self.in_norm is None else convention(self.in_norm)
        own = 1 if shared_rounds else num_rounds
        self.cells = torch.nn.ModuleList(
            Cell(_CELLS[cell], dim, dim) for _ in range(min(own, len(self.time_rounds)))
        )
        self.convs = torch.nn.ModuleList(
            RSTGConv(dim, dim, form=form, **{"act_last": False if self._branches else None, **kwargs})
            for _ in range(own if space_stages else 0)
        )
        self.last_cell = None if time_stages == "none" else Cell(_CELLS[cell], dim, dim)
        if self._branches:
            self.cell_norms = torch.nn.ModuleList(torch.nn.LayerNorm(dim) for _ in self.cells)
            self.conv_norms = torch.nn.ModuleList(torch.nn.LayerNorm(dim) for _ in self.convs)
            self.last_norm = None if self.last_cell is None else torch.nn.LayerNorm(dim)
            self.out_norm = torch.nn.LayerNorm(dim)
        self.reset_parameters()

    def reset_parameters(self):
        """Re-initializes all weights (Glorot uniform, every gate by itself; biases zero)."""
        for module in self.children():
            if module is not self.cells and module is not self.last_cell:
                reset(module)
        for cell in [*self.cells, self.last_cell]:
            if cell is not None:
                reset_cell(cell)

    def forward(
        self,
        x: Tensor,
        edge_index: Union[Adj, Sequence[Tensor]],
        edge_attr: Union[Tensor, Sequence[Tensor], None] = None,
        *,
        pos: Optional[Tensor] = None,
        node_type: Optional[Tensor] = None,
        edge_weight: Union[Tensor, Sequence[Tensor], None] = None,
        mask: Optional[Tensor] = None,
        lengths: Union[Tensor, Sequence[int], None] = None,
        node: Optional[Tensor] = None,
        batch: Optional[Tensor] = None,
        state: Optional[List[CellState]] = None,
        return_state: bool = False,
        return_attention_weights: bool = False,
    ) -> Any:
        r"""Runs the forward pass of the module on nodes :math:`(B, T, N, C)`: clips, frames, nodes,
        channels, in this order.

        Values of nodes and edges may change over time: where a shape is given as
        :math:`(N, P)`, also :math:`(T, N, P)` and :math:`(B, T, N, P)` will do.

        Args:
            x (torch.Tensor): The nodes :math:`(B, T, N, C)`, or rows :math:`(R, C)`.
            edge_index (torch.Tensor or list): The edges :math:`(2, E)`, the same in all frames; or a
                list of :math:`T` such tensors, one per frame; or edges between rows.
            edge_attr (torch.Tensor or list, optional): Edge features :math:`(E, D_e)`, if
                :obj:`edge_dim` is set. A list if ``edge_index`` is one.
            pos (torch.Tensor, optional): Positions :math:`(N, P)`.
            node_type (torch.Tensor, optional): Node types :math:`(N)`.
            edge_weight (torch.Tensor or list, optional): Weights of the edges, :math:`(E)`, see
                :class:`RSTGConv`. A list if ``edge_index`` is one.
            mask (torch.Tensor, optional): Which nodes are there, bool :math:`(B, T, N)`. Absent nodes
                send and receive nothing, keep their state, and come out as zeros.
                (default: :obj:`None`, all)
            lengths (torch.Tensor or list, optional): How many frames each clip has, :math:`(B)`: the
                frames beyond are masked. (default: :obj:`None`, all :math:`T`)
            node (torch.Tensor, optional): Which node every row is, :math:`(R)`, counted from 0 over
                the whole batch: rows with the same number are one node's history.
                (default: :obj:`None`, all nodes in one frame, in the same order in every call)
            batch (torch.Tensor, optional): Which frame every row is in, :math:`(R)`; the frames of a
                sequence are in order of time. (default: :obj:`None`, all rows in one)
            state (list, optional): The state after the frames before, as returned with
                ``return_state=True``: one entry per time stage. (default: :obj:`None`, zeros)
            return_state (bool, optional): If set to :obj:`True`, also returns the state.
            return_attention_weights (bool, optional): If set to :obj:`True`, also returns (last) a list
                with the attention of every round, in the order of the given edges:
                :math:`(B, T, E, H)`; of a list of graphs a list of :math:`(B, E, H)`; of rows
                :math:`(E, H)`. It is zero where an end is absent.
        """
        stages = len(self.time_rounds) + (self.last_cell is not None)
        known = None if state is None else nodes_of_state(state, stages, self.last_cell)
        values: Dict[str, Any] = dict(pos=pos, node_type=node_type, edge_weight=edge_weight)
        shape = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        width: int = self.in_channels
        if width == -1 and self.lin_in is not None:
            width = self.lin_in.in_channels  # -1 before the first input
        if not isinstance(x, Tensor) or x.dim() not in (2, 4) or (width != -1 and width != x.size(-1)):
            raise ValueError(
                f"Expected 'x' to have shape [B, T, N, {width}] (got {shape}), or "
                f"[rows, {width}] as 'graphs.join_sequences' makes of lists of Data"
            )
        flat = x.dim() == 2
        if flat and any(isinstance(v, (list, tuple)) for v in (edge_index, edge_attr, edge_weight)):
            raise ValueError("Expected lists of edges only with 'x' [B, T, N, C] (got one with rows)")
        if flat and not (mask is None and lengths is None):
            raise ValueError("Expected 'mask' and 'lengths' only with 'x' [B, T, N, C]: leave rows out")
        if not flat and not (node is None and batch is None):
            raise ValueError(f"Expected 'node' and 'batch' only with rows (got 'x' {shape})")
        if not flat and known is not None and known != x.size(0) * x.size(2):
            raise ValueError(
                f"Expected 'state' to be of the same {x.size(0)} clips with {x.size(2)} nodes, "
                f"{x.size(0) * x.size(2)} in all (got {known})"
            )
        frames: Union[DenseFrames, FlatFrames]
        if flat:
            frames = FlatFrames.from_rows(x, edge_index, edge_attr, node, batch, known or 0, **values)
        elif (  # cells of torch want a frame at least
            mask is None
            and lengths is None
            and x.size(1) > 0
            and not isinstance(edge_index, (list, tuple))
        ):
            frames = DenseFrames(x, edge_index, edge_attr, **values)
        else:
            frames = MaskedFrames(x, edge_index, edge_attr, mask=mask, lengths=lengths, **values)
        if isinstance(frames, FlatFrames):
            self._check_norms()
        seen: Optional[List[Any]] = [] if return_attention_weights else None
        x, after = self._run(frames, x, [None] * stages if state is None else state, seen)
        out = (x, after) if return_state else (x,)
        if seen is not None:
            out = (*out, [frames.leave_edges(alpha) for alpha in seen])
        return out if len(out) > 1 else x

    def _run(
        self,
        frames: Union[DenseFrames, FlatFrames],
        x: Tensor,
        before: Sequence[Optional[CellState]],
        seen: Optional[List[Any]],
    ) -> Tuple[Tensor, List[CellState]]:
        """The rounds, in whatever form the frames are; the new state beside the nodes."""
        memory = iter(before)
        after: List[CellState] = []
        x = frames.enter(x)
        if self.lin_in is not None:
            x = self.lin_in(x)
        if self.in_norm is not None:
            x = frames.norm(self.in_norm, self.in_norm_how, x)
        x = frames.start(x)
        for k in range(self.num_rounds):
            if self._time_first[k]:
                i = 0 if self.shared_rounds else sum(self._time_first[:k])
                norm = self.cell_norms[i] if self._branches else None
                x = self._time(frames, self.cells[i], norm, x, next(memory), after)
            if self.space_stages:
                i = 0 if self.shared_rounds else k
                z = self.conv_norms[i](x) if self._branches else x
                z = frames.space(self.convs[i], z, seen)
                x = x + z if self._branches else z
        if self.last_cell is not None:
            norm = self.last_norm if self._branches else None
            x = self._time(frames, self.last_cell, norm, x, next(memory), after)
        if self._branches:
            x = self.out_norm(x)
        return frames.leave(x), after

    def _time(self, frames, cell, norm, x: Tensor, state: Optional[CellState], after: List[CellState]):
        """One time stage over the histories of all nodes; appends the new state to ``after``."""
        z, state = frames.time(cell, x if norm is None else norm(x), state)
        after.append(state)
        replaces = not self.residual or (self.residual == "time" and cell is self.last_cell)
        return z if replaces else x + z

    def _check_norms(self) -> None:
        """Refuses norms that need all nodes in all frames."""
        norms = [self.in_norm]
        for conv in self.convs:
            norms.extend(norm.module for norm in conv.children() if isinstance(norm, PerGraph))
        for norm in norms:
            if norm is not None:
                check_norms(norm)

    def __repr__(self) -> str:
        residual = False if self.form == "paper" else "time"
        usual = dict(
            space_stages=True, cell="lstm", residual=residual, shared_rounds=True, form="skip"
        )  # fmt: skip
        parts = [f"{self.in_channels}, {self.hidden_channels}", f"num_rounds={self.num_rounds}"]
        parts.append(f"time_stages={self.time_stages!r}")
        parts += [f"{k}={getattr(self, k)!r}" for k, v in usual.items() if getattr(self, k) != v]
        for conv in self.convs[:1]:
            parts += [*unusual(conv, ("heads",)), *unusual(conv)]
        return f"{self.__class__.__name__}({', '.join(parts)})"


def _time_rounds(time_stages: Union[str, Sequence[int]], num_rounds: int) -> List[int]:
    """The rounds that begin with a time stage."""
    if time_stages == "all":
        return list(range(num_rounds))
    if time_stages in ("last", "none"):
        return []
    if isinstance(time_stages, str):
        raise ValueError(
            f"Expected 'time_stages' to be 'all', 'last', 'none' or a list of rounds "
            f"(got {time_stages!r})"
        )
    rounds = sorted(set(time_stages))
    if rounds and (rounds[0] < 0 or rounds[-1] >= num_rounds):
        raise ValueError(
            f"Expected 'time_stages' to list rounds from 0 to {num_rounds - 1} "
            f"(got {list(time_stages)})"
        )
    return rounds
