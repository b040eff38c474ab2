"""What is compared: layers as their libraries build them by default, in one and the same network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch_geometric.nn import (
    ChebConv,
    GATv2Conv,
    GCNConv,
    GPSConv,
    TransformerConv,
    global_mean_pool,
)

from rstg_pyg import RSTG, RSTGConv

WIDTH = 32


class TwoLayers(torch.nn.Module):
    """Two layers, with a ReLU between.

    Args:
        layer: Makes a layer from numbers of channels.
        in_channels: Channels of the nodes.
        out_channels: Channels of the result.
        pooled: Whether the result is one of the whole graph: a linear map of the mean of the nodes.
    """

    def __init__(self, layer: Callable, in_channels: int, out_channels: int, pooled: bool):
        super().__init__()
        self.first = layer(in_channels, WIDTH)
        self.second = layer(WIDTH, WIDTH if pooled else out_channels)
        self.lin = torch.nn.Linear(WIDTH, out_channels) if pooled else None

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor | None = None) -> Tensor:
        """"""
        x = self.second(self.first(x, edge_index).relu(), edge_index)
        return x if self.lin is None else self.lin(global_mean_pool(x.relu(), batch))


class WithoutEdges(torch.nn.Module):
    """A linear layer in a layer's place."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.lin = torch.nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        return self.lin(x)


class GPS(torch.nn.Module):
    """GPSConv around a GCNConv; it keeps its channels, so linear layers change them."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.lin_in = torch.nn.Linear(in_channels, WIDTH)
        self.conv = GPSConv(WIDTH, GCNConv(WIDTH, WIDTH), heads=4)
        self.lin_out = torch.nn.Linear(WIDTH, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        return self.lin_out(self.conv(self.lin_in(x), edge_index))


class GConvGRU(torch.nn.Module):
    """The cell of `"Structured Sequence Modeling with Graph Convolutional Recurrent Networks"
    <https://arxiv.org/abs/1612.07659>`_ as a GRU: Chebyshev convolutions (K = 2) for its gates.

    Shapes:
        - **input:** ``[B, T, N, C]``
        - **output:** ``[B, T, N, D]``
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.out_channels = out_channels
        self.conv_x = ChebConv(in_channels, 3 * out_channels, K=2)
        self.conv_h = ChebConv(out_channels, 2 * out_channels, K=2)
        self.conv_n = ChebConv(out_channels, out_channels, K=2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        inputs, out = self.conv_x(x, edge_index), []
        h = x.new_zeros(x.size(0), x.size(2), self.out_channels)
        for step in inputs.unbind(1):
            gates, new = step.split([2 * self.out_channels, self.out_channels], dim=-1)
            z, r = (gates + self.conv_h(h, edge_index)).sigmoid().chunk(2, dim=-1)
            h = z * h + (1 - z) * (new + self.conv_n(h * r, edge_index)).tanh()
            out.append(h)
        return torch.stack(out, dim=1)


class GConvLSTM(torch.nn.Module):
    """The same as an LSTM (without peepholes)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.out_channels = out_channels
        self.conv_x = ChebConv(in_channels, 4 * out_channels, K=2)
        self.conv_h = ChebConv(out_channels, 4 * out_channels, K=2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        inputs, out = self.conv_x(x, edge_index), []
        h = c = x.new_zeros(x.size(0), x.size(2), self.out_channels)
        for step in inputs.unbind(1):
            i, f, o, new = (step + self.conv_h(h, edge_index)).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * new.tanh()
            h = o.sigmoid() * c.tanh()
            out.append(h)
        return torch.stack(out, dim=1)


class NodeLSTM(torch.nn.Module):
    """An LSTM over every node's own history."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.lstm = torch.nn.LSTM(in_channels, out_channels, batch_first=True)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        clips, steps, nodes, channels = x.shape
        out = self.lstm(x.transpose(1, 2).reshape(-1, steps, channels))[0]
        return out.view(clips, nodes, steps, -1).transpose(1, 2)


class Forecaster(torch.nn.Module):
    """A recurrent layer on ``[B, T, N, C]``, a ReLU, and a linear map to the forecast.

    Args:
        layer: Makes the layer from numbers of channels.
        in_channels: Channels of the nodes.
        out_channels: Channels of the forecast.
    """

    def __init__(self, layer: Callable, in_channels: int, out_channels: int):
        super().__init__()
        self.layer = layer(in_channels, WIDTH)
        self.lin = torch.nn.Linear(WIDTH, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """"""
        return self.lin(self.layer(x, edge_index).relu())


OURS, PAPER = "RSTG", "RSTG, the paper's form"
#: The layers by the name that tables have.
CONVS = {
    OURS: RSTGConv,
    PAPER: partial(RSTGConv, form="paper"),
    "GCN": GCNConv,
    "GATv2": GATv2Conv,
    "TransformerConv": TransformerConv,
    "GPSConv": GPS,
    "no edges": WithoutEdges,
}
CELLS = {
    OURS: RSTG,
    PAPER: partial(RSTG, form="paper"),
    "GConvGRU": GConvGRU,
    "GConvLSTM": GConvLSTM,
    "no edges": NodeLSTM,
}


def make_model(kind: str, layer: Callable, in_channels: int, out_channels: int) -> torch.nn.Module:
    """The network of a kind of task with a layer."""
    if kind == "sequence":
        return Forecaster(layer, in_channels, out_channels)
    return TwoLayers(layer, in_channels, out_channels, pooled=kind == "pooled")
