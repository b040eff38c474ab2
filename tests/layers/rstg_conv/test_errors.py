"""What does not fit is refused in one sentence, in the words that PyG's users know."""

import pytest
import torch
from helpers.conv_cases import EDGES, TYPES, sparse_adjacencies
from torch_geometric import EdgeIndex
from torch_geometric.utils import to_torch_csc_tensor, to_torch_csr_tensor

from rstg_pyg import RSTG, DenseRSTGConv, HomogeneousRSTG, RSTGConv


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"decomposed_layers": 2}, "'RSTGConv' does not support 'decomposed_layers'"),
        ({"hidden_channels": 8, "heads": 3},
         r"'hidden_channels' \(got 8\) must be divisible by the number of heads \(got 3\)"),
        ({"attention": "cosine"}, "'attention' to be 'dot', 'additive' or None"),
        ({"num_send_layers": 0}, r"'num_send_layers' to be at least 1 \(got 0\)"),
        ({"num_update_layers": 0}, "'num_update_layers' to be at least 1"),
        ({"heads": 0}, "'heads' to be at least 1"),
        ({"hidden_channels": 0}, "'hidden_channels' to be at least 1"),
        ({"pos_channels": -1}, "'pos_channels' to be at least 0"),
        ({"num_node_types": 0}, "'num_node_types' to be at least 1"),
        ({"flow": "sideways"}, "Expected 'flow' to be either"),
        ({"node_dim": 1}, "'RSTGConv' does not support 'node_dim'=1"),
        ({"heads": 2.0}, r"'heads' to be a whole number \(got 2.0\)"),
        ({"edge_dim": -2}, r"'edge_dim' to be at least -1 \(got -2\)"),
        ({"norm": "spectral"}, r"the name of a norm to be one of .* 'GraphNorm'.* \(got 'spectral'\)"),
        ({"norm": 3}, r"a norm .* such as 'torch.nn.LayerNorm', or by its name .* \(got 3\)"),
        ({"edge_weight_on": "edges"}, r"to be 'attention' or 'logits' \(got 'edges'\)"),
        ({"dropout": -0.1}, "'dropout' to be between 0 and 1"),
        ({"norm": torch.nn.LayerNorm(8)}, r"a norm to be given by what makes it .* \(got LayerNorm"),
    ],
)  # fmt: skip
def test_rstg_conv_constructor_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RSTGConv(4, 8, **kwargs)


@pytest.mark.parametrize("layer", [RSTGConv, DenseRSTGConv, RSTG, HomogeneousRSTG])
@pytest.mark.parametrize("channels", [None, "8", 8.0, -2])
def test_rstg_conv_in_channels_errors(layer, channels):
    with pytest.raises(ValueError, match="'in_channels' to be (a whole number|at least)"):
        layer(channels, 8)
    with pytest.raises(ValueError, match="'in_channels' to be one number, or source's and target's"):
        RSTGConv((4, 4, 4), 8)


def test_rstg_conv_hidden_width_has_a_name():
    for layer in (RSTGConv, DenseRSTGConv):
        with pytest.raises(TypeError, match="positional arguments"):
            layer(4, 8, 16)
    assert not hasattr(RSTGConv(4, 8), "bias")  # neither a parameter nor something else


def test_rstg_conv_out_channels_error():
    with pytest.raises(ValueError, match="'out_channels' to be at least 1"):
        RSTGConv(4, 0, hidden_channels=4)
    assert RSTGConv(4, 8, decomposed_layers=1).decomposed_layers == 1


@pytest.mark.parametrize(
    "options, x, inputs, message",
    [
        ({}, (6, 5), {}, r"source features 'x' to have 4 channels \(got 5\)"),
        ({}, (2, 6, 3), {}, r"source features 'x' to have 4 channels \(got 3\)"),
        ({}, (4,), {}, r"'x' to have shape \[\*, num_nodes, channels\]"),
        ({}, (6, 4), {"pos": (6, 2)}, r"no 'pos' \(got \(6, 2\)\): 'pos_channels' of the layer is 0"),
        ({"pos_channels": 2}, (6, 4), {}, r"'pos' to have shape \(6, 2\) \(got None\)"),
        ({"pos_channels": 2}, (6, 4), {"pos": (6, 3)}, r"shape \(6, 2\) \(got \(6, 3\)\)"),
        ({"pos_channels": 2}, (6, 4), {"pos": (5, 2)}, r"shape \(6, 2\) \(got \(5, 2\)\)"),
        ({"pos_channels": 2}, (6, 4), {"pos": (1, 2)}, r"shape \(6, 2\) \(got \(1, 2\)\)"),
        ({}, (6, 4), {"edge_attr": (10, 3)}, r"'edge_attr' exactly if 'edge_dim' is set"),
        ({}, (6, 4), {"edge_attr": (10,)}, "that weigh the attention are 'edge_weight'"),
        ({"edge_dim": 3}, (6, 4), {}, r"'edge_dim' is set \(got none, 'edge_dim' is 3\)"),
        ({"num_node_types": 3}, (6, 4), {}, r"'node_type' to give one of 3 types .*\(got none\)"),
        (
            {"attention": None, "edge_weight_on": "logits"}, (6, 4), {"edge_weight": (10,)},
            "Expected no 'edge_weight'",
        ),
        ({}, (6, 4), {"edge_weight": (10,)}, "'edge_weight' not to be negative"),
        ({}, (6, 4), {"batch": (5,)}, r"'batch' to give .* 6 nodes \(got \[5\], torch.float32"),
    ],
)  # fmt: skip
def test_rstg_conv_input_errors(options, x, inputs, message):
    conv = RSTGConv(4, 8, **options)
    inputs = {key: torch.randn(shape) for key, shape in inputs.items()}
    with pytest.raises(ValueError, match=message):
        conv(torch.randn(x), EDGES, **inputs)


