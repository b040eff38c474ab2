import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.commands import fails
from helpers.results import TINY_ROW

import rstg_pyg.train.reproduce
from rstg_pyg.train.paper.syncmnist import ABLATIONS
from rstg_pyg.train.reproduce import ROWS, chosen_rows, main, make_jobs

COMMAND = ["syncmnist", "--size", "mini", "--rows", "homogeneous", "--seeds", "0", "1"]
COMMAND += ["--jobs", "2", *TINY_ROW]


@pytest.mark.slow
def test_a_table_from_nothing_killed_and_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/table_syncmnist/mini"
    seeds = [folder / "3digits/homogeneous" / f"seed{s}" for s in (0, 1)]
    process = subprocess.Popen(
        [sys.executable, rstg_pyg.train.reproduce.__file__, *COMMAND],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.time() + 120
    while time.time() < deadline and not any((s / "results.json").is_file() for s in seeds):
        time.sleep(0.1)
    process.kill()
    process.wait()
    first = next(s for s in seeds if (s / "results.json").is_file())
    before = (first / "results.json").stat().st_mtime_ns

    assert main(COMMAND) == 0
    assert (first / "results.json").stat().st_mtime_ns == before
    for seed in seeds:  # nothing ran twice
        assert (seed / "log.txt").read_text().count("test      top-1") == 1
    found = {s: json.loads((s / "results.json").read_text()) for s in seeds}
    assert [r["seed"] for r in found.values()] == [0, 1]
    mean = 50 * sum(result["top1"] for result in found.values())
    row = f"| RSTG: Homogeneous | 95.7 | {mean:.1f} ±"
    assert row in (folder / "table.md").read_text() and row in capsys.readouterr().out

    # A run that ended between its last checkpoint and its results goes on from there.
    result = found[first]
    (first / "results.json").unlink()
    assert main(COMMAND) == 0
    assert "resumes" in capsys.readouterr().out
    again = json.loads((first / "results.json").read_text())
    assert (again["top1"], again["loss"], again["steps"]) == (result["top1"], result["loss"], 6)

    (folder / "table.md").unlink()
    assert main([*COMMAND, "--table-only"]) == 0
    assert (folder / "table.md").is_file()


def test_mistakes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["--rows", "positionl"], "--rows: there is no 'positionl'; did you mean 'positional'"),
        (["--ablate", "nothing"], "--ablate: there is no 'nothing'"),
        (["--jobs", "0"], "--jobs: expected at least 1"),
        (["train.lrr=3"], "unknown key 'train.lrr'"),
        (["data.num_digits=4"], "the table has 3 and 5 digits (got 4)"),
    ):
        assert message in fails(capsys, main, "syncmnist", "--size", "mini", *arguments)
    assert not (tmp_path / "runs").exists()
    assert "nowhere: expected a run folder" in fails(capsys, main, "figures", "nowhere")


def test_which_rows_run():
    def names(*arguments):
        return [row.name for row in chosen_rows(*arguments)]

    assert names(None, None) == list(ROWS) and names(["i3d"], None) == ["i3d"]
    assert names(None, []) == ["ours", *(f"ours-{name}" for name in ABLATIONS)]
    assert names(["i3d"], ["gru"]) == ["i3d", "ours-gru"]


@pytest.mark.parametrize(("size", "digits"), [("mini", 3), ("base", 5), ("full", 5)])
def test_every_row_comes_once_before_the_second_seed(size, digits):
    jobs = make_jobs(Path("out"), size, chosen_rows(None, None), None, [0, 1], [])
    seeds = [(f"{digits}digits", row, f"seed{seed}") for seed in (0, 1) for row in ROWS]
    assert [job.folder.parts[1:] for job in jobs] == seeds
    # A change that changes nothing at a size is left out.
    changes = chosen_rows(None, ["two_rounds", "three_rounds", "gru"])
    found = {job.folder.parts[2] for job in make_jobs(Path("out"), size, changes, None, [0], [])}
    unchanged = {"mini": "two", "full": "three"}.get(size)
    if unchanged:
        same = f"ours-{unchanged}_rounds"
        assert found == {"ours", "ours-two_rounds", "ours-three_rounds", "ours-gru"} - {same}
