import pytest
import torch

from rstg_pyg import RSTG, JointLayerNorm, RSTGConv
from rstg_pyg.graphs import multiscale_grid

pytestmark = pytest.mark.usefixtures("path")

GRID = multiscale_grid((2, 1))
BATCH, STEPS, NODES = 2, 5, 5
TIME_STAGES = {
    "all": [0, 1, 2],
    "last": [],
    "none": [],
    (0,): [0],
    (2, 1): [1, 2],
    (): [],
}


def make_model(in_channels=4, hidden_channels=4, seed=0, **kwargs):
    """A model in float64 whose every parameter matters (also biases and gains)."""
    model = RSTG(in_channels, hidden_channels, **kwargs).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.double) * 0.5)
    return model.eval()


def clip(steps=STEPS, channels=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, steps, NODES, channels, generator=generator, dtype=torch.double)


def single_step(cell):
    """The one-frame cell of torch with the weights of a sequence cell."""
    kind = torch.nn.LSTMCell if cell.mode == "LSTM" else torch.nn.GRUCell
    step = kind(cell.input_size, cell.hidden_size).double()
    step.load_state_dict({k.removesuffix("_l0"): v for k, v in cell.state_dict().items()})
    return step


def reference(model, x, edge_index, **kwargs):
    """Algorithm 1 as written: frame by frame, stage by stage, a memory per stage."""
    memory, frames = {}, []

    def time_stage(key, cell, norm, v):
        flat = (v if norm is None else norm(v)).reshape(-1, v.size(-1))
        new = single_step(cell)(flat, memory.get(key))
        memory[key] = new
        out = (new[0] if isinstance(new, tuple) else new).view(v.shape)
        return out if norm is None else v + out

    for t in range(x.size(1)):
        v = x[:, t]
        if model.lin_in is not None:
            v = v @ model.lin_in.weight.t() + model.lin_in.bias
        done = 0
        for k in range(model.num_rounds):
            if k in model.time_rounds:
                i = 0 if model.shared_rounds else done
                norm = model.cell_norms[i] if model.residual else None
                v = time_stage(k, model.cells[i], norm, v)
                done += 1
            if model.space_stages:
                i = 0 if model.shared_rounds else k
                z = model.conv_norms[i](v) if model.residual else v
                z = model.convs[i](z, edge_index, **kwargs)
                v = v + z if model.residual else z
        if model.last_cell is not None:
            v = time_stage("last", model.last_cell, model.last_norm if model.residual else None, v)
        frames.append(model.out_norm(v) if model.residual else v)
    return torch.stack(frames, dim=1)


@pytest.mark.parametrize("time_stages", TIME_STAGES, ids=str)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shared_rounds", [True, False])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_rstg_against_frame_by_frame_loop(cell, shared_rounds, residual, time_stages):
    model = make_model(
        cell=cell, shared_rounds=shared_rounds, residual=residual,
        time_stages=time_stages if isinstance(time_stages, str) else list(time_stages),
    )  # fmt: skip
    assert model.time_rounds == TIME_STAGES[time_stages]
    x = clip()
    out = model(x, GRID.edge_index)
    assert out.shape == (BATCH, STEPS, NODES, 4)
    torch.testing.assert_close(out, reference(model, x, GRID.edge_index))


@pytest.mark.parametrize("residual", [False, True])
def test_rstg_with_projection_positions_types_and_weights(residual):
    model = make_model(6, 8, residual=residual, pos_channels=2, num_node_types=2, heads=2, num_rounds=2)
    kwargs = dict(
        pos=GRID.pos.double(), node_type=GRID.node_type,
        edge_weight=torch.randn(GRID.num_edges, dtype=torch.double),
    )  # fmt: skip
    x = clip(channels=6)
    out = model(x, GRID.edge_index, **kwargs)
    assert out.shape == (BATCH, STEPS, NODES, 8)
    torch.testing.assert_close(out, reference(model, x, GRID.edge_index, **kwargs))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shared_rounds", [True, False])
def test_rstg_time_only(shared_rounds, residual):
    model = make_model(space_stages=False, shared_rounds=shared_rounds, residual=residual)
    assert len(model.convs) == 0
    x = clip()
    out = model(x, GRID.edge_index)
    torch.testing.assert_close(out, reference(model, x, GRID.edge_index))
    # Nodes exchange nothing.
    other = x.clone()
    other[:, :, 0] = clip(seed=2)[:, :, 0]
    changed = model(other, GRID.edge_index)
    torch.testing.assert_close(changed[:, :, 1:], out[:, :, 1:])
    assert not torch.allclose(changed[:, :, 0], out[:, :, 0])


def test_rstg_space_only():
    model = make_model(time_stages="none")
    assert len(model.cells) == 0 and model.last_cell is None
    x = clip()
    v = x
    for _ in range(3):
        v = model.convs[0](v, GRID.edge_index)
    out, state = model(x, GRID.edge_index, return_state=True)
    torch.testing.assert_close(out, v)
    assert state == []
    # Frames exchange nothing.
    torch.testing.assert_close(model(x.flip(1), GRID.edge_index), out.flip(1))


