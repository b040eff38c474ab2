import json
import subprocess
import sys

import pytest

CODE = """
import importlib.util
import json
import sys


def packages():
    return {name.split(".")[0] for name in sys.modules}


import torch
import torch_geometric
before = packages()

import rstg_pyg
imported = packages() - before

grid = rstg_pyg.graphs.multiscale_grid((2, 1))
x = torch.randn(5, 4)
rstg_pyg.RSTGConv(4, 4)(x, grid.edge_index)
rstg_pyg.DenseRSTGConv(4, 4)(x, torch.ones(5, 5))
feature_map = torch.randn(1, 4, 2, 3, 3)
rstg_pyg.RSTGBlock(4, scales=(2, 1))(feature_map).sum().backward()
rstg_pyg.graphs.frames_to_data(feature_map, (2, 1))
own = [name for name in sys.modules if name.split(".")[0] == "rstg_pyg"]
found = [sorted(imported), sorted(packages() - before), own]

if importlib.util.find_spec("matplotlib"):  # a picture makes no window
    rstg_pyg.graphs.plot_grid(grid).figure.savefig("picture.png")
    assert "matplotlib.figure" in sys.modules and "matplotlib.pyplot" not in sys.modules
print(json.dumps(found))
"""


@pytest.mark.slow
def test_import_takes_only_torch_and_torch_geometric(tmp_path):
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    imported, packages, own = json.loads(result.stdout)
    assert set(imported) - sys.stdlib_module_names == {"rstg_pyg"}
    others = {"torchvision", "pytorch_lightning", "lightning", "torchmetrics", "pydantic"}
    others |= {"sklearn", "matplotlib", "yaml", "PIL", "av", "tensorboard", "tensorflow"}
    assert others.isdisjoint(packages)
    rooms = {name.split(".")[1] for name in own if "." in name}
    assert "graphs" in rooms
    assert rooms.isdisjoint({"train", "backbones", "official"})
