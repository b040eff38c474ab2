"""The console script ``rstg``."""

import configparser
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import rstg_pyg
from rstg_pyg.train import cli

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_rest_of_the_arguments_goes_to_the_command(name, monkeypatch):
    module = import_module(f"rstg_pyg.train.{cli.COMMANDS[name][0]}")
    assert callable(module.main)
    monkeypatch.setattr(module, "main", lambda argv: seen.append(argv) or 7)
    for arguments in ([], ["--cfg", "a.yaml", "x.y=1"], ["--help"], ["--version"], ["a", "--", "-b"]):
        seen = []
        assert cli.main([name, *arguments]) == 7
        assert seen == [arguments]


def test_version_and_help(capsys):
    version = f"rstg_pyg {rstg_pyg.__version__}\n"
    for argv, text in (["--version"], version), (["--help"], "usage: rstg"):
        with pytest.raises(SystemExit) as end:
            cli.main(argv)
        assert end.value.code == 0
        out = capsys.readouterr().out
        assert out.startswith(text)
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)


@pytest.mark.parametrize("argv", [[], ["tain"], ["--cfg", "a.yaml"]])
def test_a_missing_or_unknown_command(argv, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 2
    assert "rstg: error: " in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    for name in [name for name in sys.modules if name.startswith("rstg_pyg.train.")]:
        monkeypatch.delitem(sys.modules, name)
    assert cli.main(["train", "--cfg", "smt.yaml"]) == 2
    error = capsys.readouterr().err
    assert "pytorch_lightning" in error and 'pip install "rstg_pyg[train]"' in error


@pytest.mark.slow
def test_a_command_is_imported_when_it_is_called():
    code = "import sys, rstg_pyg.train.cli; print(*(m for m in sys.modules if 'lightning' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_script_is_installed():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["options.entry_points"]["console_scripts"].strip() == "rstg = rstg_pyg.train.cli:main"
