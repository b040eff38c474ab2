"""Replays recordings of the other networks of the paper's table, for ``check_golden.py``."""

from __future__ import annotations

import functools
import json
import re
import zlib
from collections.abc import Callable

import numpy as np
import torch
from golden_compare import TOLERANCE, Comparison, under
from golden_networks import build, graph_layer
from torch import Tensor

from rstg_pyg import RegionHead, VideoClassifier

#: Batch statistics (``train/``) of few values amplify rounding.
TRAIN_TOLERANCE = 1e-3
#: Recorded means that are not looked at by themselves, as the logits depend on nothing else.
IN_LOGITS = ("avg_pool", "avgpool", "global_pool", "step_logits", "video")

def recipe_value(name: str, shape: list[int], scales: dict[str, float]) -> np.ndarray:
    """A weight made from its name, as ``recipe`` in the recordings says."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode("ascii"))))
    leaf = re.split(r"[./]", name)[-1]
    if leaf in ("weight", "weights") and len(shape) >= 2:
        inputs = np.prod(shape[1:] if leaf == "weight" and not graph_layer(name) else shape[:-1])
        value = rng.standard_normal(shape) * np.sqrt(2 / inputs)
    elif leaf in ("weight", "running_var", "moving_variance"):
        value = rng.uniform(0.5, 1.5, shape)
    else:
        value = rng.standard_normal(shape) * 0.1
    if leaf in ("weight", "weights"):
        for part, factor in scales.items():
            value *= factor if part in name else 1.0
    return value.astype(np.float32)


class Weights:
    """Recorded weights and their places in our network.

    Args:
        model: The network, whose weights are set.
        rename: From recorded names to ours.
        made: The recorded weights.
    """

    def __init__(
        self, model: torch.nn.Module, rename: Callable[[str], str], made: dict[str, np.ndarray]
    ):
        self.rename = rename
        ours = model.state_dict()
        parts: dict[str, list[Tensor]] = {"lin.weight": [], "lin.bias": []}
        for name, value in made.items():
            if rename(name).endswith("(part)"):
                parts[f"lin.{name.rpartition('.')[2]}"].append(torch.from_numpy(value))
            else:
                ours_name = rename(name)
                ours[ours_name] = to_torch(name, torch.from_numpy(value)).reshape(ours[ours_name].shape)
        if parts["lin.weight"]:
            ours["lin.weight"] = torch.cat(parts["lin.weight"], dim=1)
            ours["lin.bias"] = torch.stack(parts["lin.bias"])
        model.load_state_dict(ours)
        used = {rename(name) for name in made} | (
            {"lin.weight", "lin.bias"} if parts["lin.weight"] else set()
        )
        missing = {name for name in ours if "num_batches" not in name} - used
        if missing:
            raise SystemExit(f"not recorded: {sorted(missing)}")

    def recorded(self, name: str, tensors: dict[str, Tensor]) -> Tensor:
        """One of our tensors in the recorded layout (up to axes of size one)."""
        ours = self.rename(name)
        if ours.endswith("(part)"):
            scale, leaf = int(name.split(".")[2]), name.rpartition(".")[2]
            value = tensors[f"lin.{leaf}"]
            return (
                value[scale] if leaf == "bias" else value.chunk(len(tensors["lin.bias"]), dim=1)[scale]
            )
        value = tensors[ours]
        if graph_layer(name):
            return value.t()
        if name.endswith("/weights"):
            value = value[(...,) + (None,) * (5 - value.dim())].permute(2, 3, 4, 1, 0)
        return value


def to_torch(name: str, value: Tensor) -> Tensor:
    """A weight with output and input channels first."""
    if graph_layer(name):
        return value.t()
    return value.permute(4, 3, 0, 1, 2) if name.endswith("/weights") else value


def make_weights(flags: dict, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights by the recipe, by their recorded names."""
    variables = json.loads(str(data["variables"]))
    made = {n: recipe_value(n, s, flags["scales"]) for n, s, _ in variables if "num_batches" not in n}
    for name, known in json.loads(str(data["variables_first_last_sum"])).items():
        if name in made:
            flat = made[name].ravel().astype(np.float64)
            if not np.allclose([flat[0], flat[-1], flat.sum()], known, rtol=1e-4, atol=1e-3):
                raise SystemExit(f"'{name}' is not what the recipe makes: the recipe has changed")
    return made


