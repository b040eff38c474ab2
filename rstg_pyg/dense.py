"""The space stage on a dense adjacency: all pairs and a mask."""

from typing import Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from rstg_pyg.checks import check_inputs
from rstg_pyg.normalize import PerGraph
from rstg_pyg.softmax import weighted_softmax
from rstg_pyg.stage import SpaceStage


class DenseRSTGConv(SpaceStage):
    r"""See :class:`rstg_pyg.RSTGConv`.

    The same parameters (one ``state_dict`` fits both) on a dense adjacency: messages of all
    :math:`N^2` pairs are computed and masked. The better choice on small complete graphs, and the
    baseline that message passing is compared with.

    Args:
        in_channels (int): Size of each input sample.
        out_channels (int): Size of each output sample.
        hidden_channels (int, optional): See :class:`RSTGConv`, as all that follow.
        num_send_layers (int, optional): Layers of the send function. (default: :obj:`2`)
        num_update_layers (int, optional): Layers of the update function. (default: :obj:`2`)
        attention (str, optional): ``"dot"``, ``"additive"`` or :obj:`None`.
            (default: :obj:`"dot"`)
        heads (int, optional): Number of heads. (default: :obj:`1`)
        attention_scale (float, optional): Factor of the dot product. (default: :obj:`None`)
        pos_channels (int, optional): Channels of the positions. (default: :obj:`0`)
        num_node_types (int, optional): Number of node types. (default: :obj:`1`)
        edge_weight_on (str, optional): ``"attention"`` or ``"logits"``.
            (default: :obj:`"attention"`)
        norm (callable, str or tuple, optional): Norm of messages and updated nodes. Statistics are per
            graph, of its edges and of the nodes in ``mask``. (default: :obj:`None`)
        norm_kwargs (dict, optional): Further arguments of the norm. (default: :obj:`None`)
        after_aggr (callable or str, optional): Applied to the aggregated messages.
            (default: :obj:`None`)
        dropout (float, optional): Dropout of the coefficients. (default: :obj:`0`)
        edge_dim (int, optional): Edge feature dimensionality. (default: :obj:`None`)
        act (str or callable, optional): The activation. (default: :obj:`"relu"`)
        act_kwargs (dict, optional): Its arguments. (default: :obj:`None`)
        act_last (bool, optional): An activation at the end. (default: :obj:`None`)
        residual (bool, optional): Adds the nodes to the output. (default: :obj:`False`)
        bias (bool, optional): Whether layers have a bias. (default: :obj:`True`)
        form (str, optional): ``"skip"`` or ``"paper"``. (default: :obj:`"skip"`)

    Shapes:
        - **input:** node features :math:`(*, N, F_{in})`, adjacency :math:`(N, N)` or
          :math:`(B, N, N)` whose entry :math:`(i, j)` is nonzero if :math:`i` gets messages from
          :math:`j` (as in PyG's dense layers, ``out = adj @ x``), mask :math:`(B, N)` *(optional)*
        - **output:** :math:`(*, N, F_{out})`

    Raises:
        ValueError: If sizes do not match.
    """

    def forward(
        self,
        x: Tensor,
        adj: Tensor,
        mask: Optional[Tensor] = None,
        *,
        edge_attr: Optional[Tensor] = None,
        pos: Optional[Tensor] = None,
        node_type: Optional[Tensor] = None,
        edge_weight: Optional[Tensor] = None,
        return_attention_weights: bool = False,
    ) -> Union[Tensor, Tuple[Tensor, Tensor]]:
        r"""Runs the forward pass of the module.

        Args:
            x (torch.Tensor): The node features :math:`(*, N, F_{in})`.
            adj (torch.Tensor): The adjacency :math:`(N, N)`, :math:`(B, N, N)` (one for each of the
                first dimension of ``x``) or :math:`(*, N, N)`; only zero or not counts.
            mask (torch.Tensor, optional): Rows of the output to keep, :math:`(B, N)` or
                :math:`(*, N)`.
            edge_attr (torch.Tensor, optional): Pair features :math:`(N, N, D)`, or
                :math:`(N, N)` for one.
            pos (torch.Tensor, optional): Positions :math:`(N, P)`.
            node_type (torch.Tensor, optional): Node types :math:`(N)`.
            edge_weight (torch.Tensor, optional): Weights of the pairs, :math:`(N, N)`.
            return_attention_weights (bool, optional): Additionally returns the coefficients
                :math:`(*, N, N, H)`, receiver before sender.
        """
        shape = (x.size(-2), x.size(-2)) if isinstance(x, Tensor) and x.dim() >= 2 else None
        check_inputs(self, (x, x), (pos, pos), node_type, edge_attr, edge_weight, shape)
        nodes, lead = x.size(-2), x.shape[:-2]
        adj = _over_all("adj", adj, lead, (nodes, nodes))
        mask = None if mask is None else _over_all("mask", mask, lead, (nodes,))
        hidden = self.send.target(x, pos).unsqueeze(-2) + self.send.source(x, pos).unsqueeze(-3)
        if edge_attr is not None and edge_attr.dim() == 2:
            edge_attr = edge_attr.unsqueeze(-1)
        if self.send.lin_edge is not None:
            assert edge_attr is not None  # the check has seen to it
            hidden = hidden + self.send.edge(edge_attr)
        message = self.send(hidden)  # [*, N, N, C]: receiver, sender
        joined = adj != 0
        if self.message_norm is not None:
            message = _norm_edges(self.message_norm, message, joined)
        if self.lin_value is not None:
            message = self.lin_value(message)

        if self.attend is None:
            logit = message.new_zeros(*message.shape[:-1], self.heads)
        else:
            query, key = self.attend.query(x), self.attend.key(x)
            weight = self.weight_of_logits(edge_weight)
            key = self.attend.edge_key(key.unsqueeze(-3), edge_attr)
            logit = self.attend(query.unsqueeze(-2), key, weight)
        alpha = _pair_softmax(logit, self.weight_of_attention(edge_weight), joined.unsqueeze(-1))
        alpha = torch.nn.functional.dropout(alpha, p=self.dropout, training=self.training)

        out = message.unflatten(-1, (self.heads, -1)) * alpha.unsqueeze(-1)
        out = out.flatten(-2).sum(dim=-2)  # [*, N, C]
        present = None if mask is None else mask.bool()
        if self.after_aggr is not None:
            out = self.after_aggr.of_present(out, present)
        out = self.update_mlp(x.movedim(-2, 0), out.movedim(-2, 0), node_type).movedim(0, -2)
        if self.residual:
            out = out + (x if self.lin_res is None else self.lin_res(x))
        if self.update_norm is not None:
            out = self.update_norm.of_present(out, present)
        if mask is not None:
            out = out * mask.unsqueeze(-1).to(out.dtype)
        return (out, alpha) if return_attention_weights else out


