"""Exact area pooling between feature maps and the nodes of multi-scale grids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from rstg_pyg.graphs.grid import Scale, normalize_scales, num_nodes


def area_matrix(out_size: int, in_size: int, *, device=None, dtype=torch.float32) -> Tensor:
    r"""Weights that average ``in_size`` cells over ``out_size`` equal windows.

    .. math::
        A_{oi} = \frac{1}{h} \, \bigl| [o h, (o + 1) h] \cap [i, i + 1] \bigr|,
        \qquad h = \frac{\text{in}}{\text{out}}

    Rows sum to one. Windows may be wider or narrower than a cell. The overlaps are computed in
    integers, so the only rounding is that of the final division.

    Returns:
        ``[out_size, in_size]``
    """
    window = torch.arange(out_size, device=device)[:, None] * in_size
    cell = torch.arange(in_size, device=device) * out_size
    overlap = torch.minimum(window + in_size, cell + out_size) - torch.maximum(window, cell)
    return overlap.clamp(min=0).to(dtype) / in_size


def _check_size(scales: tuple[tuple[int, int], ...], height: int, width: int) -> None:
    for rows, cols in scales:
        if rows > height or cols > width:
            raise ValueError(
                f"Expected every scale to fit the feature map of {height} x {width} cells "
                f"(got a scale of {rows} x {cols}); use coarser scales or an earlier, larger map"
            )


def _pool_weight(scales: tuple[tuple[int, int], ...], x: Tensor) -> Tensor:
    """The share of every cell of maps ``x [..., H, W]`` in every node, ``[N, H * W]``."""
    if x.device.type == "cpu" and type(x) is Tensor and not torch.compiler.is_compiling():
        with torch.inference_mode(False):  # kept, also for steps with gradients
            return _kept_weight(scales, x.size(-2), x.size(-1), x.dtype, x.device)
    return _make_weight(scales, x.size(-2), x.size(-1), x.dtype, x.device)


def _make_weight(
    scales: tuple[tuple[int, int], ...],
    height: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    _check_size(scales, height, width)
    kwargs = dict(device=device, dtype=dtype)
    return torch.cat(
        [
            torch.kron(area_matrix(rows, height, **kwargs), area_matrix(cols, width, **kwargs))
            for rows, cols in scales
        ]
    )


#: The latest weights: made anew, they would take a tenth of the time of a stream's frame.
_kept_weight = lru_cache(16)(_make_weight)


class _AreaModule(torch.nn.Module):
    def __init__(self, scales: Sequence[Scale] = (3, 2, 1)):
        super().__init__()
        self.scales = normalize_scales(scales)
        self.num_nodes = num_nodes(scales)

    def extra_repr(self) -> str:
        return ", ".join(f"{rows}x{cols}" for rows, cols in self.scales)


class AreaPool(_AreaModule):
    r"""Averages a feature map over every region of a multi-scale grid.

    .. math::
        v_{(r, c)} = \sum_{y, x} A^H_{r y} \, A^W_{c x} \, F_{y x}

    with the weights of :func:`area_matrix`: cells that are partly inside a region are weighted by the
    overlap. So any map size works, also one that is not divisible by a scale (unlike in
    ``adaptive_avg_pool2d``).

    Args:
        scales: Scales as in :func:`~rstg_pyg.graphs.multiscale_grid`; the nodes have its order.

    Shapes:
        - **input:** feature map :math:`(B, C, T, H, W)`
        - **output:** nodes :math:`(B, T, N, C)`

    Raises:
        ValueError: If the map does not have five dimensions or a scale is finer than the map.
    """

    def forward(self, feature_map: Tensor) -> Tensor:
        """"""
        if feature_map.dim() != 5:
            raise ValueError(
                f"Expected 'feature_map' to have the five dimensions [B, C, T, H, W] "
                f"(got shape {tuple(feature_map.shape)})"
            )
        weight = _pool_weight(self.scales, feature_map)
        return torch.einsum("np,bctp->btnc", weight, feature_map.flatten(3))


class AreaUnpool(_AreaModule):
    r"""Maps the nodes of a multi-scale grid back to a feature map, summed over the scales.

    .. math::
        F_{y x} = \sum_{s} \sum_{(r, c) \in s} A^{s}_{y r} \, A^{s}_{x c} \, v_{(r, c)}

    Each scale becomes a piecewise constant map. A map cell that overlaps several regions is their
    average, weighted by the overlap.

    Args:
        scales: Scales as in :func:`~rstg_pyg.graphs.multiscale_grid`.

    Shapes:
        - **input:** nodes :math:`(B, T, N, C)` and the map's size :math:`(H, W)`
        - **output:** feature map :math:`(B, C, T, H, W)`

    Raises:
        ValueError: If the nodes do not have four dimensions, their number is not that of the grid, or
            a scale is finer than the map.
    """

    def forward(self, nodes: Tensor, size: tuple[int, int]) -> Tensor:
        """"""
        if nodes.dim() != 4 or nodes.size(2) != self.num_nodes:
            raise ValueError(
                f"Expected 'nodes' to have shape [B, T, {self.num_nodes}, C] for the scales "
                f"{self.scales} (got {tuple(nodes.shape)})"
            )
        height, width = size
        _check_size(self.scales, height, width)
        kwargs = dict(device=nodes.device, dtype=nodes.dtype)
        weight = torch.cat(
            [
                torch.kron(area_matrix(height, rows, **kwargs), area_matrix(width, cols, **kwargs))
                for rows, cols in self.scales
            ],
            dim=1,
        )  # [H * W, N]
        return torch.einsum("pn,btnc->bctp", weight, nodes).unflatten(3, (height, width))
