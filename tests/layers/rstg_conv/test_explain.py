"""What looks inside: explainers, and PyG's hooks on messages."""

import pytest
import torch
from helpers.conv_cases import EDGES, NUM_EDGES, NUM_NODES, make_conv, make_inputs
from torch_geometric.explain import AttentionExplainer, Explainer, GNNExplainer

from rstg_pyg import DenseRSTGConv, RSTGConv
from rstg_pyg.fast.linear import Linear

pytestmark = pytest.mark.usefixtures("path")


class Net(torch.nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.conv = RSTGConv(4, 8, **kwargs)
        self.lin = torch.nn.Linear(8, 3)

    def forward(self, x, edge_index):
        return self.lin(self.conv(x, edge_index))


def explain(model, algorithm, x, edge_index):
    of = {"mode": "multiclass_classification", "task_level": "node", "return_type": "raw"}
    kwargs = dict(explanation_type="model", edge_mask_type="object", model_config=of)
    return Explainer(model=model, algorithm=algorithm, **kwargs)(x, edge_index).edge_mask


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("attention, heads", [("dot", 2), ("additive", 1), (None, 2)])
def test_rstg_conv_attention_explainer(attention, heads, lead):
    """One number per edge: the mean over heads, and over the samples of a static graph."""
    torch.manual_seed(0)
    model = Net(attention=attention, heads=heads).eval()
    x = torch.randn(*lead, NUM_NODES, 4)
    mask = explain(model, AttentionExplainer(reduce="mean"), x, EDGES)
    _, (_, alpha) = model.conv(x, EDGES, return_attention_weights=True)
    torch.testing.assert_close(mask, alpha.mean(dim=(0, 2) if lead else 1))
    permuted = explain(model, AttentionExplainer(reduce="mean"), x, EDGES.flip(1))
    torch.testing.assert_close(permuted, mask.flip(0))


def test_rstg_conv_gnn_explainer():
    torch.manual_seed(0)
    model = Net(heads=2).eval()
    x = torch.randn(NUM_NODES, 4)
    expected = model(x, EDGES)
    mask = explain(model, GNNExplainer(epochs=3), x, EDGES)
    assert mask.shape == (NUM_EDGES,)
    assert (mask >= 0).all() and (mask <= 1).all() and mask.max() > 0
    torch.testing.assert_close(model(x, EDGES), expected)  # the model is as before


def test_rstg_conv_message_hook():
    conv, seen = make_conv(), []
    x, _ = make_inputs(conv)
    handle = conv.register_message_forward_hook(lambda module, inputs, out: seen.append(out.shape))
    conv(x, EDGES)
    handle.remove()
    conv(x, EDGES)
    assert seen == [(NUM_EDGES, 32)]


@pytest.mark.parametrize("options", [{"heads": 2, "residual": True}, {"num_send_layers": 3}])
@pytest.mark.parametrize("layer", [RSTGConv, DenseRSTGConv])
def test_rstg_conv_hooks_of_modules_see_what_a_module_gives(layer, options):
    """Forward hooks, and full backward hooks, on everything inside: what they keep stays as it was
    given, nothing is left out, and the numbers are the same.
    """
    conv = layer(4, 8, **options)
    x = torch.randn(2, NUM_NODES, 4, requires_grad=True)
    edges = EDGES if layer is RSTGConv else torch.ones(NUM_NODES, NUM_NODES)

    def run():
        out = conv(x, edges)
        return [out, *torch.autograd.grad(out.square().sum(), [x, *conv.parameters()])]

    expected, given, graded = run(), {}, set()
    for name, module in conv.named_modules():
        module.register_forward_hook(
            lambda module, inputs, out, name=name: given.update({name: (out, out.clone())})
        )
        module.register_full_backward_hook(lambda *args, name=name: graded.add(name))
    torch.testing.assert_close(run(), expected)
    for name, (out, as_given) in given.items():
        assert torch.equal(out, as_given), name
    lins = {name for name, module in conv.named_modules() if isinstance(module, Linear)}
    assert len(lins) > 6 and lins <= given.keys() and lins <= graded


def test_rstg_conv_global_hooks_see_all_modules():
    conv, seen = RSTGConv(4, 8), []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, i, out: seen.append(m))
    try:
        conv(torch.randn(NUM_NODES, 4), EDGES)
    finally:
        handle.remove()
    assert {conv.send, *conv.send.lins, conv.aggr_module} <= set(seen)


def test_rstg_conv_explanations_weigh_messages():
    # PyG multiplies every message with its edge's mask while it explains.
    conv, halved = make_conv(), []
    x, _ = make_inputs(conv)
    with torch.no_grad():
        conv.explain = True
        conv._edge_mask = torch.full((NUM_EDGES,), 0.5, dtype=torch.double)
        conv._loop_mask = torch.ones(NUM_EDGES, dtype=torch.bool)
        conv._apply_sigmoid = False
        conv.register_aggregate_forward_hook(lambda module, inputs, out: halved.append(out))
        conv(x, EDGES)
        conv.explain = False
        conv(x, EDGES)
    torch.testing.assert_close(halved[0], halved[1] / 2)
