"""What message passing is compared with: other ways to the same numbers, and what one would use.

The first group takes its weights from a layer of ours, so that it computes the same function.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.nn import GATv2Conv, GCNConv, MessagePassing, TransformerConv
from torch_geometric.utils import softmax

from rstg_pyg import RSTG, RSTGConv


def _update(conv: RSTGConv, x: Tensor, gathered: Tensor) -> Tensor:
    out = torch.cat([x, gathered], dim=-1)
    for typed in conv.update_mlp.lins:
        out = F.linear(out, typed.lins[0].weight, typed.lins[0].bias).relu()
    return out


def _kernel(conv: RSTGConv) -> torch.nn.Parameter:
    """The first send layer on ``[v_j | v_i]``, as one matrix."""
    parts = [conv.send.lin_src.weight, conv.send.lin_dst.weight]
    return torch.nn.Parameter(torch.cat(parts, dim=1).detach())


class AllPairs(torch.nn.Module):
    """The space stage as published: all pairs of nodes concatenated, ``x [M, N, C]``.

    Args:
        conv: Whose weights to use (no positions, no types, one head, dot attention).
        edge_index: The graph; other pairs are masked.
        num_nodes: Its number of nodes.
    """

    def __init__(self, conv: RSTGConv, edge_index: Tensor, num_nodes: int):
        super().__init__()
        self.conv, self.kernel = conv, _kernel(conv)
        joined = torch.zeros(num_nodes, num_nodes, dtype=torch.bool, device=edge_index.device)
        joined[edge_index[1], edge_index[0]] = True
        self.register_buffer("joined", joined)

    def forward(self, x: Tensor) -> Tensor:
        """"""
        send, attend, n = self.conv.send, self.conv.attend, x.size(1)
        x_i = x.unsqueeze(2).expand(-1, -1, n, -1)
        x_j = x.unsqueeze(1).expand(-1, n, -1, -1)
        hidden = F.linear(torch.cat([x_j, x_i], dim=-1), self.kernel, send.lin_dst.bias).relu()
        message = F.linear(hidden, send.lins[0].weight, send.lins[0].bias).relu()
        query = F.linear(x, attend.lin_query.weight, attend.lin_query.bias)
        key = F.linear(x, attend.lin_key.weight, attend.lin_key.bias)
        logit = (query @ key.transpose(1, 2)).masked_fill(~self.joined, float("-inf"))
        alpha = logit.softmax(dim=2)  # [M, N, N]: receiver, sender
        return _update(self.conv, x, (alpha.unsqueeze(-1) * message).sum(dim=2))


class Textbook(MessagePassing):
    """The space stage as one writes it with PyG: gather, concatenate, MLP, softmax, scatter.

    Args:
        conv: Whose weights to use.
    """

    def __init__(self, conv: RSTGConv):
        super().__init__(aggr="add")
        self.conv, self.kernel = conv, _kernel(conv)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        attend = self.conv.attend
        query = F.linear(x, attend.lin_query.weight, attend.lin_query.bias)
        key = F.linear(x, attend.lin_key.weight, attend.lin_key.bias)
        return _update(self.conv, x, self.propagate(edge_index, x=x, query=query, key=key))

    def message(self, x_i, x_j, query_i, key_j, index, size_i):
        """"""
        send = self.conv.send
        hidden = F.linear(torch.cat([x_j, x_i], dim=-1), self.kernel, send.lin_dst.bias).relu()
        message = F.linear(hidden, send.lins[0].weight, send.lins[0].bias).relu()
        alpha = softmax((query_i * key_j).sum(-1), index, num_nodes=size_i)
        return alpha.unsqueeze(-1) * message


class TextbookScatter(Textbook):
    """The same with torch-scatter's softmax and sum."""

    def message(self, x_i, x_j, query_i, key_j, index, size_i):
        """"""
        from torch_scatter import scatter_softmax

        send = self.conv.send
        hidden = F.linear(torch.cat([x_j, x_i], dim=-1), self.kernel, send.lin_dst.bias).relu()
        message = F.linear(hidden, send.lins[0].weight, send.lins[0].bias).relu()
        return scatter_softmax((query_i * key_j).sum(-1), index, dim=0).unsqueeze(-1) * message

    def aggregate(self, inputs, index, dim_size=None):
        """"""
        from torch_scatter import scatter_add

        return scatter_add(inputs, index, dim=0, dim_size=dim_size)


class FrameByFrame(torch.nn.Module):
    """The whole RSTG as published: a loop over frames, all pairs, a cell's step per time stage.

    Args:
        model: Whose weights to use (``x [B, T, N, C]``; shared rounds, LSTM, not residual).
        edge_index: The graph.
        num_nodes: Its number of nodes.
    """

    def __init__(self, model: RSTG, edge_index: Tensor, num_nodes: int):
        super().__init__()
        self.rounds = model.num_rounds
        self.space = AllPairs(model.convs[0], edge_index, num_nodes)
        self.cells = torch.nn.ModuleList(_step_cell(cell) for cell in (model.cells[0], model.last_cell))

    def forward(self, x: Tensor) -> Tensor:
        """"""
        memory, frames = {}, []
        for v in x.unbind(1):
            for k in range(self.rounds + 1):
                memory[k] = self.cells[k == self.rounds](v.flatten(0, 1), memory.get(k))
                v = memory[k][0].view(v.shape)
                if k < self.rounds:
                    v = self.space(v)
            frames.append(v)
        return torch.stack(frames, dim=1)


def _step_cell(cell: torch.nn.LSTM) -> torch.nn.LSTMCell:
    step = torch.nn.LSTMCell(cell.input_size, cell.hidden_size)
    step.load_state_dict({key.removesuffix("_l0"): value for key, value in cell.state_dict().items()})
    return step


def per_frame(kind: str, channels: int) -> torch.nn.Module:
    """PyG's attention layers at equal width, one head."""
    return {"GATv2Conv": GATv2Conv, "TransformerConv": TransformerConv}[kind](channels, channels)


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


class SpaceTimeAttention(torch.nn.Module):
    """A transformer layer over all T * N nodes of a clip. ``x [B, T, N, C]``."""

    def __init__(self, channels: int, heads: int = 8):
        super().__init__()
        self.heads = heads
        self.qkv = torch.nn.Linear(channels, 3 * channels)
        self.out = torch.nn.Linear(channels, channels)
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(channels, 4 * channels),
            torch.nn.GELU(),
            torch.nn.Linear(4 * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """"""
        nodes = x.flatten(1, 2)
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(nodes).chunk(3, -1)
        )
        nodes = nodes + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return (nodes + self.mlp(nodes)).view(x.shape)
