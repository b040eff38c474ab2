"""What only a GPU can show; skipped by name where there is none."""

import pytest
import torch

from rstg_pyg import RSTG, RSTGBlock, RSTGConv
from rstg_pyg.fast.autograd import plain_paths
from rstg_pyg.graphs import multiscale_grid

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

GRID = multiscale_grid((3, 2, 1))


def gradients(model, out):
    return torch.autograd.grad(out.float().square().mean(), list(model.parameters()))


@pytest.mark.parametrize("kwargs", [{}, {"heads": 2}, {"attention": "additive"}, {"attention": None}])
def test_the_same_numbers_as_on_the_cpu(kwargs):
    torch.manual_seed(0)
    conv, x, edge_index = RSTGConv(32, 32, **kwargs), torch.randn(6, 14, 32), GRID.edge_index
    expected = conv(x, edge_index)
    wanted = gradients(conv, expected)
    conv = conv.cuda()
    for context in (plain_paths(), torch.enable_grad()):
        with context:
            out = conv(x.cuda(), edge_index.cuda())
        torch.testing.assert_close(out.cpu(), expected, rtol=1e-4, atol=1e-5)
        for a, b in zip(gradients(conv, out), wanted):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_step_never_waits_for_the_gpu(precision):
    block = RSTGBlock(32).cuda()
    x = torch.randn(2, 32, 4, 7, 7, device="cuda")

    def step():
        with torch.autocast("cuda", precision, enabled=precision != torch.float32):
            out = block(x)
        gradients(block, out)

    step()  # the first call moves tables to the device
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_rstg_in_a_cuda_graph():
    model = RSTG(32, 32).cuda()
    x, edge_index = torch.randn(2, 4, 14, 32, device="cuda"), GRID.edge_index.cuda()
    expected = model(x, edge_index)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(torch.cuda.Stream()), torch.no_grad():
        for _ in range(3):
            model(x, edge_index)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph), torch.no_grad():
        out = model(x, edge_index)
    graph.replay()
    torch.testing.assert_close(out, expected.detach(), rtol=1e-4, atol=1e-5)


def test_half_precision_under_autocast():
    torch.manual_seed(0)
    model, x = RSTG(64, 64).cuda(), torch.randn(2, 8, 14, 64, device="cuda")
    expected = model(x, GRID.edge_index.cuda())
    with torch.autocast("cuda", torch.bfloat16):
        out = model(x, GRID.edge_index.cuda())
    assert (out.float() - expected).norm() <= 0.03 * expected.norm()
    assert all(bool(g.isfinite().all()) for g in gradients(model, out))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradients_in_evaluation_mode(cell):
    torch.manual_seed(0)
    model, x = RSTG(16, 16, cell=cell).eval(), torch.randn(2, 3, 14, 16)
    wanted = gradients(model, model(x, GRID.edge_index))
    model = model.cuda()
    for a, b in zip(gradients(model, model(x.cuda(), GRID.edge_index.cuda())), wanted):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-5)
