"""The console script ``rstg``: ``rstg train --cfg smt.yaml`` is the same as ``python train/run.py``."""

from __future__ import annotations

import argparse
import importlib
import sys

import rstg_pyg

#: The module of each command, and what the command does.
COMMANDS = {
    "train": ("run", "train and evaluate a network"),
    "predict": ("predict", "classify videos with a trained network"),
    "prepare": ("prepare", "check, pack or show a data set"),
    "export": ("export", "write a trained network as ONNX or .pt2"),
    "report": ("report", "compare runs in one table"),
    "benchmark": ("benchmark", "measure time and memory"),
}


def main(argv: list[str] | None = None) -> int:
    """The console script; returns its exit code."""
    width = max(map(len, COMMANDS)) + 2
    parser = argparse.ArgumentParser(
        prog="rstg",
        usage="rstg [--version] COMMAND ...",
        description="Recurrent Space-time Graph networks for video.",
        epilog="commands:\n"
        + "\n".join(f"  {name:{width}}{what}" for name, (_, what) in COMMANDS.items())
        + "\n\nrstg COMMAND --help shows the arguments of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rstg_pyg {rstg_pyg.__version__}")
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    try:
        module = importlib.import_module(f"rstg_pyg.train.{COMMANDS[arguments.command][0]}")
    except ModuleNotFoundError as e:
        if (e.name or "").startswith("rstg_pyg"):
            raise
        print(f'error: {e}; this command needs pip install "rstg_pyg[train]"', file=sys.stderr)
        return 2
    return module.main(arguments.arguments)
