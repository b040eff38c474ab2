"""What a run prints when it is done."""

import json
from pathlib import Path

import pytest

from rstg_pyg.train.run_folder.printed import print_tail

RESULTS = Path(__file__).parents[3] / "docs/results"


@pytest.mark.parametrize(
    "data, commands",
    [
        ({}, ["next rstg predict CLIP.mp4 --ckpt a", "rstg report run"]),
        ({"dataset": "skeleton"}, ["next rstg predict RECORDING --ckpt a", "rstg report run"]),
        ({"boxes": "builtin"}, ["next rstg report run"]),
    ],
)
def test_the_next_commands_are_for_this_kind_of_data(tmp_path, monkeypatch, capsys, data, commands):
    results = json.loads((RESULTS / "smt_first_command.json").read_text())
    results |= {"checkpoint": "a", "skipped": None}
    results["config"]["data"] |= data
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    print_tail(results, Path("run"))
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert printed[-len(commands) :] == commands and sum("rstg " in x for x in printed) == len(commands)


def test_the_network_that_was_tested_is_named(tmp_path, monkeypatch, capsys):
    results = json.loads((RESULTS / "smt_first_command.json").read_text())
    monkeypatch.chdir(tmp_path)
    print_tail(results | {"checkpoint": "run/checkpoints/last.ckpt", "skipped": None}, Path("run"))
    assert " network run/checkpoints/last.ckpt protocol " in " ".join(capsys.readouterr().out.split())
