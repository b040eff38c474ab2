"""A linear layer for nodes of several types, where it may not ask how many there are of each."""

import pytest
import torch
from helpers.adapter import Adapter
from helpers.random_weights import randomize

from rstg_pyg.typed import TypedLinear


@pytest.mark.parametrize("bias", [True, False])
def test_typed_linear_without_asking_how_many(bias, monkeypatch):
    layer = randomize(TypedLinear(4, 7, num_types=3, bias=bias))
    node_type = torch.tensor([2, 0, 0, 2, 1, 0])
    for shape in ((6, 5, 4), (6, 2, 3, 4), (6, 1, 4), (6, 4)):
        x = torch.randn(shape)
        expected = layer(x, node_type)
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            torch.testing.assert_close(layer(x, node_type), expected)
            with pytest.raises((IndexError, RuntimeError), match="out of range|out of bounds"):
                layer(x, node_type + 1)


def test_adapters_of_single_types_are_called(monkeypatch):
    layer, node_type = TypedLinear(4, 7, num_types=2), torch.tensor([1, 0, 0, 1])
    x, before = torch.randn(4, 5, 4), None
    for _ in range(2):
        expected = layer(x, node_type)
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            torch.testing.assert_close(layer(x, node_type), expected)
        if before is not None:
            torch.testing.assert_close(expected - before, node_type.view(4, 1, 1).expand(4, 5, 7) * 1.0)
        before, layer.lins[1] = expected, Adapter(layer.lins[1])
