"""Graphs of regions: the Joint GCN of "Videos as Space-Time Region Graphs", and a head with it."""

from typing import Any, Optional, Sequence

import torch
from torch import Tensor
from torch.nn import Identity, LayerNorm, ModuleList
from torch_geometric.nn import GCNConv

from rstg_pyg.checks import check_numbers
from rstg_pyg.graphs.boxes import has_area, overlap_edges
from rstg_pyg.graphs.grid import Scale, multiscale_grid


class Similarity(torch.nn.Module):
    r"""How much every node takes from every other one, the softmax over :math:`j` of
    :math:`(W_1 x_i)^\top W_2 x_j`.

    Args:
        channels (int): Channels of the nodes.

    Shapes:
        - **input:** nodes :math:`(B, M, C)`, and which of them are there :math:`(B, M)`
        - **output:** :math:`(B, M, M)`, rows of receivers, zero for senders that are not there
    """

    def __init__(self, channels: int):
        super().__init__()
        self.target = torch.nn.Linear(channels, channels, bias=False)
        self.source = torch.nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """The weights."""
        logits = self.target(x) @ self.source(x).transpose(1, 2)
        least = torch.finfo(logits.dtype).min  # no infinity: a clip may have no nodes at all
        return logits.masked_fill(~there.unsqueeze(1), least).softmax(dim=-1)


class RegionGraph(torch.nn.Module):
    r"""The Joint GCN of `"Videos as Space-Time Region Graphs" <https://arxiv.org/abs/1806.01810>`_.

    Nodes are regions of all frames of a clip. Two branches of layers are added up,

    .. math::
        s' = f(S \, s \, W), \qquad h' = f(G \, h \, W_{\rightarrow}) + f(\bar G \, h \, W_{\leftarrow})

    with the similarity :math:`S` of all nodes (:class:`Similarity`), the overlaps :math:`G` with the
    next frame and :math:`\bar G` with the one before (:func:`~rstg_pyg.graphs.overlap_edges`), and a
    layer norm and ReLU :math:`f`. All layers are :class:`~torch_geometric.nn.GCNConv` without
    normalization. Those of the similarity, whose graph is complete, are computed as matrix products.

    Args:
        channels (int): Channels of the nodes.
        out_channels (int, optional): Channels after the first layers. (default: :obj:`None`, the same)
        num_layers (int, optional): Layers of each branch. (default: :obj:`3`)
        norm (str, optional): ``"layer"``, or :obj:`None` for no norm, as in a public re-implementation
            (jd730/STRG). (default: :obj:`"layer"`)

    Shapes:
        - **input:** nodes :math:`(B, T, N, C)`, and their boxes :math:`(B, T, N, 4)`, corners
          :math:`(x_0, y_0, x_1, y_1)` in any unit; a node whose box has no area (or NaN) is not there,
          so frames may have different numbers of nodes
        - **output:** :math:`(B, T, N, C')`, zero for nodes that are not there

    Raises:
        ValueError: If the shapes do not fit each other.

    Example:
        >>> corners = torch.rand(2, 4, 5, 2)
        >>> boxes = torch.cat([corners, corners + 0.3], dim=-1)
        >>> RegionGraph(16)(torch.randn(2, 4, 5, 16), boxes).shape
        torch.Size([2, 4, 5, 16])
    """

    def __init__(
        self,
        channels: int,
        out_channels: Optional[int] = None,
        num_layers: int = 3,
        norm: Optional[str] = "layer",
    ):
        super().__init__()
        width = channels if out_channels is None else out_channels
        check_numbers(1, channels=channels, out_channels=width, num_layers=num_layers)
        if norm not in ("layer", None):
            raise ValueError(f"Expected 'norm' to be 'layer' or None (got {norm!r})")
        self.channels, self.out_channels, self.num_layers = channels, width, num_layers
        self.similarity = Similarity(channels)
        settings = dict(add_self_loops=False, normalize=False, bias=False)
        widths = [channels, *[width] * (num_layers - 1)]

        def convs() -> Any:
            return ModuleList(GCNConv(size, width, **settings) for size in widths)

        def norms() -> Any:
            return ModuleList(Identity() if norm is None else LayerNorm(width) for _ in widths)

        self.similar_convs, self.similar_norms = convs(), norms()
        self.front_convs, self.front_norms = convs(), norms()
        self.back_convs, self.back_norms = convs(), norms()

    def reset_parameters(self):
        """Draws all weights anew, as the layers do."""
        for module in self.modules():
            if module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def similar(self, x: Tensor, there: Tensor) -> Tensor:
        """The branch of the similarity, ``[B, M, C]`` to ``[B, M, C']``."""
        weight = self.similarity(x, there)
        for conv, norm in zip(self.similar_convs, self.similar_norms):
            x = norm(weight @ conv.lin(x)).relu()  # conv on a complete graph
        return x

    def overlapping(self, x: Tensor, boxes: Tensor) -> Tensor:
        """The branch of the overlaps, ``[B, M, C]`` to ``[B, M, C']``."""
        front, back = (overlap_edges(boxes, reverse, complete=True) for reverse in (False, True))
        h = x.flatten(0, 1)
        edges = [(index, weight.to(x.dtype)) for index, weight in (front, back)]
        for i in range(self.num_layers):
            ahead = self.front_norms[i](self.front_convs[i](h, *edges[0])).relu()
            h = ahead + self.back_norms[i](self.back_convs[i](h, *edges[1])).relu()
        return h.view(*x.shape[:2], self.out_channels)

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        """The nodes after all layers."""
        if x.dim() != 4 or x.size(-1) != self.channels or boxes.shape != (*x.shape[:3], 4):
            raise ValueError(
                f"Expected nodes [B, T, N, {self.channels}] and their boxes [B, T, N, 4] (got "
                f"{list(x.shape)} and {list(boxes.shape)})"
            )
        there = has_area(boxes)
        x = torch.where(there.unsqueeze(-1), x, 0)
        nodes, flat = x.flatten(1, 2), there.flatten(1)
        out = self.similar(nodes, flat) + self.overlapping(nodes, boxes)
        return torch.where(there.unsqueeze(-1), out.view(*x.shape[:3], self.out_channels), 0)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.channels}, {self.out_channels}, num_layers={self.num_layers}"


