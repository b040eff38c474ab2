import pytest
import torch
from helpers.random_weights import draw, randomize

from rstg_pyg import RSTG, HomogeneousRSTG, JointLayerNorm, RSTGConv
from rstg_pyg.graphs import multiscale_grid

GRID = multiscale_grid((2, 1))
BATCH, STEPS, NODES = 2, 5, 5


def clip(steps=STEPS, channels=4):
    return draw(BATCH, steps, NODES, channels)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_rstg_number_of_parameters_of_other_variants():
    dim = 6
    lstm = 8 * dim * dim + 8 * dim
    assert count(RSTG(dim, dim, space_stages=False)) == 2 * lstm
    assert count(RSTG(dim, dim, time_stages="none")) == count(RSTGConv(dim, dim))
    assert count(RSTG(dim, dim, num_rounds=7)) == count(RSTG(dim, dim, num_rounds=1))
    options = dict(pos_channels=36, num_node_types=3, heads=2, attention="additive")
    assert count(RSTG(dim, dim, **options)) == 2 * lstm + count(RSTGConv(dim, dim, **options))


def test_rstg_residual_stages_end_without_relu():
    assert all(conv.act_last for conv in RSTG(4, 4, form="paper").convs)
    model = RSTG(4, 4, form="paper", residual=True, shared_rounds=False)
    assert not any(conv.act_last for conv in model.convs)
    assert not RSTG(4, 8, form="paper", act_last=False).convs[0].act_last
    assert RSTG(4, 8, residual=True, act_last=True).convs[0].act_last
    assert HomogeneousRSTG(4, 8, residual=True, act_last=True).convs[0].act_last


@pytest.mark.parametrize("residual", ["time", "all_time"])
def test_rstg_time_stages_add_to_the_nodes(make, residual):
    model, x = make(residual=residual, num_rounds=2), clip()
    v = model.lin_in(x)

    def time(cell, v):
        return cell(v.transpose(0, 1).flatten(1, 2))[0].unflatten(1, (BATCH, NODES)).transpose(0, 1)

    for _ in range(2):
        v = model.convs[0](v + time(model.cells[0], v), GRID.edge_index)
    last = time(model.last_cell, v)
    expected = v + last if residual == "all_time" else last
    torch.testing.assert_close(model(x, GRID.edge_index), expected)
    make(num_rounds=2).load_state_dict(model.state_dict())  # no weights more


def test_rstg_unknown_residual(make):
    with pytest.raises(ValueError, match="'residual' to be a bool, 'time' or 'all_time' .got 'space'"):
        make(residual="space")


def test_rstg_state_is_left_alone_and_can_be_reused(make):
    model, x = make(), clip()
    expected = model(x, GRID.edge_index)
    _, state = model(x[:, :2], GRID.edge_index, return_state=True)
    for _ in range(2):
        out = model(x[:, 2:], GRID.edge_index, state=state)
        torch.testing.assert_close(out, expected[:, 2:])


@pytest.mark.parametrize("residual", [False, True, "time", "all_time"])
@pytest.mark.parametrize("shared_rounds", [False, True])
def test_rstg_gradients_reach_everything(make, residual, shared_rounds):
    model = make(residual=residual, shared_rounds=shared_rounds, heads=2)
    x = clip().requires_grad_()
    probe = torch.randn(BATCH, STEPS, NODES, 6, dtype=torch.double)
    (model(x, GRID.edge_index) * probe).sum().backward()
    for name, p in (("x", x), *model.named_parameters()):
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_rstg_reset_parameters():
    model = randomize(RSTG(6, 8, residual=True, pos_channels=2, shared_rounds=False))
    torch.manual_seed(2)
    model.reset_parameters()
    first = {k: v.clone() for k, v in model.state_dict().items()}
    model.reset_parameters()
    for key, value in model.state_dict().items():
        if "norm" not in key and "bias" not in key and value.any():  # last layers of MLPs are zero
            assert not torch.equal(value, first[key]), key
    torch.manual_seed(2)
    model.reset_parameters()
    assert all(torch.equal(v, first[k]) for k, v in model.state_dict().items())
    for key, value in first.items():
        if "bias" in key or "norm" in key:
            assert (value == float("bias" not in key)).all(), key


