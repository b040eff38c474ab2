"""The numbers of the published code, recorded, replayed through the public layers."""

import json
import subprocess
import sys
from pathlib import Path

import check_golden
import numpy as np
import pytest

FOLDER = Path(__file__).parent / "golden"
FILES = sorted(FOLDER.glob("*.npz"))


def test_there_are_recordings():
    assert len(FILES) == 16 and (FOLDER / "tf_checkpoint" / "expected.npz").is_file()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recording(path):
    compare = check_golden.check(path)
    assert compare.failed() == [], compare.report()
    with np.load(path) as file:
        recorded = [name for name in file.files if name.startswith(("out/", "eval/", "grad/"))]
    assert set(recorded) <= set(compare.errors), "everything recorded is compared"


def test_checkpoint(capsys):
    compare = check_golden.check(FOLDER / "tf_checkpoint")
    assert compare.failed() == [], compare.report()
    assert {"out/logits", "out/logits (canonical LSTM)"} <= set(compare.errors)
    assert "27 used, 34 skipped, 0 unused, 0 missing, 0 mismatched" in capsys.readouterr().out


def changed(path, tmp_path, change):
    with np.load(path) as file:
        data = {name: file[name] for name in file.files}
    change(data)
    np.savez(tmp_path / path.name, **data)
    return str(tmp_path / path.name)


@pytest.mark.parametrize(
    "name",
    ["out/final_nodes_feats", "mid/messages_k0_t0", "mid/attention_k0_t0", "grad_in/feature_map"],
)
def test_a_difference_is_found(name, tmp_path, capsys):
    """The check fails when a recorded number is not ours."""

    def change(data):
        data[name].flat[3] += 1e-3 * np.abs(data[name]).max()

    path = FOLDER / "g02_dot_ln_scalewise.npz"
    assert check_golden.main([str(path)]) == 0
    assert check_golden.main([changed(path, tmp_path, change)]) == 1
    assert "ABOVE TOLERANCE" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flag, value",
    [("use_att", "simple"), ("scalewise_update", False), ("num_process_iter", 2), ("use_norm", "none")],
)
def test_another_config_does_not_fit_the_recording(flag, value, tmp_path):
    """The recordings see every flag: with another value, names or numbers differ."""

    def change(data):
        flags = json.loads(str(data["config"]))
        flags[flag] = value
        data["config"] = np.array(json.dumps(flags))

    assert not agrees(changed(FOLDER / "g02_dot_ln_scalewise.npz", tmp_path, change))


def agrees(path):
    """Whether the weights fit the config and give the recorded numbers."""
    try:
        return check_golden.main([path]) == 0
    except (check_golden.official.ConversionError, SystemExit):
        return False


def test_not_a_recording(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(SystemExit, match="not a recording"):
        check_golden.check(tmp_path / "x.npz")


def test_as_a_command(tmp_path):
    """As people call it: no folder beside the script may hide the package."""
    script = Path(__file__).parent / "check_golden.py"
    command = [sys.executable, str(script), str(FOLDER / "g06_scales2.npz"), "--json", "errors.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "ok: worst" in done.stdout
    errors = json.loads((tmp_path / "errors.json").read_text())["largest_relative_errors"]
    assert errors["g06_scales2"]["worst"] <= errors["g06_scales2"]["tolerance"] == 2e-4