def test_rstg_conv_node_type_errors():
    conv = RSTGConv(4, 8, num_node_types=3)
    with pytest.raises(ValueError, match=r"for each of the 6 nodes \(got \[5\], "):
        conv(torch.randn(6, 4), EDGES, node_type=TYPES[:5])
    with pytest.raises(ValueError, match=r"one of 3 types \(an integer\) .*torch.float32"):
        conv(torch.randn(6, 4), EDGES, node_type=TYPES.float())


def test_rstg_conv_node_type_out_of_range():
    # Not a smaller output with the nodes of unknown type left out.
    conv = RSTGConv(4, 8, num_node_types=2)
    for kind in (2, -1):
        with pytest.raises((ValueError, IndexError)):
            conv(torch.randn(6, 4), EDGES, node_type=torch.tensor([0, 1, 0, 1, 0, kind]))


@pytest.mark.parametrize("shape", [(10, 2), (9, 3), (1, 3), (10, 3, 1)])
def test_rstg_conv_edge_attr_shape_errors(shape):
    conv = RSTGConv(4, 8, edge_dim=3)
    with pytest.raises(ValueError, match="'edge_attr'"):
        conv(torch.randn(6, 4), EDGES, torch.randn(shape))


@pytest.mark.parametrize("shape", [(9,), (1,), (10, 1)])
def test_rstg_conv_edge_weight_shape_errors(shape):
    conv = RSTGConv(4, 8)
    with pytest.raises(ValueError, match="'edge_weight'"):
        conv(torch.randn(6, 4), EDGES, edge_weight=torch.randn(shape))


def test_rstg_conv_bipartite_errors():
    conv = RSTGConv((4, 6), 8)
    src, dst = torch.randn(6, 4), torch.randn(6, 6)
    for pair in [(src, None), (None, dst)]:
        with pytest.raises(ValueError, match="needs the features of source and target nodes"):
            conv(pair, EDGES)
    with pytest.raises(ValueError, match=r"target features 'x' to have 6 channels \(got 5\)"):
        conv((src, dst[:, :5]), EDGES)
    with pytest.raises(ValueError, match=r"equal in all leading dimensions \(got \[2, 6, 4\]"):
        conv((src.expand(2, 6, 4), dst), EDGES)
    with pytest.raises(ValueError, match="equal in all leading dimensions"):
        conv((src.expand(2, 6, 4), dst.expand(3, 6, 6)), EDGES)
    with pytest.raises(ValueError, match="'x' to have shape"):
        conv((src, dst[0]), EDGES)
    conv = RSTGConv((4, 6), 8, pos_channels=2)
    with pytest.raises(ValueError, match=r"'pos' to have shape \(3, 2\) \(got \(6, 2\)\)"):
        conv((src, dst[:3]), EDGES[:, :0], pos=torch.randn(6, 2))


def test_rstg_conv_sparse_static_error():
    conv = RSTGConv(4, 8)
    adj_t = to_torch_csc_tensor(EDGES, size=(6, 6)).t()
    with pytest.raises(ValueError, match="a tensor of shape .* and no 'batch' for the static"):
        conv(torch.randn(2, 6, 4), adj_t)
    with pytest.raises(ValueError, match="a tensor of shape .* and no 'batch' for the static"):
        conv(torch.randn(2, 6, 4), EDGES, batch=torch.zeros(6, dtype=torch.long))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("lead", [(), (2,)])
