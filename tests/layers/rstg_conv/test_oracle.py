"""Random layers on random graphs against the formula, edge by edge in float64, with all gradients."""

import pytest
import torch
from helpers.conv_cases import EDGES, PATHS, SETTINGS, make_conv, on_path, reference
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rstg_pyg import DenseRSTGConv

LEAD = st.sampled_from([(), (), (3,), (2, 2)])


def draw_inputs(conv, lead, sources, targets, edges, weighted, own, seed):
    """Random features, and values of nodes and edges that are the same for all samples or each one's
    own; as the arguments of a call.
    """
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.double).requires_grad_()

    each, pair = lead if own else (), isinstance(conv.in_channels, tuple)
    sizes = (sources, targets) if pair else (targets, targets)
    x = [randn(*lead, n, c) for n, c in zip(sizes, conv.in_channels if pair else [conv.in_channels])]
    values = {}
    if conv.pos_channels > 0:
        values["pos"] = [randn(*each, n, conv.pos_channels) for n in sizes[: len(x)]]
    if conv.edge_dim is not None:
        values["edge_attr"] = randn(*each, edges, conv.edge_dim)
    types = torch.randint(conv.num_node_types, (targets,), generator=generator)
    ends = torch.stack([torch.randint(n, (edges,), generator=generator) for n in sizes])
    if weighted and not (conv.edge_weight_on == "logits" and conv.attend is None):
        weight = randn(*each, edges).detach()
        if conv.edge_weight_on == "attention":
            # Some edges are none, but a node's first is: of zeros alone there is no derivative.
            first = torch.tensor([k == 0 or ends[1, k] not in ends[1, :k] for k in range(edges)])
            kept = (torch.rand(weight.shape, generator=generator) < 0.7) | first.bool()
            weight = weight.abs() * kept
        values["edge_weight"] = weight.requires_grad_()
    return x, ends, values, types if conv.num_node_types > 1 else None


def as_arguments(x, values):
    """Pairs of one are no pairs."""
    values = {k: (v if len(v) > 1 else v[0]) if k == "pos" else v for k, v in values.items()}
    return tuple(x) if len(x) > 1 else x[0], values


def sample_by_sample(conv, x, ends, values, types, lead):
    """The reference for every sample: outputs and coefficients."""
    outs, alphas = [], []
    flat = [part.reshape(-1, *part.shape[-2:]) for part in x]

    def of(value, k, own):
        return value if value.dim() == own else value.flatten(0, -own - 1)[k]

    for k in range(flat[0].size(0)):
        pos = [of(part, k, 2) for part in values.get("pos", [])] or [None]
        inputs = {"edge_attr": (2, None), "edge_weight": (1, None)}
        inputs = {n: of(values[n], k, d) for n, (d, _) in inputs.items() if n in values}
        out, alpha = reference(
            conv, flat[0][k], flat[-1][k], ends, pos=(pos[0], pos[-1]), node_type=types, **inputs
        )
        outs.append(out)
        alphas.append(alpha)
    return torch.stack(outs).view(*lead, *outs[0].shape), torch.stack(alphas).view(*lead, *alpha.shape)


def gradients(out, alpha, tensors):
    """Of a random function of all outputs."""
    generator = torch.Generator().manual_seed(0)
    total = sum(
        (value * torch.randn(value.shape, generator=generator, dtype=torch.double)).sum()
        for value in (out, alpha)
    )
    return torch.autograd.grad(total, tensors, allow_unused=True, materialize_grads=True)


#: What draws seldom come to: scaled attention and weighted logits of nodes with several neighbors.
USUAL = dict(
    attention="dot", heads=2, hidden_channels=None, num_send_layers=2, num_update_layers=2,
    pos_channels=0, num_node_types=1, edge_dim=None, residual=False, act_last=True, bias=True,
    attention_scale=0.5, edge_weight_on="logits", norm=None, after_aggr=None, act="relu",
)  # fmt: skip
CALL = dict(in_channels=4, sizes=(5, 4, 14), flow="source_to_target", lead=(3,), weighted=True)
CALL |= dict(own=False, path="plain", seed=0)


