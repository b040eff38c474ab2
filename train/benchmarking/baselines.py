"""Baselines: other implementations of the same function, and alternative layers.

The first group uses the weights of one of our layers, so that it computes the same function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.nn import GCNConv, MessagePassing
from torch_geometric.utils import softmax

from rstg_pyg import RSTG, RSTGBlock, RSTGConv


class Formulas(torch.nn.Module):
    """The formulas of a space stage, written plainly, with the weights of one of our layers (no types,
    one head, dot attention).
    """

    def __init__(self, conv: RSTGConv):
        super().__init__()
        self.conv: Any = conv
        send = self.conv.send
        parts = [send.lin_src, send.lin_pos_src, send.lin_dst, send.lin_pos_dst]
        kernel = torch.cat([part.weight for part in parts if part is not None], dim=1)
        self.kernel = torch.nn.Parameter(kernel.detach())  # on [v_j | p_j | v_i | p_i]

    def query_and_key(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of the attention logits."""
        query, key = self.conv.attend.lin_query, self.conv.attend.lin_key
        return F.linear(x, query.weight, query.bias), F.linear(x, key.weight, key.bias)

    def message(self, x_j: Tensor, x_i: Tensor) -> Tensor:
        """Two layers on the concatenated pair, each node with its position."""
        send = self.conv.send
        hidden = F.linear(torch.cat([x_j, x_i], dim=-1), self.kernel, send.lin_dst.bias).relu()
        return F.linear(hidden, send.lins[0].weight, send.lins[0].bias).relu()

    def update(self, x: Tensor, gathered: Tensor) -> Tensor:
        """The update MLP, on the node and its aggregated messages."""
        out = torch.cat([x, gathered], dim=-1)
        for typed in self.conv.update_mlp.lins:
            out = F.linear(out, typed.lins[0].weight, typed.lins[0].bias).relu()
        return out


class AllPairs(torch.nn.Module):
    """The space stage as published: all pairs of nodes concatenated, ``x [M, N, C]``.

    Args:
        conv: Whose weights and norms to use.
        edge_index: The graph; other pairs are masked.
        num_nodes: Its number of nodes.
        pos: Positions ``[N, P]``, if messages know them.
        edge_weight: Weights of the edges, which multiply the logits.
    """

    joined: Tensor
    pos: Tensor | None
    factor: Tensor | None

    def __init__(
        self,
        conv: RSTGConv,
        edge_index: Tensor,
        num_nodes: int,
        pos: Tensor | None = None,
        edge_weight: Tensor | None = None,
    ):
        super().__init__()
        self.formulas = Formulas(conv)
        target, source = edge_index[1], edge_index[0]
        joined = torch.zeros(num_nodes, num_nodes, dtype=torch.bool, device=edge_index.device)
        joined[target, source] = True
        factor = None
        if edge_weight is not None:
            factor = torch.zeros(num_nodes, num_nodes, device=edge_index.device)
            factor[target, source] = edge_weight
        self.register_buffer("joined", joined)
        self.register_buffer("factor", factor)
        self.register_buffer("pos", pos)

    def forward(self, x: Tensor) -> Tensor:
        """"""
        conv = self.formulas.conv
        placed = x if self.pos is None else torch.cat([x, self.pos.expand(len(x), -1, -1)], dim=-1)
        x_i = placed.unsqueeze(2).expand(-1, -1, x.size(1), -1)
        x_j = placed.unsqueeze(1).expand(-1, x.size(1), -1, -1)
        query, key = self.formulas.query_and_key(x)
        logit = query @ key.transpose(1, 2)
        logit = logit if self.factor is None else logit * self.factor
        alpha = logit.masked_fill(~self.joined, float("-inf")).softmax(dim=2)  # receiver, sender
        message = self.formulas.message(x_j, x_i)
        if conv.message_norm is not None:
            message = conv.message_norm(message.flatten(1, 2)).view_as(message)
        gathered = (alpha.unsqueeze(-1) * message).sum(dim=2)
        if conv.after_aggr is not None:
            gathered = conv.after_aggr(gathered)
        out = self.formulas.update(x, gathered)
        return out if conv.update_norm is None else conv.update_norm(out)


class Textbook(MessagePassing):
    """The usual PyG implementation of the space stage: gather, concatenate, MLP, softmax, scatter.

    Args:
        conv: Whose weights to use.
    """

    def __init__(self, conv: RSTGConv):
        super().__init__(aggr="add")
        self.formulas = Formulas(conv)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        query, key = self.formulas.query_and_key(x)
        gathered = self.propagate(edge_index, x=x, query=query, key=key)
        return self.formulas.update(x, gathered)

    def message(self, x_i, x_j, query_i, key_j, index, size_i):
        """"""
        alpha = softmax((query_i * key_j).sum(-1), index, num_nodes=size_i)
        return alpha.unsqueeze(-1) * self.formulas.message(x_j, x_i)


