"""The three functions of a space stage: send, attend, update.

:class:`~rstg_pyg.stage.SpaceStage` puts them together.
"""

import copy
from typing import Any, Callable, Dict, Optional, Tuple, Union

import torch
from torch import Tensor
from torch_geometric.nn.inits import reset
from torch_geometric.nn.resolver import activation_resolver

from rstg_pyg.fast.autograd import untouched
from rstg_pyg.fast.linear import Linear
from rstg_pyg.fast.messages import edge_dots, pair_dots
from rstg_pyg.fast.operations import relu_of
from rstg_pyg.typed import TypedLinear

#: The factor of an MLP beside a linear path. Its last layer starts near zero; with this, it also learns
#: more slowly than the path, which few labels need (docs/howto/few_labels_deep_stacks_forecasts.md).
MLP_FACTOR = 0.1
#: The last layer's first weights, as a share of Glorot's. Not zero: weight_norm divides by their norm.
MLP_START = 1e-4
#: An activation: its name in torch, a module, a function, or none.
Activation = Union[str, Callable[[Tensor], Tensor], None]


def make_act(act: Activation, kwargs: Optional[Dict[str, Any]]) -> Callable[[Tensor], Tensor]:
    """An activation as PyG's ``MLP`` takes it."""
    if act is None:
        return torch.nn.Identity()
    if isinstance(act, str):
        return activation_resolver(act, **(kwargs or {}))
    return act(**(kwargs or {})) if isinstance(act, type) else copy.deepcopy(act)


