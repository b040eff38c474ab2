"""Mistakes that users make with the commands: what a case is, a user's folder, and wrong files."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from PIL import Image

from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import load_config
from rstg_pyg.train.data.mini import write_mini_something
from rstg_pyg.train.data.packing import pack
from rstg_pyg.train.run import main as run
from rstg_pyg.train.run_folder.weights import write_weights

TINY = """
name: tiny
data: {digits: builtin, num_digits: 2, num_classes: 3, num_frames: 3, frame_size: 16, canvas_size: 16,
  digit_size: 8, max_step: 3, train_videos: 32, val_videos: 8, test_videos: 8, mean: 20.0, std: 50.0}
model: {backbone: {filters: [4], padding: 1}, rstg: {hidden_channels: 8, scales: [1], num_rounds: 1}}
train: {batch_size: 16, max_steps: 2, validate_every: 1, log_every: 1}
trainer: {accelerator: cpu, progress_bar: false, threads: 1}
"""
SOME = """
name: some
data: {dataset: something, root: data, num_frames: 2, short_side: 16, crop_size: 16, num_workers: 0}
model: {backbone: {filters: [4], padding: 1}, rstg: {hidden_channels: 8, scales: [1], num_rounds: 1}}
train: {batch_size: 2, max_steps: 1}
trainer: {accelerator: cpu, progress_bar: false, threads: 1}
"""
CKPT = "runs/tiny/checkpoints/last.ckpt"
SOME_CKPT = "runs/some/checkpoints/best.ckpt"
CLIP = "data/20bn-something-something-v1/1"
HALF = "runs/half/checkpoints/step-1.ckpt"  # of a run that is not done
ODD = os.fsdecode(b"caf\xe9")  # not UTF-8

#: What a value may be in the place of the right one.
WRONG: tuple[Any, ...] = (None, 7, "x", [], {}, torch.ones(2), [{}], {"x": 1})


class Mistake(NamedTuple):
    """A case.

    Attributes:
        command: Which command.
        what: The mistake, in words.
        arguments: The command line.
        make: Makes the mistake in a copy of the user's folder.
        names: What the message has to contain, one of them.
        codes: Exit codes that are right; 0 where the command can do what is asked for after all.
        may_change: Files that the command is there to change.
        nobody: Whether the user has no rights but those of the folder.
    """

    command: str
    what: str
    arguments: list[str]
    make: Callable[[], object] = lambda: None
    names: tuple[str, ...] = ()
    codes: tuple[int, ...] = (2,)
    may_change: tuple[str, ...] = ()
    nobody: bool = False


def make_home(folder: Path) -> None:
    """A user's folder: configs, runs (one met NaN), data, a packed store, weights, a video."""
    os.chdir(folder)
    Path("tiny.yaml").write_text(TINY)
    Path("some.yaml").write_text(SOME)
    write_mini_something("data", train=3, validation=2, size=16, num_frames=2)
    pack("data", "packed", short_side=16)
    assert run(["--cfg", "tiny.yaml"]) == 0
    assert run(["--cfg", "some.yaml"]) == 0
    assert run(["--cfg", "tiny.yaml", "data.std=1e-40", "name=broken"]) == 1
    shutil.copytree("runs/tiny", "runs/half")
    for name in (
        "results.json",
        "checkpoints/step-2.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
    ):
        Path("runs/half", name).unlink()
    for name in ("last", "best"):
        os.link(HALF, f"runs/half/checkpoints/{name}.ckpt")
    config = load_config("tiny.yaml")
    write_weights(Path("tiny.safetensors"), build_model(config, 4), config, "nothing")
    Path("table/mini/5digits/ours/seed0").mkdir(parents=True)
    shutil.copy("runs/tiny/results.json", "table/mini/5digits/ours/seed0")
    frames = [Image.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(4)]
    frames[0].save("video.gif", save_all=True, append_images=frames[1:])
    numpy.savez("x.npz", **{"pred/bias": numpy.ones(4, "f")})
    Path("precious.json").write_text('{"mine": true}\n')
    Path("precious.csv").write_text("a,b\n1,2\n")


