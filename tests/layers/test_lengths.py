"""Clips of different lengths in one batch: what is in the frames beyond changes nothing."""

import pytest
import torch
from helpers.networks import clips as draw_clips
from helpers.networks import network

from rstg_pyg import HomogeneousRSTG, RSTGBlock, VideoClassifier
from rstg_pyg.backbones import SimpleConv
from rstg_pyg.means import mean_over_frames

LENGTHS = [5, 1, 3]


def clips(fill):
    """Three clips, padded to five frames with one number."""
    x = draw_clips(3, 5, 12)
    for clip, length in zip(x, LENGTHS, strict=True):
        clip[:, length:] = fill
    return x


@pytest.mark.parametrize("lengths", [LENGTHS, torch.tensor(LENGTHS)], ids=["list", "tensor"])
@pytest.mark.parametrize(
    "name", ["residual", "head and mean", "lstm head", "inside", "everywhere", "mean"]
)
@torch.no_grad()
def test_padded_clips_are_classified_like_the_clips_alone(name, lengths):
    model, x = network(name), clips(fill=7.0)
    alone = [model(clip[None, :, :length]) for clip, length in zip(x, LENGTHS, strict=True)]
    found = model(x, lengths)
    torch.testing.assert_close(found, torch.cat(alone))
    assert torch.equal(found, model(clips(fill=-3.0), lengths))
    assert not torch.allclose(found, model(x))


def test_no_gradient_comes_from_the_frames_beyond():
    model, x = network("head and mean"), clips(fill=7.0).requires_grad_()
    model(x, LENGTHS).square().sum().backward()
    for grad, length in zip(x.grad, LENGTHS, strict=True):
        assert (grad[:, length:] == 0).all() and (grad[:, :length] != 0).any()


@torch.no_grad()
def test_several_clips_of_a_video_have_lengths_of_their_own():
    model, x = network("plain"), clips(fill=7.0)
    lengths, videos = [[5, 1], [3, 2]], torch.stack([x[:2], x[1:]])
    expected = torch.stack([model(video, n).mean(0) for video, n in zip(videos, lengths, strict=True)])
    torch.testing.assert_close(model(videos, lengths), expected)


def test_mean_of_frames_that_are_not_there():
    x = torch.tensor([[1.0, 3.0, torch.inf], [torch.nan, torch.nan, torch.nan]])
    assert mean_over_frames(x, 1, [2, 0]).tolist() == [2.0, 0.0]


def test_networks_that_look_across_frames_take_no_lengths():
    block = RSTGBlock(6, scales=(2, 1))  # the norm of its map counts all frames
    head = RSTGBlock(6, scales=(2, 1), to="vec", graph=HomogeneousRSTG)
    for message, kwargs in [
        ("block after stage 'conv0' .* give it clips of one length", dict(blocks={"conv0": block})),
        ("mixes frames: the head", dict(head=head)),
    ]:
        with pytest.raises(ValueError, match=message):
            VideoClassifier(SimpleConv(3, (6, 6), padding=1), 5, **kwargs)(clips(0).float(), LENGTHS)
    for part in (block, head):
        with pytest.raises(ValueError, match="single frames but for its cells with 'lengths'"):
            part(torch.randn(3, 6, 5, 4, 4), LENGTHS)
    model = network("mean")
    model.backbone.per_frame = False
    with pytest.raises(ValueError, match="the backbone SimpleConv"):
        model(clips(0), LENGTHS)


@pytest.mark.parametrize("lengths", [[5, 1], [5, 1, 6], [5, -1, 3], [5.0, 1.0, 3.0]], ids=str)
def test_wrong_lengths_are_named(lengths):
    with pytest.raises(ValueError, match="'lengths' to hold 3 numbers of frames from 0 to 5"):
        network("mean")(clips(0), lengths)
