"""What layers would do on a GPU, seen without one."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rstg_pyg import LSTMHead, RegionHead, RelationHead, RSTGBlock, WindowMean
from rstg_pyg.cells import Cell


class OnGPU(torch.Tensor):
    """Says that it is on a GPU."""

    is_cuda = property(lambda self: True)


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
@pytest.mark.parametrize("gradients", [True, False])
def test_cells_can_be_differentiated_in_evaluation_mode(monkeypatch, mode, gradients):
    """cuDNN refuses the gradient of a call that was not in training mode."""
    modes = []

    def kernel(x, state, weights, biases, layers, dropout, train, *_):
        modes.append(train)
        return x, *(state if mode == "LSTM" else (state,))

    monkeypatch.setattr(torch, mode.lower(), kernel)
    with torch.set_grad_enabled(gradients):
        Cell(mode, 4, 4).eval()(torch.zeros(3, 2, 4).as_subclass(OnGPU))
    assert modes == [gradients]


class Operations(TorchDispatchMode):
    """Keeps the names of what runs."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


#: Read numbers back, depend on them, or make tensors of Python's numbers, which are copied to a GPU.
WAITS = {"_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "unique_dim", "_unique2"}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "head",
    [
        RSTGBlock(8, to="vec"),
        RelationHead(8, 4),
        RelationHead(8, 4, drawn=[[0, 1, 3], [0, 2, 5]]),
        RegionHead(8, 4, grid=(2, 1)),
        WindowMean(8),
        LSTMHead(8, 4),
    ],
    ids=lambda head: type(head).__name__,
)
def test_no_forward_pass_waits_for_a_gpu(head, training):
    """Nor could it be part of a CUDA graph."""
    x = torch.randn(2, 8, 4, 7, 7)
    head = head.train(training)
    with Operations() as found:
        head(x)
    assert not found.names & WAITS
