import pytest
import torch

from rstg_pyg.train.data.syncmnist import load_digits

torch.set_num_threads(1)  # the tests are small, and several run at once


@pytest.fixture(autouse=True)
def same_settings():
    """A run inside a test asks torch for deterministic algorithms; others do not expect it."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits():
    return load_digits("train", "builtin")


@pytest.fixture(scope="session")
def test_digits():
    return load_digits("test", "builtin")
