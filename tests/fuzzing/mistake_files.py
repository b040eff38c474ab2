"""Wrong files and places for every command."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fuzzing.mistakes import (
    CKPT,
    CLIP,
    DAMAGE,
    NOWHERE,
    SOME_CKPT,
    WRONG,
    Mistake,
    inputs,
    outputs,
    overwrites,
    put,
)


def running_cases() -> Iterator[Mistake]:
    """Of run.py, and configs of all commands that take one."""
    for cfg in ("tiny.yaml",):
        for command in ("run", "show", "bench", "footprint", "official"):
            more = {
                "show": ["--out", "x.png"],
                "bench": ["--seconds", "0.01"],
                "official": ["x.npz", "--out", "x.safetensors"],
            }
            kinds = {
                **DAMAGE,
                "list": lambda p: put(p, b"[1]\n"),
                "number": lambda p: put(p, b"3"),
                "Latin-1": lambda p: put(p, b"name: caf\xe9\n"),
            }
            kinds = {k: v for k, v in kinds.items() if k not in ("empty", "truncated")}
            yield from inputs(
                command, cfg, [*more.get(command, []), "--cfg", cfg], ("--cfg",), kinds=kinds
            )
    for base in ("tiny.yaml", "missing.yaml", "3", "[a]", "{a: b}", ".", "../..", "/dev/zero"):
        yield Mistake(
            "run",
            f"base: {base}",
            ["--cfg", "tiny.yaml"],
            partial(Path("tiny.yaml").write_text, f"base: {base}\n"),
            ("base", "--cfg"),
        )
    # The run folder of a run that goes on.
    resume = ["--cfg", "tiny.yaml", "--resume"]
    out = [*resume, "--out", "runs/half"]
    for name in ("step-1.ckpt", "last.ckpt", "best.ckpt"):
        for kind, damage in DAMAGE.items():
            path = Path("runs/half/checkpoints") / name
            yield Mistake(
                "run",
                f"resume, {kind}: {name}",
                out,
                lambda d=damage, p=path: d(p),
                (name, "cannot"),
                (0, 2),
                ("runs/half/*",),
                nobody=kind == "unreadable",
            )
    for name in (
        "metrics.csv",
        "config.yaml",
        "environment.json",
        "per_class.csv",
        "confusion.png",
        "tensorboard",
        "checkpoints",
        ".",
    ):
        for kind, damage in DAMAGE.items():
            path = Path("runs/half") / name
            if name in ("tensorboard", "checkpoints", ".") and kind == "truncated":
                continue
            yield Mistake(
                "run",
                f"resume, {kind}: {name}",
                out,
                lambda d=damage, p=path: d(p),
                ("runs/half",),
                (0, 2),
                ("runs/half/*", "runs/half"),
                nobody=kind == "unreadable",
            )
    csv = {
        "other columns": b"a,b\n1,2\n",
        "words": b"step,split,loss\nx,train,y\n1,val,z\n",
        "huge step": b"step,split\n" + b"9" * 5000 + b",val\n",
        "odd digits": "step,split\n²,val\n".encode(),
    }
    for kind, data in csv.items():
        yield Mistake(
            "run",
            f"resume, metrics.csv with {kind}",
            out,
            lambda data=data: put(Path("runs/half/metrics.csv"), data),
            codes=(0,),
            may_change=("runs/half/*",),
        )
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
    yield from outputs("run", "out", ["--cfg", "tiny.yaml", "--out", "out"], ("--out", "name too long"))
    for command in ("run", "show"):
        yield Mistake(
            command,
            "data of another kind",
            [
                "--cfg",
                "some.yaml",
                "data.root=runs",
                *(["--out", "x.png"] if command == "show" else []),
            ],
            names=("data.root",),
        )
    for kind, damage in DAMAGE.items():
        if kind == "truncated":
            continue
        yield Mistake(
            "run",
            f"data.root {kind}",
            ["--cfg", "some.yaml"],
            lambda d=damage: d(Path("data")),
            ("data",),
            nobody=kind == "unreadable",
        )
        yield Mistake(
            "run",
            f"runs {kind}",
            ["--cfg", "tiny.yaml"],
            lambda d=damage: d(Path("runs")),
            ("runs",),
            (0, 2),
            ("runs/*", "runs"),
            nobody=kind == "unreadable",
        )
    for name, value in NOWHERE.items():
        yield Mistake(
            "run",
            f"{name} as data.root",
            ["--cfg", "some.yaml", f"data.root={value!r}"],
            names=("data.root", "~nobody"),
        )
        weights = (
            f"model.backbone={{kind: c2d, depths: [1], width: 4, small_stem: true, weights: {value!r}}}"
        )
        yield Mistake(
            "run",
            f"{name} as weights",
            ["--cfg", "some.yaml", weights],
            names=("model.backbone", "name too long"),
        )
        yield Mistake(
            "run",
            f"{name} as MNIST",
            ["--cfg", "tiny.yaml", "data.digits=mnist", f"data.root={value!r}"],
            names=("data.root", "data.digits", "~nobody", "name too long"),
        )


def reading_cases() -> Iterator[Mistake]:
    """Of commands that read checkpoints, weights, saved steps, and data."""
    predict = [CLIP, "--ckpt", CKPT, "--device", "cpu"]
    yield from inputs("predict", CKPT, predict)
    yield from inputs("predict", "tiny.safetensors", [CLIP, "--ckpt", "tiny.safetensors"])
    yield from inputs("predict", "video.gif", ["video.gif", "--ckpt", CKPT], codes=(2,))
    yield from inputs(
        "predict",
        "labels.csv",
        [*predict, "--labels", "labels.csv"],
        ("--labels",),
        kinds={k: v for k, v in DAMAGE.items() if k not in ("truncated", "unreadable")},
    )
    yield from inputs("export", CKPT, [CKPT, "--out", "x.pt2"])
    for kind, damage in DAMAGE.items():
        if kind in ("truncated", "unreadable"):
            continue
        yield Mistake(
            "export",
            f"{kind}: checkpoints",
            ["runs/tiny", "--out", "x.pt2"],
            lambda d=damage: d(Path("runs/tiny/checkpoints")),
            ("runs/tiny",),
        )
    step = "runs/broken/nonfinite/step-1.pt"
    yield from inputs("replay", step, [step, "--device", "cpu"])
    record_keys = (
        "kind",
        "config",
        "step",
        "state_dict",
        "parts",
        "precision",
        "scale",
        "videos",
        "reason",
    )
    for key in record_keys:
        for i, value in enumerate((..., *WRONG)):
            yield Mistake(
                "replay",
                f"{key} is {'missing' if value is ... else f'wrong ({i})'}",
                [step, "--device", "cpu"],
                lambda k=key, v=value, s=step: _change_record(s, k, v),
                ("step-1.pt",),
                (0, 1, 2),
                (step,),
            )
    for key in ("batch", "rng", "cuda_rng", "visits"):
        for i, value in enumerate((..., *WRONG)):
            yield Mistake(
                "replay",
                f"parts.{key} is {'missing' if value is ... else f'wrong ({i})'}",
                [step, "--device", "cpu"],
                lambda k=key, v=value, s=step: _change_record(s, k, v, part=True),
                ("step-1.pt",),
                (0, 1, 2),
                (step,),
            )
    yield from inputs("official", "x.npz", ["x.npz", "--cfg", "tiny.yaml", "--out", "o.safetensors"])
    yield Mistake(
        "official",
        "a run's checkpoint",
        [CKPT, "--cfg", "tiny.yaml", "--out", "o.safetensors"],
        names=("last.ckpt",),
    )
    for root in ("data", "packed"):
        for name in (
            "something-something-v1-train.csv",
            "something-something-v1-labels.csv",
            *(["videos.lmdb"] if root == "packed" else []),
        ):
            for command, more in (
                ("check", []),
                ("pack", ["--out", "p"]),
                ("bench", ["--seconds", "0.01"]),
            ):
                for kind, damage in DAMAGE.items():
                    if command == "pack" and root == "packed":
                        continue
                    path = Path(root) / name
                    yield Mistake(
                        command,
                        f"{kind}: {path}",
                        ["--root", root, *(["--workers", "1"] * (command != "bench")), *more],
                        lambda d=damage, p=path: d(p),
                        (name, "data.root", "problem", "videos.lmdb"),
                        (0, 2) if kind in ("truncated", "missing") else (2,),
                        nobody=kind == "unreadable",
                    )
    for command, more in (("check", []), ("pack", ["--out", "p"]), ("bench", [])):
        for kind, name in NOWHERE.items():
            yield Mistake(
                command,
                f"{kind} as --root",
                ["--root", name, *more],
                names=("data.root", "--root", "--cfg", "~nobody"),
            )


def _change_record(path: str, key: str, value: Any, part: bool = False) -> None:
    record = torch.load(path, weights_only=True)
    place = record["parts"][0] if part else record
    if value is ...:
        del place[key]
    else:
        place[key] = value
    torch.save(record, path)


def writing_cases() -> Iterator[Mistake]:
    """Of everything that is written."""
    predict = [CLIP, "--ckpt", SOME_CKPT, "--device", "cpu"]
    yield from outputs("predict", "o.json", [*predict, "--json", "o.json"])
    yield from outputs("predict", "o.png", [*predict, "--overlay", "o.png"])
    yield from outputs("report", "o.md", ["runs/tiny", "--no-flops", "--out", "o.md"])
    yield from outputs("export", "o.pt2", [CKPT, "--out", "o.pt2"])
    yield from outputs("show", "o.png", ["--cfg", "tiny.yaml", "--out", "o.png"])
    yield from outputs(
        "bench", "o.json", ["--cfg", "tiny.yaml", "--seconds", "0.01", "--out", "o.json"]
    )
    yield from outputs("figures", "o", ["runs/tiny", "--videos", "8", "--out", "o"])
    yield from outputs("reproduce", "o", ["--size", "mini", "--table-only", "--out", "o"])
    yield from outputs(
        "footprint", "o.json", ["--cfg", "tiny.yaml", "--stream", "3", "--json", "o.json"]
    )
    yield from outputs(
        "sensor",
        "o.json",
        ["--steps", "2", "--seeds", "1", "--length", "64", "--channels", "4", "--out", "o.json"],
    )
    yield from outputs("pack", "o", ["--root", "data", "--workers", "1", "--out", "o"])
    measured = outputs("benchmark", "o", ["--quick", "--sections", "whole", "--out", "o"])
    yield from (case for case in measured if 0 not in case.codes)  # it takes minutes where it works
    yield from outputs(
        "official", "o.safetensors", ["x.npz", "--cfg", "tiny.yaml", "--out", "o.safetensors"]
    )
    mine = [CKPT, "precious.csv", "tiny.yaml", "runs/tiny", "video.gif"]
    yield from overwrites("predict", "--json", predict, [SOME_CKPT, *mine])
    yield from overwrites("export", "--json", [CKPT, "--out", "o.pt2"], mine)
    yield from overwrites("bench", "--out", ["--cfg", "tiny.yaml", "--seconds", "0.01"], mine)
    yield from overwrites("footprint", "--json", ["--cfg", "tiny.yaml", "--stream", "3"], mine)
    yield from overwrites(
        "sensor", "--out", ["--steps", "2", "--seeds", "1", "--length", "64", "--channels", "4"], mine
    )
    own = ["runs/tiny/results.json", "runs/tiny/environment.json"]
    yield from overwrites("predict", "--json", predict, own)
    yield from overwrites(
        "sensor", "--out", ["--steps", "2", "--seeds", "1", "--length", "64", "--channels", "4"], own
    )
    yield from overwrites(
        "report",
        "--out",
        ["runs/tiny", "--no-flops"],
        ["runs/tiny/metrics.csv", "runs/tiny/per_class.csv"],
    )
    yield from overwrites(
        "predict", "--overlay", predict, ["runs/tiny/confusion.png", "runs/tiny/curves.png"]
    )
    yield from overwrites(
        "pack", "--out", ["--root", "data", "--workers", "1"], ["data", "runs", "tiny.yaml"]
    )
    yield from overwrites("figures", "--out", ["runs/tiny", "--videos", "8"], ["tiny.yaml"])
    yield Mistake(
        "predict",
        "overlay over its own video",
        ["video.gif", "--ckpt", SOME_CKPT, "--overlay", "video.gif"],
        names=("video.gif",),
    )
    yield Mistake(
        "figures",
        "pictures in the run folder itself",
        ["runs/tiny", "--videos", "8", "--out", "runs/tiny"],
        names=("--out",),
    )
