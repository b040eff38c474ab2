"""Graphs, layers and inputs that the tests of layers share, and the formula, edge by edge."""

import contextlib
import inspect
from unittest import mock

import torch
from helpers.random_weights import randomize
from hypothesis import strategies as st
from torch.nn import functional as F
from torch_geometric.nn import GraphNorm, LayerNorm
from torch_geometric.utils import to_torch_coo_tensor, to_torch_csc_tensor, to_torch_csr_tensor

from rstg_pyg import JointLayerNorm, RSTGConv
from rstg_pyg.fast import linear, messages, space
from rstg_pyg.fast.autograd import plain_paths

# Six nodes in no order; nobody sends to node 2, node 3 hears from two others, node 0 from three.
EDGES = torch.tensor([[5, 1, 2, 0, 4, 3, 2, 0, 5, 1], [3, 0, 0, 1, 0, 1, 3, 5, 4, 4]])
TYPES = torch.tensor([1, 0, 2, 0, 1, 2])
NUM_NODES, NUM_EDGES = 6, EDGES.size(1)

OPTIONS = {
    "plain": {},
    "pos": {"pos_channels": 2},
    "types": {"num_node_types": 3},
    "all": dict(
        hidden_channels=12, pos_channels=2, num_node_types=3, edge_dim=3, residual=True,
        act_last=False, attention_scale=0.5,
    ),
}  # fmt: skip


#: What a random layer is drawn from.
SETTINGS = dict(
    attention=st.sampled_from(["dot", "additive", None]),
    heads=st.sampled_from([1, 2, 4]),
    hidden_channels=st.sampled_from([None, 12]),
    num_send_layers=st.sampled_from([1, 2, 2, 3]),
    num_update_layers=st.integers(1, 3),
    pos_channels=st.sampled_from([0, 2]),
    num_node_types=st.sampled_from([1, 3]),
    edge_dim=st.sampled_from([None, None, 1, 3]),
    residual=st.booleans(),
    act_last=st.sampled_from([None, True, False]),
    bias=st.booleans(),
    attention_scale=st.sampled_from([None, 0.5]),
    edge_weight_on=st.sampled_from(["attention", "attention", "logits"]),
    norm=st.sampled_from([None, None, JointLayerNorm, LayerNorm, torch.nn.LayerNorm]),
    after_aggr=st.sampled_from([None, None, GraphNorm]),
    act=st.sampled_from(["relu", "relu", "gelu"]),
    form=st.sampled_from(["skip", "paper"]),
)
PATHS = ("plain", "fast", "fast in small blocks")


