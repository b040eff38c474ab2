import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_code_blocks_run_and_give_the_shapes_they_name(block):
    namespace = {}
    exec(compile(block, "README.md", "exec"), namespace)
    name, expression = re.findall(r"^\s*(\w+) = .*# .*?\[([^\]]*)\][^#\n]*$", block, re.MULTILINE)[-1]
    assert list(namespace[name].shape) == [eval(size) for size in expression.split(",")]


def test_the_two_commands():
    commands = [
        'pip install -e ".[train]" && python train/run.py --cfg smt.yaml',
        'pip install -e ".[test]" && python -m pytest',
    ]
    for command in commands:
        assert f"```sh\n{command}\n```" in README
    assert (ROOT / "train/configs/smt.yaml").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_errors_against_the_published_code_come_from_the_committed_file():
    page = (ROOT / "docs/published_code.md").read_text()
    errors = json.loads((ROOT / "docs/results/published_code.json").read_text())
    errors = errors["largest_relative_errors"]
    rows = re.findall(r"^\| ([gwt]\w+) \| (\S+) \| (\S+) \|$", page, re.MULTILINE)
    assert {name for name, _, _ in rows} == set(errors)
    for name, worst, tolerance in rows:
        assert worst == f"{errors[name]['worst']:.1e}" and float(tolerance) == errors[name]["tolerance"]
        assert errors[name]["worst"] <= errors[name]["tolerance"]


def test_figures_come_from_committed_results():
    rows = re.findall(
        r"^\| \[([^\]]+)\]\((docs/results/\S+\.json)\) \| ([\d.]+) % \|", README, re.MULTILINE
    )
    assert len(rows) >= 4
    for name, path, top1 in rows:
        results = json.loads((ROOT / path).read_text())
        assert f"{100 * results['top1']:.1f}" == top1, name
        assert results["num_videos"] >= 1000


def test_promised_ratios_are_those_of_the_committed_benchmark():
    def table(path):
        text = (ROOT / path).read_text()
        start = text.index("| ratio | promised |")
        return text[start : text.index("\n\n", start)]

    assert table("docs/benchmark.md") == table("docs/results/benchmark/benchmark.md")
