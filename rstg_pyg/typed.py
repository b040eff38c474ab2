"""A linear layer for nodes of several types."""

from typing import Any, List, Optional

import torch
from torch import Tensor
from torch_geometric.nn.inits import reset

from rstg_pyg.fast.linear import Linear


class TypedLinear(torch.nn.Module):
    """A linear layer with weights of its own for every node type.

    Args:
        in_channels (int): Input channels (-1 to take them from the first input).
        out_channels (int): Output channels.
        num_types (int): Number of node types; 1 is an ordinary linear layer.
        bias (bool): Whether to add a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, num_types: int = 1, bias: bool = True):
        super().__init__()
        kwargs = dict(bias=bias, weight_initializer="glorot", bias_initializer="zeros")
        self.lins = torch.nn.ModuleList(
            Linear(in_channels, out_channels, **kwargs) for _ in range(num_types)
        )

    def reset_parameters(self):
        """Re-initializes all weights (Glorot uniform; biases zero)."""
        reset(self.lins)

    def forward(self, x: Tensor, node_type: Optional[Tensor]) -> Tensor:
        """Maps ``x [N, *, C]`` with the weights of ``node_type [N]``."""
        if len(self.lins) == 1:
            return self.lins[0](x)
        assert node_type is not None  # the layer has checked it
        node_type = node_type.long()
        blind = torch.compiler.is_compiling() or x.is_meta  # how many are of which type is not known
        ours = all(type(lin) is Linear for lin in self.lins)  # not adapters of weights around them
        if (blind or x.is_cuda) and x.dim() > 2 and x.size(1) > 1 and ours:
            return self.by_node(x, node_type)
        if blind:  # all types for all nodes
            every = torch.stack([lin(x) for lin in self.lins])
            index = node_type.view(1, -1, *[1] * (x.dim() - 1)).expand_as(every[:1])
            return every.gather(0, index).squeeze(0)
        rows = [torch.eq(node_type, i).nonzero().view(-1) for i in range(len(self.lins))]
        order = torch.cat(rows)
        if order.numel() != x.size(0):
            raise ValueError(
                f"Expected 'node_type' to hold types from 0 to {len(self.lins) - 1} (got values from "
                f"{int(node_type.min())} to {int(node_type.max())})"
            )
        out = torch.cat([lin(x.index_select(0, row)) for lin, row in zip(self.lins, rows)])
        return out.index_select(0, order.argsort())

    def by_node(self, x: Tensor, node_type: Tensor) -> Tensor:
        """The same with a copy of the weights per node. It needs no counts of nodes per type, which
        would have to be read back from the device.
        """
        shape, x = x.shape[:-1], x.flatten(1, -2)  # [N, M, C]
        lins: List[Any] = list(self.lins)
        weight = torch.stack([lin.weight for lin in lins]).index_select(0, node_type)
        if lins[0].bias is None:
            return torch.bmm(x, weight.transpose(1, 2)).view(*shape, -1)
        bias = torch.stack([lin.bias for lin in lins]).index_select(0, node_type)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2)).view(*shape, -1)
