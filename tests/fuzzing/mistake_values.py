"""Wrong values: in checkpoints and results, as options, and in configs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fuzzing.mistakes import CLIP, DAMAGE, HALF, WRONG, Mistake, inputs, put

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

    top = (
        "config",
        "origin",
        "global_step",
        "state_dict",
        "epoch",
        "loops",
        "callbacks",
        "optimizer_states",
        "lr_schedulers",
        "pytorch-lightning_version",
        "label_names",
        "hparams_name",
    )
    for key in top[:-1]:
        change(f"no {key}", key)
        for i, value in enumerate(WRONG):
            change(f"{key} is wrong ({i})", key, value=value)
    deeper = (
        ("loops", "fit_loop"),
        ("loops", "fit_loop", "state_dict"),
        ("loops", "fit_loop", "epoch_loop.batch_progress"),
        ("loops", "fit_loop", "epoch_loop.automatic_optimization.optim_progress"),
        ("optimizer_states", 0, "state"),
        ("optimizer_states", 0, "param_groups"),
        ("optimizer_states", 0, "state", 0),
        ("optimizer_states", 0, "state", 0, "exp_avg"),
        ("optimizer_states", 0, "state", 0, "step"),
        ("optimizer_states", 0, "param_groups", 0, "lr"),
        ("optimizer_states", 0, "param_groups", 0, "betas"),
        ("optimizer_states", 0, "param_groups", 0, "params"),
        ("lr_schedulers", 0, "last_epoch"),
        ("lr_schedulers", 0, "_step_count"),
        ("callbacks", "Checkpoints"),
        ("callbacks", "Checkpoints", "rng"),
        ("callbacks", "Checkpoints", "best"),
        ("callbacks", "Checkpoints", "best_step"),
        ("callbacks", "Checkpoints", "cuda_rng"),
        ("callbacks", "Meter"),
        ("callbacks", "Meter", "seconds"),
        ("callbacks", "Meter", "pretraining"),
        ("state_dict", "model.lin.weight"),
        ("state_dict", "train_metrics.loss.mean_value"),
    )
    for path in deeper:
        name = ".".join(map(str, path))
        change(f"no {name}", *path)
        for i, value in enumerate(WRONG):
            change(f"{name} is wrong ({i})", *path, value=value)
    for value in (-1, 10**12, True, 2.5):
        change(f"global_step {value}", "global_step", value=value)
    for what, value in {
        "of other classes": torch.ones(9, 8),
        "of text": "x",
        "of integers": torch.ones(4, 8).long(),
        "that are complex": torch.ones(4, 8).cfloat(),
        "that are sparse": _SPARSE,
        "of NaN": torch.full((4, 8), float("nan")),
        "in half": torch.ones(4, 8).half(),
        "without size": torch.ones(0, 8),
        "of three dimensions": torch.ones(1, 4, 8),
    }.items():
        change(f"weights {what}", "state_dict", "model.lin.weight", value=value)
    change("a further weight", "state_dict", "model.more", value=torch.ones(3))
    change("names of other classes", "label_names", value=["a", "b"])
    change("rng of another size", "callbacks", "Checkpoints", "rng", value=torch.ones(7).byte())
    change(
        "a moment of another size", "optimizer_states", 0, "state", 0, "exp_avg", value=torch.ones(3)
    )
    change(
        "a moment of integers", "optimizer_states", 0, "state", 0, "exp_avg", value=torch.ones(3).int()
    )
    change("two optimizers", "optimizer_states", value=[{}, {}])
    change("schedule at another step", "lr_schedulers", 0, "last_epoch", value=-5)
    change("a later Lightning", "pytorch-lightning_version", value="99.1")
    change("no version", "pytorch-lightning_version", value="x.y")
    change(
        "another optimizer",
        "optimizer_states",
        0,
        "state",
        value={0: {"momentum_buffer": torch.ones(3)}},
    )
    return changes


def _write_checkpoint(name: str, change: Callable[[dict], object]) -> None:
    path = Path(HALF)
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    path.unlink()
    torch.save(checkpoint, name)


def checkpoint_cases() -> Iterator[Mistake]:
    """Of what is in a whole checkpoint."""
    predict = [CLIP, "--ckpt", "a.ckpt", "--device", "cpu"]
    for number, (what, change) in enumerate(checkpoint_changes().items()):
        make = partial(_write_checkpoint, "a.ckpt", change)
        inner = not what.startswith(("no config", "config", "state_dict", "weights"))
        for command, arguments in (
            ("run", ["--cfg", "tiny.yaml", "--resume", "a.ckpt", "--out", "resumed"]),
            ("run", ["--cfg", "tiny.yaml", "--evaluate", "a.ckpt", "--out", "evaluated"]),
            ("predict", predict),
        ):
            evaluated = "--resume" not in arguments
            if evaluated and inner and number % 5 and "label" not in what and "global" not in what:
                continue  # what these do not look at
            yield Mistake(
                command, f"{arguments[-2]}: {what}", arguments, make, ("a.ckpt",), (0, 2), (HALF,)
            )


def _change_json(path: str, keys: tuple[str, ...], value: Any) -> None:
    found = json.loads(Path(path).read_text())
    place = found
    for key in keys[:-1]:
        place = place[key]
    if value is ...:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    put(Path(path), json.dumps(found).encode())


def result_cases() -> Iterator[Mistake]:
    """Of what is in results.json, and of run folders that are shown."""
    values = (..., None, "x", [], {}, -1, 10**400, float("nan"), float("inf"), True, [1, [2]])
    keys = [
        (k,)
        for k in (
            "top1",
            "top5",
            "num_videos",
            "protocol",
            "seed",
            "parameters",
            "steps",
            "seconds",
            "device",
            "config",
            "config_hash",
            "data",
            "versions",
        )
    ]
    keys += [("config", "model"), ("config", "model", "rstg"), ("config", "seed"), ("config", "name")]
    for path, command, arguments in (
        ("runs/tiny/results.json", "report", ["runs/tiny", "runs/some"]),
        (
            "table/mini/5digits/ours/seed0/results.json",
            "reproduce",
            ["--size", "mini", "--table-only", "--out", "table"],
        ),
    ):
        for key in keys:
            for i, value in enumerate(values):
                yield Mistake(
                    command,
                    f"{'.'.join(key)} is {'missing' if value is ... else f'wrong ({i})'}",
                    arguments,
                    lambda p=path, k=key, v=value: _change_json(p, k, v),
                    ("results.json",),
                    (0, 2),
                    (path, "table/*"),
                )
        yield from inputs(command, path, arguments, (str(Path(path).parent),), (0, 2), only_damage=True)
    yield from inputs(
        "report",
        "runs/tiny",
        ["runs/tiny", "--no-flops"],
        kinds={k: v for k, v in DAMAGE.items() if k not in ("truncated",)},
    )
    for name in ("config.yaml", "metrics.csv", "checkpoints/best.ckpt"):
        yield from inputs(
            "figures",
            f"runs/tiny/{name}",
            ["runs/tiny", "--videos", "8"],
            (name, "runs/tiny"),
            (2,),
            only_damage=True,
        )
    for name in ("not syncmnist", "runs/some"), ("no run", "data"), ("file", "tiny.yaml"), ("none", ""):
        yield Mistake("figures", name[0], [name[1], "--videos", "8"], names=(name[1],))
    yield Mistake(
        "reproduce",
        "a run of another experiment",
        ["--size", "mini", "--rows", "ours", "--digits", "5", "--out", "table"],
        names=("--out",),
    )
    seed0 = Path("table/mini/5digits/ours/seed0")
    for kind, damage in DAMAGE.items():
        if kind not in ("missing", "truncated", "unreadable"):
            yield Mistake(
                "reproduce",
                f"{kind}: seed0",
                ["--size", "mini", "--table-only", "--out", "table"],
                lambda d=damage: d(seed0) or None,
                (),
                (0, 2),
                ("table/*",),
            )
