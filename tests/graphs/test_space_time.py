import pytest
import torch

from rstg_pyg.graphs import multiscale_grid, space_time_edges


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_edges_are_those_of_every_frame_and_of_the_frames_beside_it(frames):
    edges, nodes = multiscale_grid((2, 1)).edge_index, 5
    found = space_time_edges(edges, nodes, frames)
    expected = set()
    for t in range(frames):
        for j, i in edges.t().tolist():
            expected.add((t * nodes + j, t * nodes + i))
        for i in range(nodes):
            for other in (t - 1, t + 1):
                if 0 <= other < frames:
                    expected.add((other * nodes + i, t * nodes + i))
    assert found.shape == (2, frames * edges.size(1) + 2 * (frames - 1) * nodes)
    assert set(map(tuple, found.t().tolist())) == expected


def test_edges_inside_frames_come_first_and_in_order():
    edges = torch.tensor([[1, 0, 1], [0, 1, 2]])
    found = space_time_edges(edges, 3, 2)
    assert found[:, :6].tolist() == [[1, 0, 1, 4, 3, 4], [0, 1, 2, 3, 4, 5]]
    assert found[1, 6:].tolist() == sorted(found[1, 6:].tolist())
