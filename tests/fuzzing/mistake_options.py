"""Wrong options, and values that nothing can be computed with."""

from __future__ import annotations

from collections.abc import Iterator

from fuzzing.mistakes import CKPT, CLIP, SOME_CKPT, Mistake


def option_cases() -> Iterator[Mistake]:
    """Options that are missing, wrong, or contradict each other."""
    tiny = ["--cfg", "tiny.yaml"]
    predict = [CLIP, "--ckpt", SOME_CKPT]
    lines: dict[str, list[list[str]]] = {
        "run": [
            [],
            ["tiny.yaml"],
            ["--cfg"],
            [*tiny, "--epochs", "3"],
            [*tiny, "train.lr"],
            [*tiny, "=3"],
            [*tiny, "train.lr=x"],
            [*tiny, "train..lr=3"],
            [*tiny, "trainer.strategy=warp"],
            [*tiny, "trainer.accelerator=gpu"],
            [*tiny, "trainer.devices=64"],
            [*tiny, "trainer.num_nodes=9"],
            [*tiny, "trainer.strategy=fsdp"],
            [*tiny, "trainer.strategy=deepspeed"],
            [*tiny, "trainer.strategy=ddp_notebook"],
            [*tiny, "trainer.strategy=''"],
            [*tiny, "size=mini"],
            [*tiny, "size="],
            [*tiny, "name=a/b"],
            [*tiny, "model.backbone={kind: torchvision, network: nothing}"],
            [*tiny, "model.backbone={kind: torchvision, network: resnet18}"],
            [*tiny, "model.backbone={kind: torchvision, network: ''}"],
            [*tiny, "model.rstg.places=[conv7]"],
            [*tiny, "model.rstg.scales=[99]"],
            [*tiny, "model.rstg.time_stages=[]", "model.rstg.space_stages=false"],
            [*tiny, "model.backbone.padding=7"],
            [*tiny, "data.num_classes=99"],
            [*tiny, "data.frame_size=1"],
            [*tiny, "data.canvas_size=9"],
            [*tiny, "data.digit_size=15"],
            [*tiny, "data.train_videos=1"],
            [*tiny, "train.momentum=1.0"],
            [*tiny, "train.beta2=1.0"],
            [*tiny, "data.dataset=something"],
            ["--cfg", "some.yaml", "data.source=packed"],
            ["--cfg", "some.yaml", "data.annotations=v2"],
            ["--cfg", "some.yaml", "data.short_side=8"],
        ],
        "predict": [
            [],
            predict[:1],
            [*predict, "--top", "0"],
            [*predict, "--top", "x"],
            [*predict, "--overlay", "x.jpg"],
            [*predict, "--overlay", "x.PNG"],
            [*predict, "--place", "head"],
            [*predict, "--place", "nope", "--overlay", "x.png"],
            [*predict, "--protocol", "nope"],
            [*predict, "--device", "tpu"],
            [*predict, "--device", "gpu"],
            ["data", *predict[1:]],
            ["data", "nowhere", *predict[1:]],
            ["--ckpt", SOME_CKPT],
            ["runs/some", "--ckpt", SOME_CKPT],
        ],
        "export": [
            [],
            [CKPT],
            [CKPT, "--out", "x"],
            [CKPT, "--out", "x.onnxx"],
            [CKPT, "--out", ".pt2"],
            [CKPT, "--out", "x.pt2", "--dtype", "int8"],
            ["data", "--out", "x.pt2"],
        ],
        "check": [
            [],
            ["--root"],
            ["--root", "data", "--annotations", "v3"],
            ["--root", "data", "--workers", "x"],
            ["--root", "data", "--workers", "-3"],
            ["--root", "data", "--workers", "0"],
            ["--root", "data", "--annotations", "v2"],
            ["--root", "data", "--cfg", "tiny.yaml"],
            ["data"],
        ],
        "pack": [
            ["--root", "data"],
            ["--out", "o"],
            ["--root", "data", "--out", "o", "--quality", "0"],
            ["--root", "data", "--out", "o", "--short-side", "0"],
            ["--root", "data", "--out", "o", "--source", "video"],
            ["--root", "packed", "--out", "o"],
            ["--root", "data", "--out", "data"],
            ["--root", "data", "--out", "o", "--workers", "0"],
        ],
        "show": [
            tiny,
            [*tiny, "--out", "x"],
            [*tiny, "--out", "x.jpg"],
            [*tiny, "--out", "x.png", "--count", "0"],
            ["--out", "x.png"],
            [*tiny, "--out", "x.png", "--split", "all"],
            [*tiny, "--out", "x.png", "--root", "data"],
        ],
        "bench": [
            [],
            [*tiny, "--seconds", "0"],
            [*tiny, "--seconds", "nan"],
            [*tiny, "--batch-size", "0"],
            [*tiny, "--batch-size", "-1"],
            ["--root", "data", "--num-frames", "0"],
            ["--root", "data", "--num-frames", "-2"],
            ["--root", "data", "--split", "test"],
            ["--root", "data", "--batch-size", "3"],
            ["--root", "data", "--cfg", "tiny.yaml"],
            [*tiny, "--device", "warp"],
            [*tiny, "--device", "cuda"],
            [*tiny, "--device", "meta"],
            [*tiny, "--split", "val"],
            [*tiny, "--num-frames", "4"],
            ["--cfg", "some.yaml"],
        ],
        "report": [
            [],
            ["nowhere"],
            ["runs"],
            ["runs/tiny", "--out", "x"],
            ["runs/tiny", "--out", "x.pdf"],
            ["runs/broken"],
            ["tiny.yaml"],
            ["precious.json"],
        ],
        "reproduce": [
            [],
            ["--size", "huge"],
            ["--size", "mini", "--rows", "nope"],
            ["--size", "mini", "--ablate", "nope"],
            ["--size", "mini", "--jobs", "0"],
            ["--size", "mini", "--seeds", "x"],
            ["--size", "mini", "--seeds", "-1"],
            ["--size", "mini", "--seeds"],
            ["--size", "mini", "--digits", "4"],
            ["--size", "mini", "data.num_digits=4"],
            ["--size", "mini", "nope=3"],
            ["--size", "mini", "data.dataset=something"],
            ["--size", "mini", "extra"],
        ],
        "figures": [
            [],
            ["runs/tiny", "--videos", "0"],
            ["runs/tiny", "--videos", "x"],
            ["runs/tiny", "runs/some"],
            ["nowhere"],
        ],
        "replay": [
            [],
            ["runs"],
            ["runs/broken"],
            [CKPT],
            ["runs/broken/nonfinite/step-1.pt", "--device", "gpu"],
        ],
        "footprint": [
            [],
            tiny[:1],
            [*tiny, "--classes", "0"],
            [*tiny, "--classes", "-1"],
            [*tiny, "--classes", "x"],
            [*tiny, "--stream", "0"],
            [*tiny, "--json", "o.json"],
            ["--cfg", "some.yaml", "model.backbone={kind: torchvision, network: nothing}"],
        ],
        "sensor": [
            [],
            ["--out", "o.json", "--steps", "1"],
            ["--out", "o.json", "--seeds", "0"],
            ["--out", "o.json", "--channels", "0"],
            ["--out", "o.json", "--length", "3"],
            ["--out", "o.json", "--steps", "x"],
            ["--out", "o.json", "extra"],
        ],
        "benchmark": [
            ["--threads", "0"],
            ["--sections", "nope"],
            ["--device", "cuda"],
            ["--device", "tpu"],
            ["--threads", "x"],
            ["extra"],
        ],
        "official": [
            [],
            ["x"],
            ["x", "--cfg", "tiny.yaml"],
            ["data", "--cfg", "tiny.yaml", "--out", "o"],
            ["runs/tiny/checkpoints", "--cfg", "tiny.yaml", "--out", "o.safetensors"],
        ],
    }
    fine = {
        ("predict", "--device gpu"),
        ("run", "--cfg tiny.yaml data.train_videos=1"),
        ("run", "--cfg tiny.yaml data.frame_size=1"),
        ("run", "--cfg tiny.yaml data.digit_size=15"),
        ("run", "--cfg tiny.yaml data.canvas_size=9"),
        ("run", "--cfg tiny.yaml model.backbone.padding=7"),
        ("predict", f"{CLIP} --ckpt {SOME_CKPT} --overlay x.PNG"),
    }
    for command, options in lines.items():
        for arguments in options:
            ok = (command, " ".join(arguments)) in fine
            yield Mistake(
                command, " ".join(arguments) or "no arguments", arguments, codes=(0, 2) if ok else (2,)
            )


