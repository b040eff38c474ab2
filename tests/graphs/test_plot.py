import sys

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from rstg_pyg import RSTGConv
from rstg_pyg.graphs import (
    complete_graph,
    multiscale_grid,
    plot_attention,
    plot_grid,
    relative_attention,
)
from rstg_pyg.graphs.plot import PREFERS, TIMES, TINT

matplotlib = pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
from matplotlib.collections import LineCollection, PathCollection, QuadMesh  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import FancyArrowPatch, Polygon, Rectangle  # noqa: E402

GRID = multiscale_grid((3, 2, 1))


def found(ax, kind):
    return [child for child in ax.get_children() if type(child) is kind and child is not ax.patch]


def segments(ax):
    return [len(lines.get_segments()) for lines in found(ax, LineCollection)]


@pytest.mark.parametrize("scales", [(3, 2, 1), (1,), ((2, 4), 1), (4, 3, 2, 1)], ids=str)
def test_regions_nodes_and_edges_of_a_grid(scales):
    grid = multiscale_grid(scales)
    ax = plot_grid(grid)
    assert len(found(ax, Polygon)) == 2 * grid.num_nodes  # filled, and outlined
    assert sum(segments(ax)) == grid.edge_index.size(1) // 2  # both directions are one line
    (nodes,) = found(ax, PathCollection)
    corners = torch.stack([torch.as_tensor(p.get_xy()[:4]) for p in found(ax, Polygon)[::2]])
    torch.testing.assert_close(torch.as_tensor(nodes.get_offsets()), corners.mean(1))
    names = [text.get_text() for text in ax.texts]
    pairs = [scale if isinstance(scale, tuple) else (scale, scale) for scale in scales]
    assert names == [f"{rows} {TIMES} {columns}" for rows, columns in pairs]
    assert not found(ax, QuadMesh)


def test_scales_are_sheets_above_each_other():
    (nodes,) = found(plot_grid(GRID), PathCollection)
    height = torch.as_tensor(nodes.get_offsets()[:, 1])
    sheets = [height[GRID.node_type == k] for k in range(3)]
    assert all(upper.min() > lower.max() for lower, upper in zip(sheets, sheets[1:]))


def test_a_node_is_pointed_out():
    for node in (0, 13):
        plot_grid(GRID, node=node)
    ax = plot_grid(GRID, node=4)
    degree = int((GRID.edge_index[1] == 4).sum())
    assert segments(ax) == [45 - degree, degree]
    (mesh,) = found(ax, QuadMesh)
    shown = mesh.get_array()
    assert shown.size == 36 and shown.count() == 4  # its two by two cells of the map
    torch.testing.assert_close(
        torch.as_tensor(shown.filled(0)).flatten().float(), GRID.pos_map[4].float()
    )


def test_pairs_without_weight_are_left_out():
    assert sum(segments(plot_grid(complete_graph(GRID)))) == 45


def test_given_axes_are_used():
    for draw in (
        lambda ax: plot_grid(GRID, ax),
        lambda ax: plot_attention(GRID, torch.rand(90), ax=ax),
    ):
        ax = Figure().subplots()
        assert draw(ax) is ax


def attended(node):
    """Coefficients with which all neighbors of a node look at nothing else."""
    source, target = GRID.edge_index
    degree = target.bincount()
    alpha = 1 / degree[target]
    looking = target[source == node]
    for other in looking.tolist():
        alpha[target == other] = (source[target == other] == node).float()
    return alpha


def test_relative_attention():
    source, target = GRID.edge_index
    even = 1 / target.bincount()[target]
    torch.testing.assert_close(relative_attention(GRID.edge_index, even, 14), torch.ones(14))
    alpha = torch.stack([even, attended(4)])
    relative = relative_attention(GRID.edge_index, alpha, 14)
    assert relative.shape == (2, 14) and relative[1].argmax() == 4
    looking = source == 4
    torch.testing.assert_close(relative[1, 4], looking.sum() / even[looking].sum())


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_attention_on_a_picture(channels):
    picture = None if channels is None else torch.zeros(20, 30, channels, dtype=torch.uint8)
    ax = plot_attention(GRID, attended(4), picture)
    cells = found(ax, Rectangle)
    assert len(cells) == 2 * 9 + 1  # colored and outlined; the strongest once more
    filled = [cell for cell in cells if cell.get_fill()]
    heat = relative_attention(GRID.edge_index, attended(4), 14)[:9]
    for cell, region, value in zip(filled, GRID.region, heat):
        assert cell.get_xy() == pytest.approx(region[:2].tolist())
        tint = TINT * max(0, float(value) - 1) / (float(heat.max()) - 1)  # none up to an even share
        assert cell.get_facecolor()[3] == pytest.approx(tint)
    x0, _, x1, _ = GRID.region[4].tolist()
    assert x0 < cells[-1].get_x() and cells[-1].get_x() + cells[-1].get_width() < x1
    assert ax.texts[0].get_text() == f"{float(heat[4]):.1f}{TIMES}"
    assert found(ax, FancyArrowPatch) and len(ax.lines) == 3  # it listens evenly itself
    assert len(ax.figure.axes) == 2  # a scale
    assert ax.get_aspect() == (1 if picture is None else 20 / 30)
    (image,) = ax.images
    assert image.get_extent() == [0, 1, 1, 0]


