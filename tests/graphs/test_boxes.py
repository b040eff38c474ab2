"""Overlaps of boxes in neighboring frames."""

import pytest
import torch
from torchvision.ops import box_iou

from rstg_pyg.graphs import has_area, overlap_edges


def random_boxes(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator, dtype=torch.double) * 0.7
    side = torch.rand(*shape, 2, generator=generator, dtype=torch.double) * 0.4 + 0.05
    return torch.cat([corner, corner + side], dim=-1)


@pytest.mark.parametrize("reverse", [False, True])
def test_edges_are_overlaps_with_the_next_frame_and_the_one_before(reverse):
    boxes = random_boxes(2, 4, 3)
    found = {}
    (sources, targets), weights = overlap_edges(boxes, reverse)
    for source, target, weight in zip(sources.tolist(), targets.tolist(), weights.tolist()):
        found[target, source] = weight
    expected = {}
    for b in range(2):
        for t in range(4):
            other = t - 1 if reverse else t + 1
            if not 0 <= other < 4:
                continue
            iou = box_iou(boxes[b, t], boxes[b, other])
            for i in range(3):
                for j in range(3):
                    if iou[i, j] > 0:
                        nodes = ((b * 4 + t) * 3 + i, (b * 4 + other) * 3 + j)
                        expected[nodes] = float(iou[i, j] / iou[i].sum())
    assert 10 < len(expected) < 60
    assert found == pytest.approx(expected)
    assert targets.tolist() == sorted(targets.tolist())
    per_node = torch.zeros(24, dtype=torch.double).index_add(0, targets, weights)
    assert ((per_node == 0) | (per_node - 1).abs().lt(1e-12)).all()


@pytest.mark.parametrize("reverse", [False, True])
def test_complete_graphs_have_all_pairs_of_neighboring_frames(reverse):
    boxes = random_boxes(3, 4, 2)
    index, weight = overlap_edges(boxes, reverse, complete=True)
    assert index.shape == (2, 3 * 3 * 2 * 2) and weight.numel() == 36
    keep = weight > 0
    some = overlap_edges(boxes, reverse)
    assert torch.equal(index[:, keep], some[0]) and torch.equal(weight[keep], some[1])
    frame = index // 2
    assert ((frame[0] - frame[1]) == (-1 if reverse else 1)).all()
    assert (frame[0] // 4 == frame[1] // 4).all() and len(index.t().unique(dim=0)) == 36
    meta = overlap_edges(boxes.to("meta"), reverse, complete=True)
    assert meta[0].shape == index.shape and meta[1].shape == weight.shape


def test_a_single_clip_is_a_batch_of_one():
    boxes = random_boxes(3, 2)
    for one, two in zip(overlap_edges(boxes), overlap_edges(boxes[None])):
        assert torch.equal(one, two)


def test_boxes_without_an_area_touching_ones_and_single_frames_have_no_edges():
    boxes = random_boxes(1, 3, 3)
    there = overlap_edges(boxes)[0]
    nan = float("nan")
    for gone in ([0, 0, 0, 0], [0.5, 0.2, 0.5, 0.9], [0.8, 0.1, 0.3, 0.6], [nan, nan, nan, nan]):
        changed = boxes.clone()
        changed[0, 1, 1] = torch.tensor(gone)
        index, weight = overlap_edges(changed)
        keep = (there != 4).all(0)
        assert torch.equal(index, there[:, keep]) and weight.isfinite().all()
        assert has_area(changed).flatten().tolist() == [i != 4 for i in range(9)]
    touching = torch.tensor([[[0.0, 0.0, 0.5, 1.0]], [[0.5, 0.0, 1.0, 1.0]]])
    assert overlap_edges(touching)[0].shape == (2, 0)
    assert overlap_edges(boxes[:, :1])[0].shape == (2, 0)
    assert overlap_edges(boxes[:, :, :0])[0].shape == (2, 0)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 5), (1, 2, 3, 4, 4)])
def test_another_shape_is_named(shape):
    with pytest.raises(ValueError, match=r"shape \[B, T, N, 4\] or \[T, N, 4\] \(got"):
        overlap_edges(torch.zeros(shape))
