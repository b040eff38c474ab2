"""What leaves nothing to compute with: constant frames, one frame, one node, one video, no edges."""

import warnings

import pytest
import torch

from rstg_pyg import (
    RSTG,
    ChannelBatchNorm,
    DenseRSTGConv,
    HomogeneousRSTG,
    JointLayerNorm,
    LSTMHead,
    RSTGBlock,
    RSTGConv,
    VideoClassifier,
    ZeroInitNorm,
    published_arguments,
)
from rstg_pyg.backbones import SimpleConv
from rstg_pyg.graphs import multiscale_grid


def frames_norm(channels):
    return ChannelBatchNorm(channels, num_joint_dims=3, unbiased=False)


#: Norm, attention and whether there is a residual; every pair of two occurs.
VARIANTS = [
    (norm, attention, bool((i + j) % 2))
    for i, norm in enumerate([None, JointLayerNorm, ChannelBatchNorm, frames_norm])
    for j, attention in enumerate([None, "dot", "additive"])
]
#: Videos, frames, scales, the value of all features (or random), and whether there are edges.
CASES = {
    "black frames": (2, 3, (2, 1), 0.0, True),
    "white frames": (2, 3, (2, 1), 255.0, True),
    "one frame": (2, 1, (2, 1), None, True),
    "one node": (2, 3, (1,), None, True),
    "one video": (1, 3, (2, 1), None, True),
    "no edges": (2, 3, (2, 1), None, False),
    "one of everything": (1, 1, (1,), 0.0, True),
    "one of everything, no edges": (1, 1, (1,), 0.0, False),
}
LAYERS = [RSTGConv, DenseRSTGConv, RSTG, HomogeneousRSTG]


def trains(model, loss, steps=3):
    """A few steps with gradients, weights, statistics and outputs that are finite all the time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(steps):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            # Finite, and not near the end of the numbers: the next layers before would get there.
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            assert value.isfinite() and norm < 1e8
            optimizer.step()
    for name, tensor in model.state_dict().items():
        assert tensor.isfinite().all(), name
    model.eval()
    assert loss().isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layer", LAYERS)
def test_layers(layer, case):
    videos, frames, scales, value, edges = CASES[case]
    grid = multiscale_grid(scales)
    edge_index = grid.edge_index if edges else grid.edge_index[:, :0]
    if layer is DenseRSTGConv:
        joined = torch.zeros(grid.num_nodes, grid.num_nodes)
        joined[edge_index[1], edge_index[0]] = 1.0
        edge_index = joined
    for norm, attention, residual in VARIANTS:
        torch.manual_seed(0)
        x = torch.randn(videos, frames, grid.num_nodes, 4)
        x = x if value is None else torch.full_like(x, value)
        more = {"num_rounds": 2, "in_norm": norm} if layer in (RSTG, HomogeneousRSTG) else {}
        if norm is not None:  # the published norms and their epsilons belong to the paper's form
            more["form"] = "paper"
        model = layer(4, 4, attention=attention, norm=norm, residual=residual, **more)
        trains(model, lambda model=model, x=x: (model(x, edge_index) - 1).square().mean())


def out_batch_norm(channels):
    return ChannelBatchNorm(channels, channel_dim=1, zero_init=True)


BLOCKS = {
    "paper": {},
    "layer norms": dict(norm=JointLayerNorm, in_norm=JointLayerNorm, out_norm=ZeroInitNorm),
    "batch norms": dict(norm=frames_norm, in_norm=ChannelBatchNorm, out_norm=out_batch_norm),
    "residual": dict(residual=True, out_norm=ZeroInitNorm, cell="gru"),
    "published": published_arguments("dot", "layer", out_norm="layer"),
    "published, batch norms": published_arguments(
        "additive", "batch", first_batch_norm=True, out_norm="batch"
    ),
    "typed": dict(typed_update=True, heads=2, time_stages="last"),
    "space only": dict(time_stages="none", attention=None),
    "time only": dict(space_stages=False, positions=False),
    "homogeneous": dict(graph=HomogeneousRSTG, residual=True),
    "no graph": None,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][4]])
@pytest.mark.parametrize("block", BLOCKS)
def test_video_networks(block, case):
    """A block inside the backbone and a head, on clips whose classes are not all there."""
    videos, frames, scales, value, _ = CASES[case]
    torch.manual_seed(0)
    clips = torch.randn(videos, 1, frames, 4, 4)
    clips = clips if value is None else torch.full_like(clips, value)
    if BLOCKS[block] is None:
        parts = dict(head=LSTMHead(4, 4, in_norm=True))
    else:
        make = {"num_rounds": 2, **BLOCKS[block]}
        parts = dict(blocks={"conv0": RSTGBlock(4, 4, scales, to="map", **make)}, combine="plus")
        parts["head"] = RSTGBlock(4, 4, scales, to="vec", **make)
    model = VideoClassifier(SimpleConv(1, (4,), padding=1, pool=False), 3, **parts)
    labels = torch.full((videos,), 2)
    trains(model, lambda: torch.nn.functional.cross_entropy(model(clips), labels))


def test_norms_without_rows_and_with_one():
    """No rows: nothing comes out and the statistics stay. One row: the offset comes out."""
    for norm in (ChannelBatchNorm(3), frames_norm(3)):
        torch.nn.init.ones_(norm.bias)
        before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
        assert norm(torch.rand(2, 4, 0, 3)).shape == (2, 4, 0, 3)
        assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())
        assert torch.equal(norm(torch.rand(1, 1, 1, 3)), torch.ones(1, 1, 1, 3))
        assert norm.num_batches_tracked == 1 and norm.running_var.isfinite().all()
    empty = torch.rand(2, 0, 3)
    assert JointLayerNorm(3)(empty).shape == empty.shape
