"""Modules import each other without circles, and the rooms what the architecture page says."""

import ast
import functools
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROWS = {
    room: (set(re.findall(r"`([\w.]+)`", ours)), others)
    for room, _, ours, others in re.findall(
        r"^\| `([\w.]+)` \| \[[^]]+\]\(\.\./([^)]+)\) \| (.*) \| (.*) \|$", PAGE, re.MULTILINE
    )
}
FOLDERS = {"rstg_pyg": "rstg_pyg", "graphs": "rstg_pyg.graphs", "backbones": "rstg_pyg.backbones"}
FOLDERS |= {"train": "rstg_pyg.train"}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join((FOLDERS[parts[0]], *(part for part in parts[1:] if part != "__init__")))


MODULES = {name_of(p): p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py"))}


@functools.cache
def imports(module, everywhere=True):
    """The modules that a module imports; a name imported from a package may be a module in it."""
    tree, found = ast.parse(MODULES[module].read_text(encoding="utf-8")), set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in full}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def room_of(module):
    """``rstg_pyg.graphs.grid`` is in ``rstg_pyg.graphs``; ``rstg_pyg.conv`` in ``rstg_pyg``."""
    rooms = [room for room in ROWS if f"{module}.".startswith(f"{room}.")]
    return max(rooms, key=len, default=None)


def of_room(room, everywhere):
    """What the modules of a room import from elsewhere."""
    mine = [name for name in MODULES if room_of(name) == room]
    found = {m for name in mine for m in imports(name, everywhere)}
    return {m for m in found if room_of(m) != room}


def test_the_page_has_every_room():
    rooms = ("", ".graphs", ".backbones", ".official", ".train")
    assert set(ROWS) == {f"rstg_pyg{room}" for room in rooms}


@pytest.mark.parametrize("room", ROWS)
def test_a_room_imports_the_rooms_that_the_page_names(room):
    """The converter and saved networks know of train only when they are used."""
    late = {"rstg_pyg.train"} if room in ("rstg_pyg.official", "rstg_pyg") else set()
    for everywhere, more in ((False, set()), (True, late)):
        assert {room_of(m) for m in of_room(room, everywhere)} - {None} == ROWS[room][0] | more


@pytest.mark.parametrize("room", ["rstg_pyg.graphs", "rstg_pyg", "rstg_pyg.backbones"])
def test_a_room_imports_the_packages_that_the_page_names(room):
    named = set(ROWS[room][1].split(", "))
    found = {m.split(".")[0] for m in of_room(room, False)}
    assert found & {"torch", "torch_geometric", "torchvision"} == named
    assert not found & {"pytorch_lightning", "pydantic", "yaml", "matplotlib", "av", "safetensors"}


def test_no_module_imports_itself_by_way_of_others():
    # A package imports its modules, and they import what they need of it by the module's own name.
    # What builds a network from its config imports the class whose methods call it.
    late = {"rstg_pyg.pretrained"}
    graph = {
        name: {m for m in imports(name, name not in late) if m in MODULES and m != name}
        for name in MODULES
    }
    assert len(graph) > 100 and graph["rstg_pyg.conv"]
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_data_imports_torch_numpy_decoders_errors_and_files():
    data = {name for name in MODULES if name.startswith("rstg_pyg.train.data")}
    ours = data | {"rstg_pyg.train.errors", "rstg_pyg.train.files"}
    others = {"torch", "torchvision", "numpy", "PIL", "av", "lmdb", "sklearn"}
    for name in data:
        for module in imports(name):
            known = module in ours or module.split(".")[0] in others | sys.stdlib_module_names
            assert known, f"{name} imports {module}"


@pytest.mark.slow
def test_a_data_set_loads_neither_lightning_nor_what_reads_configs():
    code = """import sys, rstg_pyg
before = set(sys.modules)
import rstg_pyg.train.data.something, rstg_pyg.train.data.syncmnist, rstg_pyg.train.data.check
loaded = set(sys.modules) - before
print(*loaded & {"pytorch_lightning", "pydantic", "matplotlib", "torchmetrics", "yaml"})"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
