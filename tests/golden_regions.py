"""Replays recordings of jd730/STRG's Joint GCN, for ``check_golden.py``."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from golden_compare import TOLERANCE, Comparison, under
from golden_networks import graph_layer, graph_name, pixel_boxes
from golden_rows import add_gradients, add_summary, make_weights
from torch import Tensor

from rstg_pyg import RegionGraph
from rstg_pyg.graphs import overlap_edges


def check_region_graph(flags: dict, data: dict[str, np.ndarray]) -> Comparison:
    """The graph by itself: both of its graphs, both branches, gradients as run and as in the paper."""
    compare = Comparison(TOLERANCE)
    made = make_weights(flags, data)
    model = RegionGraph(flags["in_channel"], flags["out_channel"], norm=None)
    compare.add("n_params", np.array(sum(v.size for v in made.values())), np.array(flags["n_params"]))
    values = {name: torch.from_numpy(value) for name, value in made.items()}
    model.load_state_dict({graph_name(n): v.t() if graph_layer(n) else v for n, v in values.items()})
    x, boxes = (torch.from_numpy(data[f"in/{name}"]).double() for name in ("x", "boxes"))
    boxes = pixel_boxes(boxes)
    compare.add("in/first_values", x.flatten()[:64], data["in/first_values"])
    compare.add("in/sum", torch.stack([x.sum(), x.abs().sum()]), data["in/sum"])

    with torch.no_grad():
        logits = model(x.float(), boxes.float()).mean(dim=(1, 2))
    compare.add("out/logits", logits, data["out/logits"])
    model.double()
    nodes, there = x.flatten(1, 2), torch.ones(x.shape[0], x.shape[1] * x.shape[2], dtype=torch.bool)
    ours = {
        "front_graph": dense(overlap_edges(boxes), there),
        "back_graph": dense(overlap_edges(boxes, reverse=True), there),
        "similarity_graph": model.similarity(nodes, there),
        "similarity_branch": model.similar(nodes, there),
        "space_time_branch": model.overlapping(nodes, boxes),
    }
    for name in sorted({key.split("/")[1] for key in data if key.startswith("mid/")}):
        add_summary(compare, f"mid/{name}", ours[name], data, last=True)

    # As the public code ran, the similarity is detached; "paper" has its gradient, too.
    detached = model.similarity.register_forward_hook(lambda _, __, y: y.detach())
    for prefix in ("", "paper/"):
        model.zero_grad()
        clip = x.clone().requires_grad_()
        logits = model(clip, boxes).mean(dim=(1, 2))
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(b"functional")))
        weights = torch.from_numpy(rng.standard_normal(logits.shape).astype(np.float32))
        value = (weights * logits).sum()
        if not prefix:
            scale = float(np.abs(data["out/logits"]).max())
            compare.add("functional/value", value, data["functional/value"], scale)
        value.backward()
        add_summary(compare, f"{prefix}grad_in", clip.grad, data, last=True)
        gradients = {name: p.grad for name, p in model.named_parameters()}

        def find(name: str, gradients: dict = gradients) -> Tensor:
            found = gradients[graph_name(name)]
            return found.t() if graph_layer(name) else found

        add_gradients(compare, prefix, data, find)
        for name in under(data, f"{prefix}grad_none/"):
            if gradients[graph_name(name)] is not None:
                raise SystemExit(f"{name}: expected no gradient")
        detached.remove()
    return compare


def dense(edges: tuple[Tensor, Tensor], there: Tensor) -> Tensor:
    """Edges as matrices ``[B, M, M]``, rows of receivers."""
    (source, target), weight = edges
    batch, nodes = there.shape
    out = weight.new_zeros(batch * nodes, batch * nodes)
    out[target, source] = weight
    blocks = out.view(batch, nodes, batch, nodes)
    if float(blocks.sum()) != float(sum(blocks[b, :, b].sum() for b in range(batch))):
        raise SystemExit("edges between clips")
    return torch.stack([blocks[b, :, b] for b in range(batch)])
