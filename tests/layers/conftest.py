import pytest
import torch

from rstg_pyg import RSTG
from rstg_pyg.fast import linear, messages, space
from rstg_pyg.fast.autograd import plain_paths


@pytest.fixture(params=["plain", "fast", "fast in small blocks"])
def path(request, monkeypatch):
    """Runs a test on the plain formulas, on the fast path (which small inputs do not take by
    themselves), and on it with limits so low that small inputs too go through several blocks, every
    product is oneDNN's and no pairs are multiplied.
    """
    monkeypatch.setattr(space, "LEAST_WORK", 0)
    if request.param == "fast in small blocks":
        monkeypatch.setattr(messages, "BLOCK_ROWS", 3)
        monkeypatch.setattr(messages, "BLOCK_SIZE", 1)
        monkeypatch.setattr(messages, "PAIRS_PER_EDGE", 0)
        monkeypatch.setattr(linear, "LEAST_WORK", 0)
    if request.param == "plain":
        with plain_paths():
            yield request.param
    else:
        yield request.param


FORMS = {
    "lstm": {},
    "gru": dict(cell="gru"),
    "residual": dict(residual=True),
    "own rounds": dict(shared_rounds=False, num_rounds=2),
    "last": dict(time_stages="last", cell="gru", residual=True),
    "listed": dict(time_stages=[1]),
    "space only": dict(time_stages="none"),
    "time only": dict(space_stages=False),
}


@pytest.fixture(params=FORMS)
def form(request):
    """Arguments for one kind of RSTG after the other."""
    return FORMS[request.param]


@pytest.fixture
def make():
    """Makes an RSTG from 4 to 6 channels in float64 whose every parameter matters."""

    def make_rstg(**kwargs):
        torch.manual_seed(0)
        model = RSTG(4, 6, **kwargs).double().eval()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn_like(p) * 0.5)
        return model

    return make_rstg
