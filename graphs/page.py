"""A page for the browser that plays a clip or a signal and shows what each node attends to."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Short sides and JPEG qualities of frames, tried until all of them fit.
_PICTURES = ((480, 80), (400, 75), (320, 70), (240, 65), (200, 55), (160, 45))
_MOST_BYTES = 1_900_000  # of all frames; base64 makes four bytes of three
_MOST_CLASSES = 5
_MARGIN, _ASPECT = 0.08, 4 / 3  # around nodes without frames; least width to height


def attention_page(
    edge_index: Tensor,
    alpha: Tensor | Sequence[Tensor],
    pos: Tensor,
    *,
    region: Tensor | None = None,
    node_type: Tensor | None = None,
    names: Sequence[str] | None = None,
    type_names: Sequence[str] | None = None,
    frames: Tensor | None = None,
    steps: Sequence[int] | None = None,
    seconds: Sequence[float] | None = None,
    captions: Sequence[str] | None = None,
    probabilities: Tensor | None = None,
    classes: Sequence[str] = (),
    title: str = "Attention",
    subtitle: str = "",
) -> str:
    """A self-contained HTML page of the attention in a graph, for any layer that returns coefficients.

    The page plays the time steps. A click on a node shows whom it listens to and who listens to it, for
    every layer and head or their mean, compared with an even share (one divided by the number of
    neighbors); where a node has no preference, the page says so. It needs no network.

    Args:
        edge_index: Sources and targets of the edges ``[2, E]``, the same in all time steps.
        alpha: The coefficients of each layer (or round), ``[T, E, heads]`` or ``[E, heads]``,
            as from ``return_attention_weights=True``. Those of the edges into one node sum to one; a
            neighbor with zero in all layers and heads is absent in this step.
        pos: Where the nodes are, x and y (downwards): ``[N, 2]``, or ``[T, N, 2]`` if they move. On
            frames, fractions of width and height; without, in any unit.
        region: Corners ``(x0, y0, x1, y1)`` of the nodes' regions, fractions of the frame, ``[N, 4]``.
            (default: nodes are points)
        node_type: The type or scale of each node, ``[N]``. (default: all 0)
        names: A name for each node. (default: numbers)
        type_names: A name for each type. (default: numbers)
        frames: Pictures ``[F, H, W, 1 or 3]`` uint8. They are made smaller until all together take less
            than 2 MB. Needs Pillow. (default: none, and ``F = T``)
        steps: The frame of each time step, ``[T]``, increasing. (default: spread evenly)
        seconds: When each frame is shown, ``[F]``. (default: four a second)
        captions: A caption for each frame, ``[F]``. (default: its number and seconds)
        probabilities: Of the classes, after each step ``[T, classes]`` or at the end ``[classes]``.
            The five that are most likely at the end are shown.
        classes: The classes' names.
        title: The title.
        subtitle: A line below it.

    Returns:
        The page, to be written as UTF-8.

    Raises:
        ValueError: If shapes do not fit, or the coefficients into a node do not sum to one.
        ImportError: If there are frames and Pillow is missing.

    Example:
        >>> grid, conv = multiscale_grid((3, 2, 1)), RSTGConv(16, 16, heads=2)
        >>> x = torch.randn(14, 16)
        >>> _, (edges, alpha) = conv(x, grid.edge_index, return_attention_weights=True)
        >>> page = attention_page(edges, alpha, grid.pos)
        >>> page.splitlines()[0]
        '<!doctype html>'
    """
    layers = [alpha] if isinstance(alpha, Tensor) else list(alpha)
    layers = [
        a.detach().float().cpu()[None] if a.dim() == 2 else a.detach().float().cpu() for a in layers
    ]
    edge_index, pos = edge_index.cpu(), pos.detach().double().cpu()
    pos = pos[None] if pos.dim() == 2 else pos
    count, edges, num_nodes = len(layers[0]) if layers else 0, edge_index.size(-1), pos.size(1)
    if edges and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < num_nodes:
        raise ValueError(f"Expected 'edge_index' from 0 to {num_nodes - 1} (got {edge_index.max()})")
    for a in layers:
        if a.dim() != 3 or a.size(1) != edges:
            found = list(a.squeeze(0).shape) if a.size(0) == 1 else list(a.shape)
            raise ValueError(
                f"Expected 'alpha' to have shape [T, {edges}, heads] or [{edges}, heads] (got "
                f"{found}); a mean over heads needs a last dimension, 'alpha.unsqueeze(-1)'"
            )
        _expect("alpha", a, [count, edges, a.size(-1)])
        _check_sums(edge_index[1], a, num_nodes)
    _expect("edge_index", edge_index, [2, edges])
    _expect("pos", pos, [count if len(pos) > 1 else 1, num_nodes, 2])
    num_frames = count if frames is None else len(frames)
    types = [0] * num_nodes if node_type is None else node_type.tolist()
    steps = [(2 * t + 1) * num_frames // (2 * count) for t in range(count)] if steps is None else steps
    seconds = [i / 4 for i in range(num_frames)] if seconds is None else seconds
    if captions is None:
        captions = [f"{i} of {num_frames}, {second:.2f} s" for i, second in enumerate(seconds, 1)]
    names = [f"node {i}" for i in range(num_nodes)] if names is None else names
    type_names = [f"type {i}" for i in range(max(types) + 1)] if type_names is None else type_names
    shares = torch.zeros(0, 0) if probabilities is None else probabilities.detach().double().cpu()
    shares = shares[None] if shares.dim() == 1 else shares
    for name, values, length in (
        ("node_type", types, num_nodes),
        ("names", names, num_nodes),
        ("type_names", type_names, max(types) + 1),
        ("steps", steps, count),
        ("seconds", seconds, num_frames),
        ("captions", captions, num_frames),
        ("probabilities", shares, len(shares) if len(shares) < 2 else count),
        ("classes", classes, shares.size(1)),
        ("region", [] if region is None else region, 0 if region is None else num_nodes),
    ):
        if len(values) != length:
            raise ValueError(f"Expected {length} entries of '{name}' (got {len(values)})")
    if count and not 0 <= min(steps) <= max(steps) < num_frames:
        raise ValueError(f"Expected 'steps' from 0 to {num_frames - 1} (got {list(steps)})")
    best = shares[-1].argsort(descending=True)[:_MOST_CLASSES].tolist() if len(shares) else []
    data = {
        "title": title,
        "subtitle": subtitle,
        "source": _encoded(edge_index[0].numpy().astype("<u4").tobytes()),
        "target": _encoded(edge_index[1].numpy().astype("<u4").tobytes()),
        "layers": [{"heads": a.size(-1), "alpha": _encoded(_quantized(a))} for a in layers],
        "pos": _rounded(pos),
        "bounds": _bounds(pos) if frames is None else {"x0": 0, "y0": 0, "width": 1, "height": 1},
        "aspect": 1 if frames is None else frames.size(2) / frames.size(1),
        "regions": None if region is None else _rounded(region),
        "types": types,
        "names": list(names),
        "typeNames": list(type_names),
        "frames": [] if frames is None else [_encoded(jpeg) for jpeg in _jpegs(frames)],
        "steps": [int(step) for step in steps],
        "seconds": [round(float(value), 4) for value in seconds],
        "captions": list(captions),
        "classes": [classes[i] for i in best],
        "probabilities": _rounded(shares[:, best]) if best else [],
    }
    folder = resources.files("rstg_pyg.graphs")
    page = (folder / "page.html").read_text("utf-8").replace("{{title}}", html.escape(title), 1)
    before, after = page.rsplit("{{data}}", 1)
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return before + text + after.replace("{{script}}", (folder / "page.js").read_text("utf-8"))


def _expect(name: str, values: Tensor, shape: list[int]) -> None:
    if list(values.shape) != shape:
        raise ValueError(f"Expected '{name}' to have shape {shape} (got {list(values.shape)})")


def _check_sums(target: Tensor, alpha: Tensor, num_nodes: int) -> None:
    sums = alpha.new_zeros(alpha.size(0), num_nodes, alpha.size(2)).index_add_(1, target, alpha)
    wrong = ~((sums - 1).abs().le(0.01) | (sums == 0))
    if wrong.any():
        step, node, head = wrong.nonzero()[0].tolist()
        found = float(sums[step, node, head])
        raise ValueError(
            f"Expected 'alpha' to sum to 1 over the edges into a node (got {found:.3g} for node {node} "
            f"in step {step}, head {head})"
        )


def _quantized(alpha: Tensor) -> bytes:
    """Coefficients as 16-bit numbers, rounded up, so that only zero becomes zero."""
    return np.ceil(alpha.clamp(max=1).numpy() * 65535).astype("<u2").tobytes()


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _rounded(values: Tensor) -> Any:
    return np.round(values.double().cpu().numpy(), 5).tolist()


def _bounds(pos: Tensor) -> dict[str, float]:
    """What is shown of the plane: all nodes, a margin, and at least the least aspect."""
    low, high = pos.flatten(0, 1).min(dim=0).values, pos.flatten(0, 1).max(dim=0).values
    x0, y0, width, height = *low.tolist(), *(high - low).tolist()
    most = max(width, height) or 1.0
    tall = max(height, most / 3) + 2 * _MARGIN * most
    wide = max(width + 2 * _MARGIN * most, _ASPECT * tall)
    return {
        "x0": x0 - (wide - width) / 2, "y0": y0 - (tall - height) / 2, "width": wide, "height": tall,
    }  # fmt: skip


def _jpegs(frames: Tensor) -> list[bytes]:
    """Frames as JPEGs, as large and good as fits."""
    try:
        from PIL import Image
    except ImportError as e:
        raise ImportError('Frames need Pillow: pip install "rstg_pyg[plot]"') from e
    if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.size(3) not in (1, 3):
        raise ValueError(
            f"Expected 'frames' to be uint8 [F, H, W, 1 or 3] (got {frames.dtype}, "
            f"{list(frames.shape)})"
        )
    height, width = frames.shape[1:3]
    pictures = [Image.fromarray(frame.expand(-1, -1, 3).cpu().numpy()) for frame in frames]
    for side, quality in _PICTURES:
        factor = min(1.0, side / min(height, width))
        size = (max(1, math.ceil(width * factor)), max(1, math.ceil(height * factor)))
        jpegs: list[bytes] = []
        for picture in pictures:
            file = io.BytesIO()
            picture.resize(size).save(file, "JPEG", quality=quality, optimize=True)
            jpegs.append(file.getvalue())
            if sum(map(len, jpegs)) > _MOST_BYTES:
                break
        else:
            break
    if len(jpegs) < len(pictures):
        raise ValueError(f"Expected fewer frames: a page holds 2 MB of them (got {len(pictures)})")
    return jpegs
