"""Mistakes that users make with the commands: wrong files, wrong places, wrong values, for each command."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from PIL import Image

from rstg_pyg.train.assemble import build_model
from rstg_pyg.train.data.mini_something import write_mini_something
from rstg_pyg.train.data.packing import pack
from rstg_pyg.train.run import main as run
from rstg_pyg.train.run_folder.weights import write_weights
from rstg_pyg.train.settings import load_config

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
    """A user's folder: configs, two runs and one that met NaN, data, a packed store, weights, a video."""
    os.chdir(folder)
    Path("tiny.yaml").write_text(TINY)
    Path("some.yaml").write_text(SOME)
    write_mini_something("data", train=3, validation=2, size=16, num_frames=2)
    pack("data", "packed", short_side=16)
    assert run(["--cfg", "tiny.yaml"]) == 0
    assert run(["--cfg", "some.yaml"]) == 0
    assert run(["--cfg", "tiny.yaml", "data.std=1e-40", "name=broken"]) == 1
    shutil.copytree("runs/tiny", "runs/half")
    for name in ("results.json", "checkpoints/step-2.ckpt", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
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


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(path)  # not written into: it may have another name
    path.write_bytes(data)


def _cut(path: Path) -> None:
    data = path.read_bytes()
    _put(path, data[: len(data) // 2])


def _changed_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    _put(path, bytes(data))


def _folder(path: Path) -> None:
    _remove(path)
    path.mkdir()


def _loop(path: Path) -> None:
    _remove(path)
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    _remove(path)
    path.symlink_to("nowhere")


def _pipe(path: Path) -> None:
    _remove(path)
    os.mkfifo(path)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "missing": _remove,
    "empty": lambda p: _put(p, b""),
    "binary": lambda p: _put(p, random.Random(0).randbytes(300)),
    "text": lambda p: _put(p, b"hello\n"),
    "truncated": _cut,
    "folder": _folder,
    "link to itself": _loop,
    "dangling link": _dangling,
    "named pipe": _pipe,
    "unreadable": lambda p: p.chmod(0),
    "ZIP": lambda p: _put(p, b"PK\x05\x06" + bytes(18)),
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


def _inputs(command: str, path: str, arguments: list[str], names: tuple[str, ...] = (), codes=(2,),
            kinds: dict | None = None, only_damage: bool = False) -> Iterator[Mistake]:  # fmt: skip
    """Every damage to a file that a command reads, and names that lead nowhere."""
    names = (Path(path).name, *names)
    for kind, damage in (kinds or DAMAGE).items():
        yield Mistake(
            command, f"{kind}: {path}", arguments, lambda damage=damage: damage(Path(path)), names,
            codes, nobody=kind == "unreadable",
        )  # fmt: skip
    for kind, name in {} if only_damage else NOWHERE.items():
        suffix = Path(path).suffix if kind in ("not UTF-8", "too long a name") else ""
        new = [name + suffix if a == path else a for a in arguments]
        if new != arguments:
            yield Mistake(command, f"{kind} for {path}", new)


def _outputs(command: str, out: str, arguments: list[str], names=(), codes=(2,)) -> Iterator[Mistake]:
    """Every place that cannot be written. ``out`` is the name in ``arguments``."""
    name = Path(out).name

    def case(what: str, new: str, make=lambda: None, codes=codes, nobody=False) -> Mistake:
        changed = [new if a == out else a for a in arguments]
        return Mistake(command, f"{what} as {out}", changed, make, names, codes, nobody=nobody)

    yield case("a folder", out, lambda: Path(out).mkdir(parents=True), codes=codes + (0,) * (not Path(out).suffix))
    yield case("below a file", f"tiny.yaml/{name}")
    yield case("in a read-only folder", f"locked/{name}",
               lambda: (Path("locked").mkdir(), Path("locked").chmod(0o555)), nobody=True)  # fmt: skip
    yield case("too long a name", "x" * 300 + Path(out).suffix)
    yield case("a named pipe", out, lambda: os.mkfifo(out))
    yield case("a link to itself", out, lambda: Path(out).symlink_to(name), codes=(0, 2))
    yield case("no name", "")
    yield case("a folder's name", f"missing/{name}/", codes=(0, 2))
    yield case("not UTF-8", ODD + Path(out).suffix, codes=(0, 2))
    yield case("a missing folder", f"new/folder/{name}", codes=(0, 2))


def _overwrites(command: str, option: str, arguments: list[str], paths: list[str]) -> Iterator[Mistake]:
    """Results in the place of something else that the user has."""
    for path in paths:
        yield Mistake(command, f"{option} {path}", [*arguments, option, path], names=(path, option))


def cases() -> list[Mistake]:
    """All of them, in a fixed order."""
    out: list[Mistake] = []
    for part in (_run_cases, _checkpoint_cases, _reading_cases, _writing_cases, _result_cases,
                 _option_cases, _absurd_cases):  # fmt: skip
        out += part()
    return out


def _run_cases() -> Iterator[Mistake]:
    for cfg in ("tiny.yaml",):
        for command in ("run", "show", "bench", "footprint", "official"):
            more = {"show": ["--out", "x.png"], "bench": ["--seconds", "0.01"],
                    "official": ["x.npz", "--out", "x.safetensors"]}  # fmt: skip
            kinds = {**DAMAGE, "list": lambda p: _put(p, b"[1]\n"), "number": lambda p: _put(p, b"3"),
                     "Latin-1": lambda p: _put(p, b"name: caf\xe9\n")}  # fmt: skip
            kinds = {k: v for k, v in kinds.items() if k not in ("empty", "truncated")}
            yield from _inputs(command, cfg, [*more.get(command, []), "--cfg", cfg], ("--cfg",),
                               kinds=kinds)  # fmt: skip
    based = (lambda base: lambda: Path("tiny.yaml").write_text(f"base: {base}\n"))
    for base in ("tiny.yaml", "missing.yaml", "3", "[a]", "{a: b}", ".", "../..", "/dev/zero"):
        yield Mistake("run", f"base: {base}", ["--cfg", "tiny.yaml"], based(base), ("base", "--cfg"))
    # The run folder of a run that goes on.
    resume = ["--cfg", "tiny.yaml", "--resume"]
    out = [*resume, "--out", "runs/half"]
    for name in ("step-1.ckpt", "last.ckpt", "best.ckpt"):
        for kind, damage in DAMAGE.items():
            path = Path("runs/half/checkpoints") / name
            yield Mistake("run", f"resume, {kind}: {name}", out, lambda d=damage, p=path: d(p),
                          (name, "cannot"), (0, 2), ("runs/half/*",),
                          nobody=kind == "unreadable")  # fmt: skip
    for name in ("metrics.csv", "config.yaml", "environment.json", "per_class.csv",
                 "confusion.png", "tensorboard", "checkpoints", "."):  # fmt: skip
        for kind, damage in DAMAGE.items():
            path = Path("runs/half") / name
            if name in ("tensorboard", "checkpoints", ".") and kind == "truncated":
                continue
            yield Mistake("run", f"resume, {kind}: {name}", out, lambda d=damage, p=path: d(p),
                          ("runs/half",), (0, 2), ("runs/half/*", "runs/half"),
                          nobody=kind == "unreadable")  # fmt: skip
    csv = {"other columns": b"a,b\n1,2\n", "words": b"step,split,loss\nx,train,y\n1,val,z\n",
           "huge step": b"step,split\n" + b"9" * 5000 + b",val\n", "odd digits": "step,split\n²,val\n".encode()}
    for kind, data in csv.items():
        yield Mistake("run", f"resume, metrics.csv with {kind}", out,
                      lambda data=data: _put(Path("runs/half/metrics.csv"), data), codes=(0,),
                      may_change=("runs/half/*",))  # fmt: skip
    for what, arguments in {
        "another seed": [*resume, "seed=3"],
        "another model": [*resume, "model.rstg.num_rounds=2"],
        "other data": ["--cfg", "some.yaml", "--resume", CKPT],
        "no such run": [*resume, "name=other"],
        "no such folder": [*resume, "--out", "nowhere"],
        "a file as folder": [*resume, "--out", "tiny.yaml"],
        "a folder as checkpoint": [*resume, "runs/tiny"],
        "safetensors": [*resume, "tiny.safetensors"],
        "the same folder again": ["--cfg", "tiny.yaml", "--out", "runs/tiny"],
        "evaluation into a run": ["--cfg", "tiny.yaml", "--evaluate", CKPT, "--out", "runs/tiny"],
        "resume and evaluate": ["--cfg", "tiny.yaml", "--resume", "--evaluate", CKPT],
        "evaluate a folder": ["--cfg", "tiny.yaml", "--evaluate", "runs/tiny"],
        "evaluate with another config": ["--cfg", "some.yaml", "--evaluate", CKPT],
        "resume into another run": [*resume, CKPT, "--out", "runs/some"],
    }.items():
        yield Mistake("run", what, arguments, names=("checkpoint", "run", "--out", "exclude", "config"))
    yield from _outputs("run", "out", ["--cfg", "tiny.yaml", "--out", "out"],
                        ("--out", "name too long"))  # fmt: skip
    for command in ("run", "show"):
        yield Mistake(command, "data of another kind", ["--cfg", "some.yaml", "data.root=runs",
                      *(["--out", "x.png"] if command == "show" else [])], names=("data.root",))  # fmt: skip
    for kind, damage in DAMAGE.items():
        if kind == "truncated":
            continue
        yield Mistake("run", f"data.root {kind}", ["--cfg", "some.yaml"],
                      lambda d=damage: d(Path("data")), ("data",), nobody=kind == "unreadable")  # fmt: skip
        yield Mistake("run", f"runs {kind}", ["--cfg", "tiny.yaml"],
                      lambda d=damage: d(Path("runs")),
                      ("runs",), (0, 2), ("runs/*", "runs"), nobody=kind == "unreadable")  # fmt: skip
    for name, value in NOWHERE.items():
        yield Mistake("run", f"{name} as data.root", ["--cfg", "some.yaml", f"data.root={value!r}"],
                      names=("data.root", "~nobody"))  # fmt: skip
        weights = f"model.backbone={{kind: c2d, depths: [1], width: 4, small_stem: true, weights: {value!r}}}"
        yield Mistake("run", f"{name} as weights", ["--cfg", "some.yaml", weights],
                      names=("model.backbone", "name too long"))  # fmt: skip
        yield Mistake("run", f"{name} as MNIST", ["--cfg", "tiny.yaml", "data.digits=mnist",
                      f"data.root={value!r}"], names=("data.root", "data.digits", "~nobody", "name too long"))  # fmt: skip


_WRONG: tuple[Any, ...] = (None, 7, "x", [], {}, torch.ones(2), [{}], {"x": 1})


_SPARSE = "sparse"  # made when it is needed: the stream's memory is counted in all tensors


def checkpoint_changes() -> dict[str, Callable[[dict], object]]:
    """What can be wrong in a whole checkpoint."""
    changes: dict[str, Callable[[dict], object]] = {}

    def change(what: str, *path: Any, value: Any = ...) -> None:
        def make(checkpoint: dict) -> None:
            for key in path[:-1]:
                checkpoint = checkpoint[key]
            if value is ...:
                del checkpoint[path[-1]]
            else:
                sparse = isinstance(value, str) and value == _SPARSE
                checkpoint[path[-1]] = torch.ones(4, 8).to_sparse() if sparse else copy.deepcopy(value)

        changes[what] = make

    top = ("config", "origin", "global_step", "state_dict", "epoch", "loops", "callbacks",
           "optimizer_states", "lr_schedulers", "pytorch-lightning_version", "label_names",
           "hparams_name")  # fmt: skip
    for key in top[:-1]:
        change(f"no {key}", key)
        for i, value in enumerate(_WRONG):
            change(f"{key} is wrong ({i})", key, value=value)
    deeper = (
        ("loops", "fit_loop"), ("loops", "fit_loop", "state_dict"),
        ("loops", "fit_loop", "epoch_loop.batch_progress"),
        ("loops", "fit_loop", "epoch_loop.automatic_optimization.optim_progress"),
        ("optimizer_states", 0, "state"), ("optimizer_states", 0, "param_groups"),
        ("optimizer_states", 0, "state", 0), ("optimizer_states", 0, "state", 0, "exp_avg"),
        ("optimizer_states", 0, "state", 0, "step"),
        ("optimizer_states", 0, "param_groups", 0, "lr"),
        ("optimizer_states", 0, "param_groups", 0, "betas"),
        ("optimizer_states", 0, "param_groups", 0, "params"),
        ("lr_schedulers", 0, "last_epoch"), ("lr_schedulers", 0, "_step_count"),
        ("callbacks", "Checkpoints"), ("callbacks", "Checkpoints", "rng"),
        ("callbacks", "Checkpoints", "best"), ("callbacks", "Checkpoints", "best_step"),
        ("callbacks", "Checkpoints", "cuda_rng"),
        ("callbacks", "Meter"), ("callbacks", "Meter", "seconds"), ("callbacks", "Meter", "pretraining"),
        ("state_dict", "model.lin.weight"), ("state_dict", "train_metrics.loss.mean_value"),
    )  # fmt: skip
    for path in deeper:
        name = ".".join(map(str, path))
        change(f"no {name}", *path)
        for i, value in enumerate(_WRONG):
            change(f"{name} is wrong ({i})", *path, value=value)
    for value in (-1, 10**12, True, 2.5):
        change(f"global_step {value}", "global_step", value=value)
    for what, value in {
        "of other classes": torch.ones(9, 8), "of text": "x", "of integers": torch.ones(4, 8).long(),
        "that are complex": torch.ones(4, 8).cfloat(), "that are sparse": _SPARSE,
        "of NaN": torch.full((4, 8), float("nan")), "in half": torch.ones(4, 8).half(),
        "without size": torch.ones(0, 8), "of three dimensions": torch.ones(1, 4, 8),
    }.items():  # fmt: skip
        change(f"weights {what}", "state_dict", "model.lin.weight", value=value)
    change("a further weight", "state_dict", "model.more", value=torch.ones(3))
    change("names of other classes", "label_names", value=["a", "b"])
    change("rng of another size", "callbacks", "Checkpoints", "rng", value=torch.ones(7).byte())
    change("a moment of another size", "optimizer_states", 0, "state", 0, "exp_avg", value=torch.ones(3))
    change("a moment of integers", "optimizer_states", 0, "state", 0, "exp_avg", value=torch.ones(3).int())
    change("two optimisers", "optimizer_states", value=[{}, {}])
    change("schedule at another step", "lr_schedulers", 0, "last_epoch", value=-5)
    change("a later Lightning", "pytorch-lightning_version", value="99.1")
    change("no version", "pytorch-lightning_version", value="x.y")
    change("another optimiser", "optimizer_states", 0, "state", value={0: {"momentum_buffer": torch.ones(3)}})
    return changes


def _write_checkpoint(name: str, change: Callable[[dict], object]) -> None:
    path = Path(HALF)
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    path.unlink()
    torch.save(checkpoint, name)


def _checkpoint_cases() -> Iterator[Mistake]:
    predict = [CLIP, "--ckpt", "a.ckpt", "--device", "cpu"]
    for number, (what, change) in enumerate(checkpoint_changes().items()):
        make = (lambda change=change: _write_checkpoint("a.ckpt", change))
        inner = not what.startswith(("no config", "config", "state_dict", "weights"))
        for command, arguments in (
            ("run", ["--cfg", "tiny.yaml", "--resume", "a.ckpt", "--out", "resumed"]),
            ("run", ["--cfg", "tiny.yaml", "--evaluate", "a.ckpt", "--out", "evaluated"]),
            ("predict", predict),
        ):
            evaluated = "--resume" not in arguments
            if evaluated and inner and number % 5 and "label" not in what and "global" not in what:
                continue  # what these do not look at
            yield Mistake(command, f"{arguments[-2]}: {what}", arguments, make, ("a.ckpt",), (0, 2),
                          (HALF,))  # fmt: skip


def _reading_cases() -> Iterator[Mistake]:
    predict = [CLIP, "--ckpt", CKPT, "--device", "cpu"]
    yield from _inputs("predict", CKPT, predict)
    yield from _inputs("predict", "tiny.safetensors", [CLIP, "--ckpt", "tiny.safetensors"])
    yield from _inputs("predict", "video.gif", ["video.gif", "--ckpt", CKPT], codes=(2,))
    yield from _inputs("predict", "labels.csv", [*predict, "--labels", "labels.csv"], ("--labels",),
                       kinds={k: v for k, v in DAMAGE.items() if k not in ("truncated", "unreadable")})  # fmt: skip
    yield from _inputs("export", CKPT, [CKPT, "--out", "x.pt2"])
    for kind, damage in DAMAGE.items():
        if kind in ("truncated", "unreadable"):
            continue
        yield Mistake("export", f"{kind}: checkpoints", ["runs/tiny", "--out", "x.pt2"],
                      lambda d=damage: d(Path("runs/tiny/checkpoints")), ("runs/tiny",))  # fmt: skip
    step = "runs/broken/nonfinite/step-1.pt"
    yield from _inputs("replay", step, [step, "--device", "cpu"])
    record_keys = ("kind", "config", "step", "state_dict", "parts", "precision", "scale", "videos", "reason")
    for key in record_keys:
        for i, value in enumerate((..., *_WRONG)):
            yield Mistake("replay", f"{key} is {'missing' if value is ... else f'wrong ({i})'}",
                          [step, "--device", "cpu"], lambda k=key, v=value, s=step: _change_record(s, k, v),
                          ("step-1.pt",), (0, 1, 2), (step,))  # fmt: skip
    for key in ("batch", "rng", "cuda_rng", "visits"):
        for i, value in enumerate((..., *_WRONG)):
            yield Mistake("replay", f"parts.{key} is {'missing' if value is ... else f'wrong ({i})'}",
                          [step, "--device", "cpu"],
                          lambda k=key, v=value, s=step: _change_record(s, k, v, part=True),
                          ("step-1.pt",), (0, 1, 2), (step,))  # fmt: skip
    yield from _inputs("official", "x.npz", ["x.npz", "--cfg", "tiny.yaml", "--out", "o.safetensors"])
    yield Mistake("official", "a run's checkpoint", [CKPT, "--cfg", "tiny.yaml", "--out", "o.safetensors"],
                  names=("last.ckpt",))  # fmt: skip
    for root in ("data", "packed"):
        for name in ("something-something-v1-train.csv", "something-something-v1-labels.csv",
                     *(["videos.lmdb"] if root == "packed" else [])):  # fmt: skip
            for command, more in (("check", []), ("pack", ["--out", "p"]), ("bench", ["--seconds", "0.01"])):
                for kind, damage in DAMAGE.items():
                    if command == "pack" and root == "packed":
                        continue
                    path = Path(root) / name
                    yield Mistake(command, f"{kind}: {path}",
                                  ["--root", root, *(["--workers", "1"] * (command != "bench")), *more],
                                  lambda d=damage, p=path: d(p), (name, "data.root", "problem", "videos.lmdb"),
                                  (0, 2) if kind in ("truncated", "missing") else (2,),
                                  nobody=kind == "unreadable")  # fmt: skip
    for command, more in (("check", []), ("pack", ["--out", "p"]), ("bench", [])):
        for kind, name in NOWHERE.items():
            yield Mistake(command, f"{kind} as --root", ["--root", name, *more],
                          names=("data.root", "--root", "--cfg", "~nobody"))  # fmt: skip


def _change_record(path: str, key: str, value: Any, part: bool = False) -> None:
    record = torch.load(path, weights_only=True)
    place = record["parts"][0] if part else record
    if value is ...:
        del place[key]
    else:
        place[key] = value
    torch.save(record, path)


def _writing_cases() -> Iterator[Mistake]:
    predict = [CLIP, "--ckpt", SOME_CKPT, "--device", "cpu"]
    yield from _outputs("predict", "o.json", [*predict, "--json", "o.json"])
    yield from _outputs("predict", "o.png", [*predict, "--overlay", "o.png"])
    yield from _outputs("report", "o.md", ["runs/tiny", "--no-flops", "--out", "o.md"])
    yield from _outputs("export", "o.pt2", [CKPT, "--out", "o.pt2"])
    yield from _outputs("show", "o.png", ["--cfg", "tiny.yaml", "--out", "o.png"])
    yield from _outputs("bench", "o.json", ["--cfg", "tiny.yaml", "--seconds", "0.01", "--out", "o.json"])
    yield from _outputs("figures", "o", ["runs/tiny", "--videos", "8", "--out", "o"])
    yield from _outputs("reproduce", "o", ["--size", "mini", "--table-only", "--out", "o"])
    yield from _outputs("footprint", "o.json", ["--cfg", "tiny.yaml", "--stream", "3", "--json", "o.json"])
    yield from _outputs("sensor", "o.json", ["--steps", "2", "--seeds", "1", "--length", "64", "--channels",
                                             "4", "--out", "o.json"])  # fmt: skip
    yield from _outputs("pack", "o", ["--root", "data", "--workers", "1", "--out", "o"])
    yield from _outputs("benchmark", "o", ["--quick", "--sections", "whole", "--out", "o"])
    yield from _outputs("official", "o.safetensors", ["x.npz", "--cfg", "tiny.yaml", "--out", "o.safetensors"])
    mine = [CKPT, "precious.csv", "tiny.yaml", "runs/tiny", "video.gif"]
    yield from _overwrites("predict", "--json", predict, [SOME_CKPT, *mine])
    yield from _overwrites("export", "--json", [CKPT, "--out", "o.pt2"], mine)
    yield from _overwrites("bench", "--out", ["--cfg", "tiny.yaml", "--seconds", "0.01"], mine)
    yield from _overwrites("footprint", "--json", ["--cfg", "tiny.yaml", "--stream", "3"], mine)
    yield from _overwrites("sensor", "--out", ["--steps", "2", "--seeds", "1", "--length", "64",
                                               "--channels", "4"], mine)  # fmt: skip
    own = ["runs/tiny/results.json", "runs/tiny/environment.json"]
    yield from _overwrites("predict", "--json", predict, own)
    yield from _overwrites("sensor", "--out", ["--steps", "2", "--seeds", "1", "--length", "64",
                                               "--channels", "4"], own)  # fmt: skip
    yield from _overwrites("report", "--out", ["runs/tiny", "--no-flops"],
                           ["runs/tiny/metrics.csv", "runs/tiny/per_class.csv"])  # fmt: skip
    yield from _overwrites("predict", "--overlay", predict, ["runs/tiny/confusion.png", "runs/tiny/curves.png"])
    yield from _overwrites("pack", "--out", ["--root", "data", "--workers", "1"], ["data", "runs", "tiny.yaml"])
    yield from _overwrites("figures", "--out", ["runs/tiny", "--videos", "8"], ["tiny.yaml"])
    yield Mistake("predict", "overlay over its own video", ["video.gif", "--ckpt", SOME_CKPT, "--overlay",
                  "video.gif"], names=("video.gif",))  # fmt: skip
    yield Mistake("figures", "pictures in the run folder itself",
                  ["runs/tiny", "--videos", "8", "--out", "runs/tiny"], names=("--out",))  # fmt: skip


def _change_json(path: str, keys: tuple[str, ...], value: Any) -> None:
    found = json.loads(Path(path).read_text())
    place = found
    for key in keys[:-1]:
        place = place[key]
    if value is ...:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    _put(Path(path), json.dumps(found).encode())


def _result_cases() -> Iterator[Mistake]:
    values = (..., None, "x", [], {}, -1, 10**400, float("nan"), float("inf"), True, [1, [2]])
    keys = [(k,) for k in ("top1", "top5", "num_videos", "protocol", "seed", "parameters", "steps",
                           "seconds", "device", "config", "config_hash", "data", "versions")]  # fmt: skip
    keys += [("config", "model"), ("config", "model", "rstg"), ("config", "seed"), ("config", "name")]
    for path, command, arguments in (
        ("runs/tiny/results.json", "report", ["runs/tiny", "runs/some"]),
        ("table/mini/5digits/ours/seed0/results.json", "reproduce",
         ["--size", "mini", "--table-only", "--out", "table"]),
    ):  # fmt: skip
        for key in keys:
            for i, value in enumerate(values):
                yield Mistake(command, f"{'.'.join(key)} is {'missing' if value is ... else f'wrong ({i})'}",
                              arguments, lambda p=path, k=key, v=value: _change_json(p, k, v),
                              ("results.json",), (0, 2), (path, "table/*"))  # fmt: skip
        yield from _inputs(command, path, arguments, (str(Path(path).parent),), (0, 2), only_damage=True)
    yield from _inputs("report", "runs/tiny", ["runs/tiny", "--no-flops"],
                       kinds={k: v for k, v in DAMAGE.items() if k not in ("truncated",)})  # fmt: skip
    for name in ("config.yaml", "metrics.csv", "checkpoints/best.ckpt"):
        yield from _inputs("figures", f"runs/tiny/{name}", ["runs/tiny", "--videos", "8"],
                           (name, "runs/tiny"), (2,), only_damage=True)  # fmt: skip
    for name in ("not syncmnist", "runs/some"), ("no run", "data"), ("file", "tiny.yaml"), ("none", ""):
        yield Mistake("figures", name[0], [name[1], "--videos", "8"], names=(name[1],))
    yield Mistake("reproduce", "a run of another experiment",
                  ["--size", "mini", "--rows", "ours", "--digits", "5", "--out", "table"],
                  names=("--out",))  # fmt: skip
    seed0 = Path("table/mini/5digits/ours/seed0")
    for kind, damage in DAMAGE.items():
        if kind not in ("missing", "truncated", "unreadable"):
            yield Mistake("reproduce", f"{kind}: seed0", ["--size", "mini", "--table-only", "--out", "table"],
                          lambda d=damage: d(seed0) or None, (), (0, 2), ("table/*",))  # fmt: skip


def _option_cases() -> Iterator[Mistake]:
    tiny = ["--cfg", "tiny.yaml"]
    predict = [CLIP, "--ckpt", SOME_CKPT]
    lines: dict[str, list[list[str]]] = {
        "run": [[], ["tiny.yaml"], ["--cfg"], [*tiny, "--epochs", "3"], [*tiny, "train.lr"], [*tiny, "=3"],
                [*tiny, "train.lr=x"], [*tiny, "train..lr=3"], [*tiny, "trainer.strategy=warp"],
                [*tiny, "trainer.accelerator=gpu"], [*tiny, "trainer.devices=64"], [*tiny, "trainer.num_nodes=9"],
                [*tiny, "trainer.strategy=fsdp"], [*tiny, "trainer.strategy=deepspeed"],
                [*tiny, "trainer.strategy=ddp_notebook"], [*tiny, "trainer.strategy=''"],
                [*tiny, "size=mini"], [*tiny, "size="], [*tiny, "name=a/b"],
                [*tiny, "model.backbone={kind: torchvision, network: nothing}"],
                [*tiny, "model.backbone={kind: torchvision, network: resnet18}"],
                [*tiny, "model.backbone={kind: torchvision, network: ''}"],
                [*tiny, "model.rstg.places=[conv7]"], [*tiny, "model.rstg.scales=[99]"],
                [*tiny, "model.rstg.time_stages=[]", "model.rstg.space_stages=false"],
                [*tiny, "model.backbone.padding=7"],
                [*tiny, "data.num_classes=99"], [*tiny, "data.frame_size=1"], [*tiny, "data.canvas_size=9"],
                [*tiny, "data.digit_size=15"], [*tiny, "data.train_videos=1"], [*tiny, "train.momentum=1.0"],
                [*tiny, "train.beta2=1.0"], [*tiny, "data.dataset=something"], ["--cfg", "some.yaml",
                "data.source=packed"], ["--cfg", "some.yaml", "data.annotations=v2"],
                ["--cfg", "some.yaml", "data.short_side=8"]],
        "predict": [[], predict[:1], [*predict, "--top", "0"], [*predict, "--top", "x"],
                    [*predict, "--overlay", "x.jpg"], [*predict, "--overlay", "x.PNG"],
                    [*predict, "--place", "head"], [*predict, "--place", "nope", "--overlay", "x.png"],
                    [*predict, "--protocol", "nope"], [*predict, "--device", "tpu"],
                    [*predict, "--device", "gpu"], ["data", *predict[1:]], ["data", "nowhere", *predict[1:]],
                    ["--ckpt", SOME_CKPT], ["runs/some", "--ckpt", SOME_CKPT]],
        "export": [[], [CKPT], [CKPT, "--out", "x"], [CKPT, "--out", "x.onnxx"], [CKPT, "--out", ".pt2"],
                   [CKPT, "--out", "x.pt2", "--dtype", "int8"], ["data", "--out", "x.pt2"]],
        "check": [[], ["--root"], ["--root", "data", "--annotations", "v3"], ["--root", "data", "--workers", "x"],
                  ["--root", "data", "--workers", "-3"], ["--root", "data", "--workers", "0"],
                  ["--root", "data", "--annotations", "v2"],
                  ["--root", "data", "--cfg", "tiny.yaml"], ["data"]],
        "pack": [["--root", "data"], ["--out", "o"], ["--root", "data", "--out", "o", "--quality", "0"],
                 ["--root", "data", "--out", "o", "--short-side", "0"],
                 ["--root", "data", "--out", "o", "--source", "video"], ["--root", "packed", "--out", "o"],
                 ["--root", "data", "--out", "data"], ["--root", "data", "--out", "o", "--workers", "0"]],
        "show": [tiny, [*tiny, "--out", "x"], [*tiny, "--out", "x.jpg"], [*tiny, "--out", "x.png", "--count", "0"],
                 ["--out", "x.png"], [*tiny, "--out", "x.png", "--split", "all"],
                 [*tiny, "--out", "x.png", "--root", "data"]],
        "bench": [[], [*tiny, "--seconds", "0"], [*tiny, "--seconds", "nan"], [*tiny, "--batch-size", "0"],
                  [*tiny, "--batch-size", "-1"], ["--root", "data", "--num-frames", "0"],
                  ["--root", "data", "--num-frames", "-2"], ["--root", "data", "--split", "test"],
                  ["--root", "data", "--batch-size", "3"], ["--root", "data", "--cfg", "tiny.yaml"],
                  [*tiny, "--device", "warp"], [*tiny, "--device", "cuda"], [*tiny, "--device", "meta"],
                  [*tiny, "--split", "val"], [*tiny, "--num-frames", "4"], ["--cfg", "some.yaml"]],
        "report": [[], ["nowhere"], ["runs"], ["runs/tiny", "--out", "x"], ["runs/tiny", "--out", "x.pdf"],
                   ["runs/broken"], ["tiny.yaml"], ["precious.json"]],
        "reproduce": [[], ["--size", "huge"], ["--size", "mini", "--rows", "nope"],
                      ["--size", "mini", "--ablate", "nope"], ["--size", "mini", "--jobs", "0"],
                      ["--size", "mini", "--seeds", "x"], ["--size", "mini", "--seeds", "-1"],
                      ["--size", "mini", "--seeds"], ["--size", "mini", "--digits", "4"],
                      ["--size", "mini", "data.num_digits=4"], ["--size", "mini", "nope=3"],
                      ["--size", "mini", "data.dataset=something"], ["--size", "mini", "extra"]],
        "figures": [[], ["runs/tiny", "--videos", "0"], ["runs/tiny", "--videos", "x"],
                    ["runs/tiny", "runs/some"], ["nowhere"]],
        "replay": [[], ["runs"], ["runs/broken"], [CKPT], ["runs/broken/nonfinite/step-1.pt", "--device", "gpu"]],
        "footprint": [[], tiny[:1], [*tiny, "--classes", "0"], [*tiny, "--classes", "-1"],
                      [*tiny, "--classes", "x"], [*tiny, "--stream", "0"], [*tiny, "--json", "o.json"],
                      ["--cfg", "some.yaml", "model.backbone={kind: torchvision, network: nothing}"]],
        "sensor": [[], ["--out", "o.json", "--steps", "1"], ["--out", "o.json", "--seeds", "0"],
                   ["--out", "o.json", "--channels", "0"], ["--out", "o.json", "--length", "3"],
                   ["--out", "o.json", "--steps", "x"], ["--out", "o.json", "extra"]],
        "benchmark": [["--threads", "0"], ["--sections", "nope"], ["--device", "cuda"], ["--device", "tpu"],
                      ["--threads", "x"], ["extra"]],
        "official": [[], ["x"], ["x", "--cfg", "tiny.yaml"], ["data", "--cfg", "tiny.yaml", "--out", "o"],
                     ["runs/tiny/checkpoints", "--cfg", "tiny.yaml", "--out", "o.safetensors"]],
    }  # fmt: skip
    fine = {("predict", "--device gpu"), ("run", "--cfg tiny.yaml data.train_videos=1"),
            ("run", "--cfg tiny.yaml data.frame_size=1"), ("run", "--cfg tiny.yaml data.digit_size=15"),
            ("run", "--cfg tiny.yaml data.canvas_size=9"), ("run", "--cfg tiny.yaml model.backbone.padding=7"),
            ("predict", f"{CLIP} --ckpt {SOME_CKPT} --overlay x.PNG")}  # fmt: skip
    for command, options in lines.items():
        for arguments in options:
            ok = (command, " ".join(arguments)) in fine
            yield Mistake(command, " ".join(arguments) or "no arguments", arguments,
                          codes=(0, 2) if ok else (2,))  # fmt: skip


def _absurd_cases() -> Iterator[Mistake]:
    """Values of the right type that nobody can compute with, for every number of a config."""
    keys = {
        "data": ["num_digits", "num_classes", "num_frames", "frame_size", "canvas_size", "digit_size",
                 "max_step", "mean", "std", "train_videos", "val_videos", "test_videos"],
        "model.rstg": ["hidden_channels", "num_rounds", "scales", "heads", "map_size", "num_update_layers",
                       "attention_scale", "dropout", "time_stages"],
        "model.backbone": ["filters", "padding"],
        "model": ["dropout", "pool_window"],
        "pretrain": ["lr", "batch_size"],
        "train": ["epochs", "batch_size", "base_batch", "accumulate", "lr", "weight_decay", "momentum",
                  "beta2", "warmup", "clip", "label_smoothing", "validate_every", "log_every"],
        "trainer": ["devices", "num_nodes", "threads"],
    }  # fmt: skip
    lists = ("scales", "filters", "time_stages")
    for section, names in keys.items():
        for name in names:
            for value in ("1", "1.0", "100000", "1000000000", "2147483647", "1e38", "1e300", "1e-300"):
                text = f"[{value}]" if name in lists else value
                more = ["pretrain.steps=1"] if section == "pretrain" else []
                yield Mistake("run", f"absurd: {section}.{name}={text}",
                              ["--cfg", "tiny.yaml", "train.max_steps=1", *more, f"{section}.{name}={text}"],
                              names=(name, section), codes=(0, 1, 2))  # fmt: skip
    for extra in ("data.num_workers=1000000", "data={digits: builtin, num_digits: 3, num_frames: 1000000}"):
        yield Mistake("run", f"absurd: {extra}", ["--cfg", "tiny.yaml", extra], codes=(0, 2))
    some = {"num_frames": 1, "short_side": 1, "crop_size": 1}
    for name in some:
        for value in (1, 100_000, 1_000_000_000):
            yield Mistake("run", f"absurd: data.{name}={value}", ["--cfg", "some.yaml", f"data.{name}={value}"],
                          names=(name, "data.", "model"), codes=(0, 2))  # fmt: skip
    for name, value in (("size", 100_000), ("num_frames", 10**9), ("train", 10**9), ("distractors", 10**9)):
        yield Mistake("run", f"absurd: data.builtin.{name}={value}",
                      ["--cfg", "some.yaml", "data.root=null", f"data.builtin.{name}={value}"],
                      names=(name,))  # fmt: skip
    absurd = ["model.rstg.hidden_channels=1000000000", "data.frame_size=1000000", "data.num_frames=1000000000",
              "model.rstg.num_rounds=1000000000", "model.backbone.filters=[1000000000]"]  # fmt: skip
    for value in absurd:
        for command, more in (("footprint", []), ("show", ["--out", "x.png"]), ("bench", ["--seconds", "0.01"]),
                              ("footprint", ["--stream", "2"])):  # fmt: skip
            yield Mistake(command, f"absurd: {value}", ["--cfg", "tiny.yaml", *more, value], codes=(0, 2))
    for option in (["--length", "1000000000000"], ["--channels", "1000000000"]):
        yield Mistake("sensor", f"absurd: {option}", ["--out", "o.json", "--steps", "2", "--seeds", "1", *option])
    yield Mistake("predict", "absurd: --top", [CLIP, "--ckpt", SOME_CKPT, "--top", "9" * 30], codes=(0, 2))
    yield Mistake("footprint", "absurd: --classes", ["--cfg", "tiny.yaml", "--classes", "9" * 12])
    yield Mistake("footprint", "absurd: --classes 2", ["--cfg", "tiny.yaml", "--classes", "9" * 30])
    yield Mistake("benchmark", "absurd: --threads", ["--quick", "--sections", "network", "--threads", "9" * 9])
    yield Mistake("bench", "absurd: --batch-size", ["--cfg", "tiny.yaml", "--batch-size", "9" * 12])
    yield Mistake("show", "absurd: --count", ["--cfg", "tiny.yaml", "--out", "o.png", "--count", "9" * 30], codes=(0, 2))
    yield Mistake("figures", "absurd: --videos", ["runs/tiny", "--videos", "9" * 12])
