"""What layers would do on a GPU, seen without one: tensors that have a device and no numbers."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rstg_pyg.cells import Cell


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_cells_can_be_differentiated_in_evaluation_mode(monkeypatch, mode, gradients):
    """cuDNN refuses the gradient of a call that was not in training mode."""
    modes = []

    def kernel(x, state, weights, biases, layers, dropout, train, *_):
        modes.append(train)
        return x, *(state if mode == "LSTM" else (state,))

    monkeypatch.setattr(torch, mode.lower(), kernel)
    monkeypatch.setattr(Cell, "flatten_parameters", lambda cell: None)  # which asks the driver
    with FakeTensorMode(), torch.device("cuda"), torch.set_grad_enabled(gradients):
        Cell(mode, 4, 4).eval()(torch.empty(3, 2, 4))
    assert modes == [gradients]