def _over_all(name: str, value: Tensor, lead: Sequence[int], own: Tuple[int, ...]) -> Tensor:
    """A value of all graphs, of each of the first dimension, or of every graph, ``[*, own]``."""
    dense = isinstance(value, Tensor) and value.layout == torch.strided
    given = tuple(value.shape[: -len(own)]) if dense else None
    if not dense or value.shape[-len(own) :] != own or given not in ((), lead[:1], lead):
        found = list(value.shape) if dense else getattr(value, "layout", type(value).__name__)
        raise ValueError(
            f"Expected '{name}' to be a dense tensor of shape [*, {', '.join(map(str, own))}] (got "
            f"{found}), where * is nothing, {list(lead[:1])} or {list(lead)}"
        )
    return value.view(*given, *[1] * (len(lead) - 1), *own) if given == lead[:1] != () else value


def _pair_softmax(logit: Tensor, weight: Optional[Tensor], joined: Tensor) -> Tensor:
    """Attention coefficients ``[*, N, N, H]`` of the pairs that are joined."""
    if weight is None:
        alpha = logit.masked_fill(~joined, float("-inf")).softmax(dim=-2)
        return alpha.masked_fill(~joined, 0.0)  # rows without neighbors were NaN

    def over_edges(values: Tensor, how: str) -> Tensor:
        return values.sum(-2, keepdim=True) if how == "sum" else values.amax(-2, keepdim=True)

    return weighted_softmax(logit, weight.unsqueeze(-1).masked_fill(~joined, 0.0), over_edges)


def _norm_edges(norm: PerGraph, message: Tensor, joined: Tensor) -> Tensor:
    """Applies the norm to the messages of true edges, as :class:`RSTGConv` does."""
    flat = message.flatten(-3, -2)
    if joined.dim() > 2:
        return norm.of_present(flat, joined.flatten(-2)).view_as(message)
    pairs = joined.flatten().nonzero().view(-1)
    normed = norm(flat.index_select(-2, pairs))
    return torch.zeros_like(flat).index_copy(flat.dim() - 2, pairs, normed).view_as(message)
