"""Rounds of messages on one graph of space and time, without recurrence."""

from typing import Optional

import torch
from torch import Tensor
from torch_geometric.nn.inits import reset

from rstg_pyg.checks import check_keywords, check_numbers, edge_tensor
from rstg_pyg.conv import RSTGConv
from rstg_pyg.fast.linear import Linear
from rstg_pyg.graphs import space_time_edges
from rstg_pyg.normalize import NormLike, convention, make_norm, normalize
from rstg_pyg.stage import unusual


class HomogeneousRSTG(torch.nn.Module):
    r"""Time treated like space: the baseline that :class:`RSTG` is compared with in the
    `"Recurrent Space-time Graph Neural Networks" <https://arxiv.org/abs/1904.05582>`_ paper
    (section 4.1).

    The nodes of all frames are one graph. Besides its neighbors in the frame, every node is joined to
    itself one frame before and one frame after; the same send, gather and update serves every edge.
    There is no recurrent cell: after :math:`K` rounds a node has seen :math:`K` frames to either side.

    It takes the place of :class:`RSTG`, for example in a block:
    :obj:`RSTGBlock(64, to="vec", graph=HomogeneousRSTG)`.

    Args:
        in_channels (int): Channels of the nodes; projected if they differ from
            ``hidden_channels``.
        hidden_channels (int): Channels :math:`D` inside and at the output.
        num_rounds (int, optional): Rounds :math:`K`. (default: :obj:`3`)
        residual (bool, optional): Pre-norm residual rounds and a norm at the end.
            (default: :obj:`False`)
        shared_rounds (bool, optional): Whether all rounds share their weights.
            (default: :obj:`True`)
        in_norm (callable or str, optional): A norm of the (projected) nodes before the first round, of
            each frame by itself, as ``in_norm`` of :class:`RSTG`. Inside the rounds, the graph of a
            ``norm`` is that of all frames. (default: :obj:`None`)
        **kwargs (optional): Additional arguments of :class:`RSTGConv` (``form``, ``attention``, ...).

    Shapes:
        - **input:** nodes :math:`(B, T, N, C)`, edge indices of one frame :math:`(2, E)`
        - **output:** nodes :math:`(B, T, N, D)`

    Raises:
        ValueError: If there is no round, or what is given has another shape than expected.

    Example:
        >>> grid = rstg_pyg.graphs.multiscale_grid((3, 2, 1))
        >>> model = HomogeneousRSTG(64, 32)
        >>> model(torch.randn(2, 10, 14, 64), grid.edge_index).shape
        torch.Size([2, 10, 14, 32])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_rounds: int = 3,
        *,
        residual: bool = False,
        shared_rounds: bool = True,
        in_norm: Optional[NormLike] = None,
        **kwargs,
    ):
        super().__init__()
        check_numbers(
            1, in_channels=in_channels, hidden_channels=hidden_channels, num_rounds=num_rounds
        )
        check_keywords(self, RSTGConv, kwargs)
        if kwargs.get("edge_dim") is not None:
            raise ValueError(
                f"'{self.__class__.__name__}' does not support 'edge_dim': edges in time have none"
            )
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.num_rounds = num_rounds
        self.residual = residual
        self.shared_rounds = shared_rounds

        dim, own = hidden_channels, 1 if shared_rounds else num_rounds
        self.lin_in = None
        if in_channels != dim:
            self.lin_in = Linear(
                in_channels, dim, weight_initializer="glorot", bias_initializer="zeros"
            )
        self.in_norm = None if in_norm is None else make_norm(in_norm, dim)
        self.in_norm_how = None if self.in_norm is None else convention(self.in_norm)
        self.convs = torch.nn.ModuleList(
            RSTGConv(dim, dim, **{"act_last": False if residual else None, **kwargs})
            for _ in range(own)
        )
        if residual:
            self.conv_norms = torch.nn.ModuleList(torch.nn.LayerNorm(dim) for _ in self.convs)
            self.out_norm = torch.nn.LayerNorm(dim)
        self.reset_parameters()

    def reset_parameters(self):
        """Re-initializes all weights (Glorot uniform; biases zero)."""
        for module in self.children():
            reset(module)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        *,
        pos: Optional[Tensor] = None,
        node_type: Optional[Tensor] = None,
        edge_weight: Optional[Tensor] = None,
    ) -> Tensor:
        r"""Runs the forward pass of the module.

        Args:
            x (torch.Tensor): The nodes :math:`(B, T, N, C)`.
            edge_index (torch.Tensor): The edges of one frame :math:`(2, E)`.
            pos (torch.Tensor, optional): Positions :math:`(N, P)`, the same in all frames.
            node_type (torch.Tensor, optional): Node types :math:`(N)`.
            edge_weight (torch.Tensor, optional): Weights of the edges inside frames, :math:`(E)`, see
                :class:`RSTGConv`; those between frames have weight one.
        """
        if not isinstance(x, Tensor) or x.dim() != 4 or x.size(-1) != self.in_channels:
            shape = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"Expected 'x' to have shape [B, T, N, {self.in_channels}] (got {shape})")
        frames, nodes = x.shape[1:3]
        edge_index = edge_tensor(edge_index)
        for name, value, wanted in [
            ("pos", pos, (nodes, self.convs[0].pos_channels)),
            ("node_type", node_type, (nodes,)),
            ("edge_weight", edge_weight, (edge_index.size(1),)),
        ]:
            if value is not None and value.shape != wanted:
                raise ValueError(
                    f"Expected '{name}' to have shape {list(wanted)}, the same in all frames "
                    f"(got {list(value.shape)})"
                )
        edges = space_time_edges(edge_index, nodes, frames)
        pos = None if pos is None else pos.repeat(frames, 1)
        node_type = None if node_type is None else node_type.repeat(frames)
        if edge_weight is not None:
            space = edge_weight.repeat(frames)
            edge_weight = torch.cat([space, space.new_ones(edges.size(1) - space.size(0))])

        if self.lin_in is not None:
            x = self.lin_in(x)
        if self.in_norm is not None:
            x = normalize(self.in_norm, self.in_norm_how, x)
        x = x.flatten(1, 2)  # [B, T * N, D]: one graph
        for k in range(self.num_rounds):
            i = 0 if self.shared_rounds else k
            z = self.conv_norms[i](x) if self.residual else x
            z = self.convs[i](z, edges, pos=pos, node_type=node_type, edge_weight=edge_weight)
            x = x + z if self.residual else z
        if self.residual:
            x = self.out_norm(x)
        return x.unflatten(1, (frames, nodes))

    def __repr__(self) -> str:
        parts = [f"{self.in_channels}, {self.hidden_channels}", f"num_rounds={self.num_rounds}"]
        parts += ["residual=True"] if self.residual else []
        parts += [] if self.shared_rounds else ["shared_rounds=False"]
        parts += [*unusual(self.convs[0], ("form", "heads")), *unusual(self.convs[0])]
        return f"{self.__class__.__name__}({', '.join(parts)})"
