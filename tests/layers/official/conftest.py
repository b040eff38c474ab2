import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[2] / "golden" / "tf_checkpoint"


@pytest.fixture(scope="package")
def recorded():
    with np.load(GOLDEN / "expected.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture
def flags(recorded):
    return json.loads(str(recorded["config"]))


@pytest.fixture
def variables(recorded):
    """The checkpoint's tensors by name."""
    return {name[5:]: value for name, value in recorded.items() if name.startswith("ckpt/")}


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the recorded checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in GOLDEN.iterdir():
        if path.suffix != ".npz":
            shutil.copy(path, folder)
    return folder


@pytest.fixture
def tensorflow():
    return pytest.importorskip("tensorflow", reason="reads a TensorFlow checkpoint (extra convert)")


@pytest.fixture
def no_tensorflow(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
