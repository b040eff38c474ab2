"""Replays recordings of whole networks, for ``check_golden.py``."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from golden_compare import TOLERANCE, Comparison, add_gradients, under
from torch import Tensor

from rstg_pyg import official
from rstg_pyg.backbones.resnet import NonLocalBlock


def check_small(flags: dict, data: dict[str, np.ndarray]) -> Comparison:
    """SimpleConv with its graph: evaluation, training, gradients, two Nesterov steps."""
    compare = Comparison(TOLERANCE)
    model, _ = official.convert(flags, under(data, "var/"))
    clips, labels = small_input(data)
    add_evaluation(compare, model, clips, labels, data, "eval/")
    if "train/logits" not in data:
        return compare

    wanted = official.model_variables(model)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), flags["learning_rate"], 0.9, nesterov=True)
    for step in (1, 2):
        optimizer.zero_grad()
        logits = model(clips)
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        loss.sum().backward()
        compare.add(f"train/loss_step{step}", loss, data["train/loss_steps"][step - 1])
        if step == 1:
            compare.add("train/logits", logits, data["train/logits"])
            compare.add("train/loss", loss, data["train/loss"])
            add_gradients(compare, model, wanted, data)
        optimizer.step()
        momentum = {
            name: optimizer.state[p].get("momentum_buffer") for name, p in model.named_parameters()
        }
        recorded = under(data, f"after_step{step}/")
        for variable in wanted:
            name = f"after_step{step}/{variable.name}"
            tensors = model.state_dict()
            compare.add(name, variable.to_published(tensors), recorded.pop(variable.name))
            if f"{variable.name}/Momentum" in recorded:
                value = recorded.pop(f"{variable.name}/Momentum")
                compare.add(f"{name}/Momentum", variable.to_published(momentum), value)
        if recorded:
            raise SystemExit(f"recorded after step {step}, but not known here: {sorted(recorded)}")
    return compare


def small_input(data: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """Clips ``[B, L, C, T, H, W]`` of raw pixel values, and labels."""
    clips = torch.from_numpy(data["in/frames"]).float().movedim(-1, 1)
    labels = torch.from_numpy(data["in/labels"])
    return clips.unflatten(0, (len(labels), -1)), labels


@torch.no_grad()
def add_evaluation(compare: Comparison, model, clips, labels, data, prefix: str) -> None:
    """Compares the outputs of a SimpleConv network in evaluation."""
    heard: dict[str, Tensor] = {}
    model.backbone.stages.conv2.register_forward_hook(lambda _, __, y: heard.update(conv_out=y))
    model.head.register_forward_hook(lambda _, __, y: heard.update(video_feats=y))
    last = model.head.rstg if model.head.lin_out is None else model.head.lin_out
    last.register_forward_hook(lambda _, __, y: heard.update(final_nodes_feats=y))
    model.eval()
    heard["logits"] = model(clips)
    heard["loss"] = torch.nn.functional.cross_entropy(heard["logits"], labels, reduction="none")
    heard["conv_out"] = heard["conv_out"].movedim(1, -1)
    heard["final_nodes_feats"] = heard["final_nodes_feats"].transpose(0, 1)
    for name, value in under(data, prefix).items():
        compare.add(f"{prefix}{name}", heard[name], value)


def check_checkpoint(folder: Path) -> Comparison:
    """A TensorFlow checkpoint; read from ``expected.npz`` where tensorflow is not installed."""
    expected = folder / "expected.npz"
    if not expected.is_file():
        raise SystemExit(f"{folder}: expected a folder with expected.npz and a TensorFlow checkpoint")
    with np.load(expected, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    flags = json.loads(str(data["config"]))
    stored = under(data, "ckpt/")
    compare = Comparison(TOLERANCE)
    try:
        variables = official.load_variables(folder)
        if set(variables) != set(stored):
            raise SystemExit(f"{folder}: other tensors than recorded")
        for name, value in stored.items():
            compare.add(f"ckpt/{name}", variables[name], value)
    except official.ConversionError as e:
        print(f"  note: {e}; the tensors come from expected.npz")
        variables = stored
    clips, labels = small_input(data)
    model, report = official.convert(flags, variables)
    print(f"  {report}")
    add_evaluation(compare, model, clips, labels, data, "out/")
    # The canonical LSTM copies alone are enough.
    canonical = {name: v for name, v in variables.items() if not name.endswith("opaque_kernel")}
    model, _ = official.convert(flags, canonical)
    with torch.no_grad():
        compare.add("out/logits (canonical LSTM)", model(clips), data["out/logits"])
    return compare


def recipe_value(name: str, shape: list[int]) -> np.ndarray:
    """A weight made from its name, as the ``recipe`` in the large recordings says."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode("ascii"))))
    leaf = name.rpartition("/")[2]
    if leaf == "kernel":
        value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
        if "_theta/" in name or "_phi/" in name:
            value *= 0.4
        if "/att_conv" in name:
            value *= 2
        if name.endswith("/pred/kernel"):
            value *= 0.1
    elif leaf == "opaque_kernel":
        value = rng.standard_normal(shape) * 0.05
    elif leaf in ("bias", "biases", "beta", "moving_mean"):
        value = rng.standard_normal(shape) * 0.1
    elif leaf in ("gamma", "moving_variance"):
        value = rng.uniform(0.5, 1.5, shape)
        if leaf == "gamma":
            for part, factor in (("_branch2c_bn/", 0.3), ("_branch1_bn/", 0.6), ("nonlocal", 0.1)):
                value *= factor if part in name else 1.0
    elif leaf.endswith("_scale"):
        value = rng.standard_normal(shape) * 3.0
    else:
        raise SystemExit(f"the recipe has no rule for '{name}'")
    return value.astype(np.float32)


