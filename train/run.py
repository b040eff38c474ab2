"""Trains and evaluates: ``python train/run.py --cfg NAME.yaml [key.path=value ...]``.

Writes a run folder with ``config.yaml``, ``environment.json``, ``metrics.csv``, TensorBoard events,
``checkpoints``, ``results.json``, ``predictions.csv``, ``per_class.csv``, ``confusion.csv``,
``confusion.png`` and ``curves.png``. A user error ends with exit code 2 and a message, NaN or infinity
with exit code 1 and a message. Ctrl-C saves a checkpoint and exits with 130.
"""

from __future__ import annotations

import argparse
import os
import re
import sys

if "OMP_WAIT_POLICY" not in os.environ:
    # Threads that wait for each other soon give up their cores; else a step beside other work may take
    # twenty times as long (docs/results/waiting_threads.json). libgomp reads this when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from rstg_pyg.train.command import command
from rstg_pyg.train.config import available_configs
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.fitting import evaluate, fit


@command
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = parse_arguments(argv)
    cfg, overrides, out = arguments.cfg, arguments.overrides, arguments.out
    if arguments.evaluate is not None:
        evaluate(arguments.evaluate, cfg, *overrides, out=out)
    else:
        fit(cfg, *overrides, out=out, resume=arguments.resume)
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line.

    Raises:
        UserError: If there is no config, or both ``--resume`` and ``--evaluate``.
    """
    parser = argparse.ArgumentParser(
        prog="run.py", description="Train and evaluate RSTG on videos.", allow_abbrev=False
    )
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="config values")
    parser.add_argument("--cfg", nargs="?", metavar="NAME", help="a config: a path or a known name")
    parser.add_argument("--out", metavar="DIR", help="the run folder (default: runs/NAME)")
    parser.add_argument(
        "--resume",
        nargs="?",
        default=False,
        const=True,
        metavar="RUN",
        help="resume a run folder or a checkpoint (default: the newest run of this name)",
    )
    parser.add_argument(
        "--evaluate",
        metavar="RUN",
        help="only evaluate this run or checkpoint (default of --cfg: what it was trained with)",
    )
    arguments = parser.parse_intermixed_args(argv)
    run = arguments.resume or ""
    if run is not True and re.match(r"[\w.]+=", run) and not os.path.exists(run):
        arguments.overrides.append(run)  # it follows a --resume without RUN
        arguments.resume = True
    if not arguments.cfg and arguments.evaluate is None:
        raise UserError(f"--cfg needs the name of a config: {', '.join(available_configs())}")
    if arguments.resume is not False and arguments.evaluate is not None:
        raise UserError("--resume and --evaluate cannot be combined; use one of them")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
