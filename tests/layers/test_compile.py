"""`torch.compile` of whatever has recurrent cells, as one graph, with the numbers of eager mode."""

import pytest
import torch
from helpers.networks import clips, network
from helpers.random_weights import draw, randomize
from torch._dynamo.testing import CompileCounter
from torch.nn.utils.rnn import PackedSequence
from torch_geometric.testing import onlyFullTest, onlyLinux

from rstg_pyg import RSTG, JointLayerNorm, RSTGConv, cells
from rstg_pyg.cells import Cell
from rstg_pyg.fast import linear, space
from rstg_pyg.fast.autograd import SIZES_CAN_BE_ASKED, plain_paths
from rstg_pyg.graphs import multiscale_grid

pytestmark = pytest.mark.usefixtures("fresh_compiler")
GRID = multiscale_grid((2, 1))


@pytest.fixture
def however_small(monkeypatch):
    """The fast path and oneDNN's products, for networks of a few channels on any processor."""
    monkeypatch.setattr(space, "LEAST_WORK", 0)
    monkeypatch.setattr(linear, "LEAST_WORK", 0)
    monkeypatch.setattr(linear, "mkl_at_home", lambda: False)


def nodes(frames=3):
    return draw(2, frames, 5, 4)


class Operations:
    """A backend that runs graphs as they are, and the names of this package's operations in them."""

    def __init__(self):
        self.names = set()

    def __call__(self, graph, inputs):
        names = [str(node.target) for node in graph.graph.nodes]
        self.names |= {name.split(".")[1] for name in names if name.startswith("rstg_pyg.")}
        return graph


