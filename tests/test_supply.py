"""What the package asks for: every requirement says from which version on."""

import configparser
import re
from pathlib import Path

import pytest

CONFIG = configparser.ConfigParser()
CONFIG.read(Path(__file__).resolve().parents[1] / "setup.cfg")
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
