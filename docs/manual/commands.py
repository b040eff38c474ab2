"""What the commands say about themselves."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]


class _Found(Exception):
    """Carries a parser out of a command."""


def command_modules() -> list[str]:
    """The modules behind the commands: files of ``train/`` with a command line, and the converter."""
    files = sorted(ROOT.glob("train/*.py"))
    names = [f.stem for f in files if "argparse.ArgumentParser(" in f.read_text(encoding="utf-8")]
    return [*(f"rstg_pyg.train.{name}" for name in names), "rstg_pyg.official.__main__"]


def parser_of(main: Callable[[list[str]], int]) -> argparse.ArgumentParser:
    """The parser that a command builds, without running the command."""

    def found(parser, *_):
        raise _Found(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", found):
        try:
            main([])
        except _Found as e:
            return e.args[0]
    raise AssertionError(f"{main.__module__} reads no command line")


def subparsers_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of a command's parts, such as ``prepare.py pack``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def command_reference() -> str:
    """The help of every command, as Markdown."""
    out = []
    for name in command_modules():
        module = importlib.import_module(name)
        parser = parser_of(module.main)
        title = parser.prog if " " in parser.prog else f"train/{parser.prog}"
        out.append(f"## `{title}`\n\n{_prose(module.__doc__)}")
        for part in (parser, *subparsers_of(parser)):
            out.append(f"```text\n{part.format_help().strip()}\n```")
    return "\n\n".join(out)


def _prose(docstring: str) -> str:
    """A module's docstring: its code marks are the same in Markdown, but for their number."""
    return re.sub(r"``([^`]+)``", r"`\1`", docstring.strip())
