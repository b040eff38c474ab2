"""The layer inside containers of PyG: `Sequential`, `HeteroConv`, `DeepGCNLayer`, `to_hetero`, ..."""

import pytest
import torch
from helpers.conv_cases import EDGES, NUM_EDGES, NUM_NODES, TYPES, make_conv
from torch_geometric.nn import DeepGCNLayer, HeteroConv, Linear, Sequential, summary, to_hetero
from torch_geometric.testing import withPackage

from rstg_pyg import RSTGConv

RELATIONS = [("p", "a", "r"), ("r", "b", "p"), ("p", "c", "p")]
EDGES_OF = {
    RELATIONS[0]: torch.tensor([[0, 1, 3], [0, 2, 2]]),
    RELATIONS[1]: torch.tensor([[2, 1], [0, 3]]),
    RELATIONS[2]: torch.tensor([[0, 3, 2], [1, 2, 3]]),
}


def test_rstg_conv_in_sequential():
    conv = make_conv(4, 8, pos_channels=2, num_node_types=3, edge_dim=2, dtype=torch.float)
    names = "x, edge_index, edge_attr, pos, node_type, edge_weight"
    model = Sequential(names, [(conv, f"{names} -> x"), torch.nn.ReLU()])
    x, pos = torch.randn(NUM_NODES, 4), torch.randn(NUM_NODES, 2)
    edge_attr, weight = torch.randn(NUM_EDGES, 2), torch.rand(NUM_EDGES)
    expected = conv(x, EDGES, edge_attr, pos=pos, node_type=TYPES, edge_weight=weight).relu()
    torch.testing.assert_close(model(x, EDGES, edge_attr, pos, TYPES, weight), expected)


def hetero_inputs():
    generator = torch.Generator().manual_seed(0)
    x = {"p": torch.randn(4, 5, generator=generator), "r": torch.randn(3, 7, generator=generator)}
    pos = {"p": torch.randn(4, 2, generator=generator), "r": torch.randn(3, 2, generator=generator)}
    node_type = {"p": torch.tensor([0, 1, 0, 1]), "r": torch.tensor([1, 1, 0])}
    attr = {kind: torch.randn(e.size(1), 3, generator=generator) for kind, e in EDGES_OF.items()}

    def alone(conv, kind):
        source, _, target = kind
        return conv(
            (x[source], x[target]), EDGES_OF[kind], attr[kind],
            pos=(pos[source], pos[target]), node_type=node_type[target],
        )  # fmt: skip

    return x, pos, node_type, attr, alone


@pytest.mark.parametrize("lazy", [False, True])
def test_rstg_conv_in_hetero_conv(lazy):
    x, pos, node_type, attr, alone = hetero_inputs()
    convs = {}
    for kind in RELATIONS:
        sizes = -1 if lazy else (x[kind[0]].size(1), x[kind[2]].size(1))
        convs[kind] = RSTGConv(sizes, 8, pos_channels=2, num_node_types=2, edge_dim=3)
    model = HeteroConv(convs, aggr="sum")
    out = model(x, EDGES_OF, edge_attr_dict=attr, pos_dict=pos, node_type_dict=node_type)
    of = {kind: alone(convs[kind], kind) for kind in RELATIONS}
    torch.testing.assert_close(out["r"], of[RELATIONS[0]])
    torch.testing.assert_close(out["p"], of[RELATIONS[1]] + of[RELATIONS[2]])


def test_rstg_conv_to_hetero():
    class GNN(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = RSTGConv((-1, -1), 8, pos_channels=2, num_node_types=2, edge_dim=3)
            self.lin = Linear(8, 3)

        def forward(self, x, edge_index, edge_attr, pos, node_type):
            x = self.conv(x, edge_index, edge_attr, pos=pos, node_type=node_type)
            return self.lin(x.relu())

    x, pos, node_type, attr, alone = hetero_inputs()
    model = to_hetero(GNN(), (["p", "r"], RELATIONS))
    out = model(x, EDGES_OF, attr, pos, node_type)
    assert {key: value.shape for key, value in out.items()} == {"p": (4, 3), "r": (3, 3)}
    expected = alone(model.conv["__".join(RELATIONS[0])], RELATIONS[0])
    torch.testing.assert_close(out["r"], model.lin["r"](expected.relu()))


@withPackage("tabulate")
def test_rstg_conv_in_summary():
    table = summary(RSTGConv(4, 8), torch.randn(NUM_NODES, 4), EDGES)
    assert "RSTGConv" in table and "[6, 4], [2, 10]" in table and "[6, 8]" in table


@pytest.mark.parametrize("block", ["plain", "res+"])
def test_rstg_conv_drops_the_same_where_gradients_are_checkpointed(block):
    # A reentrant checkpoint, which this layer of PyG has, runs without gradients and then with them.
    conv = make_conv(4, 4, dropout=0.5).train()
    results = []
    for checkpointed in (False, True):
        layer = DeepGCNLayer(conv, block=block, ckpt_grad=checkpointed)
        x = torch.linspace(-1, 1, NUM_NODES * 4, dtype=torch.double).view(-1, 4).requires_grad_()
        torch.manual_seed(0)
        out = layer(x, EDGES)
        out.sum().backward()
        results.append((out, x.grad))
    torch.testing.assert_close(*results)
