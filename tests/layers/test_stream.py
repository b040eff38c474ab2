from functools import partial

import pytest
import torch

from rstg_pyg import (
    ChannelBatchNorm,
    JointLayerNorm,
    RSTGBlock,
    VideoClassifier,
    ZeroInitNorm,
    published_arguments,
)
from rstg_pyg.backbones import SimpleConv, i3d_resnet50

VARIANTS = {
    "plain": {},
    "residual": dict(residual=True, in_norm=ChannelBatchNorm, out_norm=ZeroInitNorm),
    "gru": dict(cell="gru", time_stages="last"),
    "space only": dict(time_stages="none"),
    "time only": dict(space_stages=False, positions=False),
    "published": published_arguments("additive", None, first_batch_norm=True),
    "projected": dict(hidden_channels=6),
}


def make(seed=0, **kwargs):
    torch.manual_seed(seed)
    backbone = SimpleConv(3, (8, 8))
    model = VideoClassifier(backbone, 5, head=RSTGBlock(8, scales=(2, 1), to="vec", **kwargs))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.double().eval()


def clip(frames=7):
    return torch.randn(
        2, 3, frames, 20, 20, dtype=torch.double, generator=torch.Generator().manual_seed(1)
    )


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("pieces", [[1] * 7, [3, 1, 3], [7]], ids=str)
@torch.no_grad()
def test_a_stream_gives_the_logits_of_all_frames_so_far(name, pieces):
    model, x, state, seen = make(**VARIANTS[name]), clip(), None, 0
    assert model.streams
    for piece in x.split(pieces, dim=2):
        logits, state = model.stream(piece, state)
        seen += piece.size(2)
        assert torch.allclose(logits, model(x[:, :, :seen]), atol=1e-12)


@torch.no_grad()
def test_the_state_does_not_grow():
    model, x, state, sizes = make(), clip(), None, []
    for frame in x.split(1, dim=2):
        _, state = model.stream(frame, state)
        cells, total, _ = state
        sizes.append(sum(t.numel() for pair in cells for t in pair) + total.numel())
    assert len(set(sizes)) == 1


def test_networks_that_look_across_frames_are_refused():
    norm = make(in_norm=partial(JointLayerNorm, num_joint_dims=3))
    torch.manual_seed(0)
    inside = VideoClassifier(SimpleConv(3, (8, 8)), 5, {"conv0": RSTGBlock(8)}, RSTGBlock(8, to="vec"))
    pooled = VideoClassifier(SimpleConv(3, (8, 8)), 5, head=RSTGBlock(8, to="vec"), combine="plus")
    without = VideoClassifier(SimpleConv(3, (8, 8)), 5)
    for model in (norm, inside, pooled, without):
        assert not model.streams
        with pytest.raises(ValueError, match="sees single frames"):
            model.eval().stream(clip().to(next(model.parameters()).dtype))
    with torch.device("meta"):
        assert not VideoClassifier(i3d_resnet50(), 5).streams
    with pytest.raises(ValueError, match="evaluation mode"):
        make().train().stream(clip())