def test_rstg_information_travels_through_space_and_time():
    model = make_model(8, 8)
    x = clip(channels=8)
    out = model(x, GRID.edge_index)
    x[:, 0, 0] = clip(channels=8, seed=2)[:, 0, 0]
    changed = model(x, GRID.edge_index)
    # Node 3 touches node 0 only in a corner; it hears of it through the others, until the end.
    assert not torch.allclose(changed[:, 0, 3], out[:, 0, 3])
    assert not torch.allclose(changed[:, -1, 3], out[:, -1, 3])


def test_rstg_in_norm():
    model = make_model(4, 8, in_norm=JointLayerNorm)
    plain = make_model(8, 8, in_norm=None)
    plain.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith(("in_norm", "lin_in"))}
    )
    x = clip()
    expected = plain(model.in_norm(model.lin_in(x)), GRID.edge_index)
    torch.testing.assert_close(model(x, GRID.edge_index), expected)

    shapes = []
    model.in_norm.register_forward_hook(lambda module, inputs, out: shapes.append(out.shape))
    model(x, GRID.edge_index)
    assert shapes == [(BATCH, STEPS, NODES, 8)]


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    "time_stages, shared, cells", [
        ("all", 1, 3), ("last", 0, 0), ("none", 0, 0), ([1], 1, 1), ([0, 2], 1, 2), ([], 0, 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shared_rounds", [True, False])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_rstg_number_of_cells_and_parameters(cell, residual, shared_rounds, time_stages, shared, cells):
    dim = 6
    model = RSTG(4, dim, time_stages=time_stages, shared_rounds=shared_rounds, residual=residual,
                 cell=cell)  # fmt: skip
    cells = shared if shared_rounds else cells
    convs = 1 if shared_rounds else 3
    last = time_stages != "none"
    assert len(model.cells) == cells
    assert len(model.convs) == convs
    assert (model.last_cell is not None) == last

    gates = 4 if cell == "lstm" else 3
    expected = (cells + last) * gates * (2 * dim * dim + 2 * dim)
    expected += convs * count(RSTGConv(dim, dim))
    expected += 4 * dim + dim  # lin_in
    if residual:
        expected += (cells + convs + last + 1) * 2 * dim  # layer norms
    assert count(model) == expected


def test_rstg_number_of_parameters_of_other_variants():
    dim = 6
    lstm = 8 * dim * dim + 8 * dim
    assert count(RSTG(dim, dim, space_stages=False)) == 2 * lstm
    assert count(RSTG(dim, dim, time_stages="none")) == count(RSTGConv(dim, dim))
    assert count(RSTG(dim, dim, num_rounds=7)) == count(RSTG(dim, dim, num_rounds=1))
    options = dict(pos_channels=36, num_node_types=3, heads=2, attention="additive")
    expected = 2 * lstm + count(RSTGConv(dim, dim, **options))
    assert count(RSTG(dim, dim, **options)) == expected


def test_rstg_residual_stages_end_without_relu():
    assert all(conv.act_last for conv in RSTG(4, 4).convs)
    assert not any(conv.act_last for conv in RSTG(4, 4, residual=True, shared_rounds=False).convs)


@pytest.mark.parametrize("shared_rounds", [True, False])
@pytest.mark.parametrize("residual", [False, True])
def test_rstg_calls_every_stage_once(residual, shared_rounds):
    model = make_model(residual=residual, shared_rounds=shared_rounds, time_stages=[0, 2])
    calls = {"cell": [], "last": [], "conv": []}

    def hook(kind):
        return lambda module, inputs, out: calls[kind].append(tuple(inputs[0].shape))

    for cell in model.cells:
        cell.register_forward_hook(hook("cell"))
    for conv in model.convs:
        conv.register_forward_hook(hook("conv"))
    model.last_cell.register_forward_hook(hook("last"))
    model(clip(), GRID.edge_index)
    assert calls["cell"] == [(STEPS, BATCH * NODES, 4)] * 2
    assert calls["last"] == [(STEPS, BATCH * NODES, 4)]
    assert calls["conv"] == [(STEPS, BATCH, NODES, 4)] * 3


@pytest.mark.parametrize("chunks", [[1] * 6, [3, 3], [2, 1, 3], [6], [5, 1]], ids=str)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("time_stages", ["all", "last", [1]], ids=str)
def test_rstg_streaming_equals_whole(time_stages, cell, residual, chunks):
    model = make_model(time_stages=time_stages, cell=cell, residual=residual)
    x = clip(steps=6)
    expected, final = model(x, GRID.edge_index, return_state=True)
    outs, state = [], None
    for chunk in x.split(chunks, dim=1):
        out, state = model(chunk, GRID.edge_index, state=state, return_state=True)
        assert out.shape == chunk.shape
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, dim=1), expected)
    torch.testing.assert_close(state, final)
    assert len(state) == {"all": 4, "last": 1}.get(str(time_stages), 2)
    # Without the state it is another video.
    alone = model(x[:, 1:], GRID.edge_index)
    assert not torch.allclose(alone, expected[:, 1:])


