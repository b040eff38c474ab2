"""Blocks of code in Markdown pages: how they are read, run and compared with what they say."""

import argparse
import contextlib
import glob
import importlib
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from rstg_pyg.train.config import load_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Commands that are not ours to check.
FOREIGN = ("pip install", "python -m pip", "python -m venv", "python -m pytest", "python -m sphinx",
           "python -m http.server", "python -m webbrowser", "source ", "git ", "cd ",
           "ruff ", ".ci/run")  # fmt: skip


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    def commands(self):
        """The lines of a shell block, whole (without backslashes) and without comments."""
        lines = self.text.replace("\\\n", " ").replace("| \n", "| ").replace("|\n", "| ").splitlines()
        lines = [re.sub(r"\s# .*$", "", line) for line in lines if not line.startswith("#")]
        return [part.strip() for line in lines for part in line.split(" && ") if part.strip()]


def blocks_of(page):
    text = page.read_text()
    for found in re.finditer(r"^```([^\s`]*)[^\n]*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])


def run_python(block, namespace):
    """Runs a block and compares it with its comments: ``x = ...  # [4, 32]`` says the shape of ``x``,
    ``print(...)  # text`` what is printed. Returns how much there was to compare.
    """
    printed = io.StringIO()
    lines = "\n" * block.line + block.text  # an error names the line of the page
    with contextlib.redirect_stdout(printed):
        exec(compile(lines, str(block.page), "exec"), namespace)
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", block.text, re.MULTILINE)
    found = printed.getvalue().splitlines()
    assert not expected or found == expected, f"{block.page}:{block.line} prints {found}"
    shapes = re.findall(r"^\s*(\w+) = .*# [^\n#]*?\[([\d ,*]+)\][^\]\n#]*$", block.text, re.MULTILINE)
    for name, sizes in dict(shapes).items():
        found = list(namespace[name].shape)
        wanted = [eval(size) for size in sizes.split(",")]
        assert found == wanted, f"{block.page}:{block.line}: {name} is of shape {found}"
    return len(expected) + len(shapes) + block.text.count("assert")


def run_command(command):
    """Runs a command of ours in this process; returns its exit code."""
    if command.startswith("pip install"):
        return 0
    main, arguments = _ours(command)
    arguments = [path for a in arguments for path in sorted(glob.glob(a)) or [a]]
    return main(arguments)


class _Parsed(Exception):
    pass


def check_command(command):
    """Lets a command of ours read its arguments and its config, and no more."""
    outline = re.search(r"(?<!=)\[", command)  # optional parts are in brackets
    if command.startswith(FOREIGN) or outline:
        return
    script = re.match(r"python ((?:tests|docs/scripts)/\w+\.py)", command)
    if script:
        assert (ROOT / script[1]).is_file()
        return
    main, arguments = _ours(command)
    with _only_parsing(), contextlib.suppress(_Parsed):
        code = main(arguments)
        raise AssertionError(f"{command}: ends with {code}")
    overrides = [a for a in arguments if re.match(r"[\w.]+=", a)]
    if "--cfg" in arguments:
        load_config(arguments[arguments.index("--cfg") + 1], overrides)


def _ours(command):
    """A command's function and arguments; what starts it (``torchrun``, a pipe) is left out."""
    found = re.search(r"(?:^|\s)(?:train/(\w+)\.py|python -m (rstg_pyg\S+))(.*)$", command)
    assert found, f"{command}: not a command that is known here"
    module = f"rstg_pyg.train.{found[1]}" if found[1] else found[2]
    module = f"{module}.__main__" if module == "rstg_pyg.official" else module
    return importlib.import_module(module).main, shlex.split(found[3])


@contextlib.contextmanager
def _only_parsing():
    """Inside, a command ends with ``_Parsed`` when it has read its arguments."""
    depth = 0

    def stopping(method):
        def parse(*args, **kwargs):
            nonlocal depth
            depth += 1
            try:
                out = method(*args, **kwargs)
            finally:
                depth -= 1
            if depth == 0:
                raise _Parsed
            return out

        return parse

    names = ("parse_args", "parse_known_args", "parse_intermixed_args")
    with contextlib.ExitStack() as stack:
        for name in names:
            method = getattr(argparse.ArgumentParser, name)
            stack.enter_context(mock.patch.object(argparse.ArgumentParser, name, stopping(method)))
        yield
