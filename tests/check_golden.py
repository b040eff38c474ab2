"""Replays numbers recorded from the published code: ``python tests/check_golden.py FILE...``.

A FILE is a graph-only recording (``g*.npz``), a whole network with stored weights (``w01*.npz``) or
weights made by a recipe (other ``w*.npz``, and those of the table's other networks), or the folder with
a TensorFlow checkpoint and its ``expected.npz``. Prints, for every recorded output, the largest error
relative to the largest recorded magnitude, and exits with 1 if one is above the file's tolerance.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from golden_compare import SHARP_TOLERANCE, TOLERANCE, Comparison, add_gradients, under
from golden_models import check_checkpoint, check_recipe, check_small
from golden_regions import check_region_graph
from golden_rows import check_rows
from torch import Tensor

from rstg_pyg import official


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
    if "in/x" in data:
        return check_region_graph(flags, data)
    if "network" in flags:
        return check_rows(flags, data)
    if "recipe" in data:
        return check_recipe(flags, data)
    if any(name.startswith("ckpt/") for name in data):
        return check_checkpoint(path.parent)
    return check_small(flags, data)


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
