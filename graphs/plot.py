"""Pictures of grids and of what their nodes attend to, with matplotlib (imported when drawing)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colors of attention that is received, of arrows to those that listen, and from those listened to.
RECEIVED, HEARD, LISTENS = "#ffd400", "#4fc3ff", "#ff6ab8"
#: Opacity of the largest attention over the picture.
TINT = 0.6
#: Attention is called a preference from so many even shares on.
PREFERS = 1.1
TIMES = "\N{MULTIPLICATION SIGN}"

_SHEETS = ("#4a6d8c", "#c8553d", "#7a9e5f", "#b08a3e", "#8a6fa0")  # one color per scale
_INK = "#1a1a1a"
#: How :func:`plot_grid` draws a frame: horizontal shear, height, distance between sheets.
_SHEAR, _FLAT, _APART = 0.45, 0.5, 0.85


def _new_axes(width: float, height: float) -> Axes:
    """The axes of a new figure, without a window."""
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError('Pictures need matplotlib: pip install "rstg_pyg[plot]"') from e
    return Figure((width, height), dpi=130, facecolor="white", layout="constrained").subplots()


def _check_grid(grid: Any) -> None:
    missing = [
        name for name in ("region", "node_type", "edge_index") if getattr(grid, name, None) is None
    ]
    if missing:
        raise ValueError(
            f"Expected a graph from multiscale_grid (got one without {', '.join(missing)})"
        )


def plot_grid(grid: Any, ax: Axes | None = None, *, node: int | None = None) -> Axes:
    """Draws each scale as a sheet of regions, coarser scales above finer ones, with nodes and edges.

    Nodes are at the centers of their regions. Edges are drawn once for both directions; those with
    ``edge_weight`` 0 (see :func:`~rstg_pyg.graphs.complete_graph`) are not drawn.

    Args:
        grid: A graph of :func:`~rstg_pyg.graphs.multiscale_grid`, with any edges.
        ax: Where to draw. (default: the axes of a new figure, ``ax.figure``)
        node: A node to highlight: its region, its edges, and its positional heat map
            (``grid.pos_map``) on its sheet. (default: none)

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the graph is not a grid, or has no such node.

    Example:
        >>> plot_grid(multiscale_grid((3, 2, 1)), node=4).figure.savefig("grid.png")
    """
    _check_grid(grid)
    region, kind = grid.region.double().cpu().numpy(), grid.node_type.cpu().numpy()
    if node is not None and not 0 <= node < len(region):
        raise ValueError(f"Expected 'node' to be from 0 to {len(region) - 1} (got {node})")
    pairs = _pairs(grid)
    # With many nodes and edges all is finer, on a larger figure.
    fine = min(1.0, (14 / len(region)) ** 0.5)
    thin = min(1.0, (45 / max(1, len(pairs))) ** 0.5)
    larger = 1 / fine**0.6
    if ax is None:
        ax = _new_axes(4.2 * larger, (1.2 + 1.4 * (int(kind.max()) + 1)) * larger)
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Polygon

    for i, (x0, y0, x1, y1) in enumerate(region):
        corners = _project(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), kind[i])
        color = _SHEETS[kind[i] % len(_SHEETS)]
        opacity, linewidth = (0.35, 2.2) if i == node else (0.12, 0.9)
        ax.add_patch(Polygon(corners, color=color, alpha=opacity, zorder=1))
        ax.add_patch(Polygon(corners, fill=False, edgecolor=color, linewidth=linewidth, zorder=3))
    if node is not None and getattr(grid, "pos_map", None) is not None:
        side = round(grid.pos_map.size(1) ** 0.5)
        borders = np.linspace(0, 1, side + 1)
        mesh = _project(np.stack(np.meshgrid(borders, borders), axis=-1), kind[node])
        heat = np.ma.masked_equal(grid.pos_map[node].view(side, side).cpu().numpy(), 0)
        ax.pcolormesh(mesh[..., 0], mesh[..., 1], heat, cmap="YlOrRd", vmin=0, vmax=1, zorder=2)
    centers = np.stack([(region[:, 0] + region[:, 2]) / 2, (region[:, 1] + region[:, 3]) / 2], axis=1)
    places = np.stack([_project(center, k) for center, k in zip(centers, kind)])
    own = (pairs == node).any(1) if node is not None else np.zeros(len(pairs), bool)
    faint = np.where(kind[pairs[:, 0]] != kind[pairs[:, 1]], 0.45, 0.7) * thin**0.4
    color, linewidth, zorder = (_INK, 0.8, 5) if node is None else ("#bbbbbb", 0.5, 4)
    for shown, look in (
        (~own, dict(color=color, alpha=faint[~own], linewidth=linewidth * thin**0.5, zorder=zorder)),
        (own, dict(color=_INK, alpha=0.9, linewidth=1.3, zorder=5)),
    ):
        if shown.any():
            ax.add_collection(LineCollection(places[pairs[shown]], **look))
    colors = [_SHEETS[k % len(_SHEETS)] for k in kind]
    x, y = places.T
    ax.scatter(x, y, s=26 * fine, c=colors, edgecolors="white", linewidths=0.8 * fine, zorder=6)
    for k in np.unique(kind):
        rows, columns = (len(np.unique(region[kind == k][:, c].round(6))) for c in (1, 0))
        x, y = _project(np.array((0.0, 0.5)), k)
        ax.text(x - 0.08, y, f"{rows} {TIMES} {columns}", ha="right", va="center", color=_INK)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.autoscale_view()
    return ax


def _project(points: np.ndarray, kind: int) -> np.ndarray:
    """Frame coordinates ``[*, 2]`` (``y`` downwards) to coordinates of the drawing."""
    x, up = points[..., 0], 1 - points[..., 1]
    return np.stack([x + _SHEAR * up, _FLAT * up + _APART * kind], axis=-1)


def _pairs(grid: Any) -> np.ndarray:
    """Connected nodes, each pair once, ``[P, 2]``."""
    edges, weight = grid.edge_index, getattr(grid, "edge_weight", None)
    if weight is not None:
        edges = edges[:, weight != 0]
    low, high = edges.min(dim=0).values, edges.max(dim=0).values
    return torch.stack([low, high])[:, low != high].unique(dim=1).T.cpu().numpy()


def relative_attention(edge_index: Tensor, alpha: Tensor, num_nodes: int) -> Tensor:
    """The attention that every node receives, divided by what it would receive if every node attended
    to all its neighbors equally. 1 is uniform attention, so regions of different sizes can be compared.

    Args:
        edge_index: The edges ``[2, E]``.
        alpha: Their coefficients ``[*, E]``; those of the edges into one node sum to one.
        num_nodes: The number of nodes ``N``.

    Returns:
        ``[*, N]``
    """
    source, target = edge_index

    def by_source(values: Tensor) -> Tensor:
        return values.new_zeros(*values.shape[:-1], num_nodes).index_add_(-1, source, values)

    degree = target.bincount(minlength=num_nodes)
    even = by_source(1 / degree[target].to(alpha.dtype))
    return by_source(alpha) / even.clamp(min=1e-12)


def plot_attention(
    grid: Any,
    alpha: Tensor,
    picture: Tensor | None = None,
    ax: Axes | None = None,
    *,
    scale: int = 0,
    arrows: int = 3,
    most: float | None = None,
) -> Axes:
    """Draws the attention in one frame on the regions of one scale, over the picture.

    Regions that receive more attention than even shares would give them (:func:`relative_attention`
    above 1) are tinted yellow. The region of this scale that receives the most is outlined. Blue arrows
    go from it to the nodes that attend to it most, pink arrows come in from the nodes that it attends
    to most; thicker means more. Coefficients below 1.1 even shares (one divided by the number of
    neighbors) have no arrow. Where no region receives more than 1.1 even shares, it says
    "no preference".

    Args:
        grid: The graph, with ``region``, ``node_type`` and ``edge_index``.
        alpha: The coefficients of its edges ``[E]``, as from ``return_attention_weights=True`` (the
            mean over the heads).
        picture: The frame ``[H, W, 1 or 3]``, uint8. (default: none, gray)
        ax: Where to draw. (default: the axes of a new figure with a scale, ``ax.figure``)
        scale: The index of the scale in ``scales``.
        arrows: The maximum number of arrows of each kind.
        most: The value that has the strongest tint. (default: the largest value, at least 2)

    Returns:
        The axes, from 0 to 1 in both directions, ``y`` downwards.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the graph is not a grid, or ``alpha`` or ``scale`` does not fit it.

    Example:
        >>> grid, conv = multiscale_grid((3, 2, 1)), RSTGConv(16, 16)
        >>> x = torch.randn(14, 16)
        >>> _, (edges, alpha) = conv(x, grid.edge_index, return_attention_weights=True)
        >>> plot_attention(grid, alpha.mean(-1)).figure.savefig("attention.png")
    """
    _check_grid(grid)
    edges = grid.edge_index.size(1)
    if alpha.shape != (edges,):
        raise ValueError(f"Expected 'alpha' to have shape [{edges}] (got {list(alpha.shape)})")
    nodes = (grid.node_type == scale).nonzero().view(-1)
    if len(nodes) == 0:
        kinds = int(grid.node_type.max())
        raise ValueError(f"Expected 'scale' to be from 0 to {kinds} (got {scale})")
    own = ax is None
    ax = _new_axes(4.4, 3.6) if ax is None else ax
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    alpha = alpha.detach().float().cpu()
    heat = relative_attention(grid.edge_index.cpu(), alpha, len(grid.region))[nodes.cpu()]
    most = max(2.0, float(heat.max())) if most is None else most
    show_picture(ax, torch.full((1, 1, 1), 128, dtype=torch.uint8) if picture is None else picture)
    for (x0, y0, x1, y1), value in zip(grid.region[nodes].tolist(), heat.tolist()):
        cell = (x0, y0), x1 - x0, y1 - y0
        tint = TINT * min(1.0, max(0.0, value - 1) / (most - 1))
        ax.add_patch(Rectangle(*cell, facecolor=RECEIVED, alpha=tint, linewidth=0))
        ax.add_patch(Rectangle(*cell, fill=False, edgecolor="white", linewidth=0.7, alpha=0.6))
    if own:
        ax.figure.colorbar(
            attention_colors(most), ax=ax, ticks=[1, most], format=f"%.2g{TIMES}"
        ).set_label("attention received (1\N{MULTIPLICATION SIGN}: even)")
    best = int(nodes[heat.argmax()])
    outlined = [Stroke(linewidth=3.8, foreground="black"), Normal()]
    rim = [Stroke(linewidth=2, foreground="black"), Normal()]
    text: dict[str, Any] = dict(fontsize=7.7, color="white", va="center", path_effects=rim)
    if float(heat.max()) < PREFERS:
        ax.text(0.5, 0.5, "no preference", ha="center", **text)
        return ax
    (x0, y0, x1, y1), inset = grid.region[best].tolist(), 0.013
    frame = Rectangle(
        (x0 + inset, y0 + inset), x1 - x0 - 2 * inset, y1 - y0 - 2 * inset,
        fill=False, edgecolor="white", linewidth=2.0, path_effects=outlined,
    )  # fmt: skip
    ax.add_patch(frame)
    for source, target, share in _strongest(grid, alpha, best, arrows):
        _arrow(ax, grid.region[source].tolist(), grid.region[target].tolist(), share, source == best)
    label = f"{float(heat.max()):.1f}{TIMES}"
    ax.annotate(label, (x0, y0), (6, -11), textcoords="offset points", **text)
    return ax


def attention_colors(most: float) -> Any:
    """What a colorbar of :func:`plot_attention` shows: the tint over gray, from 1 to ``most``."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb

    tinted = [(1 - TINT) * 0.5 + TINT * channel for channel in to_rgb(RECEIVED)]
    colors = LinearSegmentedColormap.from_list("attention", [(0.5, 0.5, 0.5), tinted])
    return ScalarMappable(Normalize(1, most), colors)