@pytest.mark.parametrize("cell, gates", [("lstm", 4), ("gru", 3)])
def test_rstg_draws_every_gate_by_itself(cell, gates):
    dim = 16
    model = RSTG(dim, dim, cell=cell, shared_rounds=False)
    bound = (6 / (2 * dim)) ** 0.5  # Glorot uniform of a D x D matrix
    for module in [*model.cells, model.last_cell]:
        for name in ("weight_ih_l0", "weight_hh_l0"):
            for gate in getattr(module, name).view(gates, dim, dim):
                assert 0.9 * bound < gate.abs().max() <= bound
                assert gate.abs().mean() > 0.4 * bound


def test_rstg_repr():
    assert str(RSTG(4, 8)) == "RSTG(4, 8, num_rounds=1, time_stages='all')"
    model = RSTG(4, 8, num_rounds=2, time_stages=[0])
    assert str(model) == "RSTG(4, 8, num_rounds=2, time_stages=[0])"


@pytest.mark.parametrize(
    "kwargs",
    [
        {"space_stages": False}, {"cell": "gru"}, {"residual": True}, {"residual": "all_time"},
        {"residual": False}, {"shared_rounds": False}, {"heads": 2}, {"attention": None},
        {"num_send_layers": 1}, {"edge_dim": 3}, {"pos_channels": 2}, {"num_node_types": 2},
        {"edge_weight_on": "logits"}, {"dropout": 0.5}, {"num_rounds": 2}, {"time_stages": "last"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["skip", "paper"])
def test_rstg_repr_tells_networks_apart(kwargs, form):
    """What is shown makes the same network again."""
    model, plain = RSTG(4, 8, form=form, **kwargs), RSTG(4, 8, form=form)
    again = eval(str(model))
    shapes = [{k: v.shape for k, v in each.state_dict().items()} for each in (model, again)]
    assert shapes[0] == shapes[1] and str(again) == str(model)
    [(name, value)] = kwargs.items()
    usual = form == "paper" and (name, value) == ("residual", False)
    assert (str(model) == str(plain)) == usual
    assert usual or f"{name}={value!r}" in str(model)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"num_rounds": 0}, r"'num_rounds' to be at least 1 \(got 0\)"),
        ({"cell": "rnn"}, r"'cell' to be one of \['gru', 'lstm'\] \(got 'rnn'\)"),
        ({"time_stages": "first"}, "'time_stages' to be 'all', 'last', 'none' or a list"),
        ({"time_stages": [0, 3]}, r"rounds from 0 to 2 \(got \[0, 3\]\)"),
        ({"time_stages": [-1]}, r"rounds from 0 to 2 \(got \[-1\]\)"),
        ({"time_stages": "none", "space_stages": False}, "at least one kind of stage"),
        ({"heads": 3, "form": "paper"}, "must be divisible by the number of heads"),
    ],
)
def test_rstg_constructor_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RSTG(4, 4, **{"num_rounds": 3, **kwargs})


X, EDGES = torch.randn(2, 3, 5, 4), GRID.edge_index
SHAPE = r"'x' to have shape \[B, T, N, 4\] \(got \["
STATE = RSTG(4, 8, num_rounds=3)(X, EDGES, return_state=True)[1]
ORDER = r"3 nodes .*; nodes are \[B, T, N, C\]: clips, frames"


@pytest.mark.parametrize(
    "options, x, inputs, message",
    [
        ({}, X[0], {}, SHAPE),
        ({}, X[..., :3], {}, SHAPE),
        ({}, X[None], {}, SHAPE),
        ({"pos_channels": 2}, X, {}, "'pos' to have shape"),
        ({}, X, {"state": STATE[:3]}, r"one entry for each of 4 time stages \(got 3\)"),
        ({"time_stages": "none"}, X, {"state": STATE[:1]}, r"each of 0 time stages \(got 1\)"),
        ({}, X, {"edge_index": torch.eye(5).to_sparse()}, r"a tensor .* \(got torch.sparse"),
        ({}, X.transpose(1, 2), {}, ORDER),
        ({}, X.transpose(1, 2), {"lengths": [5, 2]}, ORDER),
        ({}, X[0, 0], {"edge_index": [EDGES]}, r"lists of edges only with 'x' \[B, T, N, C\]"),
    ],
)
def test_rstg_input_errors(options, x, inputs, message):
    with pytest.raises(IndexError if message == ORDER else ValueError, match=message):
        RSTG(4, 8, num_rounds=3, **options)(x, **{"edge_index": EDGES, **inputs})