def check_rows(flags: dict, data: dict[str, np.ndarray]) -> Comparison:
    """A network of the table: weights by the recipe; logits, stages, gradients, batch statistics."""
    compare = Comparison(TOLERANCE)
    made = make_weights(flags, data)
    boxes = torch.from_numpy(data["in/boxes"]) if "in/boxes" in data else None
    model, rename, mids = build(flags, list(made), boxes)
    weights = Weights(model, rename, made)
    ours = sum(p.numel() for p in model.parameters())
    compare.add("n_params", np.array(ours), np.array(flags["n_params"]))

    clip, to_layout = make_input(flags)
    shown = to_layout(clip)
    compare.add("in/first_values", shown.flatten()[:64], data["in/first_values"])
    sums = torch.stack([shown.double().sum(), shown.double().abs().sum()])
    compare.add("in/sum", sums, data["in/sum"])
    last = flags["layout"].endswith("C]")
    heard = listen(model, mids)
    model.eval()
    with torch.no_grad():
        compare.add("out/logits", model(clip), data["out/logits"])
    for name in sorted({key.split("/")[1] for key in data if key.startswith("mid/")}):
        if name in IN_LOGITS:
            continue
        if name not in heard:
            raise SystemExit(f"recorded, but not known here: {name}")
        value = heard[name]
        if len(data.get(f"mid/{name}/shape", ())) == 4 and value.dim() == 5:  # frames in the batch
            value = value.transpose(1, 2).flatten(0, 1)
        add_summary(compare, f"mid/{name}", value.movedim(1, -1) if last else value, data, last)
    # Gradients in float64: in float32, ReLUs near zero and ties of max pooling go the other way here
    # and there, and single gradients far from the logits differ by up to some percent.
    model.double()
    compare_pass(compare, model, weights, clip.double(), to_layout, data, "")
    if "train/logits" in data:
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
        compare_pass(compare, model, weights, clip.double(), to_layout, data, "train/")
        tensors = model.state_dict()
        for name, value in under(data, "after_step/").items():
            compare.add(f"after_step/{name}", weights.recorded(name, tensors), value)
    return compare


