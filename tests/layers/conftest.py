import pytest
import torch
from helpers.conv_cases import PATHS, on_path
from helpers.random_weights import randomize

from rstg_pyg import RSTG


@pytest.fixture(params=PATHS)
def path(request):
    """Runs a test on the plain formulas and on the fast path, see ``on_path``."""
    with on_path(request.param):
        yield request.param


FORMS = {
    "lstm": {},
    "gru": dict(cell="gru"),
    "residual": dict(residual=True),
    "replaced": dict(residual=False, num_rounds=2),
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
    return lambda **kwargs: randomize(
        RSTG(4, 6, **{"num_rounds": 3, **kwargs}).double(), std=0.5
    ).eval()


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
