"""`[*, N, C]` with one graph for all leading dimensions: what PyG's attention layers refuse."""

import pytest
import torch
from helpers.conv_cases import EDGES, NUM_EDGES, NUM_NODES, OPTIONS, make_conv, make_inputs
from torch_geometric.data import Batch, Data

pytestmark = pytest.mark.usefixtures("path")


@pytest.mark.parametrize("lead", [(3,), (2, 3), (1, 1)])
@pytest.mark.parametrize("options", ["plain", "all"])
@pytest.mark.parametrize("attention, heads", [("dot", 4), ("additive", 1), (None, 2)])
def test_rstg_conv_static_equals_stacked_samples(attention, heads, options, lead):
    conv = make_conv(attention=attention, heads=heads, **OPTIONS[options])
    x, kwargs = make_inputs(conv, *lead, weight=attention is not None)
    out, (_, alpha) = conv(x, EDGES, return_attention_weights=True, **kwargs)
    assert out.shape == (*lead, NUM_NODES, 8)
    assert alpha.shape == (*lead, NUM_EDGES, heads)
    samples = [
        conv(sample, EDGES, return_attention_weights=True, **kwargs) for sample in x.flatten(0, -3)
    ]
    expected = torch.stack([sample[0] for sample in samples])
    torch.testing.assert_close(out.flatten(0, -3), expected)
    expected = torch.stack([sample[1][1] for sample in samples])
    torch.testing.assert_close(alpha.flatten(0, -3), expected)


def test_rstg_conv_static_with_own_positions_attributes_and_weights():
    conv = make_conv(pos_channels=2, edge_dim=3)
    x = torch.randn(3, NUM_NODES, 4, dtype=torch.double)
    pos = torch.randn(3, NUM_NODES, 2, dtype=torch.double)
    attr = torch.randn(3, NUM_EDGES, 3, dtype=torch.double)
    weight = torch.randn(3, NUM_EDGES, dtype=torch.double)
    out = conv(x, EDGES, attr, pos=pos, edge_weight=weight)
    expected = [conv(x[b], EDGES, attr[b], pos=pos[b], edge_weight=weight[b]) for b in range(x.size(0))]
    torch.testing.assert_close(out, torch.stack(expected))


@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_rstg_conv_static_equals_block_diagonal_batch(attention):
    conv = make_conv(attention=attention, heads=2, **OPTIONS["all"])
    x, kwargs = make_inputs(conv, 3, weight=attention is not None)
    batch = Batch.from_data_list(
        [Data(x=sample, edge_index=EDGES, **{k: v for k, v in kwargs.items()}) for sample in x]
    )
    flat = {key: batch[key] for key in kwargs}
    out = conv(batch.x, batch.edge_index, **flat)
    torch.testing.assert_close(out.view(3, NUM_NODES, 8), conv(x, EDGES, **kwargs))


def test_rstg_conv_vmap_equals_static():
    conv = make_conv(heads=2)
    x, _ = make_inputs(conv, 3)
    out = torch.func.vmap(lambda sample: conv(sample, EDGES))(x)
    torch.testing.assert_close(out, conv(x, EDGES))
