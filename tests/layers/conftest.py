import pytest

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