def test_rstg_repeated_rounds_count_once():
    assert RSTG(4, 4, num_rounds=3, time_stages=[2, 0, 2]).time_rounds == [0, 2]


@pytest.mark.parametrize("shared_rounds", [True, False])
@pytest.mark.parametrize(
    "time_stages, cell, residual, shared, own", [
        ("all", "lstm", False, 1, 3), ("last", "gru", True, 0, 0), ("none", "lstm", True, 0, 0),
        ([1], "gru", False, 1, 1), ([0, 2], "lstm", True, 1, 2), ([], "lstm", False, 0, 0),
    ],
)  # fmt: skip
def test_rstg_stages_and_parameters(time_stages, cell, residual, shared, own, shared_rounds):
    """How many cells and layers there are, what they weigh, and how often each runs."""
    dim, cells, convs = 6, shared if shared_rounds else own, 1 if shared_rounds else 3
    options = dict(time_stages=time_stages, cell=cell, residual=residual, shared_rounds=shared_rounds)
    model, last, gates = RSTG(4, dim, 3, **options), time_stages != "none", 4 if cell == "lstm" else 3
    assert (len(model.cells), len(model.convs)) == (cells, convs)
    assert (model.last_cell is not None) == last
    expected = (cells + last) * gates * (2 * dim * dim + 2 * dim)
    expected += convs * count(RSTGConv(dim, dim)) + 4 * dim + dim  # and lin_in
    expected += (cells + convs + last + 1) * 2 * dim if residual else 0  # layer norms
    assert count(model) == expected

    calls = []
    for module in (*model.cells, *model.convs, model.last_cell):
        if module is not None:
            module.register_forward_hook(lambda m, inputs, out: calls.append(inputs[0].shape))
    model(clip().float(), GRID.edge_index)
    assert calls.count((STEPS, BATCH, NODES, dim)) == 3
    assert calls.count((STEPS, BATCH * NODES, dim)) == own + last


def test_rstg_lazy():
    lazy, eager, fresh = RSTG(-1, 8), RSTG(4, 8), RSTG(-1, 8)
    out = lazy(X, GRID.edge_index)
    for other in (eager, fresh):
        other.load_state_dict(lazy.state_dict())
        torch.testing.assert_close(other(X, GRID.edge_index), out)
    with pytest.raises(ValueError, match=r"'x' to have shape \[B, T, N, 4\]"):
        lazy(X[..., :3], GRID.edge_index)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("norm", [None, JointLayerNorm, "graph_norm", "batch_norm"])
def test_rstg_with_nobody_there_gives_every_parameter_a_gradient(norm, cell):
    """Other processes wait for them (DistributedDataParallel)."""
    model = RSTG(4, 8, cell=cell, norm=norm, in_norm=norm, heads=2, residual=True)
    model(X, GRID.edge_index, mask=torch.zeros(2, 3, 5, dtype=torch.bool)).sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and (p.grad == 0).all(), name


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("masked", [False, True])
def test_rstg_takes_a_state_out_of_autocast(masked, cell):
    model = RSTG(4, 8, cell=cell)
    mask = torch.ones(2, 3, 5, dtype=torch.bool) if masked else None
    with torch.autocast("cpu", torch.bfloat16):
        _, state = model(X, GRID.edge_index, mask=mask, return_state=True)
    out = model(X, GRID.edge_index, mask=mask, state=state)
    assert out.dtype == torch.float32
    _, exact = model(X, GRID.edge_index, return_state=True)
    torch.testing.assert_close(out, model(X, GRID.edge_index, state=exact), atol=0.02, rtol=0.02)
