import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rstg_pyg.train.errors import UserError
from rstg_pyg.train.run_folder import folder
from rstg_pyg.train.run_folder.folder import new_run_folder, newest_whole, only_one, run_to_resume


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder, and a process that is not one of several."""
    monkeypatch.chdir(tmp_path)
    for name in ("LOCAL_RANK", folder._FOLDER_VARIABLE):
        monkeypatch.setenv(name, "0")  # what a run leaves there is undone, too
        monkeypatch.delenv(name)


def test_the_first_free_folder(monkeypatch):
    assert new_run_folder(None, "a") == Path("runs/a") and Path("runs/a").is_dir()
    assert not list(Path("runs/a").iterdir())
    assert new_run_folder(None, "a") == Path("runs/a-2")
    assert new_run_folder(None, "a") == Path("runs/a-3")
    assert new_run_folder(None, "b") == Path("runs/b")
    assert new_run_folder("deep/x", "b") == Path("deep/x")

    monkeypatch.setenv("LOCAL_RANK", "1")  # a process that the first one started
    assert new_run_folder(None, "b") == Path("deep/x")
    assert new_run_folder("y", "b") == Path("y") and not Path("y").exists()
    monkeypatch.delenv(folder._FOLDER_VARIABLE)
    with pytest.raises(UserError, match="--out: name the run folder when several processes"):
        new_run_folder(None, "b")


@pytest.mark.parametrize("name", ["checkpoints", "metrics.csv", "results.json"])
def test_a_folder_that_holds_a_run_is_not_taken(name):
    Path("a").mkdir()
    Path("a/notes.txt").touch()
    assert new_run_folder("a", "x") == Path("a")
    (Path("a") / name).touch()
    with pytest.raises(UserError, match="--out: a already holds a run; continue it with --resume"):
        new_run_folder("a", "x")


def save(path):
    path.parent.mkdir(parents=True)
    torch.save({"config": {}, "origin": "", "global_step": 5, "state_dict": {}}, path)
    return path


def test_the_newest_run_is_resumed():
    for i, name in enumerate(["tiny", "tiny-2", "tiny-3", "tiny-other"]):
        path = save(Path("runs") / name / "checkpoints" / "step-5.ckpt")
        os.utime(path, (i, i))
    newest = Path("runs/tiny-3")
    assert run_to_resume("tiny", None, "") == (newest, newest / "checkpoints/step-5.ckpt")
    (newest / "checkpoints/step-5.ckpt").unlink()
    assert run_to_resume("tiny", None, "")[0] == Path("runs/tiny-2")
    (newest / "config.yaml").touch()  # it was killed before its first checkpoint
    assert run_to_resume("tiny", None, "") == (newest, None)
    (newest / "results.json").touch()  # it only evaluated
    assert run_to_resume("tiny", None, "")[0] == Path("runs/tiny-2")


def test_a_given_checkpoint_is_resumed_in_its_folder_or_another(monkeypatch):
    path = save(Path("runs/x/checkpoints/step-5.ckpt"))
    assert run_to_resume("other", None, str(path)) == (Path("runs/x").resolve(), path)
    assert run_to_resume("other", "runs/x", str(path)) == (Path("runs/x"), path)
    assert run_to_resume("other", "new", str(path)) == (Path("new"), path)
    Path("full").mkdir()
    Path("full/metrics.csv").touch()
    with pytest.raises(UserError, match="full already holds a run"):
        run_to_resume("other", "full", str(path))
    with pytest.raises(UserError, match=r"there is no run runs/other\*"):
        run_to_resume("other", None, "")
    with pytest.raises(UserError, match="there is no run in nowhere"):
        run_to_resume("other", "nowhere", "")
    assert run_to_resume("x", None, "") == (Path("runs/x"), path)
    monkeypatch.setenv("LOCAL_RANK", "1")  # a process that the first one started
    assert run_to_resume("other", None, "") == (Path("runs/x"), path)


def test_a_given_run_folder_is_resumed_from_its_newest_checkpoint(capsys):
    folder = Path("runs/x")
    save(folder / "checkpoints/best.ckpt")
    older, newest = (whole(folder / f"checkpoints/step-{step}.ckpt") for step in (5, 16))
    assert run_to_resume("other", None, "runs/x/") == (folder, newest)
    assert run_to_resume("other", "runs/x", str(folder.resolve())) == (folder, newest.resolve())
    assert run_to_resume("other", "new", "runs/x") == (Path("new"), newest)
    newest.write_bytes(b"half")
    assert run_to_resume("other", None, "runs/x") == (folder, older)
    assert "using the previous one, step-5.ckpt" in capsys.readouterr().out


def test_a_given_folder_without_a_checkpoint(capsys):
    Path("runs/x").mkdir(parents=True)
    with pytest.raises(UserError, match="expected a run folder or a checkpoint .got runs/x, which has"):
        run_to_resume("x", None, "runs/x")
    Path("runs/x/config.yaml").touch()  # it was killed before its first checkpoint
    assert run_to_resume("x", None, "runs/x") == (Path("runs/x"), None)
    assert "has no checkpoint yet, so the run restarts" in capsys.readouterr().out


def whole(path):
    values = {"config": {}, "origin": "", "global_step": 1, "state_dict": {"x": torch.zeros(1000)}}
    torch.save(values, path)
    return path


def test_the_newest_whole_one_is_taken(tmp_path, capsys):
    assert newest_whole(tmp_path) is None
    for step in (8, 16, 128):
        whole(tmp_path / f"step-{step}.ckpt")
    os.link(tmp_path / "step-128.ckpt", tmp_path / "last.ckpt")
    whole(tmp_path / "step-best.ckpt")  # not one of the run's
    (tmp_path / ".step-256.ckpt.1.tmp").write_bytes(b"half")
    assert newest_whole(tmp_path).name == "step-128.ckpt"
    assert capsys.readouterr().out == ""
    with open(tmp_path / "last.ckpt", "rb+") as file:
        file.truncate(700)
    assert newest_whole(tmp_path).name == "step-16.ckpt"
    printed = capsys.readouterr().out
    assert "step-128.ckpt: not a whole checkpoint" in printed
    assert "using the previous one, step-16.ckpt" in printed
    for step in (8, 16):
        (tmp_path / f"step-{step}.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match=r"step-128.ckpt: not a whole .*no other in .* begin again"):
        newest_whole(tmp_path)


def test_a_run_of_an_earlier_version_has_only_its_last(tmp_path):
    assert newest_whole(whole(tmp_path / "last.ckpt").parent).name == "last.ckpt"


def test_one_program_at_a_time_trains_in_a_folder():
    code = (
        "import sys\nfrom pathlib import Path\nfrom rstg_pyg.train.run_folder.folder import only_one\n"
        "with only_one(Path('run'), True):\n    print('in', flush=True)\n    sys.stdin.read()"
    )
    Path("run").mkdir()
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as other:
        try:
            assert other.stdout.readline() == b"in\n"
            message = "another program is training in run"
            with pytest.raises(UserError, match=message), only_one(Path("run"), True):
                pass
            with only_one(Path("run"), False):  # another process of the same training
                pass
        finally:
            other.kill()
    with only_one(Path("run"), True):  # a killed program leaves the folder free
        assert os.listdir("run") == [".training"]
    assert not os.listdir("run")
