"""RSTG on rows of a PyG batch: any graph in any frame, nodes that come and go."""

import copy

import pytest
import torch
from helpers.random_weights import draw
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.utils import to_torch_csc_tensor

from rstg_pyg import RSTG
from rstg_pyg.cells import Histories
from rstg_pyg.graphs import join_sequences


def tracks(seed, names_per_frame, edge_dim=None):
    """A sequence of random graphs with the given nodes in each frame."""
    frames = []
    for t, names in enumerate(names_per_frame):
        x = draw(len(names), 4, seed=10 * seed + t)
        data = Data(x=x, edge_index=(x @ x.t() > 0).nonzero().t(), track=torch.tensor(names).long())
        if edge_dim is not None:
            data.edge_attr = draw(data.num_edges, edge_dim, seed=seed)
        frames.append(data)
    return frames


# Tracks that appear, vanish, come back and swap rows; a frame without nodes; one of a single node.
COMING = [[5, 9], [9, 5, 2], [2], [], [5, 2, 7, 9], [7, 5]]
OTHER = [[1, 2, 3], [3, 1]]


def run(model, batch, **kwargs):
    of = dict(node=batch.node, batch=batch.batch, **kwargs)
    return model(batch.x, batch.edge_index, batch.edge_attr, **of)


def test_frame_by_frame_equals_the_whole(make, form):
    """A stream of frames in which new tracks appear: the state grows with them."""
    model = make(**form)
    frames = tracks(1, COMING)
    batch = join_sequences([frames], node_id="track")
    expected, final = run(model, batch, return_state=True)
    numbers = {9: 1, 5: 0, 2: 2, 7: 3}  # as they appear
    outs, state = [], None
    for data in frames:
        node = torch.tensor([numbers[name] for name in data.track.tolist()], dtype=torch.long)
        out, state = model(data.x, data.edge_index, node=node, state=state, return_state=True)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs), expected)
    order = [2, 5, 7, 9]  # join_sequences numbers them by value
    for mine, whole in zip(state, final):
        parts = zip(mine, whole) if isinstance(mine, tuple) else [(mine, whole)]
        for a, b in parts:
            torch.testing.assert_close(a[:, [numbers[name] for name in order]], b)


def test_the_order_of_rows_does_not_matter(make):
    model = make(edge_dim=3)
    batch = join_sequences([tracks(1, COMING, 3), tracks(2, OTHER, 3)], node_id="track")
    expected = run(model, batch)
    torch.manual_seed(3)
    new, edges, mixed = (
        torch.randperm(batch.num_nodes),
        torch.randperm(batch.num_edges),
        copy.copy(batch),
    )
    old = new.argsort()  # where each row went
    mixed.x, mixed.node, mixed.batch = batch.x[new], batch.node[new], batch.batch[new]
    mixed.edge_index, mixed.edge_attr = old[batch.edge_index[:, edges]], batch.edge_attr[edges]
    torch.testing.assert_close(run(model, mixed), expected[new])


def test_the_state_of_later_numbers_stays_while_only_earlier_ones_are_there(make, form):
    model, none = make(**form), torch.empty(2, 0, dtype=torch.long)
    x, steps = draw(6, 4), [[0, 1, 2], [0], [2, 1]]
    rows = [x[:3], x[3:4], x[4:]]
    state = None
    for part, node in zip(rows, steps):
        out, state = model(part, none, node=torch.tensor(node), state=state, return_state=True)
    for k, name in enumerate(steps[2]):  # the node alone
        pair = torch.stack([x[name], x[4 + k]])
        alone = model(pair, none, node=torch.tensor([0, 0]), batch=torch.tensor([0, 1]))
        torch.testing.assert_close(out[k], alone[1])


def test_a_track_that_comes_back_remembers(make):
    model = make()
    frames = tracks(1, [[0], [1], [0]])
    with_gap = run(model, join_sequences([frames], node_id="track"))
    without = run(model, join_sequences([[frames[0], frames[2]]], node_id="track"))
    torch.testing.assert_close(with_gap[[0, 2]], without)
    frames[2].track = torch.tensor([5])  # with a number of its own it begins afresh
    afresh = run(model, join_sequences([frames], node_id="track"))
    assert not torch.allclose(afresh[2], with_gap[2])
    torch.testing.assert_close(afresh[2:], run(model, join_sequences([frames[2:]], node_id="track")))


def test_other_forms_of_edges(make):
    model = make()
    frames = tracks(1, [[0, 1, 2], [2, 1]])
    batch = join_sequences([frames], node_id="track")
    expected = run(model, batch)
    for edges in (
        EdgeIndex(batch.edge_index, sparse_size=(5, 5)),
        batch.edge_index.int(),
        to_torch_csc_tensor(batch.edge_index, size=(5, 5)).transpose(0, 1),
    ):
        batch.edge_index = edges
        torch.testing.assert_close(run(model, batch), expected)


