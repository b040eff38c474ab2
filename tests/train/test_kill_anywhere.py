import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "kill_anywhere.py"


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
    assert kinds == ["training", "training", "packing"]
