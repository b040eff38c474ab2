"""Replays numbers recorded from the published code: ``python tests/check_golden.py FILE...``.

A FILE is a graph-only recording (``g*.npz``), a whole network with stored weights (``w01*.npz``) or
weights made by a recipe (other ``w*.npz``), or the folder with a TensorFlow checkpoint and its
``expected.npz``. Prints, for every recorded output, the largest error relative to the largest recorded
magnitude, and exits with 1 if one is above the file's tolerance.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rstg_pyg import official
from rstg_pyg.backbones.resnet import NonLocalBlock

#: Largest error relative to the largest recorded magnitude, in float32 (golden README). Norms over
#: few, nearly constant values amplify rounding; recordings without such norms are held to the second.
TOLERANCE, SHARP_TOLERANCE = 2e-4, 1e-5


class Comparison:
    """Relative errors of everything compared in one file.

    Args:
        tolerance: The largest allowed error.
    """

    def __init__(self, tolerance: float):
        self.tolerance = tolerance
        self.errors: dict[str, float] = {}

    def add(
        self, name: str, ours: Tensor | np.ndarray, recorded: np.ndarray, floor: float = 0.0
    ) -> None:
        """Compares one output. Shapes must be equal; what is not finite is an infinite error.

        Args:
            name: The output.
            ours: Our numbers.
            recorded: The recorded ones.
            floor: The least magnitude that the error is relative to.
        """
        ours = np.asarray(ours.detach() if isinstance(ours, Tensor) else ours, dtype=np.float64)
        recorded = np.asarray(recorded, dtype=np.float64)
        if ours.shape != recorded.shape:
            raise SystemExit(f"{name}: expected shape {recorded.shape}, got {ours.shape}")
        scale = max(np.abs(recorded).max(initial=0.0), floor)
        error = np.abs(ours - recorded).max(initial=0.0) / (scale if scale > 0 else 1.0)
        self.errors[name] = float(error) if np.isfinite(error) else float("inf")

    def failed(self) -> list[str]:
        """The outputs whose error is above the tolerance."""
        return [name for name, error in self.errors.items() if not error <= self.tolerance]

    def groups(self) -> dict[str, float]:
        """The largest error of every kind of output (``out``, ``mid``, ``grad``, ...)."""
        found: dict[str, float] = {}
        for name, error in self.errors.items():
            head = name.split("/")[0]
            found[head] = max(found.get(head, 0.0), error)
        return found

    def report(self, verbose: bool = True) -> str:
        """One line per output; without ``verbose`` gradients and weights are summed up."""
        lines: dict[str, float] = {}
        for name, error in self.errors.items():
            head = name.split("/")[0]
            many = head in ("grad", "after_step1", "after_step2", "ckpt")
            short = head if many and not verbose else name
            lines[short] = max(lines.get(short, 0.0), error)
        failed = {name.split("/")[0] for name in self.failed()} | set(self.failed())
        return "\n".join(
            f"  {name:60s} {error:8.1e}{'  ABOVE TOLERANCE' if name in failed else ''}"
            for name, error in lines.items()
        )


def check(path: Path) -> Comparison:
    """Replays one file.

    Raises:
        SystemExit: If the path is no recording.
    """
    path = Path(path)
    if path.is_dir():
        return check_checkpoint(path)
    if path.with_name(path.name.removesuffix(".index") + ".index").is_file():
        return check_checkpoint(path.parent)
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {name: file[name] for name in file.files}
        flags = json.loads(str(data["config"]))
    except (OSError, ValueError, KeyError) as e:
        raise SystemExit(f"{path}: not a recording of the golden format ({e})") from None
    if "in/feature_map" in data:
        return check_graph(flags, data)
    if "recipe" in data:
        return check_recipe(flags, data)
    if any(name.startswith("ckpt/") for name in data):
        return check_checkpoint(path.parent)
    return check_small(flags, data)


def under(data: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays below a prefix, by the rest of their names."""
    return {name[len(prefix) :]: value for name, value in data.items() if name.startswith(prefix)}


def check_graph(flags: dict, data: dict[str, np.ndarray]) -> Comparison:
    """A graph by itself: outputs, everything inside, gradients, moving statistics."""
    sharp = flags["case"].startswith("g01") or (flags["use_norm"] == "BN" and not flags["training"])
    compare = Comparison(SHARP_TOLERANCE if sharp else TOLERANCE)
    block = official.build_graph(flags)
    variables = under(data, "var/")
    wanted = official.graph_variables(block, "", f"tower/{flags['graph_name']}/")
    official.load_published(block, wanted, variables, [block])
    block.train(flags["training"])

    feature_map = torch.from_numpy(data["in/feature_map"]).requires_grad_()
    x = feature_map.permute(0, 4, 1, 2, 3)
    inside = GraphRecord(block)
    nodes = block.nodes(x)
    regions = block.unpool(nodes, x.shape[-2:]).permute(0, 2, 3, 4, 1)
    video = nodes.mean(dim=1).sum(dim=1)
    ours = {
        "final_nodes_feats": nodes.transpose(0, 1),
        "video_feats": video,
        "frames_feats": nodes.sum(dim=2).transpose(0, 1),
        "regions_feats": regions,
    }
    for name, value in ours.items():
        compare.add(f"out/{name}", value, data[f"out/{name}"])
    recorded = under(data, "mid/")
    recorded.pop("regions_x0x1y0y1", None)  # pixels, rounded; what they decide is the adjacency
    for name, value in inside.values(recorded).items():
        compare.add(f"mid/{name}", value, recorded[name])

    after = under(data, "var_after_update/")
    tensors = block.state_dict()
    for variable in wanted:
        if variable.name in after:
            name = f"var_after_update/{variable.name}"
            compare.add(name, variable.to_published(tensors), after[variable.name])
    if "functional/value" in data:
        value = sum(
            (torch.from_numpy(weights) * ours[name]).sum()
            for name, weights in under(data, "functional/").items()
            if name != "value"
        )
        compare.add("functional/value", value, data["functional/value"])
        value.backward()
        compare.add("grad_in/feature_map", feature_map.grad, data["grad_in/feature_map"])
        add_gradients(compare, block, wanted, data)
    return compare


