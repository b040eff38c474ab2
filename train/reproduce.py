"""Runs the paper's tables: ``python train/reproduce.py syncmnist --size mini|small|base|full ...`` and
``python train/reproduce.py something --demo`` (or ``data.root=FOLDER``); and the comparison on MSR
Action3D: ``python train/reproduce.py skeletons data.root=MSRAction3DSkeletonReal3D.zip``.

Every row and seed is a run of ``run.py`` in its own folder. Finished runs are skipped and unfinished
ones resume, so the command can be stopped and run again at any time. After every run the table is
rewritten, with the paper's numbers for comparison: ``table.md`` and ``table.png``.

``python train/reproduce.py figures RUN...`` draws what trained networks attend to and where they fail.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from rstg_pyg.train.command import command
from rstg_pyg.train.config import load_config
from rstg_pyg.train.errors import Interrupted, UserError, nearest
from rstg_pyg.train.paper.jobs import Job, run_jobs
from rstg_pyg.train.paper.something import DEMO, SOMETHING_ROWS, write_something_table
from rstg_pyg.train.paper.syncmnist import ABLATIONS, DIGITS, ROWS, Row, run_folder, write_table
from rstg_pyg.train.paper.syncmnist_figures import write_figures
from rstg_pyg.train.run_folder.folder import check_free, named_folder
from rstg_pyg.train.skeletons.protocol import (
    CANDIDATES,
    SKELETON_ROWS,
    choosing_jobs,
    test_jobs,
    write_skeleton_tables,
)

RowType = TypeVar("RowType")

SIZES = ("mini", "small", "base", "full")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = parse_arguments(argv)
    return arguments.function(arguments)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="reproduce.py", description="Run the paper's tables.", allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True)
    table = commands.add_parser(
        "syncmnist",
        help="run the rows of the SyncMNIST table",
        usage="%(prog)s --size SIZE [options] [key.path=value ...]",
        allow_abbrev=False,
    )
    table.set_defaults(function=run_syncmnist)
    add = table.add_argument
    add("--size", choices=SIZES, required=True, help="see configs/syncmnist/common.yaml")
    add("--digits", type=int, choices=DIGITS, help="(default: what the size has)")
    add("--ablate", nargs="*", metavar="CHANGE", help=f"ours with changes: {', '.join(ABLATIONS)}")
    _add_shared(table, "syncmnist", ROWS)
    table = commands.add_parser(
        "something",
        help="run the rows of the Something-Something table",
        usage="%(prog)s (--demo | data.root=FOLDER) [options] [key.path=value ...]",
        allow_abbrev=False,
    )
    table.set_defaults(function=run_something)
    table.add_argument("--demo", action="store_true", help="small versions on the built-in data")
    _add_shared(table, "something", SOMETHING_ROWS)
    table = commands.add_parser(
        "skeletons",
        help="run the comparison on MSR Action3D",
        usage="%(prog)s data.root=PATH [options] [key.path=value ...]",
        allow_abbrev=False,
    )
    table.set_defaults(function=run_skeletons)
    add = table.add_argument
    add("--choose", nargs="*", metavar="CHANGE",
        help="cross-validate changes of the config over the training subjects (default: all)",
    )  # fmt: skip
    _add_shared(table, "skeletons", SKELETON_ROWS)
    figures = commands.add_parser("figures", help="draw figures from finished runs")
    figures.set_defaults(function=draw_figures)
    add = figures.add_argument
    add("runs", nargs="+", metavar="RUN", help="run folders")
    add("--out", metavar="DIR", help="(default: RUN/figures)")
    add("--videos", type=int, default=1000, help="number of test videos")
    argv = list(sys.argv[1:] if argv is None else argv)
    is_table = argv[:1] in (["syncmnist"], ["something"], ["skeletons"])
    overrides = [a for a in argv if "=" in a and not a.startswith("-")] * is_table
    arguments = parser.parse_args([a for a in argv if a not in overrides])
    arguments.overrides = overrides  # anywhere, also after an option with several values
    return arguments


def _add_shared(parser: argparse.ArgumentParser, table: str, rows: Iterable[str]) -> None:
    """The options of both tables."""
    add = parser.add_argument
    add("--rows", nargs="+", metavar="ROW", help=f"some of {', '.join(rows)}")
    add("--seeds", nargs="+", type=int, default=[0], metavar="SEED")
    add("--jobs", type=int, default=1, help="parallel runs; several use one thread each")
    add("--out", default=f"runs/table_{table}", metavar="DIR")
    add("--table-only", action="store_true", help="only write the table, run nothing")


def draw_figures(arguments: argparse.Namespace) -> int:
    """``figures``; returns the exit code."""
    out = Path(arguments.runs[0]) / "figures"
    if arguments.out is not None:
        out = named_folder(arguments.out)
        check_free(out)  # curves.png would be overwritten
    write_figures([Path(run) for run in arguments.runs], out, arguments.videos)
    print(f"written to {out}")
    return 0


def run_syncmnist(arguments: argparse.Namespace) -> int:
    """``syncmnist``; returns the exit code."""
    size, out = arguments.size, named_folder(arguments.out) / arguments.size
    rows = chosen_rows(arguments.rows, arguments.ablate)
    jobs = make_jobs(out, size, rows, arguments.digits, arguments.seeds, _overrides(arguments))
    return _run(jobs, arguments, out, lambda: write_table(out, size))


def run_something(arguments: argparse.Namespace) -> int:
    """``something``; returns the exit code."""
    demo = arguments.demo
    out = named_folder(arguments.out) / ("demo" if demo else "full")
    rows = [_known("--rows", name, SOMETHING_ROWS) for name in arguments.rows or SOMETHING_ROWS]
    overrides = [*(DEMO if demo else ()), *_overrides(arguments)]
    has_data = any(override.startswith("data.root=") for override in overrides)
    if demo and has_data:
        raise UserError("--demo: expected no data.root, since it is for the built-in data")
    jobs = []
    for seed, row in itertools.product(dict.fromkeys(arguments.seeds), rows):
        changes = [f"name={row.name}", f"seed={seed}", "trainer.progress_bar=false", *overrides]
        load_config(row.cfg, changes)
        jobs.append(
            Job(f"{row.name}, seed {seed}", out / row.name / f"seed{seed}", row.cfg, tuple(changes))
        )
    if not demo and not has_data:
        print("nothing to run: the rows need the data (data.root=FOLDER), or --demo")
        jobs = []
    return _run(jobs, arguments, out, lambda: write_something_table(out, demo))


def run_skeletons(arguments: argparse.Namespace) -> int:
    """``skeletons``; returns the exit code."""
    out, overrides = named_folder(arguments.out), _overrides(arguments)
    if arguments.choose is None:
        names = arguments.rows or list(SKELETON_ROWS)
        rows = {name: _known("--rows", name, SKELETON_ROWS) for name in names}
        jobs = test_jobs(out, rows, list(dict.fromkeys(arguments.seeds)), overrides)
    else:
        names = arguments.choose or list(CANDIDATES)
        changes = {name: _known("--choose", name, CANDIDATES) for name in names}
        jobs = choosing_jobs(out, changes, overrides)
    return _run(jobs, arguments, out, lambda: write_skeleton_tables(out))


def _overrides(arguments: argparse.Namespace) -> list[str]:
    if arguments.jobs < 1:
        raise UserError(f"--jobs: expected at least 1 (got {arguments.jobs})")
    return [*(["trainer.threads=1"] if arguments.jobs > 1 else []), *arguments.overrides]


def _run(jobs: list[Job], arguments: argparse.Namespace, out: Path, write: Callable[[], str]) -> int:
    """Runs what has not ended, unless only the table is asked for; writes it. Returns the exit code."""
    done = True
    if jobs and not arguments.table_only:
        try:
            done = run_jobs(jobs, arguments.jobs, after=write)
        except KeyboardInterrupt:
            raise Interrupted("run the same command again to continue") from None
    print(f"\n{write()}\nwritten to {out / 'table.md'}")
    return 0 if done else 1


def _known(option: str, name: str, known: Mapping[str, RowType]) -> RowType:
    """The row of a name.

    Raises:
        UserError: If there is no such row.
    """
    if name not in known:
        hint = nearest(name, known) or f"; known are {', '.join(known)}"
        raise UserError(f"{option}: there is no '{name}'{hint}")
    return known[name]


def chosen_rows(rows: list[str] | None, changes: list[str] | None) -> list[Row]:
    """The selected rows of the table, or "Ours" with the selected changes of the ablation.

    Raises:
        UserError: If there is no such row or change.
    """
    if rows is None:
        rows = list(ROWS) if changes is None else ["ours"]
    out = [_known("--rows", name, ROWS) for name in rows]
    if changes is not None:
        out += [_known("--ablate", name, ABLATIONS) for name in changes or ABLATIONS]
    return out


def make_jobs(
    out: Path,
    size: str,
    rows: Sequence[Row],
    digits: int | None,
    seeds: Sequence[int],
    overrides: Sequence[str],
) -> list[Job]:
    """The runs: all rows with the first seed, then with the second, and so on.

    Ablations that have no effect at this size are skipped.

    Raises:
        UserError: If a config does not fit.
    """
    jobs = []
    for seed, row in itertools.product(dict.fromkeys(seeds), rows):
        changes = [f"size={size}", f"seed={seed}", "trainer.progress_bar=false"]
        changes += [] if digits is None else [f"data.num_digits={digits}"]
        without = [*changes, f"name={row.name}", *overrides]
        changes += [f"name={row.name}", *row.overrides, *overrides]
        config = load_config(row.cfg, changes)
        if row.overrides and config == load_config(row.cfg, without):
            continue
        count = getattr(config.data, "num_digits", 0)
        if count not in DIGITS:
            raise UserError(
                f"data.num_digits: the table has 3 and 5 digits (got {count}); use --digits"
            )
        folder = run_folder(out, count, row, seed)
        title = f"{row.name}, {count} digits, seed {seed}"
        jobs.append(Job(title, folder, row.cfg, tuple(changes)))
    return jobs


if __name__ == "__main__":
    sys.exit(main())