def test_rstg_streaming_with_unshared_rounds_positions_and_norms():
    model = make_model(
        6, 4, shared_rounds=False, pos_channels=2, norm=JointLayerNorm, in_norm=JointLayerNorm
    )
    x, pos = clip(channels=6), GRID.pos.double()
    expected = model(x, GRID.edge_index, pos=pos)
    outs, state = [], None
    for t in range(STEPS):
        out, state = model(x[:, t : t + 1], GRID.edge_index, pos=pos, state=state, return_state=True)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, dim=1), expected)


def test_rstg_state_is_left_alone_and_can_be_reused():
    model = make_model()
    x = clip()
    expected = model(x, GRID.edge_index)
    _, state = model(x[:, :2], GRID.edge_index, return_state=True)
    for _ in range(2):
        out = model(x[:, 2:], GRID.edge_index, state=state)
        torch.testing.assert_close(out, expected[:, 2:])


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("frame", [0, 2, STEPS - 1])
def test_rstg_is_causal(frame, residual):
    model = make_model(8, 8, residual=residual, norm=JointLayerNorm)
    x = clip(channels=8)
    expected = model(x, GRID.edge_index)
    other = x.clone()
    other[:, frame] = clip(channels=8, seed=2)[:, frame]
    out = model(other, GRID.edge_index)
    torch.testing.assert_close(out[:, :frame], expected[:, :frame])
    for t in range(frame, STEPS):
        assert (out[:, t] - expected[:, t]).abs().max() > 1e-9


def test_rstg_treats_clips_by_themselves():
    model = make_model(norm=JointLayerNorm)
    x = clip()
    expected = torch.cat([model(sample, GRID.edge_index) for sample in x.split(1)])
    torch.testing.assert_close(model(x, GRID.edge_index), expected)


def test_rstg_gradients_reach_everything():
    for residual in (False, True):
        for shared_rounds in (False, True):
            model = make_model(6, 8, residual=residual, shared_rounds=shared_rounds, heads=2)
            x = clip(channels=6).requires_grad_()
            probe = torch.randn(BATCH, STEPS, NODES, 8, dtype=torch.double)
            (model(x, GRID.edge_index) * probe).sum().backward()
            assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
            for name, p in model.named_parameters():
                assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_rstg_reset_parameters():
    model = make_model(6, 8, residual=True, pos_channels=2, shared_rounds=False).float()
    torch.manual_seed(2)
    model.reset_parameters()
    first = {k: v.clone() for k, v in model.state_dict().items()}
    model.reset_parameters()
    for key, value in model.state_dict().items():
        if "norm" not in key and "bias" not in key:
            assert not torch.equal(value, first[key]), key
    torch.manual_seed(2)
    model.reset_parameters()
    assert all(torch.equal(v, first[k]) for k, v in model.state_dict().items())
    for key, value in first.items():
        if "bias" in key:
            assert value.abs().max() == 0, key
        elif "norm" in key:
            assert (value == 1).all(), key


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
    assert str(RSTG(4, 8)) == "RSTG(4, 8, num_rounds=3, time_stages='all')"
    model = RSTG(4, 8, num_rounds=2, time_stages=[0])
    assert str(model) == "RSTG(4, 8, num_rounds=2, time_stages=[0])"


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"num_rounds": 0}, r"'num_rounds' to be at least 1 \(got 0\)"),
        ({"cell": "rnn"}, r"'cell' to be one of \['gru', 'lstm'\] \(got 'rnn'\)"),
        ({"time_stages": "first"}, "'time_stages' to be 'all', 'last', 'none' or a list"),
        ({"time_stages": [0, 3]}, r"rounds from 0 to 2 \(got \[0, 3\]\)"),
        ({"time_stages": [-1]}, r"rounds from 0 to 2 \(got \[-1\]\)"),
        ({"time_stages": "none", "space_stages": False}, "at least one kind of stage"),
        ({"heads": 3}, "must be divisible by the number of heads"),
    ],
)
def test_rstg_constructor_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RSTG(4, 4, **kwargs)


def test_rstg_input_errors():
    model = RSTG(4, 8, pos_channels=2)
    x, pos = torch.randn(2, 3, 5, 4), GRID.pos
    for other in (x[0], x[..., :3], x[None]):
        with pytest.raises(ValueError, match=r"'x' to have shape \[B, T, N, 4\] \(got \["):
            model(other, GRID.edge_index, pos=pos)
    with pytest.raises(ValueError, match="'pos' to have shape"):
        model(x, GRID.edge_index)
    _, state = model(x, GRID.edge_index, pos=pos, return_state=True)
    with pytest.raises(ValueError, match=r"one entry for each of 4 time stages \(got 3\)"):
        model(x, GRID.edge_index, pos=pos, state=state[:3])
    with pytest.raises(ValueError, match=r"one entry for each of 0 time stages \(got 1\)"):
        RSTG(4, 4, time_stages="none")(x, GRID.edge_index, state=state[:1])


def test_rstg_repeated_rounds_count_once():
    assert RSTG(4, 4, time_stages=[2, 0, 2]).time_rounds == [0, 2]
