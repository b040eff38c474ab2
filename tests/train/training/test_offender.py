"""Which module is named: the innermost one that gets finite numbers and gives others."""

import pytest
import torch

from rstg_pyg import RSTG, RSTGBlock, RSTGConv, VideoClassifier
from rstg_pyg.backbones import SimpleConv
from rstg_pyg.fast import space
from rstg_pyg.graphs import multiscale_grid
from rstg_pyg.train.training.offender import find_offender

NAN, INF = float("nan"), float("inf")


class Fault(torch.nn.Module):
    """Gives what it gets, times a factor that may differ forward and backward."""

    def __init__(self, forward=1.0, backward=1.0):
        super().__init__()
        self.factors = forward, backward

    def forward(self, x):
        return _Times.apply(x, *self.factors)


class _Times(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, forward, backward):
        ctx.backward_factor = backward
        return x * forward

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.backward_factor, None, None


class Around(torch.nn.Module):
    """Something happens between two modules."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3), between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


def found(network, x, loss=torch.sum):
    before = [p.grad for p in network.parameters()]
    out = find_offender(network, lambda: loss(network(x)))
    assert [p.grad for p in network.parameters()] == before  # gradients are left alone
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    return out


def test_nothing_to_find():
    assert found(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU()), torch.ones(2, 3)) is None


@pytest.mark.parametrize("value", [NAN, INF])
def test_weights_and_statistics(value):
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    network[1].running_var[0] = value
    assert found(network, torch.ones(2, 3)) == (
        "1",
        "its running statistics 'running_var' are not finite before the step",
    )
    network[0].bias.data[1] = value
    assert found(network, torch.ones(2, 3)).what == "its weights 'bias' are not finite before the step"


@pytest.mark.parametrize("value", [NAN, INF])
def test_forward(value):
    layers = [torch.nn.Linear(3, 3), torch.nn.Sequential(Fault(), Fault(value)), torch.nn.Linear(3, 3)]
    assert found(torch.nn.Sequential(*layers), torch.ones(2, 3)) == (
        "1.1",
        "its output is not finite, although its input is",
    )
    out = found(torch.nn.Sequential(layers[0]), torch.full((2, 3), value))
    assert out == ("", "its input is not finite")
    out = found(
        torch.nn.Sequential(torch.nn.Linear(3, 3), Around(lambda x: x * value)), torch.ones(2, 3)
    )
    assert out.module == "1" and "gives it to '1.b'" in out.what
    out = found(layers[0], torch.ones(2, 3), lambda x: x.sum() * value)
    assert out == ("", "the loss is not finite, although the network's output is")


@pytest.mark.parametrize("value", [NAN, INF])
def test_backward(value):
    fault = torch.nn.Sequential(Fault(), Fault(backward=value))
    layers = [torch.nn.Linear(3, 3), fault, torch.nn.Linear(3, 3)]
    out = found(torch.nn.Sequential(*layers), torch.ones(2, 3))
    assert out.module == "1.1" and out.what.startswith("the gradient of its input is not finite")

    between = Around(lambda x: _Times.apply(x, 1.0, value))
    out = found(torch.nn.Sequential(torch.nn.Linear(3, 3), between), torch.ones(2, 3))
    assert out == ("1", "the gradient that it gives back to '1.a' is not finite")
    out = found(torch.nn.Sequential(between), torch.ones(2, 3))  # where no gradient leaves it
    assert out.module == "0"

    out = found(layers[0], torch.ones(2, 3), lambda x: _Times.apply(x, 1.0, value).sum())
    assert out == ("", "the loss has a gradient that is not finite")


def test_the_gradient_of_a_weight():
    """What comes in and the gradient of what goes out are finite, but their product is not."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 1, bias=False), torch.nn.Linear(1, 1))
    network[0].weight.data.fill_(1e-15)
    out = found(network, torch.full((2, 3), 1e30), lambda x: (x * 1e15).sum())
    assert out == ("0", "the gradient of its 'weight' is not finite")


def test_a_residual_shows_the_share_of_each_module():
    """The sum of two branches' gradients is not finite; only one branch is to blame."""

    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.good, self.bad = torch.nn.Linear(3, 3), Fault(), Fault(backward=NAN)

        def forward(self, x):
            x = self.lin(x)
            return self.good(x) + self.bad(x)

    assert found(Residual(), torch.ones(2, 3)).module == "bad"


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("fault", ["forward", "backward"])
def test_inside_a_video_network(checkpointing, fault):
    """Recurrent cells (tuples), ReLU in place, and stages that are computed a second time."""
    torch.manual_seed(0)
    block = RSTGBlock(4, 4, (2, 1), to="map", norm=lambda c: Fault(**{fault: INF}), num_rounds=1)
    torch.nn.init.ones_(block.norm.scale)
    model = VideoClassifier(
        SimpleConv(1, (4, 4), padding=1, pool=False), 3, blocks={"conv0": block},
        head=RSTGBlock(4, 4, (2, 1), to="vec"), grad_checkpointing=checkpointing,
    )  # fmt: skip
    clips = torch.rand(2, 1, 3, 6, 6)
    labels = torch.tensor([0, 1])
    out = found(model, clips, lambda x: torch.nn.functional.cross_entropy(x, labels))
    names = {"forward": "message_norm", "backward": "update_norm"}
    assert out.module == f"blocks.conv0.rstg.convs.0.{names[fault]}.module"


def test_a_fault_of_the_fast_path_alone(monkeypatch):
    """Hooks inside a space stage make it take the plain path, which has no fault here."""
    monkeypatch.setattr(space, "LEAST_WORK", 0)
    original = space.weighted_messages
    monkeypatch.setattr(space, "weighted_messages", lambda *args: original(*args) * INF)
    grid = multiscale_grid((2, 1))
    network = RSTG(3, 4, num_rounds=1)
    out = find_offender(network, lambda: network(torch.rand(2, 3, 5, 3), grid.edge_index).sum())
    assert isinstance(network.convs[0], RSTGConv) and out.module.startswith("convs.0")