def show_picture(ax: Axes, picture: Tensor) -> None:
    """Shows a picture ``[H, W, 1 or 3]`` uint8 that fills the axes."""
    pixels = picture.cpu().numpy()
    pixels = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels
    ax.imshow(
        pixels, extent=(0, 1, 1, 0), interpolation="bicubic", aspect=pixels.shape[0] / pixels.shape[1]
    )
    ax.set_axis_off()


def _strongest(grid: Any, alpha: Tensor, node: int, count: int) -> list[tuple[int, int, float]]:
    """The strongest edges from and to a node that are preferred: source, target, and the coefficient as
    a multiple of an even share.
    """
    source, target = grid.edge_index.cpu()
    share = alpha * target.bincount()[target]
    out = []
    for end in (source, target):
        edges = ((end == node) & (source != target) & (share >= PREFERS)).nonzero().view(-1)
        for edge in edges[share[edges].argsort(descending=True)[:count]].tolist():
            out.append((int(source[edge]), int(target[edge]), float(share[edge])))
    return out


def _arrow(ax: Axes, source: list[float], target: list[float], share: float, outgoing: bool) -> None:
    """An arrow between the centers of two regions, with a ring around the end that is not outlined."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.patheffects import Normal, Stroke

    ends = [((a + c) / 2, (b + d) / 2) for a, b, c, d in (source, target)]
    color, other = (HEARD, target) if outgoing else (LISTENS, source)
    radius = 1.8 + 4.0 * (other[2] - other[0])  # points; a larger region has a larger ring
    ax.plot(
        *ends[outgoing], "o", markersize=2 * radius, markerfacecolor="none", markeredgecolor=color,
        markeredgewidth=1.3, clip_on=False,
    )  # fmt: skip
    if ends[0] == ends[1]:
        return
    size = 0.9 + 1.1 * min(2.0, float(np.log2(share)))
    arrow = FancyArrowPatch(
        *ends,
        connectionstyle="arc3,rad=0.22",
        arrowstyle=f"-|>,head_width={1.4 + 0.8 * size:.2f},head_length={3 + 1.2 * size:.2f}",
        linewidth=size,
        color=color,
        shrinkA=2,
        shrinkB=radius if outgoing else 2,
        mutation_scale=1,
        path_effects=[Stroke(linewidth=size + 1.3, foreground=(0, 0, 0, 0.75)), Normal()],
        clip_on=False,
    )
    ax.add_patch(arrow)