@pytest.mark.slow
@example(options=USUAL, **CALL)
@example(options={**USUAL, "attention": "additive"}, **CALL)
@example(options={**USUAL, "edge_weight_on": "attention"}, **{**CALL, "path": "fast"})
@settings(max_examples=100, deadline=None)
@given(
    options=st.fixed_dictionaries(SETTINGS),
    in_channels=st.sampled_from([4, 8, (4, 6)]),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 14)),
    flow=st.sampled_from(["source_to_target", "target_to_source"]),
    lead=LEAD,
    weighted=st.booleans(),
    own=st.booleans(),
    path=st.sampled_from(PATHS),
    seed=st.integers(0, 1000),
)
def test_rstg_conv(options, in_channels, sizes, flow, lead, weighted, own, path, seed):
    conv = make_conv(in_channels, 8, seed, flow=flow, **options)
    x, ends, values, types = draw_inputs(conv, lead, *sizes, weighted, own, seed)
    given, inputs = as_arguments(x, values)
    edges = ends if flow == "source_to_target" else ends.flip(0)
    with on_path(path):
        out, (same, alpha) = conv(
            given, edges, node_type=types, return_attention_weights=True, **inputs
        )
        tensors = [*x, *(t for v in values.values() for t in (v if isinstance(v, list) else [v]))]
        tensors += list(conv.parameters())
        found = gradients(out, alpha, tensors)
    expected, expected_alpha = sample_by_sample(conv, x, ends, values, types, lead)
    assert same is edges
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(alpha, expected_alpha)
    torch.testing.assert_close(found, gradients(expected, expected_alpha, tensors))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    options=st.fixed_dictionaries(SETTINGS),
    in_channels=st.sampled_from([4, 8]),
    nodes=st.integers(1, 5),
    lead=LEAD,
    weighted=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_dense_twin(options, in_channels, nodes, lead, weighted, seed):
    """The dense layer with the same weights: the same numbers and gradients on all pairs and a mask."""
    conv = make_conv(in_channels, 8, seed, **options)
    dense = DenseRSTGConv(in_channels, 8, **options).double().eval()
    dense.load_state_dict(conv.state_dict())
    joined = torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(seed)) < 0.5
    target, source = joined.nonzero(as_tuple=True)
    (x,), _, pairs, types = draw_inputs(conv, lead, nodes, nodes, nodes * nodes, weighted, False, seed)
    shared = {"pos": pairs.pop("pos")[0]} if "pos" in pairs else {}
    pairs = {name: value.unflatten(0, (nodes, nodes)) for name, value in pairs.items()}
    of_edges = {name: value[target, source] for name, value in pairs.items()}
    edges = torch.stack([source, target])
    tensors = [x, *shared.values(), *pairs.values()]

    out, (_, alpha) = conv(
        x, edges, node_type=types, return_attention_weights=True, **shared, **of_edges
    )
    expected = gradients(out, alpha, tensors + list(conv.parameters()))
    found, all_alpha = dense(
        x, joined.long(), node_type=types, return_attention_weights=True, **shared, **pairs
    )
    torch.testing.assert_close(found, out)
    assert all_alpha.shape == (*lead, nodes, nodes, conv.heads)
    assert all_alpha[..., ~joined, :].abs().sum() == 0
    torch.testing.assert_close(all_alpha[..., target, source, :], alpha)
    grads = gradients(found, all_alpha[..., target, source, :], tensors + list(dense.parameters()))
    torch.testing.assert_close(grads, expected)


