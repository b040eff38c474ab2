"""The scheduling, with scripts in place of trainings."""

import json
import signal
import sys

import pytest
from helpers.results import results_of
from helpers.signals import signal_when

from rstg_pyg.train.config import load_config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.paper.jobs import Job, run_jobs

CFG = "syncmnist/ours.yaml"


class Script(Job):
    """Writes its results after running some lines of Python."""

    def command(self):
        lines = self.title if "\n" in self.title else ""
        results = json.dumps(results_of(load_config(self.cfg, list(self.overrides))))
        write = f"(folder / 'results.json').write_text({results!r})"
        begin = f"import pathlib\nfolder = pathlib.Path({str(self.folder)!r})\n"
        note = "open(folder.parent / 'ran.txt', 'a').write(folder.name + ' ')\n"
        return [sys.executable, "-c", f"{begin}{lines}\n{note}{write}"]


def script(tmp_path, name, line=None, *overrides):
    return Script(name if line is None else f"{line}\n", tmp_path / name, CFG, overrides)


def ran(tmp_path):
    return (tmp_path / "ran.txt").read_text().split()


@pytest.mark.parametrize("parallel", [1, 2])
def test_runs_what_is_not_done(tmp_path, parallel):
    jobs = [script(tmp_path, name) for name in "abc"]
    ended = []
    assert run_jobs(jobs[:1], parallel)
    assert run_jobs(jobs, parallel, lambda: ended.append(1))
    assert sorted(ran(tmp_path)) == ["a", "b", "c"] and len(ended) == 2
    if parallel == 1:
        assert ran(tmp_path) == ["a", "b", "c"]


def test_two_at_once(tmp_path):
    """Each waits for another, and there is never a third."""
    line = """
import time
here = lambda: len(list(folder.parent.glob("*/here")))
(folder / "here").touch()
while here() < 2 and not (folder.parent / "met").exists():
    time.sleep(0.01)
(folder.parent / "met").touch()
assert here() <= 2
time.sleep(1)
(folder / "here").unlink()
"""
    assert run_jobs([script(tmp_path, name, line) for name in "abc"], 2)


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, capsys):
    jobs = [script(tmp_path, "a", "print('oh')\nraise SystemExit(7)"), script(tmp_path, "b")]
    assert not run_jobs(jobs)
    assert ran(tmp_path) == ["b"]
    assert "code 7 (oh); see " in capsys.readouterr().out


def test_a_mistake_of_the_users_does(tmp_path):
    line = "print('error: no such digits')\nraise SystemExit(2)"
    with pytest.raises(UserError, match="^no such digits$"):
        run_jobs([script(tmp_path, "a", line), script(tmp_path, "b")])
    assert not (tmp_path / "ran.txt").exists()


def test_results_of_another_experiment_are_not_taken(tmp_path):
    run_jobs([script(tmp_path, "a")])
    run_jobs([script(tmp_path, "a", None, "data.root=elsewhere", "trainer.threads=3")])
    assert ran(tmp_path) == ["a"]
    with pytest.raises(UserError, match=r"train.lr \(0.003 against 0.5\); choose another --out"):
        run_jobs([script(tmp_path, "a", None, "train.lr=0.5")])
    (tmp_path / "a/results.json").write_text("{}")
    with pytest.raises(UserError, match="expected the results of a run"):
        run_jobs([script(tmp_path, "a")])


def test_what_was_begun_goes_on_if_there_is_a_checkpoint(tmp_path, capsys):
    job = script(tmp_path, "a", None, "seed=3")
    assert Job.command(job)[3:] == ["--cfg", CFG, "seed=3", "--out", str(tmp_path / "a"), "--resume"]
    (job.folder / "checkpoints").mkdir(parents=True)
    (job.folder / "checkpoints/.step-10.ckpt.1.tmp").touch()
    (job.folder / "checkpoints/step-5.ckpt").touch()
    assert run_jobs([job, script(tmp_path, "b")])
    printed = capsys.readouterr().out
    assert f"resumes in {tmp_path / 'a'}" in printed and f"starts in {tmp_path / 'b'}" in printed


STOPPABLE = """
import signal, sys, time
def stop(*_):
    open(folder.parent / "saved.txt", "a").write("x")
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
open(folder.parent / "began.txt", "a").write("x")
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_runs_after_their_step(tmp_path, capsys, number):
    began = tmp_path / "began.txt"
    with (
        signal_when(lambda: began.exists() and began.read_text() == "xx", number),
        pytest.raises(KeyboardInterrupt),
    ):
        run_jobs([script(tmp_path, name, STOPPABLE) for name in "abc"], 2)
    assert "stopping after this step" in capsys.readouterr().out
    assert (tmp_path / "saved.txt").read_text() == "xx"  # each was asked once
    assert not (tmp_path / "c").exists()
