import errno
import os
import pickle
import stat

import pytest
import torch

from rstg_pyg.train.config import parse_config, to_dict
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.files import write_atomically
from rstg_pyg.train.run_folder.checkpoints import (
    Checkpoints,
    check_resumable,
    newest_whole,
    read_checkpoint,
)


def config(**sections):
    return parse_config({"name": "x", **sections}, "x.yaml")


def save(path, content):
    torch.save(content, path)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    return save(
        tmp_path / "a.ckpt",
        {"config": to_dict(config()), "origin": "builtin digits", "global_step": 1, "state_dict": {}},
    )


def test_writes_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file"
    write_atomically(path, lambda p: p.write_text("one"))

    def half(p):
        p.write_text("tw")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match="No space left on device"):
        write_atomically(path, half)

    def interrupted(p):
        p.write_text("tw")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_reads_its_own(checkpoint):
    assert check_resumable(checkpoint, config()) == ("builtin digits", 1)


def test_keys_that_came_after_a_checkpoint_have_their_defaults(tmp_path):
    values = to_dict(config())
    del values["model"]["rstg"]["homogeneous"], values["model"]["head"]
    parts = {"origin": "builtin digits", "global_step": 1, "state_dict": {}}
    old = save(tmp_path / "old.ckpt", {"config": values, **parts})
    check_resumable(old, config())
    model = {"rstg": {"homogeneous": True, "time_stages": "none"}}
    with pytest.raises(UserError, match=r"model.rstg.homogeneous \(False against True\)"):
        check_resumable(old, config(model=model))


def test_missing_names_those_there_are(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"there is no such checkpoint; there is .*a.ckpt"):
        read_checkpoint(tmp_path / "b.ckpt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_half_written(checkpoint, share):
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match="not a whole checkpoint"):
        read_checkpoint(checkpoint)


def test_a_changed_bit_is_found(checkpoint):
    """Every byte in turn: what is read is what was written, or an error."""
    data = bytearray(checkpoint.read_bytes())
    whole, damaged = repr(read_checkpoint(checkpoint)), 0
    for i in range(0, len(data), 5):
        checkpoint.write_bytes(data[:i] + bytes([data[i] ^ 16]) + data[i + 1 :])
        try:
            assert repr(read_checkpoint(checkpoint)) == whole
        except UserError:
            damaged += 1
    assert damaged > len(data) / 20


