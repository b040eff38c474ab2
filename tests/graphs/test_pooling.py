import numpy as np
import pytest
import torch
from helpers.grids import exact_regions, overlap, pair, scale_lists
from hypothesis import given, settings
from hypothesis import strategies as st

from rstg_pyg.graphs import AreaPool, AreaUnpool
from rstg_pyg.graphs.pooling import area_matrix


def shares(scales, height, width):
    """The exact area that every region shares with every map cell, in cells: ``[N, H, W]``."""
    out = np.empty((len(exact_regions(scales)), height, width))
    for n, (x0, y0, x1, y1) in enumerate(exact_regions(scales)):
        rows = [float(overlap(y0 * height, y1 * height, y, y + 1)) for y in range(height)]
        out[n] = np.outer(
            rows, [float(overlap(x0 * width, x1 * width, x, x + 1)) for x in range(width)]
        )
    return out


@settings(max_examples=30, deadline=None)
@given(scale_lists, st.integers(0, 4), st.integers(0, 6))
def test_pooling_and_unpooling_against_integrals(scales, more_rows, more_columns):
    """Also where scales do not divide the map, and with rows and columns of their own."""
    height = max(pair(scale)[0] for scale in scales) + more_rows
    width = max(pair(scale)[1] for scale in scales) + more_columns
    rng, shared = np.random.default_rng(0), shares(scales, height, width)
    pool, unpool = AreaPool(scales), AreaUnpool(scales)
    x = rng.normal(size=(2, 3, 2, height, width))
    expected = np.einsum("nyx,bctyx->btnc", shared / shared.sum((1, 2), keepdims=True), x)
    np.testing.assert_allclose(pool(torch.from_numpy(x)).numpy(), expected, atol=1e-12)
    out = pool(torch.from_numpy(x).float())
    assert out.dtype == torch.float and out.shape == (2, 2, pool.num_nodes, 3)
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-5)

    nodes = rng.normal(size=(2, 3, unpool.num_nodes, 2))
    # A map cell has the area 1: the covered area is its share in the average.
    expected = np.einsum("nyx,btnc->bctyx", shared, nodes)
    out = unpool(torch.from_numpy(nodes), (height, width))
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-12)


def test_area_matrix_values():
    torch.testing.assert_close(area_matrix(2, 3), torch.tensor([[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]))
    assert torch.equal(area_matrix(3, 3), torch.eye(3))
    assert area_matrix(2, 4, dtype=torch.half).dtype == torch.half


def test_values():
    # Scale 2 on 3 cells: the middle cell counts half in both windows (not in adaptive pooling).
    x = torch.tensor([0.0, 3.0, 6.0]).view(1, 1, 1, 1, 3)
    assert AreaPool(((1, 2),))(x).view(-1).tolist() == [1.0, 5.0]
    nodes = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 4, 1)
    out = AreaUnpool((2,))(nodes, (2, 3))
    assert out.view(2, 3).tolist() == [[1.0, 1.5, 2.0], [3.0, 3.5, 4.0]]
    nodes = torch.zeros(1, 1, 14, 1)
    nodes[:, :, :9], nodes[:, :, 9:13], nodes[:, :, 13] = 1, 10, 100
    out = AreaUnpool((3, 2, 1))(nodes, (7, 5))  # scales are summed
    torch.testing.assert_close(out, torch.full((1, 1, 1, 7, 5), 111.0))


def test_gradcheck():
    x = torch.randn(1, 2, 2, 4, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(AreaPool((3, (2, 1))), x)
    nodes = torch.randn(1, 2, 11, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: AreaUnpool((3, (2, 1)))(v, (4, 3)), nodes)


def test_memory_formats():
    x = torch.randn(2, 8, 3, 7, 5)
    pool = AreaPool((3, 2, 1))
    expected = pool(x)
    torch.testing.assert_close(pool(x.to(memory_format=torch.channels_last_3d)), expected)
    torch.testing.assert_close(pool(x.transpose(3, 4).contiguous().transpose(3, 4)), expected)
    strided = torch.randn(2, 8, 6, 7, 5)
    torch.testing.assert_close(pool(strided[:, :, ::2]), pool(strided[:, :, ::2].contiguous()))


@pytest.mark.parametrize("module", [AreaPool, AreaUnpool])
def test_no_state_and_invalid_scales(module):
    made = module((3, 2, 1))
    assert len(made.state_dict()) == 0 and made.num_nodes == 14
    assert str(made) == f"{module.__name__}(3x3, 2x2, 1x1)"
    for scales in [(), (0,), (True,), ((1, 2, 3),)]:
        with pytest.raises(ValueError, match=r"Expected .*scale"):
            module(scales)


@pytest.mark.parametrize("size", [(2, 6), (6, 2)])
def test_scale_finer_than_the_map(size):
    message = r"feature map of \d x \d cells \(got a scale of 3 x 3\)"
    with pytest.raises(ValueError, match=message):
        AreaPool((3, 2, 1))(torch.randn(1, 2, 1, *size))
    with pytest.raises(ValueError, match=message):
        AreaUnpool((3, 2, 1))(torch.randn(1, 1, 14, 2), size)
    with pytest.raises(ValueError, match="got a scale of 2 x 5"):
        AreaPool(((2, 5),))(torch.randn(1, 1, 1, 5, 2))


def test_other_shapes_are_refused():
    for shape in [(3, 4, 6, 6), (3, 6, 6), (1, 2, 3, 4, 6, 6)]:
        with pytest.raises(ValueError, match=r"five dimensions \[B, C, T, H, W\] \(got shape \("):
            AreaPool()(torch.randn(shape))
    for shape in [(2, 3, 13, 4), (14, 4), (3, 14, 4), (1, 2, 3, 14, 4)]:
        with pytest.raises(ValueError, match=r"shape \[B, T, 14, C\] for the scales"):
            AreaUnpool((3, 2, 1))(torch.randn(shape), (6, 6))


def test_weights_that_are_kept_serve_every_mode():
    pool, x = AreaPool(((3, 5),)), torch.rand(1, 2, 1, 6, 7)
    with torch.inference_mode(), torch.device("meta"):
        expected = pool(x)
    x.requires_grad_()
    out = pool(x)
    assert torch.equal(out, expected)
    out.sum().backward()
    assert x.grad.sum() > 0