class FrameByFrame(torch.nn.Module):
    """The complete RSTG as published: a loop over frames, all pairs, one cell step per time stage.

    Args:
        model: Whose weights to use (``x [B, T, N, C]``; shared rounds, LSTM, not residual).
        graph: What :class:`AllPairs` takes beside a layer.
    """

    def __init__(self, model: RSTG, *graph: Any):
        super().__init__()
        self.rounds = model.num_rounds
        self.in_norm = model.in_norm
        convs: Any = model.convs
        cells: Any = (model.cells[0], model.last_cell)
        self.space = AllPairs(convs[0], *graph)
        self.cells = torch.nn.ModuleList(_step_cell(cell) for cell in cells)

    def forward(self, x: Tensor) -> Tensor:
        """"""
        x = x if self.in_norm is None else self.in_norm(x)
        memory: dict[int, Any] = {}
        frames = []
        for v in x.unbind(1):
            for k in range(self.rounds + 1):
                memory[k] = self.cells[k == self.rounds](v.flatten(0, 1), memory.get(k))
                v = memory[k][0].view(v.shape)
                if k < self.rounds:
                    v = self.space(v)
            frames.append(v)
        return torch.stack(frames, dim=1)


class PublishedBlock(torch.nn.Module):
    """A block from a map to a vector with the graph as published: positions and norms included.

    Args:
        block: Whose weights to use.
    """

    def __init__(self, block: RSTGBlock):
        super().__init__()
        self.pool = block.pool
        model: Any = block.rstg
        pos = block.pos if block.positions else None
        graph = (block.edge_index, block.pool.num_nodes, pos, block.edge_weight)
        self.graph = FrameByFrame(model, *graph)

    def forward(self, x: Tensor) -> Tensor:
        """"""
        return self.graph(self.pool(x)).mean(dim=1).sum(dim=1)


def _step_cell(cell: torch.nn.LSTM) -> torch.nn.LSTMCell:
    step = torch.nn.LSTMCell(cell.input_size, cell.hidden_size)
    step.load_state_dict({key.removesuffix("_l0"): value for key, value in cell.state_dict().items()})
    return step


class GraphLSTM(torch.nn.Module):
    """A recurrent graph network as in PyG Temporal's ``GConvLSTM``: a loop over frames whose LSTM gates
    are graph convolutions. ``x [B, T, N, C]``.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = GCNConv(2 * channels, 4 * channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        hidden = state = x.new_zeros(x.size(0), *x.shape[2:])
        frames = []
        for v in x.unbind(1):
            i, f, o, g = self.conv(torch.cat([v, hidden], dim=-1), edge_index).chunk(4, dim=-1)
            state = f.sigmoid() * state + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * state.tanh()
            frames.append(hidden)
        return torch.stack(frames, dim=1)


class NodeTransformer(torch.nn.Module):
    """What a block may run instead of :class:`RSTG`: a layer of a transformer over the nodes of all
    frames, ``x [B, T, N, C]``. Positions are added to the nodes.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        pos_channels: Channels of the positions.
        num_node_types: Not used.
    """

    def __init__(self, in_channels: int, channels: int, pos_channels: int = 0, num_node_types: int = 1):
        super().__init__()
        self.lin_in = torch.nn.Linear(in_channels, channels)
        self.lin_pos = torch.nn.Linear(pos_channels, channels, bias=False)
        self.layer = torch.nn.TransformerEncoderLayer(
            channels, 8, 4 * channels, dropout=0.0, activation="gelu", batch_first=True
        )

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor, **unused: Any) -> Tensor:
        """"""
        x = self.lin_in(x) + self.lin_pos(pos)
        return self.layer(x.flatten(1, 2)).view(x.shape)


class FramesThenLSTM(torch.nn.Module):
    """As :class:`NodeTransformer`: a layer of PyG in every frame, then an LSTM over each node's frames.

    Args:
        layer: The layer's class.
        in_channels: Channels of the input.
        channels: Channels of the output.
        pos_channels: Channels of the positions.
        num_node_types: Not used.
    """

    def __init__(
        self,
        layer: type[MessagePassing],
        in_channels: int,
        channels: int,
        pos_channels: int = 0,
        num_node_types: int = 1,
    ):
        super().__init__()
        self.conv: Any = layer(in_channels + pos_channels, channels)
        self.lstm = torch.nn.LSTM(channels, channels)

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor, **unused: Any) -> Tensor:
        """"""
        x = torch.cat([x, pos.expand(*x.shape[:3], -1)], dim=-1)
        clips, frames, nodes, _ = x.shape
        shift = nodes * torch.arange(clips * frames, device=x.device)
        batch = (edge_index.unsqueeze(1) + shift.view(1, -1, 1)).flatten(1)
        out = self.conv(x.flatten(0, 2), batch).relu().view(clips, frames, nodes, -1)
        out = self.lstm(out.transpose(0, 1).flatten(1, 2))[0]
        return out.view(frames, clips, nodes, -1).transpose(0, 1)
