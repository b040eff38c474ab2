import os
import signal

import pytest
import torch
from hypothesis import HealthCheck, settings

from rstg_pyg.train.data.syncmnist import load_digits

torch.set_num_threads(1)  # the tests are small, and several run at once
# Without bfloat16 in hardware, trainer.precision=auto is float32 on every machine, also in processes.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")

usual = dict(deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("ordinary", derandomize=True, database=None, **usual)
settings.register_profile("nightly", max_examples=4000, print_blob=True, **usual)
settings.load_profile("ordinary")


@pytest.fixture(autouse=True)
def same_settings():
    """A run inside a test asks torch for deterministic algorithms; others do not expect it."""
    terminating = signal.getsignal(signal.SIGTERM)  # Lightning leaves its own after an exception
    yield
    signal.signal(signal.SIGTERM, terminating)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits():
    return load_digits("train", "builtin")


@pytest.fixture(scope="session")
def test_digits():
    return load_digits("test", "builtin")