class GraphRecord:
    """Listens to the parts of a block while it runs."""

    def __init__(self, block):
        self.block = block
        self.calls: dict[str, list[Tensor]] = {}
        rstg, conv = block.rstg, block.rstg.convs[0]
        self._listen("patch_feats", block.pool)
        before = rstg.in_norm if rstg.in_norm is not None else rstg.lin_in
        self._listen("before", before if before is not None else block.pool)
        self._listen("message", conv.send if conv.message_norm is None else conv.message_norm)
        self._listen("aggregated", conv.after_aggr)
        self._listen("space", conv)
        if len(rstg.cells):
            self._listen("intern", rstg.cells[0])
        self._listen("extern", rstg.last_cell)
        conv.register_forward_pre_hook(self._attention, with_kwargs=True)

    def _listen(self, name: str, module: torch.nn.Module) -> None:
        def hook(_, __, output):
            output = output[0] if isinstance(output, tuple) else output
            self.calls.setdefault(name, []).append(output.detach().clone())

        module.register_forward_hook(hook)

    def _attention(self, conv, args, kwargs) -> None:
        if "attention" in self.calls:
            return
        self.calls["attention"] = []  # the call below comes here again
        heard = {name: list(values) for name, values in self.calls.items()}
        training, statistics = conv.training, {k: v.clone() for k, v in conv.named_buffers()}
        with torch.no_grad():
            _, (_, alpha) = conv(*args, **{**kwargs, "return_attention_weights": True})
        for name, buffer in conv.named_buffers():
            buffer.copy_(statistics[name])
        conv.train(training)
        self.calls = {**heard, "attention": [alpha]}

    def values(self, names: Iterable[str]) -> dict[str, Tensor]:
        """What was heard, in the recorded layouts, for these names."""
        calls, heads = self.calls, self.calls["attention"][0].size(-1)
        batch, nodes = calls["patch_feats"][0].size(0), self.block.pool.num_nodes
        message = calls["message"][0]
        if message.dim() == 3:  # [E, T * B, C], without a norm
            message = message.unflatten(1, (-1, batch)).movedim(0, 2)
        alpha = calls["attention"][0][0].unflatten(1, (nodes, nodes))
        found = {
            "patch_feats": calls["patch_feats"][0],
            "node_feats_before_graph": calls["before"][0],
            "messages_k0_t0": message[0].unflatten(1, (nodes, nodes)),
            "aggregated_k0_t0": calls["aggregated"][0][0],
            "updated_k0_t0": calls["space"][0][0],
            "lstm_extern": calls["extern"][0],
            "adjacency": self.block.edge_weight.view(nodes, nodes),
            "positional_emb": self.block.pos,
        }
        for h in range(heads):
            found[f"attention_k0_t0{f'_head{h}' if heads > 1 else ''}"] = alpha[..., h]
        for k, value in enumerate(calls["space"]):
            found[f"nodes_after_space_k{k}"] = value
        rounds = self.block.rstg.time_rounds
        for k, value in zip(rounds, calls.get("intern", []), strict=True):
            found[f"lstm_intern_k{k}"] = value
        unknown = sorted(set(names) - set(found))
        if unknown:
            raise SystemExit(f"recorded, but not known here: {unknown}")
        return {name: found[name] for name in names}


def add_gradients(compare: Comparison, module, wanted, data: dict[str, np.ndarray]) -> None:
    """Compares the gradients of all weights."""
    recorded = under(data, "grad/")
    gradients = {name: p.grad for name, p in module.named_parameters()}
    found = {variable.name: variable for variable in wanted}
    # Some gradients are zero on paper (an offset before a batch norm), and rounding in practice.
    floor = 1e-3 * max((np.abs(value).max() for value in recorded.values()), default=0.0)
    for name, value in recorded.items():
        compare.add(f"grad/{name}", found[name].to_published(gradients), value, floor)


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
    model.dropout.register_forward_hook(lambda _, args, __: heard.update(head_in=args[0]))
    listen(model.lin, "pred_no_bias", lambda y: y - model.lin.bias)


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


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--verbose", action="store_true", help="every gradient and weight by itself")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the errors to a file")
    arguments = parser.parse_args(argv)
    failed, summary = 0, {}
    for path in arguments.files:
        print(path.name)
        begin = time.perf_counter()
        compare = check(path)
        seconds = time.perf_counter() - begin
        print(compare.report(arguments.verbose))
        worst = max(compare.errors.values())
        verdict = "ok" if not compare.failed() else "ABOVE TOLERANCE"
        print(f"  {verdict}: worst {worst:.1e}, tolerance {compare.tolerance:.0e}, {seconds:.1f} s")
        failed += bool(compare.failed())
        summary[path.stem] = {"tolerance": compare.tolerance, "worst": worst, **compare.groups()}
    if arguments.json is not None:
        device = platform.processor() or platform.machine()
        machine = {"python": platform.python_version(), "torch": torch.__version__, "machine": device}
        machine["threads"] = torch.get_num_threads()
        text = json.dumps({**machine, "largest_relative_errors": summary}, indent=2)
        arguments.json.write_text(text + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
