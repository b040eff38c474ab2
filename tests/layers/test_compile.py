"""`torch.compile` of whatever has recurrent cells, as one graph, with the numbers of eager mode."""

import pytest
import torch
from helpers.networks import clips, network
from helpers.random_weights import draw
from torch._dynamo.testing import CompileCounter
from torch.nn.utils.rnn import PackedSequence
from torch_geometric.testing import onlyFullTest, onlyLinux

from rstg_pyg.cells import Cell
from rstg_pyg.graphs import multiscale_grid

pytestmark = pytest.mark.usefixtures("fresh_compiler")
GRID = multiscale_grid((2, 1))


def nodes(frames=3):
    return draw(2, frames, 5, 4)


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
def test_rstg_compiles_once_for_any_number_of_frames(make):
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
    inputs = (rows.requires_grad_(), sizes, memory, list(cell.parameters()), True, None)
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


def test_a_state_of_another_cell_is_named():
    x, memory = torch.randn(2, 3, 4), torch.zeros(1, 3, 4)
    message = r"for GRU 1 of shape \[1, 3, 4\] \(got \[\[1, 3, 4\], \[1, 3, 4\]\]\)"
    with pytest.raises(ValueError, match=message):
        Cell("GRU", 4, 4)(x, (memory, memory))
    with pytest.raises(ValueError, match=r"for LSTM 2 of shape .* \(got \[\[1, 2, 4\]\]\)"):
        Cell("LSTM", 4, 4)(x, memory[:, :2])
