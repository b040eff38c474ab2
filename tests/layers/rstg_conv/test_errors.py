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
        ({"in_channels": (4, 4, 4)}, "'in_channels' to be one number, or source's and target's"),
        ({"out_channels": 0, "hidden_channels": 4}, "'out_channels' to be at least 1"),
    ],
)  # fmt: skip
def test_rstg_conv_constructor_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RSTGConv(**{"in_channels": 4, "out_channels": 8, **kwargs})


@pytest.mark.parametrize("layer", [RSTGConv, DenseRSTGConv, RSTG, HomogeneousRSTG])
def test_arguments_of_all_layers(layer):
    for channels in (None, "8", 8.0, -2):
        with pytest.raises(ValueError, match="'in_channels' to be (a whole number|at least)"):
            layer(channels, 8)
    with pytest.raises(ValueError, match="Expected 'form' to be 'skip' or 'paper'"):
        layer(4, 8, form="published")


def test_rstg_conv_arguments():
    """The width of hidden layers has a name; ``concat`` and others of PyG's layers are not there."""
    for layer in (RSTGConv, DenseRSTGConv):
        with pytest.raises(TypeError, match="positional arguments"):
            layer(4, 8, 16)
    conv = RSTGConv(4, 8, decomposed_layers=1)
    assert not hasattr(conv, "bias") and conv.decomposed_layers == 1
    for name in ("concat", "add_self_loops", "size"):
        for call in (
            lambda **kw: RSTGConv(4, 8, **kw),
            lambda **kw: conv(torch.ones(6, 4), EDGES, **kw),
        ):
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
                call(**{name: False})


def of(ends):
    return dict(edge_index=torch.tensor(ends))


POS, ATTR, TYPED = {"pos_channels": 2}, {"edge_dim": 3}, {"num_node_types": 3}
COO = torch.sparse_coo_tensor(EDGES, torch.ones(10), (6, 6))
ADJ_T = to_torch_csc_tensor(EDGES, size=(6, 6)).t()
ROW, WEIGHT = r"no 'batch' for the static", "'edge_weight'"
#: Options, `x` and the other inputs (or their shapes), and what is said.
CALLS = [
    ({}, (6, 5), {}, r"source features 'x' to have 4 channels \(got 5\)"),
    ({}, (2, 6, 3), {}, r"source features 'x' to have 4 channels \(got 3\)"),
    ({}, (4,), {}, r"'x' to have shape \[\*, num_nodes, channels\]"),
    ({}, (6, 4), {"pos": (6, 2)}, r"no 'pos' \(got \(6, 2\)\): 'pos_channels' of the layer is 0"),
    (POS, (6, 4), {}, r"'pos' to have shape \(6, 2\) \(got None\)"),
    (POS, (6, 4), {"pos": (6, 3)}, r"shape \(6, 2\) \(got \(6, 3\)\)"),
    (POS, (6, 4), {"pos": (5, 2)}, r"shape \(6, 2\) \(got \(5, 2\)\)"),
    (POS, (6, 4), {"pos": (1, 2)}, r"shape \(6, 2\) \(got \(1, 2\)\)"),
    ({}, (6, 4), {"edge_attr": (10, 3)}, r"'edge_attr' exactly if 'edge_dim' is set"),
    ({}, (6, 4), {"edge_attr": (10,)}, "that weigh the attention are 'edge_weight'"),
    (ATTR, (6, 4), {}, r"'edge_dim' is set \(got none, 'edge_dim' is 3\)"),
    *((ATTR, (6, 4), {"edge_attr": s}, "'edge_attr'") for s in [(10, 2), (9, 3), (1, 3), (10, 3, 1)]),
    *(({}, (6, 4), {"edge_weight": s}, WEIGHT) for s in [(9,), (1,), (10, 1)]),
    ({"attention": None, "edge_weight_on": "logits"}, (6, 4), {"edge_weight": (10,)}, f"no {WEIGHT}"),
    ({}, (6, 4), {"edge_weight": (10,)}, "'edge_weight' not to be negative"),
    ({}, (6, 4), {"batch": (5,)}, r"'batch' to give .* 6 nodes \(got \[5\], torch.float32"),
    (TYPED, (6, 4), {}, r"'node_type' to give one of 3 types .*\(got none\)"),
    (TYPED, (6, 4), {"node_type": TYPES[:5]}, r"for each of the 6 nodes \(got \[5\], "),
    (TYPED, (6, 4), {"node_type": TYPES.float()}, r"one of 3 types \(an integer\) .*torch.float32"),
    ({}, (2, 6, 4), {"batch": torch.zeros(6).long()}, f"a tensor of shape .* and {ROW}"),
    ({}, (2, 6, 4), {"edge_index": ADJ_T}, f"a tensor of shape .* and {ROW}"),
    ({"flow": "target_to_source"}, (6, 4), {"edge_index": ADJ_T}, '"target_to_source" is invalid'),
    ({}, torch.ones(6, 4).numpy(), {}, r"'x' to be a tensor or a pair .* \(got 'ndarray'\)"),
    ({}, [torch.ones(6, 4)] * 3, {}, r"'x' to be a tensor or a pair of them \(got 3 items\)"),
    ({}, None, {}, "needs the features of source and target nodes"),
    ({}, (6, 4), {"edge_index": EDGES.tolist()}, r"'edge_index' to be a tensor .* \(got 'list'\)"),
    ({}, (6, 4), {"edge_index": None}, r"'edge_index' to be a tensor .* \(got 'NoneType'\)"),
    ({}, (6, 4), {"pos": EDGES.numpy()}, r"'pos' to be .* \(got 'ndarray'\)"),
    *(({}, (6, 4), {"edge_index": EdgeIndex(EDGES, sparse_size=size)}, "size 6 .* but expected size 7.")
      for size in [(6, 7), (7, 7)]),
    *(({}, (6, 4), {"edge_index": adj_t}, "size 6 in dimension -2, but expected size 7.")
      for adj_t in sparse_adjacencies(EDGES, (7, 7)).values()),
    *((ATTR, (6, 4), {"edge_index": adj_t, "edge_attr": (9, 3)}, r"shape \[10, 3\] \(got \[9, 3\]\)")
      for adj_t in sparse_adjacencies(EDGES, (6, 6)).values()),
    *(({}, (6, 4), {"edge_index": adj_t, "edge_weight": (9,)}, r"weight' .* shape \[10\] \(got \[9\]\)")
      for adj_t in sparse_adjacencies(EDGES, (6, 6)).values()),
    *((options, (6, 4), {"edge_index": to_torch_csr_tensor(EDGES, torch.ones(10, 3), size=(6, 6))},
       "one weight per entry .* pass features as 'edge_attr'") for options in ({}, ATTR)),
    ({}, (6, 4), {"edge_index": ADJ_T.t()}, "invalid layout 'torch.sparse_csc'"),
    ({}, (6, 4), {"edge_index": COO}, "call .coalesce"),
    ({"aggr": ["sum", "max"]}, (6, 4), {}, r"'aggr' to keep the 32 channels \(got 64 from"),
]  # fmt: skip


