"""The variants of each case of the benchmark, and the networks whose training steps it times."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import GATv2Conv, TransformerConv

from rstg_pyg import RSTG, DenseRSTGConv, RSTGBlock, RSTGConv, VideoClassifier, WindowMean
from rstg_pyg.backbones import SimpleConv, TorchvisionVideo, i3d_resnet50, inception_i3d, s3dg
from rstg_pyg.fast.autograd import plain_paths
from rstg_pyg.published import published_arguments
from rstg_pyg.train.benchmarking import baselines
from rstg_pyg.train.benchmarking.cases import Case

ALL_PAIRS, TEXTBOOK, OURS = "all pairs, concatenated", "textbook MessagePassing", "RSTGConv, static"
LOOP, WHOLE = "published: loop over frames, all pairs", "RSTG"
_OTHER = "(another function)"

#: Largest tensor of pairs that the dense forms may create, in elements (1 GiB of float32).
MOST_PAIRS = 2**28


@dataclass
class Variant:
    """One way to compute a case."""

    name: str
    forward: Callable[[Tensor], Tensor]  # from and to the layout of the case
    module: torch.nn.Module  # whose parameters have gradients
    same: bool = True  # whether it computes the same function
    context: Callable[[], AbstractContextManager] = nullcontext  # around forward and backward


def stage_variants(
    case: Case, compiled: bool = False, device: str = "cpu"
) -> tuple[Tensor, list[Variant]]:
    """The input ``[frames, N, C]`` of a space stage, and the variants."""
    torch.compiler.reset()  # what other cases compiled does not count against a limit
    torch.manual_seed(0)
    edge_index, nodes = case.graph()
    edge_index = edge_index.to(device)
    width, scale = case.channels, case.channels**-0.5
    conv = RSTGConv(width, width, attention_scale=scale, form="paper").to(device)
    x = torch.randn(case.frames, nodes, width).to(device)
    shift = nodes * torch.arange(case.frames, device=device)
    batch = (edge_index.unsqueeze(1) + shift.view(1, -1, 1)).flatten(1)  # block-diagonal
    dense = DenseRSTGConv(width, width, attention_scale=scale, form="paper").to(device)
    dense.load_state_dict(conv.state_dict())
    adjacency = torch.zeros(nodes, nodes, device=device)
    adjacency[edge_index[1], edge_index[0]] = 1.0
    # The baselines have no factor on the logits: it goes into their queries.
    own: Any = RSTGConv(width, width, form="paper").to(device)
    own.load_state_dict(conv.state_dict())
    with torch.no_grad():
        own.attend.lin_query.weight.mul_(scale)
        own.attend.lin_query.bias.mul_(scale)

    def flat(module: torch.nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: module(x.flatten(0, 1), batch).view(x.shape)

    def static(x: Tensor) -> Tensor:
        return conv(x, edge_index)

    def masked(x: Tensor) -> Tensor:
        return dense(x, adjacency)

    textbook = baselines.Textbook(own)
    found = [Variant(TEXTBOOK, flat(textbook), textbook)]
    if case.frames * nodes * nodes * 2 * width <= MOST_PAIRS:
        pairs = baselines.AllPairs(own, edge_index, nodes)
        found += [
            Variant(ALL_PAIRS, pairs, pairs),
            Variant("dense twin, split first layer, plain", masked, dense, context=plain_paths),
            Variant("dense twin, split first layer", masked, dense),
        ]
    found += [
        Variant("RSTGConv, plain path", static, conv, context=plain_paths),
        Variant("RSTGConv, block-diagonal batch", flat(conv), conv),
        Variant(OURS, static, conv),
    ]
    if device == "cpu":  # separates the effect of the blocks from that of oneDNN's products
        without = partial(torch.backends.mkldnn.flags, enabled=False)
        found.append(Variant("RSTGConv, one function, products by mm", static, conv, context=without))
    if compiled:
        call = torch.compile(static, fullgraph=True)
        found.append(Variant("RSTGConv, torch.compile", call, conv))
        if device == "cuda":
            call = torch.compile(static, fullgraph=True, mode="reduce-overhead")
            found.append(Variant("RSTGConv, torch.compile, captured", call, conv))
    for layer in (GATv2Conv, TransformerConv):
        other = layer(width, width).to(device)
        found.append(Variant(f"{layer.__name__} per frame {_OTHER}", flat(other), other, same=False))
    return x, found


def whole_variants(
    case: Case, compiled: bool = False, device: str = "cpu"
) -> tuple[Tensor, list[Variant]]:
    """The input ``[B, T, N, C]`` of the complete RSTG, and the variants."""
    torch.compiler.reset()
    torch.manual_seed(0)
    edge_index, nodes = case.graph()
    edge_index, width = edge_index.to(device), case.channels
    model = RSTG(width, width, form="paper").to(device)
    x = torch.randn(case.batch, case.frames, nodes, width).to(device)
    published = baselines.FrameByFrame(model, edge_index, nodes).to(device)
    recurrent = baselines.GraphLSTM(width).to(device)
    layer = torch.nn.TransformerEncoderLayer(
        width, 8, 4 * width, dropout=0.0, activation="gelu", batch_first=True
    ).to(device)

    def on_graph(module: Callable) -> Callable[[Tensor], Tensor]:
        return lambda x: module(x, edge_index)

    def attend(x: Tensor) -> Tensor:
        return layer(x.flatten(1, 2)).view(x.shape)

    found = [
        Variant(LOOP, published, published),
        Variant("RSTG, plain path", on_graph(model), model, context=plain_paths),
        Variant(WHOLE, on_graph(model), model),
    ]
    if compiled:
        call = torch.compile(on_graph(model))  # not the LSTM
        found.append(Variant("RSTG, torch.compile", call, model))
        if device == "cuda":
            sample = (x.clone().requires_grad_(), edge_index)
            graph: Any = torch.cuda.make_graphed_callables(copy.deepcopy(model), sample)
            found.append(Variant("RSTG, CUDA graph", on_graph(graph), graph))
    return x, [
        *found,
        Variant(f"GConvLSTM-style loop {_OTHER}", on_graph(recurrent), recurrent, same=False),
        Variant(f"space-time attention layer {_OTHER}", attend, layer, same=False),
    ]


def published_variants(case: Case, device: str = "cpu") -> tuple[Tensor, list[Variant]]:
    """What the published code runs: its graph with positions and norms on all pairs. As a whole, the
    SyncMNIST network on clips ``[B, 1, T, 64, 64]`` (as many filters as channels in the graph); with
    ``topology="complete"`` the graph alone, on maps ``[B, C, T, 6, 6]``.
    """
    torch.manual_seed(0)
    width, alone = case.channels, case.topology == "complete"
    arguments = published_arguments(first_batch_norm=not alone)
    block = RSTGBlock(width, scales=case.scales, to="vec", **arguments)
    loop = baselines.PublishedBlock(block)
    model: Any = block
    published: Any = loop
    size: tuple[int, ...] = (width, case.frames, 6, 6)
    if not alone:
        size = (1, case.frames, 64, 64)
        model = VideoClassifier(SimpleConv(1, [width] * 3), 46, head=block)
        published = torch.nn.Sequential(model.backbone, loop, model.lin)
    model.to(device)
    published.to(device)
    half = partial(torch.autocast, device, torch.bfloat16)
    return torch.randn(case.batch, *size, device=device), [
        Variant(LOOP, published, published),
        Variant("RSTG, plain path", model, model, context=plain_paths),
        Variant(WHOLE, model, model),
        Variant("RSTG, bfloat16", model, model, same=False, context=half),
    ]


def networks(quick: bool, device: str = "cpu") -> dict[str, tuple[Tensor, dict[str, torch.nn.Module]]]:
    """Clips and networks for them, without a graph and with one: a small network of the size of
    smt.yaml's demo with the graph on its last map, and I3D with graphs after two stages.
    """
    torch.manual_seed(0)
    graphs: dict[str, Callable] = {
        "RSTG (default, one round)": RSTG,
        "RSTG of the paper (three rounds)": partial(RSTG, form="paper"),
        "transformer layer over all nodes of all frames": baselines.NodeTransformer,
    }
    for layer in (TransformerConv, GATv2Conv):
        name = f"{layer.__name__} in each frame, then LSTM"
        graphs[name] = partial(baselines.FramesThenLSTM, layer)
    small: dict[str, torch.nn.Module] = {}
    small["nothing (mean over time)"] = VideoClassifier(SimpleConv(3, (16, 32, 64), padding=1), 20)
    for name, graph in graphs.items():
        head = RSTGBlock(64, to="vec", graph=graph)
        small[name] = VideoClassifier(SimpleConv(3, (16, 32, 64), padding=1), 20, head=head)
    large: dict[str, torch.nn.Module] = {"nothing": VideoClassifier(i3d_resnet50(), 174)}
    for name in list(graphs)[:3]:
        after: Any = {"res3": 512, "res4": 1024}
        blocks = {k: RSTGBlock(c, hidden_channels=512, graph=graphs[name]) for k, c in after.items()}
        large[f"{name}, after res3 and res4"] = VideoClassifier(i3d_resnet50(), 174, blocks=blocks)
    frames, size = (8, 64) if quick else (32, 224)
    clips = 8 if device == "cuda" else 1
    found = {
        f"small network, {32 * clips} clips of 8 x 48 x 48": (
            torch.randn(32 * clips, 3, 8, 48, 48, device=device),
            small,
        ),
        f"I3D-ResNet-50, {clips} clip of {frames} x {size} x {size}": (
            torch.randn(clips, 3, frames, size, size, device=device),
            large,
        ),
    }
    for _, models in found.values():
        for model in models.values():
            model.to(device)
    return found


def inception_networks(
    quick: bool, device: str = "cpu"
) -> dict[str, tuple[Tensor, dict[str, torch.nn.Module]]]:
    """A clip and networks of Inception's form for it; torchvision's is the first."""
    torch.manual_seed(0)
    models: dict[str, torch.nn.Module] = {
        name: VideoClassifier(backbone, 174, head=WindowMean(1024)).to(device)
        for name, backbone in (
            ("torchvision's s3d", TorchvisionVideo("s3d")),
            ("S3D-G", s3dg()),
            ("I3D (Inception)", inception_i3d()),
        )
    }
    frames, size = (16, 64) if quick else (16, 224)
    clip = torch.randn(1, 3, frames, size, size, device=device)
    return {f"one clip of {frames} x {size} x {size}": (clip, models)}
