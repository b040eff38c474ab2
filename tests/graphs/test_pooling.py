from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rstg_pyg.graphs import AreaPool, AreaUnpool, multiscale_grid
from rstg_pyg.graphs.pooling import area_matrix

SIZES = [(6, 6), (7, 7), (5, 8), (8, 5), (4, 11)]
SCALES = [(3, 2, 1), (1, 3), ((2, 3), (4, 1), 1)]


def overlap(a0, a1, b0, b1):
    return max(Fraction(0), min(a1, b1) - max(a0, b0))


def cells(scales):
    """(rows, cols, r, c) of every node, in the order of the grid."""
    for scale in scales:
        rows, cols = (scale, scale) if isinstance(scale, int) else scale
        for r in range(rows):
            for c in range(cols):
                yield rows, cols, r, c


def areas(scales, height, width):
    """Exact area that every node's region shares with every map cell, in cells: [N, H, W]."""
    out = []
    for rows, cols, r, c in cells(scales):
        y0, y1 = Fraction(r * height, rows), Fraction((r + 1) * height, rows)
        x0, x1 = Fraction(c * width, cols), Fraction((c + 1) * width, cols)
        out.append(
            [
                [overlap(y0, y1, y, y + 1) * overlap(x0, x1, x, x + 1) for x in range(width)]
                for y in range(height)
            ]
        )
    return out


def brute_pool(feature_map, scales):
    batch, channels, steps, height, width = feature_map.shape
    shared = areas(scales, height, width)
    out = np.zeros((batch, steps, len(shared), channels))
    for n, (rows, cols, _, _) in enumerate(cells(scales)):
        region = Fraction(height * width, rows * cols)
        for y in range(height):
            for x in range(width):
                weight = float(shared[n][y][x] / region)
                out[:, :, n] += weight * feature_map[:, :, :, y, x].transpose(0, 2, 1)
    return out


def brute_unpool(nodes, scales, height, width):
    batch, steps, _, channels = nodes.shape
    shared = areas(scales, height, width)
    out = np.zeros((batch, channels, steps, height, width))
    for n in range(nodes.shape[2]):
        for y in range(height):
            for x in range(width):
                # A map cell has the area 1: the covered area is its share in the average.
                out[:, :, :, y, x] += float(shared[n][y][x]) * nodes[:, :, n].transpose(0, 2, 1)
    return out


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9))
def test_area_matrix_against_fractions(out_size, in_size):
    window = Fraction(in_size, out_size)
    expected = [
        [overlap(o * window, (o + 1) * window, i, i + 1) / window for i in range(in_size)]
        for o in range(out_size)
    ]
    assert all(sum(row) == 1 for row in expected)
    out = area_matrix(out_size, in_size, dtype=torch.double)
    np.testing.assert_allclose(out.numpy(), np.array(expected, dtype=float), rtol=1e-15)
    torch.testing.assert_close(out.sum(1), torch.ones(out_size, dtype=torch.double))


