"""The examples in docstrings run and give what they say."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import rstg_pyg
from rstg_pyg import backbones, graphs, official

FINDER = doctest.DocTestFinder(exclude_empty=True)
NAMES = [
    info.name
    for package in (rstg_pyg, graphs, backbones, official)
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    if not info.name.endswith("__main__")
]
EXAMPLES = [
    pytest.param(test, id=test.name)
    for name in dict.fromkeys(NAMES)
    for test in FINDER.find(importlib.import_module(name))
    if test.examples
]


def test_there_are_examples():
    assert {"rstg_pyg.conv.RSTGConv", "rstg_pyg.graphs.grid.multiscale_grid"} <= {
        test.values[0].name for test in EXAMPLES
    }


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_example(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    public = {name: getattr(m, name) for m in (rstg_pyg, graphs, backbones) for name in m.__all__}
    example.globs = {**example.globs, **public, "torch": torch, "rstg_pyg": rstg_pyg}
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    out = []
    result = doctest.DocTestRunner(optionflags=options).run(example, out=out.append)
    assert result.attempted > 0 and result.failed == 0, "".join(out)
