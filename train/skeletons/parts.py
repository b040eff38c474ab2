"""Parts of a :class:`~rstg_pyg.VideoClassifier` for skeletons, whose "frames" have the bodies as rows
and their joints as columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from rstg_pyg import RSTG


class JointEncoder(torch.nn.Module):
    r"""Node features of joints to channels of a graph: batch norm of every feature of every joint, a
    linear layer, a learned vector for each joint, ReLU and dropout.

    Args:
        in_channels: Features of a joint.
        channels: Channels :math:`D` of the output.
        bodies: Bodies :math:`M`.
        joints: Joints of a body :math:`N`.
        dropout: Dropout of the output. (default: 0)

    Shapes:
        - **input:** :math:`(B, C + 1, T, M, N)`, the last channel 1 where a joint is there and else 0
        - **output:** :math:`(B, D + 1, T, M, N)`, the last channel as before
    """

    per_frame = True

    def __init__(self, in_channels: int, channels: int, bodies: int, joints: int, dropout: float = 0.0):
        super().__init__()
        self.channels = {"joints": channels + 1}
        stage = _JointStage(in_channels, channels, bodies * joints, dropout)
        self.stages = torch.nn.ModuleDict({"joints": stage})


class _JointStage(torch.nn.Module):
    def __init__(self, in_channels: int, channels: int, nodes: int, dropout: float):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(in_channels * nodes)
        self.lin = torch.nn.Linear(in_channels, channels)
        self.joint = torch.nn.Parameter(torch.empty(nodes, channels))
        self.dropout = torch.nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes the weights (Glorot uniform; bias zero; joints normal, 0.1)."""
        self.norm.reset_parameters()
        torch.nn.init.xavier_uniform_(self.lin.weight)
        torch.nn.init.zeros_(self.lin.bias)
        torch.nn.init.normal_(self.joint, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """"""
        x, there = x[:, :-1], x[:, -1:]
        clips, channels, frames, bodies, joints = x.shape
        x = x.permute(0, 2, 3, 4, 1).reshape(clips * frames, -1)
        x = self.norm(x).view(clips, frames, bodies * joints, channels)
        x = self.dropout((self.lin(x) + self.joint).relu())
        x = x.view(clips, frames, bodies, joints, -1).permute(0, 4, 1, 2, 3)
        return torch.cat([x, there], dim=1)


class JointHead(torch.nn.Module):
    r"""A graph network on joints, and a vector of the mean of its nodes over time (and their maximum).

    A joint that is not there sends no message (the weights of its edges are zero), and gets those of
    its neighbors. The vector has the nodes one after the other, so that the last layer has weights of
    its own for every joint; or (``sum_joints``) it is their sum, as in RSTG-to-vec.

    Args:
        channels: Channels of the map, one more than those of the nodes.
        hidden_channels: Channels :math:`D` of the network.
        network: What runs on the nodes: :class:`~rstg_pyg.RSTG`, or a module that knows its edges.
        graph: The graph of the joints.
        sum_joints: See above. (default: ``False``)
        max_over_time: Whether the maximum over time follows after the mean; twice as many channels.
            (default: ``False``)

    Shapes:
        - **input:** :math:`(B, D + 1, T, M, N)` of :class:`JointEncoder`
        - **output:** :math:`(B, M N D)`, or :math:`(B, D)`
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        network: torch.nn.Module,
        graph: Data,
        sum_joints: bool = False,
        max_over_time: bool = False,
    ):
        super().__init__()
        self.channels = channels
        self.sum_joints, self.max_over_time = sum_joints, max_over_time
        width = hidden_channels * (2 if max_over_time else 1)
        self.out_channels = width * (1 if sum_joints else int(graph.num_nodes or 0))
        self.network = network
        device = torch.empty(0).device
        self.register_buffer("edge_index", graph.edge_index.to(device), persistent=False)
        self.register_buffer("pos", graph.pos.to(device) - 0.5, persistent=False)

    edge_index: Tensor
    pos: Tensor

    @property
    def streams(self) -> bool:
        """Whether frames can be fed one by one, as through :class:`~rstg_pyg.RSTG`."""
        return isinstance(self.network, RSTG)

    def run(self, x: Tensor, **kwargs: Any) -> Any:
        """The nodes after the network, ``[B, T, M N, D]``, and what else it returns."""
        x = x.flatten(3).permute(0, 2, 3, 1)  # [B, T, nodes, channels]
        x, there = x[..., :-1], x[..., -1]
        if not isinstance(self.network, RSTG):
            return self.network(x)
        if self.network.convs and self.network.convs[0].pos_channels:
            kwargs["pos"] = self.pos
        kwargs["edge_weight"] = there[..., self.edge_index[0]]
        return self.network(x, self.edge_index, **kwargs)

    def _vector(self, mean: Tensor, most: Tensor) -> Tensor:
        """Of the means and maxima over time ``[B, nodes, D]``."""
        x = torch.cat([mean, most], dim=-1) if self.max_over_time else mean
        return x.sum(1) if self.sum_joints else x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """"""
        nodes = self.run(x)
        return self._vector(nodes.mean(dim=1), nodes.amax(dim=1))

    def stream(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The vector after each further piece of a clip, and the state."""
        cells, total, most, count = (None, 0.0, None, 0) if state is None else state
        nodes, cells = self.run(x, state=cells, return_state=True)
        here = nodes.amax(dim=1)
        if most is not None:  # the state of an exported stream begins with zeros, also of the maximum
            begun = torch.as_tensor(count, device=here.device) > 0
            here = torch.where(begun, torch.maximum(most, here), here)
        total, count = total + nodes.sum(dim=1), count + nodes.size(1)
        return self._vector(total / count, here), (cells, total, here, count)


class STGCN(torch.nn.Module):
    r"""A network like ST-GCN (`"Spatial Temporal Graph Convolutional Networks"
    <https://arxiv.org/abs/1801.07455>`_): blocks of :class:`~torch_geometric.nn.GCNConv` over the
    joints and a convolution over time, both with batch norm and ReLU, and a residual connection. It has
    one kind of edges instead of three, and keeps all frames.

    Args:
        channels: Channels :math:`D`.
        num_blocks: Number of blocks.
        graph: The graph of the joints.
        kernel_size: Frames of a convolution over time, an odd number. (default: 9)
        dropout: Dropout after a block. (default: 0)

    Shapes:
        - **input:** nodes :math:`(B, T, N, D)`
        - **output:** nodes :math:`(B, T, N, D)`
    """

    def __init__(
        self, channels: int, num_blocks: int, graph: Data, kernel_size: int = 9, dropout: float = 0.0
    ):
        super().__init__()
        with torch.device("cpu"):  # where the graph is, also if the network is not (meta)
            edges, weight = gcn_norm(graph.edge_index, num_nodes=graph.num_nodes)
        device = torch.empty(0).device
        self.register_buffer("edges", edges.to(device), persistent=False)
        self.register_buffer("weight", weight.to(device), persistent=False)
        self.space = torch.nn.ModuleList(
            GCNConv(channels, channels, normalize=False) for _ in range(num_blocks)
        )
        self.time = torch.nn.ModuleList(
            torch.nn.Conv2d(channels, channels, (kernel_size, 1), padding=(kernel_size // 2, 0))
            for _ in range(num_blocks)
        )
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(channels) for _ in range(2 * num_blocks))
        self.dropout = torch.nn.Dropout(dropout)

    edges: Tensor
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """"""
        for i, (space, time) in enumerate(zip(self.space, self.time)):
            z = self.norms[2 * i](space(x, self.edges, self.weight).permute(0, 3, 1, 2)).relu()
            z = self.dropout(self.norms[2 * i + 1](time(z)))
            x = (x + z.permute(0, 2, 3, 1)).relu()
        return x
