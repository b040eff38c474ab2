"""Clips of different lengths in one batch: what is in the frames beyond changes nothing."""

import pytest
import torch

from rstg_pyg import ChannelBatchNorm, HomogeneousRSTG, LSTMHead, RSTGBlock, VideoClassifier
from rstg_pyg.backbones import SimpleConv
from rstg_pyg.means import mean_over_frames

LENGTHS = [5, 1, 3]
NETWORKS = {
    "vec": lambda: dict(head=RSTGBlock(6, 4, scales=(2, 1), to="vec", residual=True)),
    "gru and mean": lambda: dict(
        head=RSTGBlock(6, scales=(2, 1), to="vec", cell="gru", in_norm=ChannelBatchNorm), combine="plus"
    ),
    "lstm head": lambda: dict(head=LSTMHead(6, 4)),
    "map": lambda: dict(blocks={"conv0": RSTGBlock(6, 4, scales=(2, 1), out_norm=None)}, pool_window=2),
    "mean": lambda: {},
}


def network(**kwargs):
    torch.manual_seed(0)
    return VideoClassifier(SimpleConv(3, (6, 6), padding=1), 5, **kwargs).double().eval()


def clips(fill):
    """Three clips, padded to five frames with one number."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, 5, 12, 12, generator=generator, dtype=torch.double)
    for clip, length in zip(x, LENGTHS, strict=True):
        clip[:, length:] = fill
    return x


@pytest.mark.parametrize("lengths", [LENGTHS, torch.tensor(LENGTHS)], ids=["list", "tensor"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_padded_clips_are_classified_like_the_clips_alone(name, lengths):
    model, x = network(**NETWORKS[name]()), clips(fill=7.0)
    alone = [model(clip[None, :, :length]) for clip, length in zip(x, LENGTHS, strict=True)]
    found = model(x, lengths)
    torch.testing.assert_close(found, torch.cat(alone))
    assert torch.equal(found, model(clips(fill=-3.0), lengths))
    assert not torch.allclose(found, model(x))


def test_no_gradient_comes_from_the_frames_beyond():
    model, x = network(**NETWORKS["gru and mean"]()), clips(fill=7.0).requires_grad_()
    model(x, LENGTHS).square().sum().backward()
    for grad, length in zip(x.grad, LENGTHS, strict=True):
        assert (grad[:, length:] == 0).all() and (grad[:, :length] != 0).any()


@torch.no_grad()
def test_several_clips_of_a_video_have_lengths_of_their_own():
    model, x = network(**NETWORKS["vec"]()), clips(fill=7.0)
    lengths = [[5, 1], [3, 2]]
    videos = torch.stack([x[:2], x[1:]])
    expected = torch.stack([model(video, n).mean(0) for video, n in zip(videos, lengths, strict=True)])
    torch.testing.assert_close(model(videos, lengths), expected)


def test_mean_of_frames_that_are_not_there():
    x = torch.tensor([[1.0, 3.0, torch.inf], [torch.nan, torch.nan, torch.nan]])
    assert mean_over_frames(x, 1, [2, 0]).tolist() == [2.0, 0.0]


def test_networks_that_look_across_frames_take_no_lengths():
    block = RSTGBlock(6, scales=(2, 1))  # the norm of its map counts all frames
    with pytest.raises(ValueError, match="block after stage 'conv0' .* give it clips of one length"):
        network(blocks={"conv0": block})(clips(0), LENGTHS)
    head = RSTGBlock(6, scales=(2, 1), to="vec", graph=HomogeneousRSTG)
    with pytest.raises(ValueError, match="looks across frames: the head"):
        network(head=head)(clips(0), LENGTHS)
    for part in (block, head):
        with pytest.raises(ValueError, match="single frames but for its cells with 'lengths'"):
            part(torch.randn(3, 6, 5, 4, 4), LENGTHS)
    model = network()
    model.backbone.per_frame = False
    with pytest.raises(ValueError, match="the backbone SimpleConv"):
        model(clips(0), LENGTHS)


@pytest.mark.parametrize("lengths", [[5, 1], [5, 1, 6], [5, -1, 3], [5.0, 1.0, 3.0]], ids=str)
def test_wrong_lengths_are_named(lengths):
    with pytest.raises(ValueError, match="'lengths' to hold 3 numbers of frames from 0 to 5"):
        network()(clips(0), lengths)
