"""The cheat sheet claims nothing that is not tested."""

import importlib.util
import random
import shutil
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "docs" / "scripts" / "make_cheatsheet.py"


def load(path):
    spec = importlib.util.spec_from_file_location("make_cheatsheet", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = load(SCRIPT)
SOURCE = make.capabilities()
LINES = [
    pytest.param(row["code"], id=f"{layer}-{row['what']}")
    for layer, rows in SOURCE["layers"].items()
    for row in rows
]


def test_the_page_is_up_to_date():
    page = SCRIPT.parents[1] / "cheatsheet.md"
    assert page.read_text(encoding="utf-8") == make.cheatsheet(), f"run: python {SCRIPT}"


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_every_line_runs(line):
    torch.manual_seed(0)
    # PyG's Sequential names its code by a random number: after the same seed it would find another's.
    random.seed(line)
    namespace = {}
    exec(SOURCE["setup"], namespace)
    exec(line, namespace)


def test_a_capability_without_a_test_is_an_error(tmp_path):
    shutil.copytree(SCRIPT.parents[2] / "tests" / "graphs", tmp_path / "tests")
    (tmp_path / "docs" / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "docs" / "scripts")
    row = "layers: {AreaPool: [{what: exact, code: '1', tests: [%s]}]}"
    for name, known in (("test_area_matrix_*", True), ("test_area_pool_flies", False)):
        (tmp_path / "docs" / "capabilities.yaml").write_text(f"setup: ''\n{row % name}")
        copy = load(tmp_path / "docs" / "scripts" / "make_cheatsheet.py")
        if known:
            assert "| exact | ✓ |" in copy.cheatsheet()
        else:
            with pytest.raises(ValueError, match="AreaPool, exact.*test_area_pool_flies"):
                copy.cheatsheet()
