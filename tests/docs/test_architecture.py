"""The rooms import what the architecture page says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROWS = {
    room: (folder, set(re.findall(r"`([\w.]+)`", ours)), others)
    for room, folder, ours, others in re.findall(
        r"^\| `([\w.]+)` \| \[[^]]+\]\(\.\./([^)]+)\) \| (.*) \| (.*) \|$", PAGE, re.MULTILINE
    )
}


def room_of(module):
    """``rstg_pyg.graphs.grid`` is in ``rstg_pyg.graphs``; ``rstg_pyg.conv`` in ``rstg_pyg``."""
    parts = ".".join(module.split(".")[:2])
    return parts if parts in ROWS else "rstg_pyg"


def imports(room, everywhere):
    """The modules that a room imports: those at the top of its files, or everywhere in them."""
    for path in sorted((ROOT / ROWS[room][0]).rglob("*.py")):
        if room == "rstg_pyg" and "official" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree) if everywhere else tree.body:
            if isinstance(node, ast.ImportFrom):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)


def test_the_page_has_every_room():
    rooms = ("", ".graphs", ".backbones", ".official", ".train")
    assert set(ROWS) == {f"rstg_pyg{room}" for room in rooms}


@pytest.mark.parametrize("room", ROWS)
def test_a_room_imports_the_rooms_that_the_page_names(room):
    found = {room_of(module) for module in imports(room, False) if module.startswith("rstg_pyg")}
    assert found - {room} == ROWS[room][1]


@pytest.mark.parametrize("room", ROWS)
def test_only_the_command_of_the_converter_knows_of_train(room):
    found = {room_of(m) for m in imports(room, True) if m.startswith("rstg_pyg")} - {room}
    late = {"rstg_pyg.train"} if room == "rstg_pyg.official" else set()
    assert found == ROWS[room][1] | late


@pytest.mark.parametrize("room", ["rstg_pyg.graphs", "rstg_pyg", "rstg_pyg.backbones"])
def test_a_room_imports_the_packages_that_the_page_names(room):
    named = set(ROWS[room][2].split(", "))
    found = {m.split(".")[0] for m in imports(room, False)} - {"rstg_pyg"}
    assert found & {"torch", "torch_geometric", "torchvision"} == named
    assert not found & {"pytorch_lightning", "pydantic", "yaml", "matplotlib", "av", "safetensors"}