@torch.no_grad()
def check_recipe(flags: dict, data: dict[str, np.ndarray]) -> Comparison:
    """A whole ResNet whose weights are made by the recipe."""
    compare = Comparison(TOLERANCE)
    made = {}
    total = 0
    for name, shape, _ in json.loads(str(data["variables"])):
        total += int(np.prod(shape))
        if "resize_filters" not in name and not name.endswith("positional_emb"):
            made[name] = recipe_value(name, shape)
    known = json.loads(str(data["variables_first_last_sum"]))
    for name, value in made.items():
        flat = value.ravel().astype(np.float64)
        if not np.allclose([flat[0], flat[-1], flat.sum()], known[name], rtol=1e-4, atol=1e-3):
            raise SystemExit(f"'{name}' is not what the recipe makes: the recipe has changed")
    model, report = official.convert(flags, made)
    print(f"  {report}; {total / 1e6:.2f} M numbers, constants included")
    compare.add("n_params", np.array(total), np.array(flags["n_params"]))
    ours = sum(t.numel() for n, t in model.state_dict().items() if "num_batches" not in n)
    compare.add("n_params (ours)", np.array(ours), np.array(sum(v.size for v in made.values())))

    clips, size = flags["clips"], flags["input_size"]
    shape = (len(data["out/logits"]) * clips, flags["video_num_frames"], size, size, 3)
    rng = np.random.Generator(np.random.PCG64(flags["input_seed"]))
    frames = rng.integers(0, 256, size=shape, dtype=np.uint8)
    x = (torch.from_numpy(frames).float() - 114.75) / 57.375
    compare.add("in/first_values", x.flatten()[:64], data["in/first_values"])

    heard: dict[str, Tensor] = {}
    listen_to_model(model, heard)
    logits = model(x.movedim(-1, 1).unflatten(0, (-1, clips)))
    compare.add("out/logits", logits, data["out/logits"])
    recorded = under(data, "mid/")
    for name in sorted({name.split("/")[0] for name in recorded}):
        if name not in heard:
            raise SystemExit(f"recorded, but not known here: {name}")
        if name in recorded:
            compare.add(f"mid/{name}", heard[name].reshape(recorded[name].shape), recorded[name])
        else:
            add_summary(compare, name, heard[name], under(recorded, f"{name}/"))
    return compare


def listen_to_model(model, heard: dict[str, Tensor]) -> None:
    """Writes the recorded activations, channels last, into ``heard`` while the model runs."""

    def listen(module, name: str, change=lambda y: y.movedim(1, -1)) -> None:
        module.register_forward_hook(lambda _, __, y: heard.update({name: change(y)}))

    stages = model.backbone.stages
    listen(stages["stem"], "pool1")
    for level in ("2", "3", "4", "5"):
        last = [n for n in stages if n.startswith((f"res{level}_", f"nonlocal{level}_"))][-1]
        listen(stages[last], f"res{level}")
    nonlocal_blocks = [stage for stage in stages.values() if isinstance(stage, NonLocalBlock)]
    for i, block in enumerate(nonlocal_blocks):
        listen(block.bn, f"nonlocal_{i}")
    for place, block in [*model.blocks.items(), ("final", model.head)]:
        if block is None:
            continue
        nodes = block.rstg if block.lin_out is None else block.lin_out
        listen(nodes, f"graph_nodes_{place}", lambda y: y.transpose(0, 1))
        listen(nodes, f"graph_video_{place}", lambda y: y.mean(1).sum(1))
        listen(block, f"graph_out_{place}")

    def as_map(y: Tensor) -> Tensor:
        """``[clips, windows, C]`` as the recorded ``[clips, 1, h, w, C]``, one cell per window."""
        sides = [n - min(model.pool_window, n) + 1 for n in heard["res5"].shape[2:4]]
        return y.unflatten(1, (1, *sides) if y.size(1) > 1 else (1, 1, 1))

    model.lin.register_forward_pre_hook(lambda _, args: heard.update(head_in=as_map(args[0])))
    listen(model.lin, "pred_no_bias", lambda y: as_map(y - model.lin.bias))


def add_summary(compare: Comparison, name: str, ours: Tensor, recorded: dict) -> None:
    """Compares a large activation by its means, deviations and a slice."""
    compare.add(f"mid/{name}/shape", np.array(ours.shape), recorded["shape"])
    flat = ours.double().flatten(0, -2)
    compare.add(f"mid/{name}/channel_mean", flat.mean(0), recorded["channel_mean"])
    compare.add(f"mid/{name}/channel_std", flat.std(0, correction=0), recorded["channel_std"])
    part = ours
    for axis, n in enumerate(ours.shape[:-1]):
        part = part.index_select(axis, torch.tensor(sorted({0, n // 2, n - 1})))
    compare.add(f"mid/{name}/slice", part[..., :48], recorded["slice"])
