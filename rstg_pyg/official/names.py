"""Maps variables of the published code to tensors of our modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from rstg_pyg.backbones.conv import FrozenBatchNorm
from rstg_pyg.backbones.resnet import Bottleneck, NonLocalBlock, Stem, VideoResNet
from rstg_pyg.backbones.simple_conv import SimpleConv
from rstg_pyg.block import RSTGBlock
from rstg_pyg.classifier import VideoClassifier
from rstg_pyg.norm import ChannelBatchNorm, JointLayerNorm, ZeroInitNorm
from rstg_pyg.published import BiasReLU

#: A tensor of our module by its key in the ``state_dict``, and optionally a range of its rows.
Part = tuple[str, slice | None]


@dataclass(frozen=True)
class Variable:
    """A variable of the published code, and our tensors that correspond to it.

    Attributes:
        name: The TensorFlow name.
        parts: Our tensors, in their order.
        kind: ``"plain"``: unchanged. ``"kernel"``: ``[1, ..., k, ..., in, out]`` there, ``[out, in, k,
            ...]`` here, with several tensors concatenated along ``in``. ``"flat"``: all tensors
            flattened and concatenated.
        ones: Number of leading dimensions of size 1 that a kernel has there.
    """

    name: str
    parts: tuple[Part, ...]
    kind: str = "plain"
    ones: int = 0

    def to_published(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The published variable from tensors of ours (weights, gradients, ...)."""
        found = [tensors[key] if rows is None else tensors[key][rows] for key, rows in self.parts]
        if self.kind == "flat":
            return torch.cat([part.reshape(-1) for part in found])
        joined = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        if self.kind == "kernel":
            joined = joined.permute(*range(2, joined.dim()), 1, 0)
            joined = joined.reshape((1,) * self.ones + tuple(joined.shape))
        return joined

    @torch.no_grad()
    def from_published(self, value: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Writes a published value into tensors of ours, in place."""
        targets = [tensors[key] if rows is None else tensors[key][rows] for key, rows in self.parts]
        if self.kind == "flat":
            pieces = value.split([target.numel() for target in targets])
        elif self.kind == "kernel":
            value = value.reshape(value.shape[self.ones :])
            value = value.permute(-1, -2, *range(value.dim() - 2))
            pieces = value.split([target.size(1) for target in targets], dim=1)
        else:
            pieces = [value]
        for target, piece in zip(targets, pieces, strict=True):
            target.copy_(piece.reshape(target.shape))


def model_variables(model: VideoClassifier) -> list[Variable]:
    """All variables of a complete network.

    Raises:
        ValueError: If the network is not in the published form.
    """
    backbone = model.backbone
    if isinstance(backbone, SimpleConv):
        tower, stage_scope, after = "tower/", "", None
        variables = [v for name in backbone.stages for v in _conv_stage(name)]
    elif isinstance(backbone, VideoResNet):
        is_c2d = all(set(kernels) == {1} for kernels in backbone.temporal_kernels)
        tower = f"tower/resnet_{'c2d' if is_c2d else 'i3d'}/"
        stage_scope, after = "backbone/", "" if is_c2d else "{place}_"
        variables = [
            v
            for name, stage in backbone.stages.items()
            for v in _residual_stage(name, stage, f"backbone.stages.{name}.", f"{tower}backbone/")
        ]
    else:
        raise ValueError(f"Expected a published backbone (got {type(backbone).__name__})")
    places = [(f"blocks.{place}.", place, stage_scope, block) for place, block in model.blocks.items()]
    if model.head is not None:
        places.append(("head.", "final", "", model.head))
    for key, place, scope, module in places:
        block = cast(RSTGBlock, module)
        variables += graph_variables(block, key, f"{tower}{scope}whole_graph_model_{place}/")
        if block.norm is not None:
            if after is None:
                raise ValueError("Expected no norm after the graph with SimpleConv (published form)")
            variables += _after_graph(block.norm, key, f"{tower}{scope}{after.format(place=place)}")
    variables += _linear("lin.", f"{tower}pred/", 3)
    return variables


def graph_variables(block: RSTGBlock, key: str, scope: str) -> list[Variable]:
    """The variables of a graph, without the norm after it.

    Args:
        block: The block, in the form of :func:`~rstg_pyg.published.published_arguments`.
        key: The prefix of its keys in the ``state_dict``.
        scope: The prefix of its names in the published code.

    Raises:
        ValueError: If the block is not in the published form.
    """
    rstg: Any = block.rstg
    after_aggr = rstg.convs[0].after_aggr if len(rstg.convs) == 1 else None
    if (
        (block.topology, rstg.form, rstg.residual, rstg.cell) != ("complete", "paper", False, "lstm")
        or after_aggr is None
        or rstg.last_cell is None
    ):
        raise ValueError(
            "Expected a graph in the published form (one space stage and one cell for all rounds, one "
            "more cell at the end, no residual path, complete topology): build it with "
            "rstg_pyg.published_arguments, or set model.rstg.published: true in the config"
        )
    if not isinstance(after_aggr.module, BiasReLU):
        raise ValueError("Expected BiasReLU as 'after_aggr' (published form)")
    conv = rstg.convs[0]
    if conv.send.lin_dst.bias is None or len(conv.send.lins) != 1:
        raise ValueError("Expected two send layers, and biases in all layers (published form)")
    if conv.heads > 1 and conv.attention != "dot":
        raise ValueError(f"Expected dot attention with {conv.heads} heads (published form)")
    if getattr(conv.attend, "scale", 1.0) != 1.0:
        raise ValueError(
            f"Expected 'attention_scale' to be 1 (published form; got {conv.attend.scale})"
        )
    out: list[Variable] = []
    if rstg.lin_in is not None:
        out += _linear(f"{key}rstg.lin_in.", f"{scope}project_i3d/", 0)
    out += _before_graph(rstg, key, scope)
    if len(rstg.cells) == 1:
        out += _lstm(f"{key}rstg.cells.0.", f"{scope}cudnn_lstm/")
    out += _space(rstg.convs[0], f"{key}rstg.convs.0.", scope, block.typed_update)
    out += _lstm(f"{key}rstg.last_cell.", f"{scope}time_update_extern/cudnn_lstm/")
    if block.lin_out is not None:
        out += _linear(f"{key}lin_out.", f"{scope}project_back_to_i3d/", 0)
    return out


def _space(conv, key: str, scope: str, typed: bool) -> Iterator[Variable]:
    """Send, attention and update; update names have a type suffix also if there is only one scale."""
    send = f"{scope}send_messages_mlp/"
    nodes = ("lin_src", "lin_pos_src", "lin_dst", "lin_pos_dst")  # sender first
    blocks = [name for name in nodes if getattr(conv.send, name) is not None]
    parts = tuple((f"{key}send.{name}.weight", None) for name in blocks)
    yield Variable(f"{send}send_conv1/kernel", parts, "kernel", 2)
    yield Variable(f"{send}send_conv1/bias", ((f"{key}send.lin_dst.bias", None),))
    for i in range(len(conv.send.lins)):
        yield from _linear(f"{key}send.lins.{i}.", f"{send}send_conv{i + 2}/", 2)
    if conv.message_norm is not None:
        yield from _norm(conv.message_norm.module, f"{key}message_norm.module.", f"{send}message")

    additive = conv.attention == "additive"
    attention = "my_attn/" if additive else "dot_product_attn/"
    width = conv.hidden_channels // conv.heads
    for h in range(conv.heads):
        rows = slice(h * width, (h + 1) * width) if conv.heads > 1 else None
        head = f"{scope}attention_head{h}/" if conv.heads > 1 else scope
        if conv.heads > 1:
            yield from _linear(f"{key}lin_value.", f"{head}messages_proj/", 2, rows)
        yield from _linear(f"{key}attend.lin_query.", f"{head}{attention}att_conv1/", 1, rows)
        yield from _linear(f"{key}attend.lin_key.", f"{head}{attention}att_conv2/", 1, rows)
        bias = (f"{key}after_aggr.module.bias", rows)
        yield Variable(f"{head}{attention}att_bias/biases", (bias,))
    if conv.after_aggr.module.norm is not None:
        norm = conv.after_aggr.module.norm
        yield from _norm(norm, f"{key}after_aggr.module.norm.", f"{scope}{attention}att")

    update = f"{scope}update_node_mlp{'_' if typed else ''}/"
    for i, layer in enumerate(conv.update_mlp.lins):
        for q in range(len(layer.lins)):
            name = f"update_conv{i + 1}{f'_type{q + 1}' if typed else ''}/"
            yield from _linear(f"{key}update_mlp.lins.{i}.lins.{q}.", update + name, 1)
    if conv.update_norm is not None:
        yield from _norm(conv.update_norm.module, f"{key}update_norm.module.", f"{update}update")


def _before_graph(rstg, key: str, scope: str) -> Iterator[Variable]:
    """The norms before the graph: an extra batch norm, or the graph's own norm, or both."""
    if rstg.in_norm is not None and not isinstance(rstg.in_norm, torch.nn.Sequential):
        raise ValueError(
            f"Expected 'in_norm' as published_arguments makes it (got {type(rstg.in_norm).__name__})"
        )
    norms = [] if rstg.in_norm is None else list(rstg.in_norm)
    has_own = rstg.convs[0].message_norm is not None
    for i, norm in enumerate(norms):
        inner = f"{key}rstg.in_norm.{i}."
        if has_own and i == len(norms) - 1:
            yield from _norm(norm, inner, f"{scope}before_graf")
        else:
            yield from _affine(inner, f"{scope}batch_normalization/", statistics=True)


def _after_graph(norm: torch.nn.Module, key: str, scope: str) -> Iterator[Variable]:
    if isinstance(norm, ZeroInitNorm):
        yield Variable(f"{scope}after_graph_ln/beta", ((f"{key}norm.bias", None),))
        yield Variable(f"{scope}after_graph_ln_scale", ((f"{key}norm.scale", None),))
    else:
        yield from _norm(norm, f"{key}norm.", f"{scope}after_graph")


def _conv_stage(name: str) -> Iterator[Variable]:
    yield from _linear(f"backbone.stages.{name}.conv.", f"tower/{name}/conv2d/", 0)


def _residual_stage(name: str, stage, key: str, scope: str) -> Iterator[Variable]:
    if isinstance(stage, Stem):
        yield from _conv_bn(key, "conv.", "bn.", f"{scope}conv1/", f"{scope}res_conv1_bn/")
    elif isinstance(stage, Bottleneck):
        for i, branch in ((1, "2a"), (2, "2b"), (3, "2c")):
            there = f"{scope}{name}_branch{branch}"
            yield from _conv_bn(key, f"conv{i}.", f"bn{i}.", f"{there}/", f"{there}_bn/")
        if stage.shortcut is not None:
            there = f"{scope}{name}_branch1"
            yield from _conv_bn(key, "shortcut.0.", "shortcut.1.", f"{there}/", f"{there}_bn/")
    elif isinstance(stage, NonLocalBlock):
        there = f"{scope}nonlocal_conv{name.removeprefix('nonlocal')}_"
        for part in ("theta", "phi", "g", "out"):
            yield from _linear(f"{key}{part}.", f"{there}{part}/", 0)
        yield from _affine(f"{key}bn.", f"{there}bn/", statistics=True)


def _conv_bn(key: str, conv: str, bn: str, scope: str, bn_scope: str) -> Iterator[Variable]:
    yield Variable(f"{scope}kernel", ((f"{key}{conv}weight", None),), "kernel")
    yield from _affine(f"{key}{bn}", bn_scope, statistics=True)


def _linear(key: str, scope: str, ones: int, rows: slice | None = None) -> Iterator[Variable]:
    yield Variable(f"{scope}kernel", ((f"{key}weight", rows),), "kernel", ones)
    yield Variable(f"{scope}bias", ((f"{key}bias", rows),))


def _lstm(key: str, scope: str) -> Iterator[Variable]:
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    yield Variable(f"{scope}opaque_kernel", tuple((key + name, None) for name in names), "flat")


def _norm(norm: torch.nn.Module, key: str, prefix: str) -> Iterator[Variable]:
    if isinstance(norm, JointLayerNorm):
        yield from _affine(key, f"{prefix}_ln/", statistics=False)
    elif isinstance(norm, (ChannelBatchNorm, FrozenBatchNorm)):
        yield from _affine(key, f"{prefix}_bn/", statistics=True)
    else:
        raise ValueError(f"Expected a published norm (got {type(norm).__name__})")


def _affine(key: str, scope: str, statistics: bool) -> Iterator[Variable]:
    pairs = [("gamma", "weight"), ("beta", "bias")]
    if statistics:
        pairs += [("moving_mean", "running_mean"), ("moving_variance", "running_var")]
    for there, here in pairs:
        yield Variable(scope + there, ((key + here, None),))