def test_arrows_are_the_strongest_edges():
    torch.manual_seed(0)
    conv = RSTGConv(8, 8)
    _, (_, alpha) = conv(5 * torch.randn(14, 8), GRID.edge_index, return_attention_weights=True)
    share = alpha[:, 0] * GRID.edge_index[1].bincount()[GRID.edge_index[1]]
    best = 9 + int(relative_attention(GRID.edge_index, alpha[:, 0], 14)[9:13].argmax())
    preferred = [int((share[GRID.edge_index[end] == best] >= PREFERS).sum()) for end in (0, 1)]
    assert sum(preferred) > 1
    for count in (0, 1, 3, 20):
        ax = plot_attention(GRID, alpha[:, 0], arrows=count, scale=1)
        # a ring for each, also where both centers are one place
        assert len(ax.lines) == sum(min(count, number) for number in preferred)


def test_even_attention_is_no_preference():
    target = GRID.edge_index[1]
    picture = torch.full((20, 20, 3), 90, dtype=torch.uint8)
    ax = plot_attention(GRID, 1 / target.bincount()[target], picture)
    assert [text.get_text() for text in ax.texts] == ["no preference"]
    assert not found(ax, FancyArrowPatch) and not ax.lines
    (image,) = ax.images
    assert (np.asarray(image.get_array()) == 90).all()  # the picture as it is
    assert all(cell.get_facecolor()[3] < 1e-3 for cell in found(ax, Rectangle) if cell.get_fill())


def test_no_arrows_where_no_region_is_preferred():
    """An edge has a large share, but all regions receive about the same."""
    target = GRID.edge_index[1]
    alpha = 1 / target.bincount()[target]
    ends = (target == 13).nonzero().view(-1)  # the whole frame listens to all others
    alpha[ends[:2]] *= torch.tensor([1.3, 0.7])
    assert 1 < relative_attention(GRID.edge_index, alpha, 14)[:9].max() < PREFERS
    assert (alpha * target.bincount()[target]).max() > PREFERS
    ax = plot_attention(GRID, alpha)
    assert [text.get_text() for text in ax.texts] == ["no preference"]
    assert not found(ax, FancyArrowPatch)


def test_arrows_join_the_outlined_region_with_its_neighbors():
    """Rings are around the neighbors' centers, of the size of their regions."""
    source, target = GRID.edge_index
    alpha = attended(4)
    alpha[target == 4] = 0
    listened = int(source[target == 4][0])
    alpha[(target == 4) & (source == listened)] = 1  # it listens to one, and all listen to it
    ax = plot_attention(GRID, alpha, arrows=20)
    box = GRID.region[source[target == 4]]
    centers, width = (box[:, :2] + box[:, 2:]) / 2, box[:, 2] - box[:, 0]
    at = torch.tensor([[line.get_xdata()[0], line.get_ydata()[0]] for line in ax.lines])
    assert len(at) == len(box) + 1
    from_it, to_it = at.split(len(box))
    torch.testing.assert_close(from_it.sort(dim=0).values, centers.sort(dim=0).values.to(at))
    torch.testing.assert_close(to_it[0], centers[0].to(at))
    sizes = {line.get_markersize() for line in ax.lines}
    assert len(sizes) == len(width.unique())


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda: plot_grid(Data(edge_index=GRID.edge_index)), "without region, node_type"),
        (lambda: plot_grid(GRID, node=-1), r"'node' to be from 0 to 13 \(got -1\)"),
        (lambda: plot_grid(GRID, node=14), r"'node' to be from 0 to 13 \(got 14\)"),
        (lambda: plot_attention(GRID, torch.rand(90, 1)), r"shape \[90\] \(got \[90, 1\]\)"),
        (lambda: plot_attention(GRID, torch.rand(90), scale=3), r"'scale' .* 0 to 2 \(got 3\)"),
    ],
)
def test_mistakes_are_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


@pytest.mark.parametrize(
    "draw", [lambda: plot_grid(GRID), lambda: plot_attention(GRID, torch.rand(90))]
)
def test_without_matplotlib(monkeypatch, draw):
    for name in [*(name for name in sys.modules if name.startswith("matplotlib")), "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "rstg_pyg\[plot\]"'):
        draw()