@pytest.mark.parametrize("options, x, inputs, message", CALLS)
def test_rstg_conv_input_errors(options, x, inputs, message):
    inputs = {k: torch.randn(v) if isinstance(v, tuple) else v for k, v in inputs.items()}
    x = torch.randn(x) if isinstance(x, tuple) else x
    with pytest.raises((ValueError, RuntimeError), match=message):
        RSTGConv(4, 8, **options)(x, inputs.pop("edge_index", EDGES), **inputs)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    "edges, message",
    [
        ([[0, 6], [1, 2]], r"larger than 5 \(got 6\)"),
        ([[0, 1], [1, 7]], r"larger than 5 \(got 7\)"),
        ([[0, -1], [1, 2]], r"negative indices in 'edge_index' \(got -1\)"),
        ([[0, 1], [1, -2]], r"negative indices in 'edge_index' \(got -2\)"),
        (EDGES.float().tolist(), r"of integer type \(got 'torch.float32'\)"),
        ((EDGES > 2).tolist(), r"of integer type \(got 'torch.bool'\)"),
        (EDGES[0].tolist(), r"to be two-dimensional \(got 1 dimensions\)"),
        (3, r"to be two-dimensional \(got 0 dimensions\)"),
        (EDGES.t().tolist(), r"size '2' in the first dimension \(got '10'\)"),
    ],
)
def test_rstg_conv_edge_index_errors(edges, message):
    error = IndexError if "indices" in message or "larger" in message else ValueError
    for attention, lead in (("dot", ()), ("additive", (2,)), (None, ())):
        with pytest.raises(error, match=message):
            RSTGConv(4, 8, attention=attention)(torch.randn(*lead, 6, 4), torch.tensor(edges))


def test_rstg_conv_node_type_out_of_range():
    """Not a smaller output with the nodes of unknown type left out."""
    for kind in (2, -1):
        with pytest.raises((ValueError, IndexError)):
            types = torch.tensor([0, 1, 0, 1, 0, kind])
            RSTGConv(4, 8, num_node_types=2)(torch.randn(6, 4), EDGES, node_type=types)


def test_rstg_conv_bipartite_errors():
    conv, src, dst = RSTGConv((4, 6), 8), torch.randn(6, 4), torch.randn(6, 6)
    for pair, message in [
        ((src, None), "needs the features of source and target nodes"),
        ((None, dst), "needs the features of source and target nodes"),
        ((src, dst[:, :5]), r"target features 'x' to have 6 channels \(got 5\)"),
        ((src.expand(2, 6, 4), dst), r"equal in all leading dimensions \(got \[2, 6, 4\]"),
        ((src.expand(2, 6, 4), dst.expand(3, 6, 6)), "equal in all leading dimensions"),
        ((src, dst[0]), "'x' to have shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            conv(pair, EDGES)
    conv = RSTGConv((4, 6), 8, pos_channels=2)
    with pytest.raises(ValueError, match=r"'pos' to have shape \(3, 2\) \(got \(6, 2\)\)"):
        conv((src, dst[:3]), EDGES[:, :0], pos=torch.randn(6, 2))
    RSTGConv(4, 8)(src, EdgeIndex(EDGES, sparse_size=(6, None)))