class SendMLP(torch.nn.Module):
    r"""The send function :math:`m_{ji} = \mathrm{MLP}_s([v_j | p_j | v_i | p_i | e_{ji}])`, in the
    ``"skip"`` form :math:`W_s [v_j | p_j | e_{ji}] + 0.1 \, \mathrm{MLP}_s(\ldots)`.

    The first layer is linear in the concatenation, so it is kept as one block per part: the node
    blocks are computed once per node instead of once per edge, which is exact and about half the
    work. A block's share of the published kernel is ``[source | its position | target | its
    position]``.

    Args:
        in_channels (tuple): Channels of source and target nodes.
        channels (int): Channels of the message.
        hidden_channels (int): Width between the layers.
        num_layers (int): Number of layers, with the activation between them.
        pos_channels (int): Channels of a node's position; 0 for none.
        edge_dim (int, optional): Channels of the edge attributes.
        bias (bool): Whether the layers add a bias.
        act (callable, optional): The activation. (default: :obj:`None`, ReLU)
        skip (bool): Whether there is a linear path, or else an activation after the last layer. A
            single layer is linear by itself.
    """

    def __init__(
        self,
        in_channels: Tuple[int, int],
        channels: int,
        hidden_channels: int,
        num_layers: int = 2,
        pos_channels: int = 0,
        edge_dim: Optional[int] = None,
        bias: bool = True,
        act: Optional[Callable[[Tensor], Tensor]] = None,
        skip: bool = True,
    ):
        super().__init__()
        self.act = torch.nn.ReLU() if act is None else act
        widths = [hidden_channels] * (num_layers - 1) + [channels]
        self.skip = skip
        self.channels = channels
        #: Size of what :meth:`source`, :meth:`target` and :meth:`edge` give and :meth:`forward` takes.
        self.width = widths[0] + (channels if skip and num_layers > 1 else 0)
        kwargs = dict(weight_initializer="glorot", bias_initializer="zeros")
        self.lin_src = Linear(in_channels[0], widths[0], bias=False, **kwargs)
        self.lin_dst = Linear(in_channels[1], widths[0], bias=bias, **kwargs)
        self.lin_pos_src: Optional[Linear] = None
        self.lin_pos_dst: Optional[Linear] = None
        self.lin_edge: Optional[Linear] = None
        if pos_channels > 0:
            self.lin_pos_src = Linear(pos_channels, widths[0], bias=False, **kwargs)
            self.lin_pos_dst = Linear(pos_channels, widths[0], bias=False, **kwargs)
        if edge_dim is not None:
            self.lin_edge = Linear(edge_dim, widths[0], bias=False, **kwargs)
        self.skip_src: Optional[Linear] = None
        self.skip_pos: Optional[Linear] = None
        self.skip_edge: Optional[Linear] = None
        if skip and num_layers > 1:
            self.skip_src = Linear(in_channels[0], channels, bias=bias, **kwargs)
            if pos_channels > 0:
                self.skip_pos = Linear(pos_channels, channels, bias=False, **kwargs)
            if edge_dim is not None:
                self.skip_edge = Linear(edge_dim, channels, bias=False, **kwargs)
        self.lins = torch.nn.ModuleList(
            Linear(a, b, bias=bias, **kwargs) for a, b in zip(widths, widths[1:])
        )

    def reset_parameters(self):
        """Re-initializes all weights (Glorot uniform; biases zero). Beside a linear path, those of the
        last layer are close to zero.
        """
        for module in self.children():
            reset(module)
        if self.skip_src is not None:
            with torch.no_grad():
                self.lins[-1].weight.mul_(MLP_START)

    def source_parts(self, x: Tensor, pos: Optional[Tensor]) -> Tuple[Tensor, Optional[Tensor]]:
        """The part of the first layer that depends on the sender, and of the linear path beside it."""
        out = self.lin_src(x)
        out = out if self.lin_pos_src is None else out + self.lin_pos_src(pos)
        if self.skip_src is None:
            return out, None
        skip = self.skip_src(x)
        return out, skip if self.skip_pos is None else skip + self.skip_pos(pos)

    def source(self, x: Tensor, pos: Optional[Tensor]) -> Tensor:
        """Both of :meth:`source_parts`, side by side."""
        out, skip = self.source_parts(x, pos)
        return out if skip is None else torch.cat([out, skip], dim=-1)

    def target_part(self, x: Tensor, pos: Optional[Tensor]) -> Tensor:
        """The part of the first layer that depends on the receiver (the linear path has none)."""
        out = self.lin_dst(x)
        return out if self.lin_pos_dst is None else out + self.lin_pos_dst(pos)

    def target(self, x: Tensor, pos: Optional[Tensor]) -> Tensor:
        """:meth:`target_part`, with zeros for the linear path."""
        out = self.target_part(x, pos)
        return out if self.skip_src is None else torch.nn.functional.pad(out, (0, self.channels))

    def edge(self, edge_attr: Tensor) -> Tensor:
        """The part of the first layer, and of the linear path, that depends on the edge."""
        assert self.lin_edge is not None  # the layer has checked it
        out = self.lin_edge(edge_attr)
        return out if self.skip_edge is None else torch.cat([out, self.skip_edge(edge_attr)], dim=-1)

    def forward(self, first: Tensor) -> Tensor:
        """From the sum of the first layer's parts to the message. What is as large as all edges is
        overwritten, unless somebody looks at it: hooks have to see what a module gave.
        """
        if self.skip and self.skip_src is None:
            return first
        act = self.act
        if type(act) is torch.nn.ReLU:
            if torch.compiler.is_compiling() or untouched(self, act, *self.lins):
                act = torch.relu_
        if self.skip_src is None:
            hidden = act(first)
            for lin in self.lins:
                hidden = act(lin(hidden))
            return hidden
        hidden, skip = first.split([self.width - self.channels, self.channels], dim=-1)
        hidden = self.act(hidden)
        for lin in self.lins[:-1]:
            hidden = act(lin(hidden))
        return skip + MLP_FACTOR * self.lins[-1](hidden)