@contextlib.contextmanager
def on_path(name):
    """Runs what is inside on the plain formulas, on the fast path (which small inputs do not take by
    themselves), or on it with limits so low that small inputs too go through several blocks, every
    product is oneDNN's and no pairs are multiplied.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(space, "LEAST_WORK", 0))
        if name == "plain":
            stack.enter_context(plain_paths())
        if name == "fast in small blocks":
            for module, limit, value in (
                (messages, "BLOCK_ROWS", 3), (messages, "BLOCK_SIZE", 1),
                (messages, "PAIRS_PER_EDGE", 0), (linear, "LEAST_WORK", 0),
                (linear, "mkl_at_home", lambda: False),
            ):  # fmt: skip
                stack.enter_context(mock.patch.object(module, limit, value))
        yield name


def make_conv(in_channels=4, out_channels=8, seed=0, dtype=torch.double, **kwargs):
    """A layer whose every parameter matters (biases are zero after construction)."""
    return randomize(RSTGConv(in_channels, out_channels, **kwargs).to(dtype), seed, 0.5).eval()


def make_inputs(conv, *lead, dtype=torch.double, weight=False, nodes=NUM_NODES, edges=NUM_EDGES):
    generator = torch.Generator().manual_seed(1)

    def randn(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    x = randn(*lead, nodes, conv.in_channels)
    kwargs = {}
    if conv.pos_channels > 0:
        kwargs["pos"] = randn(nodes, conv.pos_channels)
    if conv.num_node_types > 1:
        kwargs["node_type"] = torch.arange(nodes) % conv.num_node_types
    if conv.edge_dim is not None:
        kwargs["edge_attr"] = randn(edges, conv.edge_dim)
    if weight:
        kwargs["edge_weight"] = randn(edges).abs()
    return x, kwargs


def mlp(lins, x, act_last=True, act=torch.relu):
    for i, lin in enumerate(lins):
        x = F.linear(x, lin.weight, lin.bias)
        x = act(x) if act_last or i + 1 < len(lins) else x
    return x


def normed(norm, x):
    """A norm of the rows of one graph."""
    if norm is None or x.size(0) == 0:
        return x
    if "batch" in inspect.signature(norm.module.forward).parameters:
        return norm.module(x, torch.zeros(x.size(0), dtype=torch.long))
    return norm.module(x)


def reference(conv, x_src, x_dst, edge_index, edge_attr=None, pos=(None, None), node_type=None,
              edge_weight=None):  # fmt: skip
    """The layer's formula, edge by edge and node by node."""
    send, heads, dim = conv.send, conv.heads, conv.hidden_channels
    # The published form: one kernel on [v_j | p_j | v_i | p_i | e_ji].
    blocks = [send.lin_src, send.lin_pos_src, send.lin_dst, send.lin_pos_dst, send.lin_edge]
    kernel = torch.cat([block.weight for block in blocks if block is not None], dim=1)

    messages, logits = [], []
    for k, (j, i) in enumerate(edge_index.t().tolist()):
        parts = [x_src[j], x_dst[i]]
        if pos[0] is not None:
            parts = [x_src[j], pos[0][j], x_dst[i], pos[1][i]]
        if edge_attr is not None:
            parts.append(edge_attr[k])
        first = F.linear(torch.cat(parts), kernel, send.lin_dst.bias)
        if conv.form == "paper":
            message = mlp(send.lins, send.act(first), act=send.act)
        elif len(send.lins) == 0:
            message = first
        else:
            message = send.skip_src(x_src[j]) + 0.1 * mlp(send.lins, send.act(first), False, send.act)
            message = message if pos[0] is None else message + send.skip_pos(pos[0][j])
            message = message if edge_attr is None else message + send.skip_edge(edge_attr[k])
        messages.append(message)

        if conv.attention is None:
            logits.append(message.new_zeros(heads))
            continue
        query, key = conv.attend.lin_query, conv.attend.lin_key
        query = F.linear(x_dst[i], query.weight, query.bias)
        key = F.linear(x_src[j], key.weight, key.bias)
        if edge_attr is not None and conv.form == "skip":
            key = key + F.linear(edge_attr[k], conv.attend.lin_edge.weight)
        w = 1.0 if edge_weight is None or conv.edge_weight_on == "attention" else edge_weight[k]
        if conv.attention == "dot":
            dots = [a @ b for a, b in zip(query.chunk(heads), key.chunk(heads))]
            logits.append(w * conv.attention_scale * torch.stack(dots))
        else:
            logits.append(F.leaky_relu(w * (query + key), 0.2) + w)

    messages = torch.stack(messages) if messages else x_dst.new_zeros(0, dim)
    messages = normed(conv.message_norm, messages)
    if conv.lin_value is not None:
        messages = F.linear(messages, conv.lin_value.weight, conv.lin_value.bias)
    gathered, alphas = [], [None] * edge_index.size(1)
    for i in range(x_dst.size(0)):
        incoming = [k for k in range(edge_index.size(1)) if edge_index[1, k] == i]
        total = x_dst.new_zeros(heads, dim // heads)
        if incoming:
            alpha = torch.stack([logits[k] for k in incoming]).softmax(dim=0)  # [edges, heads]
            if edge_weight is not None and conv.edge_weight_on == "attention":
                alpha = alpha * torch.stack([edge_weight[k] for k in incoming]).unsqueeze(1)
                alpha = alpha / alpha.sum(0) if alpha.sum() > 0 else alpha
            for a, k in zip(alpha, incoming):
                total = total + a.unsqueeze(1) * messages[k].view(heads, -1)
                alphas[k] = a
        gathered.append(total.view(-1))
    gathered, out = normed(conv.after_aggr, torch.stack(gathered)), []
    for i in range(x_dst.size(0)):
        kind = 0 if node_type is None else int(node_type[i])
        lins = [lin.lins[kind] for lin in conv.update_mlp.lins]
        update, pair = conv.update_mlp, torch.cat([x_dst[i], gathered[i]])
        if conv.form == "paper" or len(lins) == 1:
            new = mlp(lins, pair, conv.act_last, update.act)
        else:
            new = 0.1 * mlp(lins, pair, False, update.act) + update.skip_node.lins[kind](x_dst[i])
            new = new + update.skip_message.lins[kind](gathered[i])
            new = update.act(new) if conv.act_last else new
        if conv.residual:
            new = new + (x_dst[i] if conv.lin_res is None else conv.lin_res.weight @ x_dst[i])
        out.append(new)
    alphas = torch.stack(alphas) if alphas else x_dst.new_zeros(0, heads)
    return normed(conv.update_norm, torch.stack(out)), alphas


def sparse_adjacencies(edge_index, size, values=None):
    """The transposed adjacency [targets, sources] in all three layouts."""
    return {
        "csc.t()": to_torch_csc_tensor(edge_index, values, size=size).t(),
        "csr": to_torch_csr_tensor(edge_index.flip(0), values, size=size[::-1]),
        "coo": to_torch_coo_tensor(edge_index.flip(0), values, size=size[::-1]),
    }