def whole(path):
    values = {"config": {}, "origin": "", "global_step": 1, "state_dict": {"x": torch.zeros(1000)}}
    return save(path, values)


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
    assert "step-16.ckpt before it is used" in printed
    for step in (8, 16):
        (tmp_path / f"step-{step}.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match=r"step-128.ckpt: not a whole .*no other in .* begin again"):
        newest_whole(tmp_path)


def test_a_run_of_an_earlier_version_has_only_its_last(tmp_path):
    assert newest_whole(whole(tmp_path / "last.ckpt").parent).name == "last.ckpt"


def test_the_folder_is_flushed_after_the_file_is_renamed(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def flush(number):
        done.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
        fsync(number)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    write_atomically(tmp_path / "a", lambda p: p.write_text("x"))
    assert done == ["file", "rename", "folder"]


def test_foreign(tmp_path):
    with pytest.raises(UserError, match="it has no config"):
        read_checkpoint(save(tmp_path / "f.ckpt", {"state_dict": {}}))
    with pytest.raises(UserError, match="it has no config"):
        read_checkpoint(save(tmp_path / "f.ckpt", [1, 2]))


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm-was-done",)


def test_code_in_a_checkpoint_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "h.ckpt", {"config": {}, "state_dict": Harmful()})
    (tmp_path / "p.ckpt").write_bytes(pickle.dumps(Harmful()))
    for name in ("h.ckpt", "p.ckpt"):
        with pytest.raises(UserError, match="not a whole checkpoint"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "harm-was-done").exists()


def test_another_config_is_refused_by_key(checkpoint):
    other = config(train={"lr": 0.5}, model={"rstg": {"residual": True}})
    with pytest.raises(UserError, match=r"model.rstg.residual \(False against True\), train.lr"):
        check_resumable(checkpoint, other)


def test_what_may_change(checkpoint):
    check_resumable(checkpoint, config(trainer={"threads": 1}, data={"num_workers": 2}))


class Trainer:
    """As much of a trainer as saves."""

    def __init__(self, rank=0):
        self.is_global_zero, self.sanity_checking, self.loggers = rank == 0, False, []
        self.global_step, self.saved = 0, []

    def save_checkpoint(self, path):
        self.saved.append(path.name)
        if self.is_global_zero:
            path.write_text(path.name)

    def validate(self, checkpoints, step, top1):
        self.global_step, self.callback_metrics = step, {"val/top1": torch.tensor(top1)}
        checkpoints.on_validation_end(self, None)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def numbered(*steps, last, best):
    files = {f"step-{step}.ckpt": f"step-{step}.ckpt" for step in steps}
    return {**files, "last.ckpt": f"step-{last}.ckpt", "best.ckpt": f"step-{best}.ckpt"}


def test_the_last_three_and_the_best_are_kept(tmp_path):
    folder, trainer = tmp_path / "run" / "checkpoints", Trainer()
    checkpoints = Checkpoints(folder)
    checkpoints.setup(trainer, None, "fit")
    checkpoints.on_fit_start(trainer, None)
    assert folder.is_dir() and contents(folder) == {}
    trainer.sanity_checking = True
    trainer.validate(checkpoints, 0, 0.9)
    trainer.sanity_checking = False
    assert trainer.saved == []
    for step, top1 in ((2, 0.1), (4, 0.5), (6, 0.5), (8, 0.3), (10, 0.2)):
        trainer.validate(checkpoints, step, top1)
    assert contents(folder) == numbered(6, 8, 10, last=10, best=4)
    checkpoints.save_end(trainer)
    assert len(trainer.saved) == 5  # that was a validation
    trainer.global_step = 11
    checkpoints.save_end(trainer)
    assert contents(folder) == numbered(8, 10, 11, last=11, best=4)

    state = checkpoints.state_dict()
    draws = torch.rand(3)
    again = Checkpoints(folder, folder / "step-8.ckpt", 8)
    again.load_state_dict(state)
    again.setup(trainer, None, "test")
    assert contents(folder) == numbered(8, 10, 11, last=11, best=4)
    again.setup(trainer, None, "fit")
    again.on_fit_start(trainer, None)
    assert contents(folder) == numbered(8, last=8, best=4)
    again.on_train_start(trainer, None)
    assert torch.equal(torch.rand(3), draws)
    trainer.validate(again, 10, 0.4)  # not the best
    trainer.validate(again, 12, 0.6)
    assert contents(folder) == numbered(8, 10, 12, last=12, best=12)


def test_a_run_that_goes_on_elsewhere_takes_its_checkpoint_along(tmp_path):
    path = tmp_path / "given.ckpt"
    path.write_text("given")
    checkpoints, trainer = Checkpoints(tmp_path / "new", path, 7), Trainer()
    checkpoints.setup(trainer, None, "fit")
    checkpoints.on_fit_start(trainer, None)
    assert contents(tmp_path / "new") == {"step-7.ckpt": "given", "last.ckpt": "given"}


def test_the_other_processes_leave_the_folder_alone(tmp_path):
    checkpoints, trainer = Checkpoints(tmp_path / "new"), Trainer(rank=1)
    checkpoints.setup(trainer, None, "fit")
    checkpoints.on_fit_start(trainer, None)
    trainer.validate(checkpoints, 2, 0.5)
    assert trainer.saved == ["step-2.ckpt"] and not list(tmp_path.iterdir())  # their part of the saving
