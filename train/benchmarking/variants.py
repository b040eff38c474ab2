"""The ways to compute each case of the benchmark, and the networks whose training steps it times."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import ModuleType
from unittest.mock import patch

import torch
from torch import Tensor

from rstg_pyg import RSTG, DenseRSTGConv, RSTGBlock, RSTGConv, VideoClassifier
from rstg_pyg.backbones import SimpleConv, i3d_resnet50
from rstg_pyg.fast import linear, messages, space
from rstg_pyg.fast.autograd import plain_paths
from rstg_pyg.train.benchmarking import baselines
from rstg_pyg.train.benchmarking.cases import Case
from rstg_pyg.train.benchmarking.measuring import CPU

#: Names that the pages look for.
ALL_PAIRS, TEXTBOOK = "all pairs, concatenated", "textbook MessagePassing"
OURS, OURS_MM = "RSTGConv, static", "RSTGConv, one function, products by mm"
LOOP, WHOLE = "published: loop over frames, all pairs", "RSTG"

#: Largest tensor of pairs that the dense forms may build, in numbers (1 GiB of float32).
MOST_PAIRS = 2**28


@dataclass
class Variant:
    """One way to compute a case."""

    name: str
    forward: Callable[[Tensor], Tensor]  # from and to the layout of the case
    parameters: list[torch.nn.Parameter]
    same: bool = True  # whether it computes the same function
    context: Callable[[], AbstractContextManager] = nullcontext  # around forward and backward


def _block_diagonal(edge_index: Tensor, nodes: int, copies: int) -> Tensor:
    shift = nodes * torch.arange(copies, device=edge_index.device)
    return (edge_index.unsqueeze(1) + shift.view(1, -1, 1)).flatten(1)


def stage_variants(
    case: Case, compiled: bool = False, device: torch.device = CPU
) -> tuple[Tensor, list[Variant]]:
    """The input ``[frames, N, C]`` of a space stage, and the variants."""
    if compiled:
        torch.compiler.reset()  # what other cases compiled does not count against a limit
    torch.manual_seed(0)
    edge_index, nodes = case.graph()
    edge_index = edge_index.to(device)
    kind = getattr(torch, case.dtype)
    scale = case.channels**-0.5
    conv = RSTGConv(case.channels, case.channels, attention_scale=scale).to(device, kind)
    x = torch.randn(case.frames, nodes, case.channels).to(device, kind)
    batch = _block_diagonal(edge_index, nodes, case.frames)
    dense = DenseRSTGConv(case.channels, case.channels, attention_scale=scale).to(device, kind)
    dense.load_state_dict(conv.state_dict())
    adjacency = torch.zeros(nodes, nodes, device=device)
    adjacency[edge_index[1], edge_index[0]] = 1.0

    def flat(module: Callable) -> Callable[[Tensor], Tensor]:
        return lambda x: module(x.flatten(0, 1), batch).view(x.shape)

    # The baselines have no factor on the logits: it goes into their queries.
    own = RSTGConv(case.channels, case.channels).to(device, kind)
    own.load_state_dict(conv.state_dict())
    with torch.no_grad():
        own.attend.lin_query.weight.mul_(scale)
        own.attend.lin_query.bias.mul_(scale)

    def static(x: Tensor) -> Tensor:
        return conv(x, edge_index)

    found = []

    def add(name: str, forward: Callable, module: torch.nn.Module, **kwargs) -> None:
        found.append(Variant(name, forward, list(module.parameters()), **kwargs))

    if case.frames * nodes * nodes * 2 * case.channels <= MOST_PAIRS:
        pairs = baselines.AllPairs(own, edge_index, nodes)
        add(ALL_PAIRS, pairs, pairs)
        add("dense twin, split first layer, plain", lambda x: dense(x, adjacency), dense,
            context=plain_paths)  # fmt: skip
        add("dense twin, split first layer", lambda x: dense(x, adjacency), dense)
    textbook = baselines.Textbook(own)
    add(TEXTBOOK, flat(textbook), textbook)
    if importlib.util.find_spec("torch_scatter") is not None:
        scatter = baselines.TextbookScatter(own)
        add("textbook with torch-scatter", flat(scatter), scatter)
    add("RSTGConv, plain path", static, conv, context=plain_paths)
    if device.type == "cpu":
        add(OURS_MM, static, conv, context=_mm)
    add("RSTGConv, block-diagonal batch", flat(conv), conv)
    add(OURS, static, conv)
    if compiled:
        add("RSTGConv, torch.compile", torch.compile(static, fullgraph=True), conv)
        if device.type == "cuda":
            captured = torch.compile(static, fullgraph=True, mode="reduce-overhead")
            add("RSTGConv, torch.compile, captured", captured, conv)
    for name in ("GATv2Conv", "TransformerConv"):
        other = baselines.per_frame(name, case.channels).to(device, kind)
        add(f"{name} per frame (another function)", flat(other), other, same=False)
    return x, found


def switch_variants(case: Case, device: torch.device = CPU) -> tuple[Tensor, list[Variant]]:
    """The input of a space stage, and our layer with one optimization of its fast path changed each."""
    x, found = stage_variants(case, device=device)
    textbook = next(v for v in found if v.name == TEXTBOOK)
    ours = next(v for v in found if v.name == OURS)

    def changed(name: str, context: Callable[[], AbstractContextManager]) -> Variant:
        return replace(ours, name=name, context=context)

    def constant(module: ModuleType, name: str, value: int) -> Callable[[], AbstractContextManager]:
        return lambda: patch.object(module, name, value)

    return x, [
        textbook,
        changed("plain path: first send layer per node", plain_paths),
        ours,
        changed("blocks of 2,048 rows", constant(messages, "BLOCK_ROWS", 2048)),
        changed("one block", constant(messages, "BLOCK_ROWS", 2**40)),
        changed("logits edge by edge", constant(messages, "PAIRS_PER_EDGE", 0)),
        changed("products by torch.mm", _mm),
        changed("gradients of narrow weights by oneDNN, too", constant(linear, "LONG", 2**40)),
        changed("fast path for small graphs, too", constant(space, "LEAST_WORK", 0)),
    ]


def _mm() -> AbstractContextManager:
    """Products by ``torch.mm``: tells what the blocks do from what oneDNN does."""
    return torch.backends.mkldnn.flags(enabled=False)


def whole_variants(
    case: Case, compiled: bool = False, device: torch.device = CPU
) -> tuple[Tensor, list[Variant]]:
    """The input ``[B, T, N, C]`` of the whole RSTG, and the variants."""
    if compiled:
        torch.compiler.reset()
    torch.manual_seed(0)
    edge_index, nodes = case.graph()
    edge_index = edge_index.to(device)
    model = RSTG(case.channels, case.channels).to(device)
    x = torch.randn(case.batch, case.frames, nodes, case.channels).to(device)
    published = baselines.FrameByFrame(model, edge_index, nodes).to(device)
    loop = baselines.GraphLSTM(case.channels).to(device)
    attention = baselines.SpaceTimeAttention(case.channels).to(device)

    def run(x: Tensor) -> Tensor:
        return model(x, edge_index)

    found = []

    def add(name: str, forward: Callable, module: torch.nn.Module, **kwargs) -> None:
        found.append(Variant(name, forward, list(module.parameters()), **kwargs))

    add(LOOP, published, published)
    add("RSTG, plain path", run, model, context=plain_paths)
    add(WHOLE, run, model)
    if compiled:
        add("RSTG, torch.compile", torch.compile(run), model)  # leaves the LSTM as it is
        if device.type == "cuda":
            sample = (x.clone().requires_grad_(), edge_index)
            graph = torch.cuda.make_graphed_callables(copy.deepcopy(model), sample)
            add("RSTG, CUDA graph", lambda x: graph(x, edge_index), graph)
    other = "(another function)"
    add(f"GConvLSTM-style loop {other}", lambda x: loop(x, edge_index), loop, same=False)
    add(f"space-time attention layer {other}", attention, attention, same=False)
    return x, found


def networks(quick: bool, device: torch.device = CPU) -> dict[str, tuple[torch.nn.Module, Tensor]]:
    """Whole networks and their clips: RSTG on a small network, I3D, and I3D with RSTG."""
    frames, size = (8, 64) if quick else (32, 224)
    clips = 8 if device.type == "cuda" else 1

    def backbone() -> torch.nn.Module:
        torch.manual_seed(0)
        return i3d_resnet50()

    blocks = {"res3": RSTGBlock(512), "res4": RSTGBlock(1024, hidden_channels=512)}
    filters = (32, 64, 64)
    small = VideoClassifier(SimpleConv(1, filters), 46, head=RSTGBlock(filters[-1], to="vec"))
    clip, digits = torch.randn(clips, 3, frames, size, size), torch.randn(4 * clips, 1, 10, 64, 64)
    found = {
        "SimpleConv + RSTG": (small, digits),
        "I3D": (VideoClassifier(backbone(), 174), clip),
        "I3D + RSTG (res3, res4)": (VideoClassifier(backbone(), 174, blocks=blocks), clip),
    }
    return {name: (model.to(device), x.to(device)) for name, (model, x) in found.items()}