class Attention(torch.nn.Module):
    """Query and key maps of nodes; the kinds of attention combine them in different ways.

    Args:
        in_channels (tuple): Channels of source and target nodes.
        out_channels (int): Channels of query and key.
        bias (bool): Whether both maps have a bias.
        edge_dim (int, optional): Channels of the edge attributes, which are added to the key; none if
            attention does not see them. (default: :obj:`None`)
    """

    def __init__(
        self,
        in_channels: Tuple[int, int],
        out_channels: int,
        bias: bool = True,
        edge_dim: Optional[int] = None,
    ):
        super().__init__()
        self.out_channels = out_channels
        kwargs = dict(weight_initializer="glorot", bias_initializer="zeros")
        self.lin_key = Linear(in_channels[0], out_channels, bias=bias, **kwargs)
        self.lin_query = Linear(in_channels[1], out_channels, bias=bias, **kwargs)
        self.lin_edge: Optional[Linear] = None
        if edge_dim is not None:
            self.lin_edge = Linear(edge_dim, out_channels, bias=False, **kwargs)

    def reset_parameters(self):
        """Re-initializes all weights (Glorot uniform; biases zero)."""
        for module in self.children():
            reset(module)

    def query(self, x: Tensor) -> Tensor:
        """The queries, from the target nodes."""
        return self.lin_query(x)

    def key(self, x: Tensor) -> Tensor:
        """The keys, from the source nodes."""
        return self.lin_key(x)

    def edge_key(self, key: Tensor, edge_attr: Optional[Tensor]) -> Tensor:
        """The keys ``[*, out_channels]`` of edges, from those of their source nodes."""
        return key if self.lin_edge is None else key + self.lin_edge(edge_attr)

    def edges(
        self, query: Tensor, key: Tensor, source: Tensor, target: Tensor, weight: Optional[Tensor]
    ) -> Tensor:
        """Logits ``[E, M, heads]`` of all edges from query and key of the nodes ``[N, M, *]``."""
        return self(query.index_select(0, target), key.index_select(0, source), weight)

    def pairs(self, query: Tensor, key: Tensor) -> Tensor:
        """Logits ``[M * heads, N, S]`` of all pairs, without weights, from query and key of nodes."""
        out = self(query.unsqueeze(1), key.unsqueeze(0), None)
        return out.flatten(2).permute(2, 0, 1)


class DotAttention(Attention):
    r"""Logits :math:`w_{ji} \, s \, \langle W_q v_i, W_k v_j + W_e e_{ji} \rangle`, one per head.

    Args:
        in_channels (tuple): Channels of source and target nodes.
        channels (int): Channels of query and key, all heads together.
        heads (int): Number of heads.
        scale (float): The factor :math:`s` (the paper has 1; transformers use ``1 / sqrt(C)``).
        bias (bool): Whether query and key have a bias.
        edge_dim (int, optional): Channels of the edge attributes that it sees.
            (default: :obj:`None`)
    """

    def __init__(
        self,
        in_channels: Tuple[int, int],
        channels: int,
        heads: int = 1,
        scale: float = 1.0,
        bias: bool = True,
        edge_dim: Optional[int] = None,
    ):
        super().__init__(in_channels, channels, bias, edge_dim)
        self.heads, self.scale = heads, scale

    def forward(self, query: Tensor, key: Tensor, weight: Optional[Tensor]) -> Tensor:
        """Logits ``[*, heads]`` from query and key ``[*, channels]``."""
        return self._scaled((query * key).unflatten(-1, (self.heads, -1)).sum(-1), weight)

    def edges(
        self, query: Tensor, key: Tensor, source: Tensor, target: Tensor, weight: Optional[Tensor]
    ) -> Tensor:
        """Logits ``[E, M, heads]`` of all edges from query and key of nodes ``[N, M, channels]``."""
        query, key = (x.unflatten(-1, (self.heads, -1)) for x in (query, key))
        return self._scaled(edge_dots(query, key, source, target), weight)

    def pairs(self, query: Tensor, key: Tensor) -> Tensor:
        """Logits ``[M * heads, N, S]`` of all pairs, without weights, from query and key of nodes."""
        query, key = (x.unflatten(-1, (self.heads, -1)).flatten(1, 2) for x in (query, key))
        return self._scaled(pair_dots(query, key), None)

    def _scaled(self, logit: Tensor, weight: Optional[Tensor]) -> Tensor:
        logit = logit if self.scale == 1.0 else logit * self.scale
        return logit if weight is None else logit * weight.unsqueeze(-1)


