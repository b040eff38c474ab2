"""What setup.cfg says: the packages that are installed, and from which version on others are needed."""

import configparser
import re
from pathlib import Path

import pytest

CONFIG = configparser.ConfigParser()
ROOT = Path(__file__).resolve().parents[1]
CONFIG.read(ROOT / "setup.cfg")
REQUIREMENTS = [
    line
    for text in (CONFIG["options"]["install_requires"], *CONFIG["options.extras_require"].values())
    for line in text.split("\n")
    if line and not line.startswith("rstg_pyg[")
]


def test_there_are_requirements():
    assert "torch-geometric" in " ".join(REQUIREMENTS) and len(REQUIREMENTS) > 15


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_a_lower_bound_and_nothing_else(requirement):
    """A lower bound can be tested; an upper one would keep users from later versions for no reason."""
    assert re.fullmatch(r"[A-Za-z0-9_.-]+>=\d+(\.\d+)*", requirement)


def test_every_folder_is_installed():
    """A folder that the list lacks would be missing from the wheel, and only from the wheel."""
    rooms = {"rstg_pyg": "rstg_pyg", "graphs": "rstg_pyg.graphs", "backbones": "rstg_pyg.backbones"}
    rooms["train"] = "rstg_pyg.train"
    found = {
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for folder, name in rooms.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(CONFIG["options"]["packages"].split()) == found
