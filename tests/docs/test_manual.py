"""The generated parts of the manual say what the code and the committed files say."""

import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("sphinx", reason="the manual needs pip install -e .[docs]")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture
def manual(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    yield importlib.import_module("manual")
    for name in [name for name in sys.modules if name.split(".")[0] == "manual"]:
        del sys.modules[name]


def rows(markdown):
    """The cells of all rows of tables."""
    lines = [line.strip("|") for line in markdown.splitlines() if "|" in line]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def test_configs_have_every_key_with_its_default(manual):
    from rstg_pyg.train.config import Config

    found = manual.config_reference()
    keys = {row[0].strip("`"): row for row in rows(found)}
    schema = Config.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        assert set(section["properties"]) <= set(keys)
    assert ["`lr`", "number > 0", "`0.004`"] in [row[:3] for row in rows(found)]
    assert ["`seed`", "whole number ≥ 0 < 2^32", "`0`"] in [row[:3] for row in rows(found)]
    assert keys["name"][2] == "*needed*"
    assert keys["cell"][1:3] == ["`lstm`, `gru`", '`"lstm"`']
    assert keys["head"][1].endswith("or `null`")
    assert "{py:class}`rstg_pyg.HomogeneousRSTG`" in keys["homogeneous"][3]
    for key in ("canvas_size", "crop_size", "layout", "ema"):  # of every module with sections
        assert keys[key][3], key


def test_config_files_are_all_there(manual):
    from rstg_pyg.train.config import available_configs

    found = [row for row in rows(manual.config_files()) if row[0].startswith("`")]
    assert [row[0].strip("`") for row in found] == available_configs()
    assert all(len(row[1]) > 10 for row in found)


def test_commands_are_all_there(manual):
    found = manual.command_reference()
    for name in ("run", "predict", "prepare", "report", "reproduce", "benchmark", "footprint"):
        assert f"## `train/{name}.py`" in found
    assert "## `python -m rstg_pyg.official`" in found
    assert "usage: prepare.py pack" in found and "--short-side" in found


def test_results_are_those_of_the_committed_runs(manual):
    found = {row[0]: row for row in rows(manual.results_table()) if row[0].startswith("[")}
    assert len(found) >= 8
    for link, row in found.items():
        path = re.search(r"\((.*)\)", link)[1]
        run = json.loads((DOCS / "results" / path).read_text())
        assert link.startswith(f"[{run['config']['name']}, seed {run['seed']}](")
        assert row[2] == f"{100 * run['top1']:.1f}" and row[5] == str(run["steps"])
    assert not any("smt_full_size_cpu" in link for link in found)  # one video is no accuracy


@pytest.mark.parametrize(
    "link, text",
    [
        ("[train/configs](../../train/configs)", "`train/configs/`"),
        ("[the rooms](../../train)", "the rooms (`train/`)"),
        ("[README](../../README.md)", "`README.md`"),
        ("[a page](../faq.md)", None),
        ("[a file](../../train/schema.py)", None),
        ("[elsewhere](https://example.org/a/)", None),
    ],
)
def test_links_out_of_the_manual(manual, link, text):
    name = "reference/config"
    env = SimpleNamespace(doc2path=lambda docname: str(DOCS / f"{docname}.md"))
    source = [f"See {link}."]
    manual.outside_as_text(SimpleNamespace(srcdir=str(DOCS), env=env), name, source)
    assert source == [f"See {link if text is None else text}."]
