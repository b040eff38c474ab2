import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_blocks_run_and_give_the_shapes_they_name(block):
    namespace = {}
    exec(compile(block, "README.md", "exec"), namespace)
    name, expression = re.findall(r"^\s*(\w+) = .*# .*?\[([^\]]*)\][^#\n]*$", block, re.MULTILINE)[-1]
    assert list(namespace[name].shape) == [eval(size) for size in expression.split(",")]


def test_the_two_commands():
    commands = [
        'pip install -e ".[train]" && python train/run.py --cfg syncmnist_mini.yaml',
        'pip install -e ".[test]" && python -m pytest',
    ]
    for command in commands:
        assert f"```sh\n{command}\n```" in README
    assert (ROOT / "train/configs/syncmnist_mini.yaml").is_file()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_figures_come_from_committed_results():
    rows = re.findall(
        r"^\| \[([^\]]+)\]\((docs/results/\S+\.json)\) \| ([\d.]+) % \|", README, re.MULTILINE
    )
    assert len(rows) >= 4
    for name, path, top1 in rows:
        results = json.loads((ROOT / path).read_text())
        assert f"{100 * results['top1']:.1f}" == top1, name
        assert results["config"]["name"] == "syncmnist_mini"
        assert results["num_videos"] >= 2000
