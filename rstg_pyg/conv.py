"""One space stage as a PyG message passing layer.

PyG renders ``propagate`` from the annotations of the hooks below, so they keep the classic spelling
(``Optional``, ``Union``) and this module has no list of public names.
"""

from typing import Callable, List, Optional, Tuple, Union

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing, aggr
from torch_geometric.typing import Adj, OptTensor, PairTensor, SparseTensor, torch_sparse
from torch_geometric.utils import is_sparse, is_torch_sparse_tensor
from torch_geometric.utils.sparse import set_sparse_value

from rstg_pyg.checks import as_pair, check_inputs, count_edges, plain_edges
from rstg_pyg.fast.space import gather_messages
from rstg_pyg.softmax import edge_softmax
from rstg_pyg.stage import SpaceStage

#: Aggregations that treat every channel by itself.
_BY_CHANNEL = (
    aggr.SumAggregation, aggr.MeanAggregation, aggr.MaxAggregation, aggr.MinAggregation,
    aggr.MulAggregation, aggr.VarAggregation, aggr.StdAggregation, aggr.MedianAggregation,
)  # fmt: skip


class RSTGConv(SpaceStage, MessagePassing):
    r"""The space stage of the `"Recurrent Space-time Graph Neural Networks"
    <https://arxiv.org/abs/1904.05582>`_ paper (section 3.2).

    Every node gets messages from its neighbors, weighs them by attention and updates itself:

    .. math::
        \mathbf{m}_{ji} &= \mathbf{W}_s \left[ \mathbf{v}_j \, \Vert \, \mathbf{p}_j \, \Vert \,
        \mathbf{e}_{ji} \right] + 0.1 \cdot \mathrm{MLP}_s \left( \left[ \mathbf{v}_j \, \Vert \,
        \mathbf{p}_j \, \Vert \, \mathbf{v}_i \, \Vert \, \mathbf{p}_i \, \Vert \, \mathbf{e}_{ji}
        \right] \right)

        \alpha_{ji} &= \mathrm{softmax}_{j \in \mathcal{N}(i)} \left( s \,
        \langle \mathbf{W}_q \mathbf{v}_i, \mathbf{W}_k \mathbf{v}_j + \mathbf{W}_e \mathbf{e}_{ji}
        \rangle \right)

        \mathbf{g}_i &= \sum_{j \in \mathcal{N}(i)} \alpha_{ji} \, \mathbf{m}_{ji}

        \mathbf{v}^{\prime}_i &= \mathbf{W}_v \mathbf{v}_i + \mathbf{W}_g \mathbf{g}_i + 0.1 \cdot
        \mathrm{MLP}_u \left( \left[ \mathbf{v}_i \, \Vert \, \mathbf{g}_i \right] \right)

    with ReLU between the layers of both MLPs, whose last layers start near zero: it starts as attention
    over linear messages, and learns its MLPs from there. With edge weights,
    :math:`\alpha_{ji} \propto w_{ji} \exp(\cdot)`. With :obj:`form="paper"`, the paper's form, there
    are no linear paths:

    .. math::
        \mathbf{m}_{ji} = \mathrm{MLP}_s ( \ldots ), \qquad
        \mathbf{v}^{\prime}_i = \mathrm{MLP}_u ( \ldots )

    with ReLU after every layer of both MLPs, :math:`s = 1`, no edge features in the attention, and
    :obj:`hidden_channels` equal to :obj:`out_channels` by default. The first layer of
    :math:`\mathrm{MLP}_s` is computed per node and added per edge, which gives the same numbers for
    about half the work.

    Args:
        in_channels (int or tuple): Size of each input sample, or :obj:`-1` to derive the size from
            the first input(s) to the forward method. A tuple corresponds to the sizes of source and
            target dimensionalities.
        out_channels (int): Size of each output sample.
        hidden_channels (int, optional): Width of messages, of query and key, and between the
            layers. (default: :obj:`None`, that is :obj:`out_channels`, but at least 32, and a multiple
            of :obj:`heads`; in the paper's form :obj:`out_channels`)
        num_send_layers (int, optional): Layers of :math:`\mathrm{MLP}_s`. (default: :obj:`2`)
        num_update_layers (int, optional): Layers of :math:`\mathrm{MLP}_u`. (default: :obj:`2`)
        attention (str, optional): :obj:`"dot"` (above), :obj:`"additive"`
            (:math:`\mathrm{LeakyReLU}(a_q \mathbf{v}_i + a_k \mathbf{v}_j + a_e \mathbf{e}_{ji})`,
            slope 0.2), or :obj:`None` for the mean over the neighbors. (default: :obj:`"dot"`)
        heads (int, optional): Number of attention heads. Each weighs its share of the channels, and the
            heads are concatenated. (In the paper's form, messages are projected once more before.)
            (default: :obj:`1`)
        attention_scale (float, optional): The factor :math:`s` of the dot product. (default:
            :obj:`None`, that is one over the square root of a head's channels; in the paper's form 1)
        pos_channels (int, optional): Channels of the node positions :math:`\mathbf{p}`; 0 for none.
            (default: :obj:`0`)
        num_node_types (int, optional): If larger than 1, every node type (the scale, in a grid) has
            update weights of its own. (default: :obj:`1`)
        edge_weight_on (str, optional): What ``edge_weight`` is: :obj:`"attention"`, a factor inside the
            softmax, :math:`\alpha_{ji} \propto w_{ji} \exp(\cdot)`, so that 0 is no edge, and without
            attention the mean is a weighted one; or :obj:`"logits"`, a factor of the logits, as in the
            published code. (default: :obj:`"attention"`)
        norm (callable, str or tuple, optional): A normalization of messages and updated nodes, after
            their last activation: what makes it from a number of channels, or its name in PyG. Any of
            :obj:`torch_geometric.nn.norm` that needs no more than rows and graphs, and of torch those
            of single rows and batch norms. Statistics per graph are those of each graph: of each
            sample in the static form, and with ``batch``. A module of your own gets rows
            :math:`(K, C)` and their graphs if it has an argument ``batch``, otherwise
            :math:`(*, K, C)`. A tuple has one for messages and one for nodes, each of which may be
            :obj:`None`. (default: :obj:`None`)
        norm_kwargs (dict, optional): Further arguments of the norm. (default: :obj:`None`)
        after_aggr (callable or str, optional): A module that is applied to :math:`\mathbf{g}_i`, given
            and called as ``norm``. (default: :obj:`None`)
        dropout (float, optional): Dropout probability of the attention coefficients. Several edges
            from one node to the same other one are dropped together where the layer computes with all
            pairs of nodes, and each by itself elsewhere: the same mean, another variance.
            (default: :obj:`0`)
        edge_dim (int, optional): Edge feature dimensionality, or :obj:`-1` to derive it from the first
            call. (default: :obj:`None`, no edge features)
        act (str or callable, optional): The activation, as PyG's models take it.
            (default: :obj:`"relu"`)
        act_kwargs (dict, optional): Its arguments, if it is given by name. (default: :obj:`None`)
        act_last (bool, optional): Whether an activation follows at the end. (default: :obj:`None`, only
            in the paper's form)
        residual (bool, optional): If set to :obj:`True`, adds the (if need be projected) target
            nodes to the output. (default: :obj:`False`)
        bias (bool, optional): If set to :obj:`False`, no layer has a bias. (default: :obj:`True`)
        form (str, optional): :obj:`"skip"`, with linear paths beside both MLPs, or :obj:`"paper"`, both
            as above. An MLP of one layer is linear in the first, and has a ReLU in the second.
            (default: :obj:`"skip"`)
        **kwargs (optional): Additional arguments of
            :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:**
          node features :math:`(|\mathcal{V}|, F_{in})`, or
          :math:`((|\mathcal{V_s}|, F_{s}), (|\mathcal{V_t}|, F_{t}))` if bipartite, or
          :math:`(*, |\mathcal{V}|, F_{in})` for a static graph shared by all leading dimensions,
          edge indices :math:`(2, |\mathcal{E}|)`,
          edge features :math:`(|\mathcal{E}|, D)` *(optional)*
        - **output:** node features :math:`(|\mathcal{V}|, F_{out})`, bipartite
          :math:`(|\mathcal{V_t}|, F_{out})`, static :math:`(*, |\mathcal{V}|, F_{out})`. If
          :obj:`return_attention_weights=True`, then
          :math:`((*, |\mathcal{V}|, F_{out}), ((2, |\mathcal{E}|), (*, |\mathcal{E}|, H)))`, the
          coefficients in the order of the given edges

    A node without neighbors has :math:`\mathbf{g}_i = 0`. Edges keep their given order everywhere, and
    there are no self loops but those that are given. Lazy sizes have to be known (by one call) before
    the layer is compiled. PyG's attention explainer takes static graphs, its GNN explainer does not.

    Raises:
        ValueError: If sizes, positions or attributes do not match what the layer was built for, a
            weight is negative, or a norm needs more than rows and graphs.
        IndexError: If ``edge_index`` names a node that does not exist.
        NotImplementedError: By TorchScript; use :func:`torch.compile` or :func:`torch.export.export`.

    Example:
        >>> grid = rstg_pyg.graphs.multiscale_grid((3, 2, 1))
        >>> conv = RSTGConv(16, 32, pos_channels=2)
        >>> conv(torch.randn(4, 10, 14, 16), grid.edge_index, pos=grid.pos).shape
        torch.Size([4, 10, 14, 32])
    """

    edge_updater: Callable[..., Tensor]  # of MessagePassing
    propagate: Callable[..., Tensor]
    aggr_module: Callable[..., Tensor]

    def forward(
        self,
        x: Union[Tensor, PairTensor],
        edge_index: Adj,
        edge_attr: OptTensor = None,
        pos: Union[Tensor, PairTensor, None] = None,
        node_type: Union[Tensor, PairTensor, None] = None,
        edge_weight: OptTensor = None,
        batch: Union[Tensor, PairTensor, None] = None,
        return_attention_weights: bool = False,
    ) -> Union[Tensor, Tuple[Tensor, Tuple[Adj, Tensor]]]:
        r"""Runs the forward pass of the module.

        Args:
            x (torch.Tensor or (torch.Tensor, torch.Tensor)): The node features.
            edge_index (torch.Tensor or SparseTensor): The edge indices.
            edge_attr (torch.Tensor, optional): The edge features, :math:`(|\mathcal{E}|, D)`; of a
                sparse matrix, in the order of its values.
            pos (torch.Tensor or (torch.Tensor, torch.Tensor), optional): The positions of the
                nodes, :math:`(|\mathcal{V}|, P)`; needed if :obj:`pos_channels` is set.
            node_type (torch.Tensor or (torch.Tensor, torch.Tensor), optional): The types of the nodes,
                :math:`(|\mathcal{V}|)`, of which the target nodes' are used; needed if
                :obj:`num_node_types` is larger than 1.
            edge_weight (torch.Tensor, optional): Weights of the edges, :math:`(|\mathcal{E}|)` or
                :math:`(*, |\mathcal{E}|)`, not negative, see :obj:`edge_weight_on`; the values of a
                sparse matrix are taken as weights. With :obj:`"logits"`, the 0/1 adjacency as weights
                on a complete graph gives the published code. (In additive attention it then also is
                added to them.)
            batch (torch.Tensor or (torch.Tensor, torch.Tensor), optional): Assigns every (target) node
                to a graph, for a ``norm`` with statistics per graph. (default: :obj:`None`, one graph)
            return_attention_weights (bool, optional): If set to :obj:`True`, will additionally
                return the tuple :obj:`(edge_index, attention_weights)`.
        """
        pos_src, pos_dst = as_pair("pos", pos)
        node_type, batch = as_pair("node_type", node_type)[1], as_pair("batch", batch)[1]
        x_src, x_dst = check_inputs(
            self, as_pair("x", x), (pos_src, pos_dst), node_type, edge_attr, edge_weight,
            count_edges(edge_index), batch,
        )  # fmt: skip
        if x_dst.dim() > 2 and (is_sparse(edge_index) or batch is not None):
            raise ValueError(
                "Expected 'edge_index' to be a tensor of shape [2, num_edges] and no 'batch' for the "
                "static form [*, num_nodes, channels]"
            )

        # Nodes go first: [N, M, C] with M the product of all leading dimensions. Gathering and
        # summing edges then moves whole rows, and one code path serves flat and static graphs.
        lead = list(x_dst.shape[:-2])
        nodes = _rows_first(x_dst)
        sources = nodes if x_src is x_dst else _rows_first(x_src)
        pos_dst = None if pos_dst is None else _rows_first(pos_dst)
        pos_src = None if pos_src is None else _rows_first(pos_src)
        copies = nodes.size(1)
        size = (sources.size(0), nodes.size(0))
        if self.flow == "target_to_source":
            size = size[::-1]

        edges = plain_edges(edge_index, size)
        weight = None if edge_weight is None else _rows_first(edge_weight.unsqueeze(-1)).squeeze(-1)
        ends = (sources, pos_src), (nodes, pos_dst)
        out, alpha = gather_messages(self, edges, edge_attr, weight, batch, *ends) or self._gather(
            edges, edge_attr, weight, *ends, size, batch, lead
        )
        if self.after_aggr is not None:
            out = _rows_first(self.after_aggr(_rows_last(out, lead), batch))

        out = self.update_mlp(nodes, out, node_type)
        if self.residual:
            out = out + (nodes if self.lin_res is None else self.lin_res(nodes))
        out = _rows_last(out, lead)
        if self.update_norm is not None:
            out = self.update_norm(out, batch)

        if return_attention_weights:
            alpha = _rows_last(alpha.view(alpha.size(0), copies, self.heads), lead)
            if isinstance(edge_index, SparseTensor):
                return out, (edge_index.set_value(alpha, layout="coo"), alpha)
            if is_torch_sparse_tensor(edge_index):
                return out, (set_sparse_value(edge_index, alpha), alpha)
            return out, (edge_index, alpha)
        return out

    def _gather(
        self,
        edges: Adj,
        edge_attr: OptTensor,
        weight: OptTensor,
        source: Tuple[Tensor, OptTensor],
        target: Tuple[Tensor, OptTensor],
        size: Tuple[int, int],
        batch: OptTensor,
        lead: List[int],
    ) -> Tuple[Tensor, Tensor]:
        """Aggregated messages ``[N, M, C]`` and attention, by PyG."""
        nodes, copies = target[0], target[0].size(1)
        key, query = None, nodes.new_zeros(nodes.size(0), copies * self.heads)
        if self.attend is not None:
            key, query = self.attend.key(source[0]).flatten(1), self.attend.query(nodes).flatten(1)
        if edge_attr is not None:
            edge_attr = _rows_first(edge_attr.view(-1, 1) if edge_attr.dim() == 1 else edge_attr)
        # edge_updater_type: (key: OptTensor, query: Tensor, edge_attr: OptTensor, edge_weight: OptTensor, copies: int)  # noqa: E501
        alpha = self.edge_updater(
            edges, key=key, query=query, edge_attr=edge_attr, edge_weight=weight, copies=copies,
            size=size,
        )  # fmt: skip
        src, dst = self.send.source(*source).flatten(1), self.send.target(*target).flatten(1)
        # propagate_type: (src: Tensor, dst: Tensor, alpha: Tensor, edge_attr: OptTensor, batch: OptTensor, lead: List[int], copies: int)  # noqa: E501
        out = self.propagate(
            edges, src=src, dst=dst, alpha=alpha, edge_attr=edge_attr, batch=batch, lead=lead,
            copies=copies, size=size,
        )  # fmt: skip
        width = copies * self.hidden_channels
        if out.size(-1) != width:
            raise ValueError(
                f"Expected 'aggr' to keep the {width} channels (got {out.size(-1)} from "
                f"{self.aggr_module})"
            )
        return out.view(nodes.size(0), copies, self.hidden_channels), alpha

    def edge_update(
        self,
        key_j: OptTensor,
        query_i: Tensor,
        edge_attr: OptTensor,
        edge_weight: OptTensor,
        copies: int,
        index: Tensor,
        dim_size: Optional[int],
    ) -> Tensor:
        """Attention coefficients of all edges, ``[E, copies * heads]``."""
        if edge_weight is not None and edge_weight.dim() == 1:  # the values of a sparse matrix
            edge_weight = edge_weight.unsqueeze(-1)
        if key_j is None or self.attend is None:
            logit = query_i.view(index.numel(), copies, self.heads)  # zeros: the (weighted) mean
        else:
            shape = (index.numel(), copies, self.attend.out_channels)
            weight = self.weight_of_logits(edge_weight)
            key_j = self.attend.edge_key(key_j.view(shape), edge_attr)
            logit = self.attend(query_i.view(shape), key_j, weight)
        alpha = edge_softmax(logit, self.weight_of_attention(edge_weight), index, dim_size)
        return torch.nn.functional.dropout(alpha, p=self.dropout, training=self.training)

    def message(
        self,
        src_j: Tensor,
        dst_i: Tensor,
        alpha: Tensor,
        edge_attr: OptTensor,
        batch: OptTensor,
        index: Tensor,
        lead: List[int],
        copies: int,
    ) -> Tensor:
        """Weighted messages of all edges, ``[E, copies * hidden_channels]``."""
        edges = alpha.size(0)
        first = (src_j + dst_i).view(edges, copies, self.send.width)
        if self.send.lin_edge is not None:
            first = first + self.send.edge(edge_attr)
        out = self.send(first)
        if self.message_norm is not None:
            graph = None if batch is None else batch.index_select(0, index)
            out = _rows_first(self.message_norm(_rows_last(out, lead), graph))
        if self.lin_value is not None:
            out = self.lin_value(out)
        width = self.hidden_channels // self.heads
        alpha = alpha.to(out.dtype).view(edges, copies, self.heads, 1)
        out = out.view(edges, copies, self.heads, width) * alpha
        return out.view(edges, copies * self.hidden_channels)

    def aggregate(
        self,
        inputs: Tensor,
        index: Tensor,
        ptr: OptTensor,
        dim_size: Optional[int],
        copies: int,
    ) -> Tensor:
        """Aggregates messages, ``[N, copies * hidden_channels]``."""
        if copies == 1 or type(self.aggr_module) in _BY_CHANNEL:
            return self.aggr_module(inputs, index, ptr=ptr, dim_size=dim_size, dim=self.node_dim)
        # An aggregation that looks at several channels gets each copy as a graph of its own.
        size = int(index.max()) + 1 if dim_size is None else dim_size
        first = torch.arange(copies, device=index.device).view(-1, 1) * size
        rows = inputs.view(index.numel(), copies, -1).transpose(0, 1).flatten(0, 1)
        out = self.aggr_module(rows, (index + first).view(-1), dim_size=copies * size, dim=-2)
        return out.view(copies, size, -1).transpose(0, 1).flatten(1)

    def __prepare_scriptable__(self):
        """Called by :func:`torch.jit.script` first."""
        raise NotImplementedError(
            f"'{self.__class__.__name__}' does not support TorchScript; use 'torch.compile' or "
            f"'torch.export' instead"
        )


def _rows_first(x: Tensor) -> Tensor:
    """``[*, K, C]`` to ``[K, M, C]``, with M the product of the leading dimensions."""
    if x.dim() == 2:
        return x.unsqueeze(1)
    return x.flatten(0, -3).transpose(0, 1).contiguous()


def _rows_last(x: Tensor, lead: List[int]) -> Tensor:
    """``[K, M, C]`` back to ``[*, K, C]``."""
    if len(lead) == 0:
        return x.squeeze(1)
    return x.transpose(0, 1).reshape(lead + [x.size(0), x.size(2)])