# What can be in the place of a file that is read.


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(path)  # not written into: it may have another name
    path.write_bytes(data)


def _cut(path: Path) -> None:
    data = path.read_bytes()
    put(path, data[: len(data) // 2])


def _changed_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    put(path, bytes(data))


def _folder(path: Path) -> None:
    remove(path)
    path.mkdir()


def _loop(path: Path) -> None:
    remove(path)
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    remove(path)
    path.symlink_to("nowhere")


def _pipe(path: Path) -> None:
    remove(path)
    os.mkfifo(path)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "missing": remove,
    "empty": lambda p: put(p, b""),
    "binary": lambda p: put(p, random.Random(0).randbytes(300)),
    "text": lambda p: put(p, b"hello\n"),
    "truncated": _cut,
    "folder": _folder,
    "link to itself": _loop,
    "dangling link": _dangling,
    "named pipe": _pipe,
    "unreadable": lambda p: p.chmod(0),
    "ZIP": lambda p: put(p, b"PK\x05\x06" + bytes(18)),
}
#: Names that lead nowhere.
NOWHERE = {
    "no name": "",
    "this folder": ".",
    "through a file": "tiny.yaml/x",
    "too long a name": "x" * 300,
    "not UTF-8": ODD,
    "no such user": "~nobody-of-this-name/x",
    "endless": "/dev/zero",
    "with a line end": "a\nb",
}


def inputs(
    command: str,
    path: str,
    arguments: list[str],
    names: tuple[str, ...] = (),
    codes=(2,),
    kinds: dict | None = None,
    only_damage: bool = False,
) -> Iterator[Mistake]:
    """Every damage to a file that a command reads, and names that lead nowhere."""
    names = (Path(path).name, *names)
    for kind, damage in (kinds or DAMAGE).items():
        yield Mistake(
            command,
            f"{kind}: {path}",
            arguments,
            lambda damage=damage: damage(Path(path)),
            names,
            codes,
            nobody=kind == "unreadable",
        )
    for kind, name in {} if only_damage else NOWHERE.items():
        suffix = Path(path).suffix if kind in ("not UTF-8", "too long a name") else ""
        new = [name + suffix if a == path else a for a in arguments]
        if new != arguments:
            yield Mistake(command, f"{kind} for {path}", new)


def outputs(command: str, out: str, arguments: list[str], names=(), codes=(2,)) -> Iterator[Mistake]:
    """Every place that cannot be written. ``out`` is the name in ``arguments``."""
    name = Path(out).name

    def case(what: str, new: str, make=lambda: None, codes=codes, nobody=False) -> Mistake:
        changed = [new if a == out else a for a in arguments]
        return Mistake(command, f"{what} as {out}", changed, make, names, codes, nobody=nobody)

    yield case(
        "a folder",
        out,
        lambda: Path(out).mkdir(parents=True),
        codes=codes + (0,) * (not Path(out).suffix),
    )
    yield case("below a file", f"tiny.yaml/{name}")
    yield case(
        "in a read-only folder",
        f"locked/{name}",
        lambda: (Path("locked").mkdir(), Path("locked").chmod(0o555)),
        nobody=True,
    )
    yield case("too long a name", "x" * 300 + Path(out).suffix)
    yield case("a named pipe", out, lambda: os.mkfifo(out))
    yield case("a link to itself", out, lambda: Path(out).symlink_to(name), codes=(0, 2))
    yield case("no name", "")
    yield case("a folder's name", f"missing/{name}/", codes=(0, 2))
    yield case("not UTF-8", ODD + Path(out).suffix, codes=(0, 2))
    yield case("a missing folder", f"new/folder/{name}", codes=(0, 2))


def overwrites(command: str, option: str, arguments: list[str], paths: list[str]) -> Iterator[Mistake]:
    """Results in the place of something else that the user has."""
    for path in paths:
        yield Mistake(command, f"{option} {path}", [*arguments, option, path], names=(path, option))
