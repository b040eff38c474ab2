import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "kill_anywhere.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the script forks")
def test_nothing_is_lost_by_a_kill(tmp_path):
    """A few of the fifty of docs/reliability.md."""
    out = tmp_path / "kills.json"
    command = [sys.executable, str(SCRIPT), "--kills", "3", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert (found["kills"], found["runs_with_problems"]) == (3, 0)
    kinds = [kill["of"] for one in found["each"] for kill in one["kills"]]
    assert sorted(kinds) == ["packing", "training", "training"]


def test_the_figures_of_the_page_come_from_the_committed_file():
    docs = SCRIPT.parents[1] / "docs"
    found = json.loads((docs / "results/kill_anywhere.json").read_text())
    page = (docs / "reliability.md").read_text()
    kills, runs, problems = (found[key] for key in ("kills", "runs", "runs_with_problems"))
    assert f"{kills} kills of {runs} runs, {problems} with a difference" in page
    assert f"{found['half_written']} left a half-written checkpoint" in page
    rows = re.findall(r"^\| ([^|\[]+) \| (\d+) \|$", page, re.MULTILINE)
    assert {place: int(count) for place, count in rows} == found["fell_in"]
