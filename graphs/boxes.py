"""Regions of a detector as a graph: overlaps of boxes in neighboring frames."""

from __future__ import annotations

import torch
from torch import Tensor


def has_area(boxes: Tensor) -> Tensor:
    """Which boxes ``[..., 4]`` with corners ``(x0, y0, x1, y1)`` have an area, ``[...]``. Those without
    (and those with NaN) stand for boxes that are not there, in frames with fewer than others.
    """
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


def overlap_edges(
    boxes: Tensor, reverse: bool = False, complete: bool = False
) -> tuple[Tensor, Tensor]:
    r"""The front graph of `"Videos as Space-Time Region Graphs" <https://arxiv.org/abs/1806.01810>`_:
    every box receives from the boxes that it overlaps in the next frame.

    .. math::
        G_{(t, i), (t + 1, j)} = \frac{\sigma_{ij}}{\sum_k \sigma_{ik}}, \qquad
        \sigma_{ij} = \mathrm{IoU}(b_{t, i}, b_{t + 1, j})

    Box :math:`i` of frame :math:`t` of clip :math:`b` is node :math:`(b T + t) N + i`. Only boxes that
    overlap have an edge, and boxes without an area (:func:`has_area`) have none. For
    :class:`torch_geometric.nn.GCNConv`, ``normalize=False`` uses the weights as they are.

    Args:
        boxes: Corners ``(x0, y0, x1, y1)`` in any unit, ``[B, T, N, 4]`` or ``[T, N, 4]``.
        reverse: The back graph instead: every box receives from the frame before.
            (default: ``False``)
        complete: Edges of weight zero for boxes that do not overlap, too, so that all graphs of as many
            frames and boxes have the same edges. (default: ``False``)

    Returns:
        ``edge_index [2, E]``, sorted by target, and ``edge_weight [E]``

    Raises:
        ValueError: If the boxes have another shape.

    Example:
        >>> boxes = torch.tensor([[[0.0, 0.0, 0.5, 1.0]], [[0.25, 0.0, 0.75, 1.0]]])  # one, moving
        >>> overlap_edges(boxes)
        (tensor([[1],
                [0]]), tensor([1.]))
    """
    if boxes.dim() not in (3, 4) or boxes.size(-1) != 4:
        raise ValueError(
            f"Expected 'boxes' to have shape [B, T, N, 4] or [T, N, 4] (got {list(boxes.shape)})"
        )
    boxes = torch.where(has_area(boxes)[..., None], boxes, 0)
    boxes = boxes if boxes.dim() == 4 else boxes[None]
    frames, count = boxes.shape[1:3]
    targets, sources = boxes[:, :-1], boxes[:, 1:]
    if reverse:
        targets, sources = sources, targets
    a, b = targets.unsqueeze(3), sources.unsqueeze(2)  # [B, T - 1, N, N]
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b))
    found = shared > 0
    overlap = torch.where(found, shared / torch.where(found, area_a + area_b - shared, 1), 0)
    weight = overlap / torch.where(found, overlap.sum(-1, keepdim=True), 1)
    pair = torch.arange(found.numel(), device=boxes.device)
    pair, weight = (pair, weight.flatten()) if complete else (pair[found.flatten()], weight[found])
    row, source = pair // max(count, 1), pair % max(count, 1)  # rows of [B, T - 1, N]
    clip = row // max((frames - 1) * count, 1)
    target = row + clip * count  # without the last frame of the clips before
    source = source + target - target % max(count, 1)
    shift = (count, 0) if reverse else (0, count)
    return torch.stack([source + shift[1], target + shift[0]]), weight