class RegionHead(torch.nn.Module):
    r"""Regions of a feature map as nodes of a :class:`RegionGraph`; their mean beside the map's.

    A linear layer reduces the map's channels. RoIAlign (:func:`torchvision.ops.roi_align`) cuts the
    boxes out of the map of their frame, and the maximum over the cells of each is its node. The
    vector is the mean of the reduced map, followed by the mean of the graph's nodes.

    Args:
        channels (int): Channels of the feature map.
        hidden_channels (int, optional): Channels of the nodes. (default: :obj:`512`)
        num_layers (int, optional): See :class:`RegionGraph`. (default: :obj:`3`)
        norm (str, optional): See :class:`RegionGraph`. (default: :obj:`"layer"`)
        grid (tuple, optional): The scales of a grid whose regions are the boxes of every frame, as
            :func:`~rstg_pyg.graphs.multiscale_grid` has them. (default: :obj:`None`, boxes are given)
        roi_size (int, optional): Rows and columns of cells of a region. (default: :obj:`7`)
        roi_pool (str, optional): ``"max"`` or ``"mean"`` of the cells. (default: :obj:`"max"`)

    Shapes:
        - **input:** feature map :math:`(B, C, T, H, W)`; without ``grid`` boxes
          :math:`(B, T', N, 4)` with :math:`T' \geq T`, of which every :math:`T' / T`-th frame is used:
          corners :math:`(x_0, y_0, x_1, y_1)` as fractions of the frame's sides, 0..1. What is outside
          of the frame is cut off. A box without an area (or NaN) is not there.
        - **output:** :math:`(B, 2 D)`

    Raises:
        ValueError: If boxes are missing, are given in spite of ``grid``, or have another shape.

    Example:
        >>> head = RegionHead(64, 32)
        >>> boxes = torch.tensor([0.1, 0.2, 0.5, 0.6]).expand(2, 8, 10, 4)
        >>> head(torch.randn(2, 64, 4, 14, 14), boxes).shape
        torch.Size([2, 64])
    """

    grid: Any

    def __init__(
        self,
        channels: int,
        hidden_channels: int = 512,
        num_layers: int = 3,
        norm: Optional[str] = "layer",
        grid: Optional[Sequence[Scale]] = None,
        roi_size: int = 7,
        roi_pool: str = "max",
    ):
        super().__init__()
        check_numbers(1, channels=channels, hidden_channels=hidden_channels, roi_size=roi_size)
        if roi_pool not in ("max", "mean"):
            raise ValueError(f"Expected 'roi_pool' to be 'max' or 'mean' (got {roi_pool!r})")
        self.channels, self.out_channels = channels, 2 * hidden_channels
        self.roi_size, self.roi_pool = roi_size, roi_pool
        #: Whether ``boxes`` have to be given.
        self.takes_boxes = grid is None
        self.register_buffer(
            "grid", None if grid is None else multiscale_grid(grid).region, persistent=False
        )
        self.reducer = torch.nn.Conv3d(channels, hidden_channels, 1)
        self.graph = RegionGraph(hidden_channels, num_layers=num_layers, norm=norm)

    def reset_parameters(self):
        """Draws all weights anew."""
        self.reducer.reset_parameters()
        self.graph.reset_parameters()

    def regions(self, x: Tensor, boxes: Tensor) -> Tensor:
        """The nodes ``[B, T, N, C]`` of boxes ``[B, T, N, 4]`` in a map ``[B, C, T, H, W]``."""
        from torchvision.ops import roi_align  # only here: the layers need no torchvision

        height, width = x.shape[-2:]
        # Types of 16 bits hold neither the number of a frame nor a corner.
        maps = x.transpose(1, 2).flatten(0, 1)
        maps = maps if maps.dtype == torch.float64 else maps.float()
        corners = torch.where(has_area(boxes)[..., None], boxes, 0).to(maps.dtype)
        x0, y0, x1, y1 = corners.unbind(-1)
        corners = torch.stack([x0 * width, y0 * height, x1 * width, y1 * height], dim=-1)
        frame = torch.arange(maps.size(0), device=x.device, dtype=maps.dtype)
        frame = frame.repeat_interleave(boxes.size(2))
        rois = torch.cat([frame[:, None], corners.flatten(0, 2)], dim=1)
        cells = roi_align(maps, rois, self.roi_size, aligned=True).flatten(2).to(x.dtype)
        nodes = cells.amax(dim=2) if self.roi_pool == "max" else cells.mean(dim=2)
        return nodes.view(*boxes.shape[:3], x.size(1))

    def forward(self, x: Tensor, boxes: Optional[Tensor] = None) -> Tensor:
        """The vector of every clip."""
        batch, frames = x.size(0), x.size(2)
        if boxes is not None and not self.takes_boxes:
            raise ValueError("Expected no boxes: the regions of this head are those of its grid")
        if boxes is None:
            if self.takes_boxes:
                raise ValueError("Expected boxes [B, T, N, 4], as the head has no grid (got none)")
            boxes = self.grid.expand(batch, frames, -1, 4)
        elif (
            boxes.dim() != 4 or boxes.size(0) != batch or boxes.size(1) < frames or boxes.size(3) != 4
        ):
            raise ValueError(
                f"Expected boxes of {batch} clips with {frames} or more frames, [B, T, N, 4] (got "
                f"{list(boxes.shape)})"
            )
        used = torch.arange(frames, device=x.device) * boxes.size(1) // frames
        boxes = boxes[:, used].clamp(0, 1)
        x = self.reducer(x)
        nodes = self.graph(self.regions(x, boxes), boxes)
        count = has_area(boxes).sum(dim=(1, 2)).clamp(min=1)
        mean = nodes.sum(dim=(1, 2)) / count.unsqueeze(1)
        return torch.cat([x.mean(dim=(2, 3, 4)), mean], dim=1)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.channels}, roi_size={self.roi_size}, roi_pool={self.roi_pool}"
