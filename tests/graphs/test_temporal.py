import pytest
import torch
from torch.utils.data import DataLoader
from torch_geometric.data import Batch, Data, HeteroData

from rstg_pyg.graphs import join_sequences


def frame(*names, **values):
    n = len(names)
    edges = torch.tensor([[i, (i + 1) % n] for i in range(n)], dtype=torch.long).view(-1, 2).t()
    x = torch.tensor(names, dtype=torch.float).view(-1, 1)
    return Data(x=x, edge_index=edges, track=torch.tensor(names, dtype=torch.long), **values)


FIRST = [frame(7, 9), frame(9), frame(), frame(3, 7, 9)]
SECOND = [frame(9, 8)]


def test_it_is_a_batch_of_all_frames():
    batch = join_sequences([FIRST, SECOND], node_id="track")
    plain = Batch.from_data_list(FIRST + SECOND)
    assert isinstance(batch, Batch) and batch.num_graphs == 5
    for key in ("x", "edge_index", "track", "batch", "ptr"):
        assert torch.equal(batch[key], plain[key]), key
    for mine, one in zip(batch.to_data_list(), FIRST + SECOND):
        assert torch.equal(mine.x, one.x) and torch.equal(mine.edge_index, one.edge_index)
    assert "node" not in FIRST[0]  # the caller's frames stay as they are


def test_nodes_frames_and_sequences_of_rows():
    batch = join_sequences([FIRST, SECOND], node_id="track")
    # 3, 7 and 9 of the first sequence; 8 and (another) 9 of the second.
    assert batch.node.tolist() == [1, 2, 2, 0, 1, 2, 4, 3]
    assert batch.frame.tolist() == [0, 0, 1, 3, 3, 3, 0, 0]
    assert batch.sequence.tolist() == [0, 0, 0, 0, 0, 0, 1, 1]


def test_nodes_of_every_sequence_are_others():
    batch = join_sequences([FIRST, SECOND, FIRST[:1], SECOND], node_id="track")
    assert batch.node[:8].tolist() == [1, 2, 2, 0, 1, 2, 4, 3]
    assert batch.node[8:].tolist() == [5, 6, 8, 7]


def test_without_names_the_row_is_the_node():
    batch = join_sequences([[frame(5, 6), frame(6, 5)], [frame(1, 2, 3)]])
    assert batch.node.tolist() == [0, 1, 0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"'node_id', because the number of nodes changes in seq"):
        join_sequences([SECOND, FIRST])


def test_attributes_of_every_kind_come_along():
    a = [frame(1, 2, y=torch.tensor([0]), edge_attr=torch.ones(2, 3), name="a") for _ in range(2)]
    batch = join_sequences([a, a])
    assert batch.y.shape == (4,) and batch.edge_attr.shape == (8, 3) and batch.name == ["a"] * 4


class Signal:
    """As PyTorch Geometric Temporal has it: snapshots made while one iterates."""

    def __init__(self, snapshots):
        self.snapshots = snapshots

    def __iter__(self):
        return iter(self.snapshots)


def test_anything_to_iterate_over_and_batches_as_frames():
    expected = join_sequences([FIRST], node_id="track")
    for sequence in (Signal(FIRST), iter(FIRST), tuple(FIRST)):
        assert torch.equal(join_sequences([sequence], node_id="track").node, expected.node)
    pair = Batch.from_data_list([frame(1, 2), frame(3)])
    batch = join_sequences([[pair, pair]])
    assert batch.num_graphs == 2 and batch.node.tolist() == [0, 1, 2, 0, 1, 2]
    assert batch.batch.tolist() == [0, 0, 0, 1, 1, 1]


def test_as_a_collate_function_of_a_loader():
    data_set = [[frame(1, 2)] * length for length in (3, 1, 2)]
    batches = list(DataLoader(data_set, batch_size=2, collate_fn=join_sequences))
    assert [b.num_graphs for b in batches] == [4, 2]
    assert batches[0].sequence.tolist() == [0] * 6 + [1] * 2


@pytest.mark.parametrize(
    "sequences, node_id, message",
    [
        ([], None, "at least one frame"),
        ([[], []], None, "at least one frame"),
        (FIRST, None, "a list of sequences"),
        ([[HeteroData()]], None, r"every frame to be a 'Data' \(got HeteroData\)"),
        ([[frame(1, 1)]], "track", r"be unique in frame 0 of sequence 0 \(got \[1, 1\]\)"),
        ([FIRST], "id", r"'id' to hold one integer for each of 2 nodes in frame 0 .*\(got none\)"),
        ([FIRST], "edge_index", r"for each of 2 nodes in frame 0 of sequence 0 \(got \[2, 2\]\)"),
        ([[frame(1, frame=2)]], None, r"frames without \['frame'\]"),
    ],
)
def test_errors(sequences, node_id, message):
    with pytest.raises(ValueError, match=message):
        join_sequences(sequences, node_id)