def test_no_edges_and_no_rows(make):
    model = make()
    none = torch.empty(2, 0, dtype=torch.long)
    out = model(torch.ones(2, 4).double(), none, node=torch.tensor([0, 1]))
    assert out.isfinite().all() and torch.equal(out[0], out[1])
    empty = torch.empty(0, dtype=torch.long)
    _, before = model(torch.ones(2, 4).double(), none, node=torch.tensor([0, 1]), return_state=True)
    out, state = model(torch.empty(0, 4).double(), none, node=empty, state=before, return_state=True)
    assert out.shape == (0, 6)
    torch.testing.assert_close(state, before)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradients_of_rows(make, cell):
    model = make(num_rounds=1, cell=cell)
    batch = join_sequences([tracks(1, COMING[:3])], node_id="track")

    def outputs(x):
        return model(x, batch.edge_index, node=batch.node, batch=batch.batch)

    assert torch.autograd.gradcheck(outputs, batch.x.requires_grad_())


def test_histories_are_one_call_of_the_cell_without_padding(make):
    model = make()
    calls = []
    model.last_cell.register_forward_hook(lambda module, inputs, out: calls.append(inputs[0]))
    run(model, join_sequences([tracks(1, COMING), tracks(2, OTHER)], node_id="track"))
    assert len(calls) == 1
    assert calls[0].data.shape == (17, 6)
    assert calls[0].batch_sizes.tolist() == [7, 6, 3, 1]


def test_histories_order():
    histories = Histories(torch.tensor([1, 0, 1, 3]), torch.tensor([2, 0, 1, 0]), 4)
    # Node 1 has two rows, of which the second is earlier.
    assert histories.order.tolist() == [2, 1, 3, 0]
    assert histories.sizes.tolist() == [3, 1]
    assert histories.present.tolist() == [1, 0, 3]


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(node=torch.zeros(5)), ValueError, r"'node' to hold one integer for each of 5 rows"),
        (dict(node=torch.arange(4)), ValueError, r"'node' to hold one integer .* \(got \[4\]"),
        (dict(node=torch.arange(5) - 1), ValueError, r"'node' to count nodes from 0 \(got -1\)"),
        (dict(node=torch.tensor([0, 1, 1, 0, 1])), ValueError, "got node 1 twice in frame 0"),
        (dict(batch=torch.zeros(3).long()), ValueError, r"'batch' to hold one integer for each"),
        (dict(mask=torch.ones(5).bool()), ValueError, "'mask' and 'lengths' only with"),
        (dict(lengths=[2]), ValueError, "'mask' and 'lengths' only with"),
        (dict(x=torch.ones(1, 1, 5, 4)), ValueError, r"only with rows \(got 'x' \[1, 1, 5, 4\]\)"),
        (dict(x=torch.ones(5, 3)), ValueError, r"\(got \[5, 3\]\), or \[rows, 4\]"),
        (dict(node=None), ValueError, "'node', which says what rows are one node"),
        (dict(edge_index=torch.tensor([[0], [3]])), ValueError, "from frame 0 to frame 1"),
        (dict(edge_index=torch.tensor([[0], [5]])), IndexError, "from 0 to 5, but there are 5 nodes"),
        (dict(edge_index=torch.ones(2, 3)), ValueError, r"integers of shape \[2, num_edges\]"),
    ],
)
def test_errors_of_rows(change, error, message):
    kwargs = dict(x=torch.ones(5, 4), edge_index=torch.tensor([[0, 1], [1, 2]]))
    kwargs |= dict(node=torch.tensor([0, 1, 2, 0, 1]), batch=torch.tensor([0, 0, 0, 1, 1]))
    model = RSTG(4, 4)
    model(**kwargs)
    with pytest.raises(error, match=message):
        model(**{**kwargs, **change})


def test_snapshots_of_the_same_nodes_need_no_numbers(make):
    model = make()
    frames = tracks(1, [[0, 1, 2]] * 4)
    expected = run(model, join_sequences([frames]))
    outs, state = [], None
    for data in frames:
        out, state = model(data.x, data.edge_index, state=state, return_state=True)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs), expected)
    with pytest.raises(ValueError, match="2 rows and a state of 3 nodes"):
        model(data.x[:2], data.edge_index[:, :0], state=state)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_edges_between_frames_are_found_in_sparse_matrices(layout):
    adj_t = torch.zeros(4, 4)
    adj_t[3, 0] = 1.0  # to row 3, from row 0
    times = dict(node=torch.tensor([0, 1, 0, 1]), batch=torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="from frame 0 to frame 1"):
        RSTG(4, 4)(torch.ones(4, 4), adj_t.to_sparse(layout=layout), **times)