def test_rstg_conv_edge_index_errors(lead):
    conv = RSTGConv(4, 8)
    x = torch.randn(*lead, 6, 4)
    with pytest.raises(ValueError, match=r"of integer type \(got 'torch.float32'\)"):
        conv(x, EDGES.float())
    with pytest.raises(ValueError, match=r"to be two-dimensional \(got 1 dimensions\)"):
        conv(x, EDGES.view(-1))
    with pytest.raises(ValueError, match=r"size '2' in the first dimension \(got '10'\)"):
        conv(x, EDGES.t())
    with pytest.raises(IndexError, match=r"larger than 5 \(got 6\)"):
        conv(x, torch.tensor([[0, 6], [1, 2]]))
    with pytest.raises(IndexError, match=r"larger than 5 \(got 7\)"):
        conv(x, torch.tensor([[0, 1], [1, 7]]))
    with pytest.raises(IndexError, match=r"negative indices in 'edge_index' \(got -1\)"):
        conv(x, torch.tensor([[0, -1], [1, 2]]))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    "edges, message",
    [
        ([[0, 6], [1, 2]], r"larger than 5 \(got 6\)"),
        ([[0, 1], [1, 7]], r"larger than 5 \(got 7\)"),
        ([[0, -1], [1, 2]], r"negative indices in 'edge_index' \(got -1\)"),
        ([[0, 1], [1, -2]], r"negative indices in 'edge_index' \(got -2\)"),
    ],
)
@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_rstg_conv_missing_nodes(attention, edges, message):
    conv = RSTGConv(4, 8, attention=attention)
    with pytest.raises(IndexError, match=message):
        conv(torch.randn(6, 4), torch.tensor(edges))


def test_rstg_conv_sparse_with_reverse_flow_error():
    conv = RSTGConv(4, 8, flow="target_to_source")
    with pytest.raises(ValueError, match='Flow direction "target_to_source" is invalid'):
        conv(torch.randn(6, 4), to_torch_csc_tensor(EDGES, size=(6, 6)).t())


@pytest.mark.parametrize("name", ["concat", "add_self_loops", "size"])
def test_rstg_conv_arguments_that_it_does_not_have(name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        RSTGConv(4, 8, **{name: False})
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        RSTGConv(4, 8)(torch.randn(6, 4), EDGES, **{name: False})


@pytest.mark.parametrize(
    "x, edge_index, inputs, message",
    [
        (torch.randn(6, 4).numpy(), EDGES, {}, r"'x' to be a tensor or a pair .* \(got 'ndarray'\)"),
        ([torch.randn(6, 4)] * 3, EDGES, {}, r"'x' to be a tensor or a pair of them \(got 3 items\)"),
        (None, EDGES, {}, "needs the features of source and target nodes"),
        (torch.randn(6, 4), EDGES.tolist(), {}, r"'edge_index' to be a tensor .* \(got 'list'\)"),
        (torch.randn(6, 4), None, {}, r"'edge_index' to be a tensor .* \(got 'NoneType'\)"),
        (torch.randn(6, 4), EDGES, {"pos": EDGES.numpy()}, r"'pos' to be .* \(got 'ndarray'\)"),
        (torch.randn(6, 4), EDGES > 2, {}, r"of integer type \(got 'torch.bool'\)"),
        (torch.randn(6, 4), torch.tensor(3), {}, r"to be two-dimensional \(got 0 dimensions\)"),
    ],
)  # fmt: skip
def test_rstg_conv_input_type_errors(x, edge_index, inputs, message):
    with pytest.raises(ValueError, match=message):
        RSTGConv(4, 8)(x, edge_index, **inputs)


def test_rstg_conv_adjacency_size_errors():
    conv, x = RSTGConv(4, 8), torch.randn(6, 4)
    message = "Encountered tensor with size 6 in dimension -2, but expected size 7."
    for adj_t in sparse_adjacencies(EDGES, (7, 7)).values():
        with pytest.raises(ValueError, match=message):
            conv(x, adj_t)
    with pytest.raises(ValueError, match=message):
        conv(x, EdgeIndex(EDGES, sparse_size=(6, 7)))
    conv(x, EdgeIndex(EDGES, sparse_size=(6, None)))


def test_rstg_conv_sparse_value_errors():
    x = torch.randn(6, 4)
    features = to_torch_csr_tensor(EDGES, torch.randn(10, 3), size=(6, 6))
    for options in ({}, {"edge_dim": 3}):
        with pytest.raises(ValueError, match="one weight per entry .* pass features as 'edge_attr'"):
            RSTGConv(4, 8, **options)(x, features)
    for adj_t in sparse_adjacencies(EDGES, (6, 6)).values():
        with pytest.raises(ValueError, match=r"'edge_attr' to have shape \[10, 3\] \(got \[9, 3\]\)"):
            RSTGConv(4, 8, edge_dim=3)(x, adj_t, torch.randn(9, 3))
        with pytest.raises(ValueError, match=r"'edge_weight' to have shape \[10\] \(got \[9\]\)"):
            RSTGConv(4, 8)(x, adj_t, edge_weight=torch.randn(9))


def test_rstg_conv_sparse_layout_errors():
    conv, x = RSTGConv(4, 8), torch.randn(6, 4)
    with pytest.raises(ValueError, match="invalid layout 'torch.sparse_csc'"):
        conv(x, to_torch_csc_tensor(EDGES, size=(6, 6)))
    with pytest.raises(RuntimeError, match="call .coalesce"):
        conv(x, torch.sparse_coo_tensor(EDGES, torch.ones(10), (6, 6)))


def test_rstg_conv_aggregation_error():
    conv = RSTGConv(4, 8, aggr=["sum", "max"])
    with pytest.raises(ValueError, match=r"'aggr' to keep the 32 channels \(got 64 from"):
        conv(torch.randn(6, 4), EDGES)