def two_pieces(model, x):
    """A clip in two pieces with the state carried on: outputs, the last state and all gradients."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    first, state = model(x[:, :2], GRID.edge_index, return_state=True)
    last, state = model(x[:, 2:], GRID.edge_index, state=state, return_state=True)
    (first.square().sum() + last.square().sum()).backward()
    return first, last, state, [x.grad, *(weight.grad for weight in model.parameters())]


@pytest.mark.slow
@pytest.mark.parametrize("cell, train", [("lstm", True), ("gru", False)])
def test_rstg_compiles_without_graph_break(make, cell, train):
    model = make(cell=cell, num_rounds=2).train(train)
    expected = two_pieces(model, nodes())
    model.compile(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(two_pieces(model, nodes()), expected)


@onlyLinux
@onlyFullTest
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_rstg_compiles_by_inductor(make, cell):
    model = make(cell=cell, num_rounds=1)
    expected = two_pieces(model, nodes())
    model.compile(fullgraph=True)
    torch.testing.assert_close(two_pieces(model, nodes()), expected)


@pytest.mark.slow
def test_rstg_compiles_once_for_any_number_of_frames(make, however_small):
    model, counter = make(num_rounds=2), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter, dynamic=True)
    for frames in (3, 2, 9):
        x = nodes(frames)
        torch.testing.assert_close(compiled(x, GRID.edge_index), model(x, GRID.edge_index))
    assert counter.frame_count == 1


@pytest.mark.slow
def test_compiled_rstg_still_takes_clips_of_different_lengths(make):
    model, x = make(num_rounds=1), nodes()
    compiled = torch.compile(model, backend="eager")  # masks break the graph: rows are counted
    found = compiled(x, GRID.edge_index, lengths=[3, 1])
    torch.testing.assert_close(found, model(x, GRID.edge_index, lengths=[3, 1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "inside", "lstm head and mean"])
def test_networks_and_their_streams_compile_without_graph_break(name):
    model, clip, states = network(name), clips(size=8), [None, None]
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(clip), model(clip))
    stream = torch.compile(model.stream, fullgraph=True, backend="eager")
    for frame in clip.split(1, dim=2):
        found, states[0] = stream(frame, states[0])
        expected, states[1] = model.stream(frame, states[1])
        torch.testing.assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
@pytest.mark.parametrize("packed", [True, False])
def test_cell_equals_torch(mode, packed):
    cell = Cell(mode, 3, 4)
    reference = getattr(torch.nn, mode)(3, 4)
    reference.load_state_dict(cell.state_dict())
    x = PackedSequence(torch.randn(6, 3), torch.tensor([3, 2, 1])) if packed else torch.randn(2, 3, 3)
    (out, state), (wanted, wanted_state) = cell(x), reference(x)
    torch.testing.assert_close((tuple(out), state), (tuple(wanted), wanted_state), rtol=0, atol=0)
    # The operation of compiled graphs: shapes, types, aliases, gradients.
    rows, sizes = (x.data, x.batch_sizes) if packed else (x, None)
    memory = torch.randn(2 if mode == "LSTM" else 1, 3, 4, requires_grad=True)
    inputs = (rows.requires_grad_(), sizes, memory, list(cell.parameters()), True, None, 0)
    torch.library.opcheck(torch.ops.rstg_pyg.cell.default, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_compiled_cell_under_autocast(mode):
    cell, x = Cell(mode, 3, 4), torch.randn(2, 3, 3)
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        (out, state), (expected, _) = compiled(x), cell(x)
    assert {out.dtype, state[0].dtype} == {torch.bfloat16}
    torch.testing.assert_close(out, expected.bfloat16())
    out.float().sum().backward()
    assert all(weight.grad.dtype == torch.float32 for weight in cell.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
def test_operations_of_compiled_steps(bias):
    """Shapes, types, aliases, gradients, also of inputs that are not contiguous."""
    S, N, M, H, C, D = 4, 3, 2, 2, 5, 6
    source, target = torch.tensor([[0, 3, 3, 1], [0, 0, 2, 2]])
    src, dst = (draw(M, n, C, seed=n).transpose(0, 1).requires_grad_() for n in (S, N))
    alpha, weight = draw(H, M, 4).permute(2, 1, 0).requires_grad_(), draw(D, C).requires_grad_()
    b = draw(D).requires_grad_() if bias else None
    ops = torch.ops.rstg_pyg
    for moments in (True, False):
        inputs = (src, dst, alpha, weight, b, source, target, moments)
        torch.library.opcheck(ops.weighted_messages.default, inputs)
    wide = draw(M, S, C + D).transpose(0, 1).requires_grad_()
    torch.library.opcheck(ops.weighted_hidden.default, (wide, dst, alpha, source, target))
    torch.library.opcheck(ops.relu.default, (src,))
    torch.library.opcheck(ops.linear.default, (src, weight, b))
    x, cell = torch.randn(3, 2, 5, requires_grad=True), Cell("LSTM", 5, 4)
    memory = torch.randn(2, 2, 4, requires_grad=True)
    kept = cells._measured_bytes(*x.shape, 4)
    inputs = (x, None, memory, list(cell.parameters()), True, None)
    # Not all of the bytes are written, so they cannot be compared.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(ops.cell.default, (*inputs, kept), test_utils=checks)
    if kept > 0:
        with pytest.raises(RuntimeError, match="Expected oneDNN to keep 1 bytes"):
            ops.cell(*inputs, 1)


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
@pytest.mark.parametrize("kind", [torch.float, torch.double])
def test_gradients_of_the_cell_in_compiled_steps(mode, kind):
    """Those of torch's cell, step by step; in float32 an LSTM's are of what its forward pass kept."""
    cell, parts = Cell(mode, 5, 4).to(kind), 2 if mode == "LSTM" else 1
    x, memory = (draw(n, 2, c, dtype=kind).requires_grad_() for n, c in ((3, 5), (parts, 4)))
    weights, found = list(cell.parameters()), []
    kept = cells._measured_bytes(3, 2, 5, 4) if mode == "LSTM" and kind == torch.float else 0
    step = torch.lstm_cell if mode == "LSTM" else torch.gru_cell
    state, outs = tuple(memory) if mode == "LSTM" else memory[0], []
    for frame in x:
        state = step(frame, state, *weights)
        outs.append(state[0] if mode == "LSTM" else state)
    last = torch.stack(state) if mode == "LSTM" else state.unsqueeze(0)
    for values in (
        torch.ops.rstg_pyg.cell(x, None, memory, weights, True, None, kept)[:2],
        (torch.stack(outs), last),
    ):
        total = sum((value * draw(*value.shape, seed=k, dtype=kind)).sum() for k, value in
                    enumerate(values))  # fmt: skip
        found.append([*values, *torch.autograd.grad(total, [x, memory, *weights])])
    torch.testing.assert_close(*found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"heads": 2, "cell": "gru"}, {"form": "paper", "norm": JointLayerNorm}, {"residual": True}],
    ids=str,
)
def test_compiled_step_runs_what_eager_mode_runs(kwargs, however_small):
    model = randomize(RSTG(4, 6, **{"num_rounds": 2, **kwargs}), std=0.5)
    x, found = nodes().float().requires_grad_(), []
    for call in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        out = call(x, GRID.edge_index)
        found.append([out, *torch.autograd.grad(out.square().sum(), [x, *model.parameters()])])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not SIZES_CAN_BE_ASKED, reason="before torch 2.7 graphs hold the plain path")
def test_which_operations_are_in_a_graph(monkeypatch):
    def compiled(model, x, edge_index=GRID.edge_index):
        torch._dynamo.reset()
        backend = Operations()
        torch.compile(model, backend=backend)(x, edge_index)
        return backend.names

    model, x = RSTG(4, 6), nodes().float()
    assert compiled(model, x) == {"cell", "relu"}  # small
    monkeypatch.setattr(space, "LEAST_WORK", 0)
    assert compiled(model, x) == {"cell", "relu", "weighted_hidden"}
    assert compiled(RSTG(4, 6, form="paper"), x) == {"cell", "relu", "weighted_messages"}
    with torch.no_grad():
        assert compiled(model, x) == {"cell"}
        assert compiled(model, x[:, :1]) == set()  # a stream's frame
    with plain_paths():
        assert compiled(model, x) == {"cell"}
    assert compiled(model.double(), x.double()) == {"cell", "relu", "weighted_hidden"}
    conv = RSTGConv(4, 8)
    assert compiled(conv, x) == {"relu", "weighted_hidden"}
    with pytest.raises(IndexError, match="out of range"):
        compiled(conv, x, GRID.edge_index + 1)
    monkeypatch.setattr(linear, "mkl_at_home", lambda: False)
    monkeypatch.setattr(linear, "LEAST_WORK", 10**5)
    products = {"linear"} if linear.has_onednn(x) else set()
    assert compiled(conv, x) == {"relu", "weighted_hidden"}  # small
    monkeypatch.setattr(linear, "LEAST_WORK", 100)
    assert compiled(conv, x) == {"relu", "weighted_hidden"} | products
    with torch.no_grad():
        assert compiled(conv, x) == products
        with torch.autocast("cpu", torch.bfloat16):
            assert compiled(conv, x) == set()
    assert compiled(RSTGConv(4, 8).double(), x.double()) == {"relu", "weighted_hidden"}
    conv.send.lins[0].register_forward_hook(lambda module, inputs, out: out + 1)
    expected = conv(x, GRID.edge_index)
    assert compiled(conv, x) == {"relu"} | products
    torch.testing.assert_close(torch.compile(conv, backend="eager")(x, GRID.edge_index), expected)


@pytest.mark.slow
def test_a_strict_export_has_no_operations_of_ours(however_small):
    program = torch.export.export(RSTG(4, 6), (nodes().float(), GRID.edge_index), strict=True)
    assert "rstg_pyg" not in str(program.graph)


@pytest.mark.slow
def test_compiled_function_transforms_get_the_plain_formulas(however_small):
    conv, x = RSTGConv(4, 8), nodes().float()
    compiled = torch.compile(torch.vmap(lambda x: conv(x, GRID.edge_index)), backend="aot_eager")
    torch.testing.assert_close(compiled(x), conv(x, GRID.edge_index))


def test_a_state_of_another_cell_is_named():
    x, memory = torch.randn(2, 3, 4), torch.zeros(1, 3, 4)
    message = r"for GRU 1 of shape \[1, 3, 4\] \(got \[\[1, 3, 4\], \[1, 3, 4\]\]\)"
    with pytest.raises(ValueError, match=message):
        Cell("GRU", 4, 4)(x, (memory, memory))
    with pytest.raises(ValueError, match=r"for LSTM 2 of shape .* \(got \[\[1, 2, 4\]\]\)"):
        Cell("LSTM", 4, 4)(x, memory[:, :2])