def absurd_cases() -> Iterator[Mistake]:
    """Values of the right type that nobody can compute with, for every number of a config."""
    keys = {
        "data": [
            "num_digits",
            "num_classes",
            "num_frames",
            "frame_size",
            "canvas_size",
            "digit_size",
            "max_step",
            "mean",
            "std",
            "train_videos",
            "val_videos",
            "test_videos",
        ],
        "model.rstg": [
            "hidden_channels",
            "num_rounds",
            "scales",
            "heads",
            "map_size",
            "num_update_layers",
            "attention_scale",
            "dropout",
            "time_stages",
        ],
        "model.backbone": ["filters", "padding"],
        "model": ["dropout", "pool_window"],
        "pretrain": ["lr", "batch_size"],
        "train": [
            "epochs",
            "batch_size",
            "base_batch",
            "accumulate",
            "lr",
            "weight_decay",
            "momentum",
            "beta2",
            "warmup",
            "clip",
            "label_smoothing",
            "validate_every",
            "log_every",
        ],
        "trainer": ["devices", "num_nodes", "threads"],
    }
    lists = ("scales", "filters", "time_stages")
    for section, names in keys.items():
        for name in names:
            for value in ("1", "1.0", "100000", "1000000000", "2147483647", "1e38", "1e300", "1e-300"):
                text = f"[{value}]" if name in lists else value
                more = ["pretrain.steps=1"] if section == "pretrain" else []
                yield Mistake(
                    "run",
                    f"absurd: {section}.{name}={text}",
                    ["--cfg", "tiny.yaml", "train.max_steps=1", *more, f"{section}.{name}={text}"],
                    names=(name, section, "processes", "frames of"),
                    codes=(0, 1, 2),
                )
    for extra in (
        "data.num_workers=1000000",
        "data={digits: builtin, num_digits: 3, num_frames: 1000000}",
    ):
        yield Mistake("run", f"absurd: {extra}", ["--cfg", "tiny.yaml", extra], codes=(0, 2))
    some = {"num_frames": 1, "short_side": 1, "crop_size": 1}
    for name in some:
        for value in (1, 100_000, 1_000_000_000):
            yield Mistake(
                "run",
                f"absurd: data.{name}={value}",
                ["--cfg", "some.yaml", f"data.{name}={value}"],
                names=(name, "data.", "model"),
                codes=(0, 2),
            )
    for name, value in (
        ("size", 100_000),
        ("num_frames", 10**9),
        ("train", 10**9),
        ("distractors", 10**9),
    ):
        yield Mistake(
            "run",
            f"absurd: data.builtin.{name}={value}",
            ["--cfg", "some.yaml", "data.root=null", f"data.builtin.{name}={value}"],
            names=(name,),
        )
    absurd = [
        "model.rstg.hidden_channels=1000000000",
        "data.frame_size=1000000",
        "data.num_frames=1000000000",
        "model.rstg.num_rounds=1000000000",
        "model.backbone.filters=[1000000000]",
    ]
    for value in absurd:
        for command, more in (
            ("footprint", []),
            ("show", ["--out", "x.png"]),
            ("bench", ["--seconds", "0.01"]),
            ("footprint", ["--stream", "2"]),
        ):
            yield Mistake(
                command, f"absurd: {value}", ["--cfg", "tiny.yaml", *more, value], codes=(0, 2)
            )
    for option in (["--length", "1000000000000"], ["--channels", "1000000000"]):
        yield Mistake(
            "sensor", f"absurd: {option}", ["--out", "o.json", "--steps", "2", "--seeds", "1", *option]
        )
    yield Mistake(
        "predict", "absurd: --top", [CLIP, "--ckpt", SOME_CKPT, "--top", "9" * 30], codes=(0, 2)
    )
    yield Mistake("footprint", "absurd: --classes", ["--cfg", "tiny.yaml", "--classes", "9" * 12])
    yield Mistake("footprint", "absurd: --classes 2", ["--cfg", "tiny.yaml", "--classes", "9" * 30])
    yield Mistake(
        "benchmark", "absurd: --threads", ["--quick", "--sections", "network", "--threads", "9" * 9]
    )
    yield Mistake("bench", "absurd: --batch-size", ["--cfg", "tiny.yaml", "--batch-size", "9" * 12])
    yield Mistake(
        "show",
        "absurd: --count",
        ["--cfg", "tiny.yaml", "--out", "o.png", "--count", "9" * 30],
        codes=(0, 2),
    )
    yield Mistake("figures", "absurd: --videos", ["runs/tiny", "--videos", "9" * 12])