@pytest.mark.parametrize("path", PATHS)
def test_an_edge_of_weight_zero_is_none_however_large_its_logit(path):
    conv = make_conv(4, 8, dtype=torch.float, attention_scale=1.0)
    x, edges = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([[0, 1, 2]])
    edges = torch.cat([edges, torch.zeros_like(edges)])
    x[2] = 1000 * conv.attend.query(x[:1])[0] @ conv.attend.lin_key.weight  # in favor of the last
    with on_path(path):
        _, (_, alpha) = conv(x, edges, return_attention_weights=True)
        assert alpha[2] == 1
        weight = torch.tensor([1.0, 1.0, 0.0], requires_grad=True)
        out = conv(x, edges, edge_weight=weight)
        torch.testing.assert_close(out, conv(x, edges[:, :2]))
    assert torch.autograd.grad(out[0].sum(), conv.send.lin_src.weight)[0].isfinite().all()


@pytest.mark.parametrize("path", PATHS)
def test_an_edge_of_weight_zero_can_come_back(path):
    """Its weight has a gradient: learned weights are not stuck where they once were zero."""
    conv, edges = make_conv(4, 8), torch.tensor([[0, 1, 2], [0, 0, 0]])
    x = torch.randn(3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([1.0, 0.5, 0.0], dtype=torch.double, requires_grad=True)
    step = torch.tensor([0.0, 0.0, 1e-7], dtype=torch.double)
    with on_path(path):
        out = conv(x, edges, edge_weight=weight)[0].sum()
        more = conv(x, edges, edge_weight=weight + step)[0].sum()
    slope = torch.autograd.grad(out, weight)[0][2]
    assert slope.abs() > 1e-3
    torch.testing.assert_close(slope, (more - out).detach() / 1e-7, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_small_edge_weights_in_half_precision(path):
    """A common factor changes nothing, also where its exponential is beyond float16."""
    conv = make_conv(4, 8, dtype=torch.float, attention_scale=0.5)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    weight = torch.full((EDGES.size(1),), 1e-3)
    _, (_, expected) = conv(x, EDGES, return_attention_weights=True)
    with on_path(path):
        _, (_, alpha) = conv.half()(
            x.half(), EDGES, edge_weight=weight.half(), return_attention_weights=True
        )
    torch.testing.assert_close(alpha.float(), expected, atol=0.01, rtol=0.02)


@settings(max_examples=50, deadline=None)
@given(
    attention=st.sampled_from(["dot", "additive", None]),
    heads=st.sampled_from([1, 2]),
    sizes=st.tuples(st.integers(1, 5), st.integers(2, 12)),
    factor=st.sampled_from([2.0, 7.5, 1e-12, 1e12]),
    path=st.sampled_from(PATHS),
    seed=st.integers(0, 1000),
)
def test_edge_weights_are_factors_of_the_attention(attention, heads, sizes, factor, path, seed):
    nodes, edges = sizes
    conv = make_conv(4, 8, seed, attention=attention, heads=heads)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, nodes, 4, generator=g, dtype=torch.double)
    ends = torch.randint(nodes, (2, edges), generator=g)
    weight = torch.rand(edges, generator=g, dtype=torch.double) + 0.1

    def run(weight, ends=ends):
        with on_path(path):
            out, (_, alpha) = conv(x, ends, edge_weight=weight, return_attention_weights=True)
        return out, alpha

    out, alpha = run(weight)
    torch.testing.assert_close(run(weight * factor), (out, alpha))  # a common one changes nothing
    torch.testing.assert_close(run(torch.full_like(weight, factor)), run(None))
    doubled = weight.clone()
    doubled[0] *= 2
    assert (run(doubled)[1][:, 0] >= alpha[:, 0] - 1e-12).all()
    there = torch.rand(edges, generator=g) < 0.6  # zero is no edge, also if all of a node's are
    without, kept = run(weight[there], ends[:, there])
    zeroed, share = run(weight * there)
    torch.testing.assert_close((zeroed, share[:, there]), (without, kept))
    assert (share[:, ~there] == 0).all()
    if attention is None:  # the weighted mean
        total = torch.zeros(nodes, dtype=torch.double).index_add(0, ends[1], weight)
        torch.testing.assert_close(alpha[0, :, 0], weight / total[ends[1]])