def test_area_matrix_values():
    torch.testing.assert_close(
        area_matrix(2, 3), torch.tensor([[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    )
    assert torch.equal(area_matrix(3, 3), torch.eye(3))
    assert area_matrix(2, 4, dtype=torch.half).dtype == torch.half


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("size", SIZES)
def test_area_pool_against_integral(scales, size):
    x = np.random.default_rng(0).normal(size=(2, 3, 2, *size))
    pool = AreaPool(scales)
    out = pool(torch.from_numpy(x))
    assert out.shape == (2, 2, pool.num_nodes, 3)
    np.testing.assert_allclose(out.numpy(), brute_pool(x, scales), atol=1e-12)
    out = pool(torch.from_numpy(x).float())
    assert out.dtype == torch.float
    np.testing.assert_allclose(out.numpy(), brute_pool(x, scales), atol=1e-5)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("size", SIZES)
def test_area_unpool_against_integral(scales, size):
    unpool = AreaUnpool(scales)
    nodes = np.random.default_rng(0).normal(size=(2, 3, unpool.num_nodes, 2))
    out = unpool(torch.from_numpy(nodes), size)
    assert out.shape == (2, 2, 3, *size)
    np.testing.assert_allclose(out.numpy(), brute_unpool(nodes, scales, *size), atol=1e-12)


def test_area_pool_is_not_adaptive_average_pooling():
    # Scale 2 on 3 cells: the middle cell counts half in both windows.
    x = torch.tensor([0.0, 3.0, 6.0]).view(1, 1, 1, 1, 3)
    assert AreaPool(((1, 2),))(x).view(-1).tolist() == [1.0, 5.0]


def test_area_pool_where_scales_divide_the_map():
    x = torch.randn(2, 3, 4, 6, 6)
    out = AreaPool((3, 2, 1))(x)
    for scale, nodes in zip((3, 2, 1), out.split([9, 4, 1], dim=2)):
        expected = torch.nn.functional.avg_pool3d(x, (1, 6 // scale, 6 // scale))
        torch.testing.assert_close(nodes, expected.flatten(3).permute(0, 2, 3, 1))


def test_nodes_have_the_order_of_the_grid():
    # A map of its own coordinates pools to the centers of the regions.
    grid = multiscale_grid((3, (2, 4), 1))
    centers = (torch.arange(12) + 0.5) / 12
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    out = AreaPool((3, (2, 4), 1))(torch.stack([x, y])[None, :, None])
    torch.testing.assert_close(out[0, 0], grid.pos)


def test_area_unpool_sums_the_scales():
    nodes = torch.zeros(1, 1, 14, 1)
    nodes[:, :, :9], nodes[:, :, 9:13], nodes[:, :, 13] = 1, 10, 100
    torch.testing.assert_close(
        AreaUnpool((3, 2, 1))(nodes, (7, 5)), torch.full((1, 1, 1, 7, 5), 111.0)
    )


def test_area_unpool_is_piecewise_constant():
    nodes = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 4, 1)
    out = AreaUnpool((2,))(nodes, (2, 3))
    assert out.view(2, 3).tolist() == [[1.0, 1.5, 2.0], [3.0, 3.5, 4.0]]


@pytest.mark.parametrize("size", [(6, 6), (7, 11)])
def test_constant_maps(size):
    x = torch.full((2, 3, 4, *size), 2.5)
    nodes = AreaPool((3, 2, 1))(x)
    torch.testing.assert_close(nodes, torch.full((2, 4, 14, 3), 2.5))
    torch.testing.assert_close(AreaUnpool((3, 2, 1))(nodes, size), 3 * x)


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_pooling_keeps_the_mean(size):
    x = torch.randn(1, 2, 3, *size, dtype=torch.double)
    for scales in [(3,), ((2, 5),), (1,)]:
        nodes = AreaPool(scales)(x)
        torch.testing.assert_close(nodes.mean(2), x.mean((3, 4)).transpose(1, 2))
        out = AreaUnpool(scales)(nodes, size)
        torch.testing.assert_close(out.mean((3, 4)), x.mean((3, 4)))


def test_pooling_gradcheck():
    x = torch.randn(1, 2, 2, 4, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(AreaPool((3, (2, 1))), x)
    nodes = torch.randn(1, 2, 11, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: AreaUnpool((3, (2, 1)))(v, (4, 3)), nodes)


def test_area_pool_memory_formats():
    x = torch.randn(2, 8, 3, 7, 5)
    pool = AreaPool((3, 2, 1))
    expected = pool(x)
    torch.testing.assert_close(pool(x.to(memory_format=torch.channels_last_3d)), expected)
    torch.testing.assert_close(pool(x.transpose(3, 4).contiguous().transpose(3, 4)), expected)
    strided = torch.randn(2, 8, 6, 7, 5)
    torch.testing.assert_close(pool(strided[:, :, ::2]), pool(strided[:, :, ::2].contiguous()))


def test_area_modules_have_no_state():
    for module in (AreaPool((3, 2, 1)), AreaUnpool((3, 2, 1))):
        assert len(module.state_dict()) == 0
        assert module.num_nodes == 14
        assert str(module) == f"{type(module).__name__}(3x3, 2x2, 1x1)"


@pytest.mark.parametrize("module", [AreaPool, AreaUnpool])
@pytest.mark.parametrize("scales", [(), (0,), (True,), ((1, 2, 3),)])
def test_area_modules_reject_invalid_scales(module, scales):
    with pytest.raises(ValueError, match=r"Expected .*scale"):
        module(scales)


@pytest.mark.parametrize("shape", [(3, 4, 6, 6), (3, 6, 6), (1, 2, 3, 4, 6, 6)])
def test_area_pool_rejects_other_dimensions(shape):
    with pytest.raises(ValueError, match=r"five dimensions \[B, C, T, H, W\] \(got shape \("):
        AreaPool()(torch.randn(shape))


@pytest.mark.parametrize("size", [(2, 6), (6, 2)])
def test_scale_finer_than_the_map(size):
    with pytest.raises(ValueError, match=r"feature map of \d x \d cells \(got a scale of 3 x 3\)"):
        AreaPool((3, 2, 1))(torch.randn(1, 2, 1, *size))
    with pytest.raises(ValueError, match=r"feature map of \d x \d cells \(got a scale of 3 x 3\)"):
        AreaUnpool((3, 2, 1))(torch.randn(1, 1, 14, 2), size)


def test_rows_and_columns_are_checked_by_themselves():
    assert AreaPool(((2, 5),))(torch.randn(1, 1, 1, 2, 5)).shape == (1, 1, 10, 1)
    with pytest.raises(ValueError, match="got a scale of 2 x 5"):
        AreaPool(((2, 5),))(torch.randn(1, 1, 1, 5, 2))


@pytest.mark.parametrize("shape", [(2, 3, 13, 4), (14, 4), (3, 14, 4), (1, 2, 3, 14, 4)])
def test_area_unpool_rejects_other_nodes(shape):
    with pytest.raises(ValueError, match=r"shape \[B, T, 14, C\] for the scales"):
        AreaUnpool((3, 2, 1))(torch.randn(shape), (6, 6))
