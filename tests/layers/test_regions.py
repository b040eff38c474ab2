"""Joint GCN: the graph of regions, and the head."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import roi_align

from rstg_pyg import RegionGraph, RegionHead, VideoClassifier
from rstg_pyg.backbones import SimpleConv
from rstg_pyg.graphs import has_area, multiscale_grid, overlap_edges

NAN = float("nan")


def some_boxes(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * 0.6
    return torch.cat([corner, corner + 0.1 + 0.3 * torch.rand(*shape, 2, generator=generator)], dim=-1)


def by_hand(graph, x, boxes):
    """The formulas, clip by clip, with dense matrices; all nodes are there."""
    outs = []
    for nodes, regions in zip(x, boxes):
        frames, count, _ = nodes.shape
        h = s = nodes.flatten(0, 1)
        left, right = graph.similarity.target.weight, graph.similarity.source.weight
        similarity = ((s @ left.t()) @ (s @ right.t()).t()).softmax(1)
        matrices = []
        for reverse in (False, True):
            (source, target), weight = overlap_edges(regions, reverse)
            matrices.append(torch.zeros(frames * count, frames * count))
            matrices[-1][target, source] = weight
        for i in range(graph.num_layers):
            s = graph.similar_norms[i](similarity @ s @ graph.similar_convs[i].lin.weight.t()).relu()
            front = matrices[0] @ h @ graph.front_convs[i].lin.weight.t()
            back = matrices[1] @ h @ graph.back_convs[i].lin.weight.t()
            h = graph.front_norms[i](front).relu() + graph.back_norms[i](back).relu()
        outs.append((s + h).view(frames, count, -1))
    return torch.stack(outs)


@pytest.mark.parametrize("norm", ["layer", None])
def test_the_graph_is_its_formula(norm):
    torch.manual_seed(0)
    graph, x, boxes = RegionGraph(6, 8, 2, norm), torch.randn(2, 3, 4, 6), some_boxes(2, 3, 4)
    for part in (*graph.similar_norms, *graph.front_norms):
        if norm is not None:
            torch.nn.init.normal_(part.weight)
    out = graph(x, boxes)
    assert out.shape == (2, 3, 4, 8)
    torch.testing.assert_close(out, by_hand(graph, x, boxes))
    assert (norm is None) == (sum(p.numel() for p in graph.parameters()) == 2 * 36 + 3 * (48 + 64))


def test_the_layers_of_the_similarity_are_gcn_layers_on_a_complete_graph():
    torch.manual_seed(0)
    graph, x = RegionGraph(6, num_layers=1, norm=None), torch.randn(1, 5, 6)
    weight = graph.similarity(x, torch.ones(1, 5, dtype=torch.bool))[0]
    target, source = torch.ones(5, 5).nonzero(as_tuple=True)
    conv = graph.similar_convs[0]
    expected = conv(x[0], torch.stack([source, target]), weight[target, source]).relu()
    torch.testing.assert_close(graph.similar(x, torch.ones(1, 5, dtype=torch.bool))[0], expected)


@pytest.mark.parametrize("gone", [[0.0, 0.0, 0.0, 0.0], [0.4, 0.5, 0.3, 0.9], [NAN] * 4])
def test_frames_may_have_different_numbers_of_boxes(gone):
    """Nodes that are not there change nothing, wherever they stand, and get no gradient."""
    torch.manual_seed(0)
    graph, x, boxes = RegionGraph(6), torch.randn(1, 3, 4, 6), some_boxes(1, 3, 4)
    few = torch.tensor([[0, 1], [1, 3], [2, 3]])
    index = few[None, :, :, None]
    alone = graph(x.gather(2, index.expand(1, 3, 2, 6)), boxes.gather(2, index.expand(1, 3, 2, 4)))
    kept = torch.zeros(1, 3, 4, dtype=torch.bool).scatter(2, few[None], True)
    boxes[~kept] = torch.tensor(gone)
    x[~kept] = NAN
    x.requires_grad_()
    out = graph(x, boxes)
    torch.testing.assert_close(out[kept], alone.flatten(0, 2))
    assert (out[~kept] == 0).all()
    out.sum().backward()
    assert x.grad[kept].abs().max() > 0 and (x.grad[~kept] == 0).all()
    assert all(p.grad.isfinite().all() for p in graph.parameters())


def test_a_clip_without_boxes_gives_zeros_and_finite_gradients():
    torch.manual_seed(0)
    head, x = RegionHead(6, 4), torch.randn(2, 6, 3, 5, 5, requires_grad=True)
    boxes = some_boxes(2, 3, 4)
    boxes[1] = 0
    out = head(x, boxes)
    assert (out[1, 4:] == 0).all() and (out[0, 4:] != 0).any()
    out.square().sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in head.parameters())
    torch.testing.assert_close(head(x[1:], boxes[1:])[0], out[1])
    none = head(x, boxes[:, :, :0])
    torch.testing.assert_close(none[:, :4], out[:, :4])
    assert (none[:, 4:] == 0).all()


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_regions_are_cut_out_of_their_own_frame(pool):
    torch.manual_seed(0)
    head = RegionHead(6, 4, roi_size=3, roi_pool=pool)
    x, boxes = torch.randn(2, 4, 3, 8, 6), some_boxes(2, 3, 5)
    nodes = head.regions(x, boxes)
    for b in range(2):
        for t in range(3):
            corners = boxes[b, t] * torch.tensor([6.0, 8.0, 6.0, 8.0])
            cells = roi_align(x[b : b + 1, :, t], [corners], 3, aligned=True).flatten(2)
            expected = cells.amax(2) if pool == "max" else cells.mean(2)
            torch.testing.assert_close(nodes[b, t], expected)


def test_frames_and_corners_are_exact_in_bfloat16():
    """From 256 on, bfloat16 does not hold every number of a frame."""
    torch.manual_seed(0)
    head = RegionHead(4, 8, grid=(2, 1)).eval()
    x = torch.randn(9, 4, 31, 3, 3)
    with torch.no_grad():
        expected = head(x)
        with torch.autocast("cpu", torch.bfloat16):
            out = head(x)
        assert head.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.01)


def test_the_head_is_the_mean_of_the_map_and_of_the_nodes_that_are_there():
    torch.manual_seed(0)
    head, x, boxes = RegionHead(6, 4), torch.randn(2, 6, 3, 8, 8), some_boxes(2, 6, 5)
    boxes[0, 2, 1:] = 0
    small = F.conv3d(x, head.reducer.weight, head.reducer.bias)
    used = boxes[:, [0, 2, 4]]  # the map has half of the clip's frames
    nodes, there = head.graph(head.regions(small, used), used), has_area(used)
    mean = torch.stack([part[mask].mean(0) for part, mask in zip(nodes, there)])
    out = head(x, boxes)
    torch.testing.assert_close(out, torch.cat([small.mean((2, 3, 4)), mean], dim=1))
    assert out.shape == (2, head.out_channels)


def test_what_is_outside_of_the_frame_is_cut_off():
    torch.manual_seed(0)
    head, x = RegionHead(6, 4), torch.randn(1, 6, 2, 8, 8)
    inside = torch.tensor([[0.0, 0.2, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0]]).expand(1, 2, 2, 4)
    outside = torch.tensor([[-0.7, 0.2, 0.5, 3.0], [-1.0, -2.0, 9.0, 1.5], [1.2, 0.1, 1.9, 0.4]])
    torch.testing.assert_close(head(x, outside.expand(1, 2, 3, 4)), head(x, inside))


def test_a_grid_needs_no_boxes():
    torch.manual_seed(0)
    head, x = RegionHead(6, 4, grid=(3, 2, 1)), torch.randn(2, 6, 3, 9, 9)
    given = RegionHead(6, 4)
    given.load_state_dict(head.state_dict())
    boxes = multiscale_grid((3, 2, 1)).region.expand(2, 3, 14, 4)
    torch.testing.assert_close(head(x), given(x, boxes))
    with pytest.raises(ValueError, match="Expected no boxes"):
        head(x, boxes)


def test_a_classifier_hands_the_boxes_to_its_head():
    torch.manual_seed(0)
    model = VideoClassifier(SimpleConv(1, (4,), padding=1), 3, head=RegionHead(4, 4)).eval()
    assert model.head.takes_boxes and model.lin.in_features == 8 and not model.streams
    clips, boxes = torch.rand(2, 2, 1, 4, 8, 8), some_boxes(2, 2, 4, 3)
    each = model(clips.flatten(0, 1), boxes=boxes.flatten(0, 1)).unflatten(0, (2, 2))
    torch.testing.assert_close(model(clips, boxes=boxes), each.mean(1))
    other = model(clips, boxes=boxes.flip(-2).roll(1, 2))
    assert (other - each.mean(1)).abs().max() > 1e-4
    with pytest.raises(ValueError, match="no head that takes them"):
        VideoClassifier(SimpleConv(1, (4,)), 3)(clips, boxes=boxes)


def test_a_network_of_regions_learns_which_region_matters():
    """The class is the brightness inside of the only box, among distractors."""
    torch.manual_seed(0)
    model = VideoClassifier(SimpleConv(1, (8,), padding=1, pool=False), 2, head=RegionHead(8, 8))
    clips, labels = torch.rand(16, 1, 2, 8, 8).round(), torch.arange(16) % 2
    boxes = torch.tensor([0.25, 0.25, 0.75, 0.75]).expand(16, 2, 1, 4)
    clips[..., 2:6, 2:6] = labels.view(-1, 1, 1, 1, 1).float()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        loss = F.cross_entropy(model(clips, boxes=boxes), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    moved = boxes * 0 + torch.tensor([0.0, 0.0, 0.2, 0.2])
    assert (model(clips, boxes=moved).argmax(1) == labels).float().mean() < 0.9


def test_gradients_are_those_of_differences():
    torch.manual_seed(0)
    graph, boxes = RegionGraph(3, num_layers=1).double(), some_boxes(1, 2, 3).double()
    x = torch.randn(1, 2, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: graph(y, boxes), x)


def test_reset_parameters_draws_anew():
    usual = RegionHead(6)  # the paper's sizes
    assert (usual.out_channels, usual.graph.num_layers, usual.roi_size) == (2 * 512, 3, 7)
    assert (usual.roi_pool, RegionGraph(6).num_layers) == ("max", 3)
    head = RegionHead(6, 4)
    before = {name: p.clone() for name, p in head.named_parameters()}
    torch.nn.init.normal_(head.graph.similar_norms[0].weight)
    head.reset_parameters()
    for name, p in head.named_parameters():
        assert torch.equal(p, before[name]) == ("norms" in name), name


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RegionGraph(4, norm="batch"), "'norm' to be 'layer' or None"),
        (lambda: RegionGraph(0), "'channels' to be at least 1"),
        (lambda: RegionHead(4, roi_pool="min"), "'roi_pool' to be 'max' or 'mean'"),
        (lambda: RegionGraph(4)(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 2, 4)), r"\[1, 2, 2, 4\]"),
        (lambda: RegionHead(4, 4)(torch.zeros(1, 4, 2, 3, 3)), "Expected boxes .* no grid"),
        (lambda: RegionHead(4, 4)(torch.zeros(1, 4, 2, 3, 3), torch.zeros(1, 1, 3, 4)), "2 or more"),
        (lambda: RegionHead(4, 4)(torch.zeros(1, 4, 2, 3, 3), torch.zeros(1, 2, 3, 5)), r"3, 5\]"),
        (lambda: RegionHead(4, 4)(torch.zeros(2, 4, 2, 3, 3), torch.zeros(1, 2, 3, 4)), "of 2 clips"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
