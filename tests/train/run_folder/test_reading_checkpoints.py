"""Checkpoints of a run: read whole or not at all, without running code, and for this very run."""

import os
import pickle

import pytest
import torch

from rstg_pyg.train.config import parse_config, to_dict
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.run_folder.weights import check_resumable, read_checkpoint


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