def make_input(flags: dict) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The clip as our network takes it, and what turns one into the recorded layout."""
    rng = np.random.Generator(np.random.PCG64(flags["input_seed"]))
    frames = torch.from_numpy(rng.integers(0, 256, size=flags["frames_shape"], dtype=np.uint8)).float()
    rule = flags["frames_to_input"]
    if "[104,117,128]" in rule:
        clip = frames - torch.tensor([128.0, 117.0, 104.0])
        return clip.movedim(-1, 1), lambda x: x.flip(1).transpose(1, 2).flatten(1, 2)
    if "float32(frames)/255*2-1" in rule:
        clip = (frames / 255 * 2 - 1).movedim(-1, 1)
    elif found := re.search(r"float32\(frames\)/255 - \[(.*?)\]\) ?/ ?\[(.*?)\]", rule):
        mean, std = (torch.tensor([float(n) for n in part.split(",")]) for part in found.groups())
        clip = ((frames / 255 - mean) / std).movedim(-1, 1)
        if "[B,K,3,H,W]" in rule:
            return clip, lambda x: x.transpose(1, 2)
    elif "float32(frames)/255," in rule:
        clip = (frames / 255).movedim(-1, 1)
    else:
        raise SystemExit(f"an input that is not known here: {rule}")
    return clip, (lambda x: x.movedim(1, -1)) if "[B,T,H,W,3]" in rule else (lambda x: x)


def listen(model: VideoClassifier, mids: dict[str, str]) -> dict[str, Tensor]:
    """Writes activations into the returned dictionary while the model runs in evaluation."""
    heard: dict[str, Tensor] = {}
    stages = model.backbone.stages
    modules = dict(model.named_modules())

    def hook(name: str, module: torch.nn.Module, _, y: Tensor) -> None:
        if not model.training:
            y = y.flatten(0, 1) if name == "frame_features" else y
            y = y.relu() if name.endswith("a_out") or name == "conv1" else y
            heard.setdefault(name, y.detach().clone())  # of the first pass

    if isinstance(model.head, RegionHead):
        add_parts(model.head, heard)
    for name, place in {**{stage: stage for stage in stages}, **mids}.items():
        module = modules.get(f"backbone.stages.{place}", modules.get(place))
        module.register_forward_hook(functools.partial(hook, name))
    return heard


def add_parts(head: RegionHead, heard: dict[str, Tensor]) -> None:
    """Writes the regions, and the mean of the nodes, as recorded."""

    def before(_, args: tuple[Tensor, Tensor]) -> None:
        heard.setdefault("roi", args[0].detach().flatten(0, 2)[..., None, None])

    def after(_, __, y: Tensor) -> None:
        heard.setdefault("gcn", y.detach().mean(dim=(1, 2)))

    head.graph.register_forward_pre_hook(before)
    head.graph.register_forward_hook(after)


def compare_pass(compare, model, weights: Weights, clip, to_layout, data, prefix: str) -> None:
    """Logits and gradients of one forward and backward pass."""
    tolerance = TRAIN_TOLERANCE if prefix else TOLERANCE
    clip = clip.clone().requires_grad_()
    model.zero_grad()
    logits = model(clip)
    name = "train/logits" if prefix else "out/logits"
    compare.add(name if prefix else "out/logits (float64)", logits, data[name], tolerance=tolerance)
    value_name = "train/functional_value" if prefix else "functional/value"
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(b"functional")))
    value = (torch.from_numpy(rng.standard_normal(logits.shape).astype(np.float32)) * logits).sum()
    if value_name in data:
        scale = float(np.abs(data[name]).max())
        compare.add(value_name, value, data[value_name], scale, tolerance=tolerance)
    value.backward()
    last = to_layout(clip).shape[-1] == 3 and clip.shape[-1] != 3
    if f"{prefix}grad_in/shape" in data or f"{prefix}grad_in" in data:
        add_summary(compare, f"{prefix}grad_in", to_layout(clip.grad), data, last, tolerance)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for name in under(data, f"{prefix}grad_none/"):
        if weights.rename(name) in gradients:
            raise SystemExit(f"{name}: expected no gradient")
    # An offset before a batch norm has the gradient zero on paper, and rounding in practice.
    floor = 1e-3 * max(float(g.abs().max()) for g in gradients.values())
    add_gradients(compare, prefix, data, lambda n: weights.recorded(n, gradients), floor, tolerance)


def add_gradients(
    compare: Comparison,
    prefix: str,
    data: dict[str, np.ndarray],
    find: Callable[[str], Tensor],
    floor: float = 0.0,
    tolerance: float | None = None,
) -> None:
    """Compares the gradients of weights, whole or by sum, norm and ends; ``find`` gives ours."""
    recorded = under(data, f"{prefix}grad/")
    for name in sorted({re.sub("/(shape|sum_l2|first|last)$", "", name) for name in recorded}):
        ours = find(name)
        whole = f"{prefix}grad/{name}"
        if name in recorded:
            compare.add(whole, ours.reshape(recorded[name].shape), recorded[name], floor, tolerance)
            continue
        shape = [n for n in recorded[f"{name}/shape"] if n > 1]  # without axes of size one
        compare.add(f"{whole}/shape", np.array([n for n in ours.shape if n > 1]), np.array(shape))
        flat, (total, norm) = ours.flatten().double(), recorded[f"{name}/sum_l2"]
        compare.add(f"{whole}/sum_l2", flat.norm(), norm, tolerance=tolerance)
        size = float(flat.abs().sum())
        compare.add(f"{whole}/sum", flat.sum(), np.array(total), size, tolerance)
        largest = float(flat.abs().max())
        for part, mine in (("first", flat[:64]), ("last", flat[-64:])):
            if f"{name}/{part}" in recorded:
                compare.add(f"{whole}/{part}", mine, recorded[f"{name}/{part}"], largest, tolerance)


def add_summary(
    compare, name: str, ours: Tensor, data, last: bool, tolerance: float | None = None
) -> None:
    """Compares an activation or a gradient, whole or by means, deviations and a slice."""
    if name in data:
        compare.add(name, ours.reshape(data[name].shape), data[name], tolerance=tolerance)
        return
    compare.add(f"{name}/shape", np.array(ours.shape), data[f"{name}/shape"])
    channels = ours.ndim - 1 if last else 1
    flat = ours.detach().double().movedim(channels, -1).flatten(0, -2)
    part = ours.detach()
    for axis, n in enumerate(ours.shape):
        wanted = torch.tensor(sorted({0, n // 2, n - 1}))
        part = part.narrow(axis, 0, min(n, 48)) if axis == channels else part.index_select(axis, wanted)
    compare.add(
        f"{name}/channel_mean", flat.mean(0), data[f"{name}/channel_mean"], float(flat.std()), tolerance
    )
    for key, value in (("channel_std", flat.std(0, correction=0)), ("slice", part)):
        if f"{name}/{key}" in data:
            compare.add(f"{name}/{key}", value, data[f"{name}/{key}"], tolerance=tolerance)
