"""The fast paths against the formulas beside them; when they are taken, what they keep, same bits."""

import contextlib

import pytest
import torch
from helpers import random_weights
from helpers.adapter import Adapter
from torch.utils.flop_counter import FlopCounterMode
from torch_geometric import EdgeIndex
from torch_geometric.nn import Linear as PyGLinear
from torch_geometric.utils import to_torch_csr_tensor

from rstg_pyg import JointLayerNorm, RSTGConv
from rstg_pyg.fast import edges as fast_edges
from rstg_pyg.fast import linear, messages, space
from rstg_pyg.fast.autograd import eager, plain_paths
from rstg_pyg.fast.linear import Linear, has_onednn, product, uses_onednn
from rstg_pyg.graphs import multiscale_grid
from rstg_pyg.softmax import edge_softmax

S, N, M, H, C, D, E = 5, 6, 3, 2, 4, 7, 11
GRID = multiscale_grid((2, 1))


@pytest.fixture(autouse=True)
def small_inputs_too(monkeypatch):
    monkeypatch.setattr(space, "LEAST_WORK", 0)


def draw(*shape, dtype=torch.double, seed=0):
    return random_weights.draw(*shape, dtype=dtype, seed=seed + sum(shape)).requires_grad_()


def edges():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(S, (E,), generator=generator), torch.randint(N, (E,), generator=generator)


def arguments(bias=True, **kwargs):
    shapes = [(S, M, C), (N, M, C), (E, M, H), (D, C)] + ([(D,)] if bias else [])
    return [draw(*shape, seed=k, **kwargs) for k, shape in enumerate(shapes)]


def call(function, bias):
    return lambda *inputs: function(*inputs, *([] if bias else [None]), *edges())


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 4, 1000])
@pytest.mark.parametrize("bias", [True, False])
def test_weighted_messages(bias, rows, monkeypatch):
    monkeypatch.setattr(messages, "BLOCK_ROWS", rows)
    monkeypatch.setattr(messages, "BLOCK_SIZE", 1)
    fast = call(messages.weighted_messages, bias)
    inputs = arguments(bias)
    out, expected = fast(*inputs), call(messages.weighted_messages_formula, bias)(*inputs)
    assert [x.shape for x in out] == [(H, N, M, D), (2, M)]
    torch.testing.assert_close(out, expected)
    grads = [draw(*x.shape).detach() for x in out]
    torch.testing.assert_close(*(torch.autograd.grad(y, inputs, grads) for y in (out, expected)))
    with torch.no_grad():
        torch.testing.assert_close(fast(*inputs), expected)
    if rows == 4:
        assert torch.autograd.gradgradcheck(fast, inputs)


def test_weighted_hidden():
    inputs, fast = [draw(S, M, C + D), draw(N, M, C, seed=1), draw(E, M, H, seed=2)], []
    for function in (messages.weighted_hidden, messages.weighted_hidden_formula):
        out = function(*inputs, *edges())
        fast.append([out, *torch.autograd.grad(out.pow(3).sum(), inputs)])
    torch.testing.assert_close(*fast)
    assert torch.autograd.gradgradcheck(lambda *x: messages.weighted_hidden(*x, *edges()), inputs)


def test_moments_of_messages_beyond_the_squares_of_half_precision():
    inputs = [100 * x.detach() if k < 2 else x.detach() for k, x in enumerate(arguments())]
    expected = call(messages.weighted_messages_formula, True)(*inputs)
    found = call(messages.weighted_messages, True)(*(x.half() for x in inputs))
    assert expected[1][1].max() > torch.finfo(torch.half).max / 10
    torch.testing.assert_close(found[1], expected[1], rtol=0.01, atol=0)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=0.01, atol=1.0)