class AdditiveAttention(Attention):
    r"""Logits :math:`\mathrm{LeakyReLU}(w_{ji} (a_q v_i + a_k v_j + a_e e_{ji})) + w_{ji}`, one per
    head.

    Query and key are one number per head. Without weights this is GAT's attention (:math:`w = 1`
    shifts all logits alike, so it is left out); with the 0/1 adjacency as weights on a complete graph
    it is the published code's ``simple`` attention. The slope of the leaky ReLU is 0.2.
    """

    def forward(self, query: Tensor, key: Tensor, weight: Optional[Tensor]) -> Tensor:
        """Logits ``[*, heads]`` from query and key ``[*, heads]``."""
        logit = query + key
        if weight is None:
            return torch.nn.functional.leaky_relu(logit, 0.2)
        weight = weight.unsqueeze(-1)
        return torch.nn.functional.leaky_relu(logit * weight, 0.2) + weight


class UpdateMLP(torch.nn.Module):
    r"""The update function :math:`v_i \leftarrow \mathrm{MLP}_u([v_i | g_i])`, in the ``"skip"`` form
    :math:`W_v v_i + W_g g_i + 0.1 \, \mathrm{MLP}_u([v_i | g_i])`.

    Args:
        in_channels (int): Channels of the nodes.
        channels (int): Channels of the result.
        hidden_channels (int): Width of the aggregated messages and between the layers.
        num_layers (int): Number of layers, with the activation between them.
        num_types (int): Number of node types with weights of their own.
        act_last (bool): Whether the activation also follows at the end.
        bias (bool): Whether the layers add a bias.
        act (callable, optional): The activation. (default: :obj:`None`, ReLU)
        skip (bool): Whether there is a linear path. A single layer is linear by itself.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        hidden_channels: int,
        num_layers: int = 2,
        num_types: int = 1,
        act_last: bool = False,
        bias: bool = True,
        act: Optional[Callable[[Tensor], Tensor]] = None,
        skip: bool = True,
    ):
        super().__init__()
        self.act = torch.nn.ReLU() if act is None else act
        self.act_last = act_last
        width = -1 if in_channels == -1 else in_channels + hidden_channels
        widths = [width] + [hidden_channels] * (num_layers - 1) + [channels]
        self.lins = torch.nn.ModuleList(
            TypedLinear(a, b, num_types, bias) for a, b in zip(widths, widths[1:])
        )
        self.skip_node: Optional[TypedLinear] = None
        self.skip_message: Optional[TypedLinear] = None
        if skip and num_layers > 1:
            self.skip_node = TypedLinear(in_channels, channels, num_types, bias)
            self.skip_message = TypedLinear(hidden_channels, channels, num_types, bias=False)

    def reset_parameters(self):
        """Re-initializes all weights (Glorot uniform; biases zero). Beside a linear path, those of the
        last layer are close to zero.
        """
        for module in self.children():
            reset(module)
        if self.skip_node is not None:
            with torch.no_grad():
                for lin in self.lins[-1].lins:
                    lin.weight.mul_(MLP_START)

    def forward(self, x: Tensor, g: Tensor, node_type: Optional[Tensor]) -> Tensor:
        """Updates nodes ``[N, *, C]`` by what they got, ``[N, *, D]``."""
        out, act = torch.cat([x, g], dim=-1), relu_of(self.act, x)
        for i, lin in enumerate(self.lins):
            out = lin(out if i == 0 else act(out), node_type)
        if self.skip_node is not None and self.skip_message is not None:
            linear = self.skip_node(x, node_type) + self.skip_message(g, node_type)
            out = torch.add(linear, out, alpha=MLP_FACTOR)
        return act(out) if self.act_last else out
