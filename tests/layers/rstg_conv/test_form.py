"""The two forms of a space stage; the default one is never dead, and stacks of it train."""

import pytest
import torch
from torch.nn import functional as F

from rstg_pyg import RSTG, RSTGConv, published_arguments


def ring(nodes):
    """Everybody joined with the next one, both ways."""
    i = torch.arange(nodes)
    return torch.cat([torch.stack([i, (i + 1) % nodes]), torch.stack([(i + 1) % nodes, i])], dim=1)


@pytest.mark.parametrize(
    "kwargs", [{}, {"attention": "additive"}, {"heads": 4}, {"num_send_layers": 1}]
)
def test_narrow_layers_are_alive_for_every_seed(kwargs):
    for seed in range(100):
        torch.manual_seed(seed)
        conv = RSTGConv(64, 1, **kwargs)
        out = conv(torch.randn(12, 64), ring(12))
        out.square().sum().backward()
        assert (out != 0).any()
        linear = [conv.send.skip_src or conv.send.lin_src, conv.update_mlp.skip_node]
        for p in [p for m in (*linear, conv.update_mlp.skip_message) for p in m.parameters()]:
            assert (p.grad != 0).any()


def test_all_parameters_learn_from_the_second_step_on():
    torch.manual_seed(0)
    conv = RSTGConv(8, 3, heads=2)
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    x = torch.randn(12, 8)
    for _ in range(2):
        optimizer.zero_grad()
        conv(x, ring(12)).square().sum().backward()
        optimizer.step()
    assert all((p.grad != 0).any() for p in conv.parameters())


@pytest.mark.parametrize("attention", ["dot", "additive"])
def test_attention_sees_edge_features_but_not_in_the_papers_form(attention):
    torch.manual_seed(0)
    x, edges = torch.randn(1, 4).expand(3, 4), torch.tensor([[0, 1], [2, 2]])  # equal senders
    for form in ("skip", "paper"):
        conv = RSTGConv(4, 8, edge_dim=1, attention=attention, form=form)
        attr = torch.tensor([[1.0], [-1.0]])
        _, (_, alpha) = conv(x, edges, attr, return_attention_weights=True)
        if form == "paper":
            torch.testing.assert_close(alpha, torch.full((2, 1), 0.5))
        else:
            assert abs(alpha[0] - alpha[1]) > 0.01


def test_twenty_layers_train():
    torch.manual_seed(0)
    x, y = torch.randn(40, 16), torch.randint(4, (40,))
    layers = torch.nn.ModuleList([RSTGConv(16, 16) for _ in range(19)] + [RSTGConv(16, 4)])
    optimizer = torch.optim.Adam(layers.parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        out = x
        for i, layer in enumerate(layers):
            out = layer(out if i == 0 else out.relu(), ring(40))
        loss = F.cross_entropy(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_new_layer_is_attention_over_linear_messages():
    torch.manual_seed(0)
    x, edge_index = torch.randn(6, 4), ring(6)
    conv = RSTGConv(4, 5)
    out, (_, alpha) = conv(x, edge_index, return_attention_weights=True)
    message = conv.send.skip_src(x)[edge_index[0]]
    gathered = torch.zeros(6, 32).index_add(0, edge_index[1], alpha * message)
    update = conv.update_mlp
    expected = update.skip_node(x, None) + update.skip_message(gathered, None)
    assert torch.allclose(out, expected, atol=1e-3)


def test_defaults_of_both_forms():
    skip, paper = RSTGConv(8, 12, heads=5), RSTGConv(8, 12, form="paper")
    assert (skip.hidden_channels, skip.act_last, skip.attention_scale) == (35, False, (1 / 7) ** 0.5)
    assert (paper.hidden_channels, paper.act_last, paper.attention_scale) == (12, True, 1.0)
    assert RSTGConv(8, 48).hidden_channels == 48
    assert RSTG(8, 12).num_rounds == 1 and RSTG(8, 12).convs[0].form == "skip"
    assert RSTG(8, 12, form="paper").num_rounds == 3
    assert RSTG(8, 12, form="paper").convs[0].form == "paper"
    assert published_arguments()["form"] == "paper"