@pytest.mark.parametrize("pairs", [0, 1000])
def test_edge_dots(pairs, monkeypatch):
    monkeypatch.setattr(messages, "PAIRS_PER_EDGE", pairs)
    monkeypatch.setattr(messages, "BLOCK_ROWS", 4)
    monkeypatch.setattr(messages, "BLOCK_SIZE", 1)
    inputs = [draw(N, M, H, C), draw(S, M, H, C, seed=1)]
    out = messages.edge_dots(*inputs, *edges())
    torch.testing.assert_close(out, messages.edge_dots_formula(*inputs, *edges()))
    assert torch.autograd.gradcheck(lambda *x: messages.edge_dots(*x, *edges()), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: messages.edge_dots(*x, *edges()), inputs)


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias, path):
    fast, plain = Linear(5, 7, bias=bias), PyGLinear(5, 7, bias=bias)
    plain.load_state_dict(fast.state_dict())
    x = draw(2, 3, 5, dtype=torch.float)
    grad = draw(2, 3, 7, dtype=torch.float).detach()
    torch.testing.assert_close(fast(x), plain(x))
    for a, b in zip(*(torch.autograd.grad(f(x), [x, *f.parameters()], grad) for f in (fast, plain))):
        torch.testing.assert_close(a, b)
    (first,) = torch.autograd.grad(fast(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(plain(x).square().sum(), x, create_graph=True)
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(*(torch.autograd.grad(g.sum(), x)[0] for g in (first, second)))


def test_attention_over_pairs():
    """A pair with two edges, a target without any, and a share so small that it counts as none."""
    edge_index = torch.tensor([[0, 1, 1, 2], [0, 0, 0, 1]])
    edges = fast_edges.split_edges(edge_index, "source_to_target", 3, 3)
    logit = torch.randn(2, 3, 3, dtype=torch.double, requires_grad=True)
    pairs = fast_edges.pair_softmax(logit, edges)
    alpha = fast_edges.of_edges(pairs, edges)
    of_edges = logit.flatten(1)[:, edges.pair].t().unsqueeze(-1)
    expected = edge_softmax(of_edges, None, edge_index[1], 3)
    torch.testing.assert_close(alpha, expected)
    assert (pairs.sum(-1)[:, 2] == 0).all()
    for out in (alpha, expected):
        (grad,) = torch.autograd.grad(out.square().sum(), logit, retain_graph=True)
        assert grad.isfinite().all() and grad[:, 0, :2].abs().min() > 0
    sure = torch.tensor([[[90.0, 0.0, 0.0]] * 3])
    alpha = fast_edges.of_edges(fast_edges.pair_softmax(sure, edges), edges)
    assert alpha[:, 0].tolist() == [1.0, 0.0, 0.0, 1.0]
    assert fast_edges.split_edges(edge_index, "source_to_target", 2, 3) is None


def test_edges_that_are_kept_serve_every_mode():
    conv, x, edge_index = (
        RSTGConv(4, 8),
        torch.randn(3, 7, 4),
        torch.tensor([[0, 5, 6, 2], [6, 1, 1, 0]]),
    )
    with torch.inference_mode():
        expected = conv(x, edge_index)
    out = conv(x.requires_grad_(), edge_index)
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    assert x.grad.abs().sum() > 0


def test_float64_is_left_alone_by_autocast_and_flops_are_counted():
    conv, x = RSTGConv(16, 16, form="paper").double(), torch.randn(5, 16).double()
    expected = conv(x, GRID.edge_index)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(conv(x, GRID.edge_index), expected)
    counts = []
    layer = Linear(256, 256)
    for network in (layer, torch.nn.Linear(256, 256)):
        with FlopCounterMode(display=False) as counter:
            network(torch.randn(512, 256))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 512 * 256 * 256


def test_when_a_layer_goes_to_onednn(monkeypatch):
    taken = []
    monkeypatch.setattr(linear, "product", lambda *inputs: taken.append(1) or product(*inputs))
    monkeypatch.setattr(linear, "LEAST_WORK", 8 * 5 * 7)
    layer, x = Linear(5, 7), torch.randn(2, 4, 5)
    monkeypatch.setattr(linear, "mkl_at_home", lambda: True)  # mm is as fast there
    layer(x)
    assert taken == []
    monkeypatch.setattr(linear, "mkl_at_home", lambda: False)
    layer(x)
    assert len(taken) == has_onednn(x)
    taken.clear()
    for small in (x[:, :3], x[0, 0]):
        layer(small)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    with plain_paths():
        layer(x)
    layer.double()(x.double())
    assert taken == []


def test_products_obey_the_switch(monkeypatch):
    monkeypatch.setattr(linear, "mkl_at_home", lambda: False)
    x, weight, bias = torch.randn(6, 4), torch.randn(5, 4), torch.randn(5)
    expected = (x @ weight.t() + bias).relu()
    torch.testing.assert_close(product(x, weight, bias, relu=True), expected)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not uses_onednn(x)
        torch.testing.assert_close(product(x, weight, bias, relu=True), expected)
    assert not uses_onednn(x.double())
    assert product(x[:0], weight).shape == (0, 5)
    torch.testing.assert_close(product(weight.t(), weight.t()), weight.t() @ weight)


def taken(conv, x, edge_index, monkeypatch, **kwargs):
    """Whether the call's messages went through the fast function of the layer's form."""
    calls = []
    name = "weighted_messages" if conv.form == "paper" else "weighted_hidden"

    def spy(*args):
        calls.append(1)
        return getattr(messages, name)(*args)

    monkeypatch.setattr(space, name, spy)
    conv(x, edge_index, **kwargs)
    return bool(calls)


class Louder(RSTGConv):
    def update(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2 * inputs


def test_when_the_fast_path_is_taken(monkeypatch):
    x, edge_index = torch.randn(2, 5, 4), GRID.edge_index
    for kwargs in (
        {}, {"form": "paper"}, {"heads": 2}, {"attention": None}, {"attention": "additive"},
        {"residual": True}, {"form": "paper", "norm": JointLayerNorm},
    ):  # fmt: skip
        assert taken(RSTGConv(4, 8, **kwargs), x, edge_index, monkeypatch), kwargs
    assert taken(RSTGConv(4, 8), x[0], edge_index, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(space, "LEAST_WORK", 2 * edge_index.size(1) * 32**2)
        assert taken(RSTGConv(4, 8), x, edge_index, monkeypatch)
        assert not taken(RSTGConv(4, 8), x[:1], edge_index, monkeypatch)
        with torch.no_grad():  # a stream's frame
            assert taken(RSTGConv(4, 8), x[:1], edge_index, monkeypatch)
    for kwargs in (
        {"norm": torch.nn.LayerNorm}, {"norm": JointLayerNorm}, {"aggr": "mean"},
        {"num_send_layers": 1}, {"num_send_layers": 3},
        {"form": "paper", "norm": lambda channels: JointLayerNorm(channels, num_joint_dims=3)},
    ):  # fmt: skip
        assert not taken(RSTGConv(4, 8, **kwargs), x, edge_index, monkeypatch), kwargs
    conv, batch = RSTGConv(4, 8, form="paper", norm=JointLayerNorm), torch.tensor([0, 0, 0, 0, 0])
    assert not taken(conv, x[0], edge_index, monkeypatch, batch=batch)
    conv = RSTGConv(4, 8, edge_dim=1)
    assert not taken(conv, x, edge_index, monkeypatch, edge_attr=torch.ones(edge_index.size(1)))
    assert taken(RSTGConv(4, 8), x, EdgeIndex(edge_index, sparse_size=(5, 5)), monkeypatch)
    assert taken(RSTGConv(4, 8), x, edge_index.int(), monkeypatch)
    adj_t = to_torch_csr_tensor(edge_index, size=(5, 5))
    assert not taken(RSTGConv(4, 8), x[0], adj_t, monkeypatch)
    assert not taken(Louder(4, 8), x, edge_index, monkeypatch)
    with plain_paths():
        assert not eager()
        assert not taken(RSTGConv(4, 8), x, edge_index, monkeypatch)
    assert eager()

    conv = RSTGConv(4, 8)
    for register in (
        conv.register_message_forward_hook, conv.register_edge_update_forward_hook,
        conv.register_propagate_forward_pre_hook, conv.send.register_forward_hook,
        conv.aggr_module.register_forward_pre_hook,
    ):  # fmt: skip
        handle = register(lambda *args: None)
        assert not taken(conv, x, edge_index, monkeypatch)
        handle.remove()
        assert taken(conv, x, edge_index, monkeypatch)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("lead", [(), (2, 3)])
@pytest.mark.parametrize("kwargs", [{}, {"form": "paper", "norm": JointLayerNorm}], ids=str)
@pytest.mark.parametrize("pairs", [0, 16])
def test_what_is_linear_follows_the_sums(heads, lead, kwargs, pairs, monkeypatch):
    """Coefficients sum to 0.6, as with dropout; the last node has no neighbors; an edge is twice."""
    monkeypatch.setattr(messages, "PAIRS_PER_EDGE", pairs)
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda alpha, p, training: 0.6 * alpha)
    conv = random_weights.randomize(RSTGConv(4, 8, heads=heads, **kwargs).double())
    x, edge_index = draw(*lead, 6, 4), torch.cat([GRID.edge_index, GRID.edge_index[:, :1]], dim=1)
    inputs, found = [x, *conv.parameters()], []
    for paths in (contextlib.nullcontext, plain_paths):
        with paths():
            out = conv(x, edge_index)
            found.append([out, *torch.autograd.grad(out.pow(3).sum(), inputs)])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("place", ["send.lins.0", "send.skip_src", "lin_value", "attend.lin_query"])
@pytest.mark.parametrize("only_forward", [False, True])
def test_modules_in_the_place_of_ours_are_called(place, only_forward, path):
    form = "paper" if place == "lin_value" else "skip"
    x, conv = torch.randn(2, 5, 4), RSTGConv(4, 8, heads=2, form=form)
    before = conv(x, GRID.edge_index)
    parent, _, name = place.rpartition(".")
    lin = conv.get_submodule(place)
    if only_forward:
        lin.forward = lambda x: type(lin).forward(lin, x) + 1
    else:
        conv.get_submodule(parent)._modules[name] = Adapter(lin)
    out = conv(x, GRID.edge_index)
    with plain_paths():
        torch.testing.assert_close(out, conv(x, GRID.edge_index))
    assert not torch.allclose(out, before)


@pytest.mark.parametrize("heads", [1, 2])
def test_function_transforms_get_the_plain_formulas(heads):
    conv = RSTGConv(4, 8, heads=heads)
    x = torch.randn(3, 5, 4)
    expected = conv(x, GRID.edge_index)
    torch.testing.assert_close(torch.vmap(lambda x: conv(x, GRID.edge_index))(x), expected)
    _, tangent = torch.func.jvp(lambda x: conv(x, GRID.edge_index), (x,), (torch.ones_like(x),))
    assert tangent.shape == expected.shape
    gradient = torch.func.grad(lambda x: conv(x, GRID.edge_index).sum())(x)
    x.requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(conv(x, GRID.edge_index).sum(), x)[0])


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("attention", ["dot", "additive", None])
def test_autocast_is_as_close_as_on_the_plain_path(attention, heads):
    torch.manual_seed(0)
    conv = RSTGConv(16, 16, attention=attention, heads=heads)
    x = torch.randn(4, 5, 16, requires_grad=True)

    def run(enabled=True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out = conv(x, GRID.edge_index)
        conv.zero_grad()
        out.float().square().sum().backward()
        grads = [p.grad.flatten() for p in conv.parameters()]
        return out.dtype, torch.cat([out.detach().float().flatten(), *grads])

    kind, fast = run()
    with plain_paths():
        plain_kind, plain = run()
        _, exact = run(enabled=False)
    assert kind == plain_kind == torch.bfloat16
    assert (fast - exact).norm() <= 1.5 * (plain - exact).norm()
    assert (fast - exact).norm() <= 0.1 * exact.norm()


@pytest.mark.slow
@pytest.mark.parametrize("flat", [False, True])
def test_deterministic_mode_gives_the_same_bits(flat, path):
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    grid = multiscale_grid((3, 2, 1))
    torch.manual_seed(0)
    conv = RSTGConv(32, 32, heads=2)
    x = torch.randn(14, 32) if flat else torch.randn(10, 14, 32)

    def run():
        conv.zero_grad()
        out = conv(x, grid.edge_index)
        out.square().sum().backward()
        return [out, *(p.grad for p in conv.parameters())]

    first = [t.clone() for t in run()]
    assert all(torch.equal(a, b) for a, b in zip(first, run()))


def kept_numbers(function, *inputs):
    """How many numbers autograd keeps for the backward pass, each storage once."""
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = function(*inputs)
    assert out is not None
    return sum(storages.values())


def test_of_everything_as_large_as_all_edges_only_the_messages_are_kept():
    grid = multiscale_grid((3, 2, 1))
    conv = RSTGConv(64, 64)
    x = torch.randn(16, 14, 64, requires_grad=True)
    all_edges = 16 * 90 * 64
    weights = sum(p.numel() for p in conv.parameters())
    at_nodes = 14 * 16 * 64 * 14  # node features, their projections, concatenations, the pairs' logits
    kept = kept_numbers(conv, x, grid.edge_index)
    assert all_edges < kept < all_edges + weights + at_nodes
    with plain_paths():
        assert kept_numbers(conv, x, grid.edge_index) > 3.9 * all_edges


def test_shapes_on_the_meta_device(monkeypatch):
    """Where there are no numbers, the plain path gives the shapes, of large products as well."""
    monkeypatch.setattr(linear, "LEAST_WORK", 0)
    conv = RSTGConv(4, 8, heads=2).to("meta")
    edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]]).to("meta")
    assert conv(torch.empty(5, 3, 4, device="meta"), edge_index).shape == (5, 3, 8)
