"""Writes docs/cheatsheet.md from docs/capabilities.yaml: ``python docs/scripts/make_cheatsheet.py``."""

from __future__ import annotations

import ast
import fnmatch
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).resolve().parents[1]

_HEAD = """# Cheat sheet

What each layer can do. Every tick stands for a line of code below, which a test runs, and for tests
that show that it does what it says. A capability without a test cannot stand here, so an empty cell
means that the layer cannot, or that no test shows it
([capabilities.yaml](capabilities.yaml), [make_cheatsheet.py](scripts/make_cheatsheet.py)).
"""


def capabilities() -> dict[str, Any]:
    """The layers' capabilities, and the code that comes before their lines."""
    return yaml.safe_load((DOCS / "capabilities.yaml").read_text(encoding="utf-8"))


def all_tests() -> set[str]:
    """The names of all test functions."""
    found = set()
    for path in (DOCS.parent / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    return {name for name in found if name.startswith("test_")}


def cheatsheet() -> str:
    """The page.

    Raises:
        ValueError: If a capability names a test that does not exist.
    """
    source, tests = capabilities(), all_tests()
    layers = source["layers"]
    rows = list(dict.fromkeys(row["what"] for listed in layers.values() for row in listed))
    out = [_HEAD, "| | " + " | ".join(f"`{layer}`" for layer in layers) + " |"]
    out.append("|---|" + ":-:|" * len(layers))
    for what in rows:
        ticks = ("✓" * any(row["what"] == what for row in listed) for listed in layers.values())
        out.append(f"| {what} | {' | '.join(ticks)} |")
    out.append(f"\nBefore the lines below:\n\n```python\n{source['setup'].strip()}\n```")
    for layer, listed in layers.items():
        out.append(f"\n## `{layer}`\n\n| | code, and the tests that show it |\n|---|---|")
        for row in listed:
            missing = [name for name in row["tests"] if not fnmatch.filter(tests, name)]
            if missing:
                raise ValueError(
                    f"capabilities.yaml: {layer}, {row['what']}: expected the name of a test "
                    f"(got {missing[0]}, and there is no such test)"
                )
            out.append(f"| {row['what']} | `{row['code']}`<br>{', '.join(row['tests'])} |")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    (DOCS / "cheatsheet.md").write_text(cheatsheet(), encoding="utf-8")
