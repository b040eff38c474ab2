import gc
from functools import partial

import pytest
import torch
from helpers.networks import STREAMS, clips, inside, network, vec

from rstg_pyg import RSTG, HomogeneousRSTG, JointLayerNorm, RSTGBlock, VideoClassifier
from rstg_pyg.backbones import SimpleConv, i3d_resnet50


class OneCall(torch.nn.Module):
    """A backbone that runs its stages itself."""

    per_frame = True

    def __init__(self):
        super().__init__()
        self.parts = SimpleConv(3, (6, 6), padding=1).stages
        self.channels = {"conv0": 6, "conv1": 6}

    def forward(self, clip, after):
        for name, part in self.parts.items():
            clip = after(name, part(clip))
        return clip


def follow(model, x, pieces=1):
    """Logits after every piece."""
    state, found = None, []
    for piece in x.split(pieces, dim=2):
        logits, state = model.stream(piece, state)
        found.append(logits)
    return found


@pytest.mark.parametrize("name", STREAMS)
@torch.no_grad()
def test_a_stream_gives_the_logits_of_all_frames_so_far(name):
    model, x = network(name), clips(frames=5)
    assert model.streams
    for found, seen in zip(follow(model, x, [1, 1, 3]), (1, 2, 5), strict=True):
        assert torch.allclose(found, model(x[:, :, :seen]), atol=1e-12)


def test_a_stream_goes_through_a_backbone_that_runs_its_stages_itself():
    model, x = network("everywhere", backbone=OneCall()), clips(frames=5)
    torch.testing.assert_close(follow(model, x)[-1], model(x).detach())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["last", "norms within frames", "lstm head and mean"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 6e-2)])
@torch.no_grad()
def test_a_long_stream_within_rounding(name, dtype, tolerance):
    """In bfloat16 a running sum of its own type would be off by half after 400 frames."""
    model, x = network(name, dtype), clips(frames=400, dtype=dtype)
    logits, whole = follow(model, x)[-1], model(x)
    assert logits.dtype == dtype
    assert (logits - whole).abs().max() <= tolerance * whole.abs().max()


def held():
    """Tensors that are alive, and the bytes of their storages (sparse ones have none)."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
    tensors = [x for x in tensors if x.layout == torch.strided]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return len(tensors), sum(storages.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm head and mean", "everywhere"])
def test_memory_stays_the_same(name):
    model, x, state = network(name), clips(frames=10), None
    assert torch.is_grad_enabled()  # a stream records no gradients, whoever calls it
    after = {}
    for frame in range(1, 61):
        logits, state = model.stream(x[:, :, frame % 10][:, :, None], state)
        assert not logits.requires_grad
        if frame in (10, 60):
            after[frame] = held()
    assert after[10] == after[60]


def test_networks_that_look_across_frames_say_which_part_does():
    def made(blocks=None, head=None):
        return VideoClassifier(SimpleConv(3, (6, 6)), 5, blocks, head).eval()

    over_frames = partial(JointLayerNorm, num_joint_dims=3)
    head = r"the head \(its graph"
    for model, part in (
        (made(head=vec(in_norm=over_frames)), head),
        (made(head=vec(norm=partial(JointLayerNorm, num_joint_dims=4))), head),
        (made(head=vec(graph=HomogeneousRSTG)), head),
        (made({"conv0": RSTGBlock(6)}), "the block after stage 'conv0'"),  # its ZeroInitNorm
        (made({"conv1": inside(out_norm=lambda c: torch.nn.GroupNorm(2, c))}), "stage 'conv1'"),
        (made({"conv1": inside(out_norm=torch.nn.InstanceNorm3d)}), "stage 'conv1'"),
        (made({"conv1": inside(graph=HomogeneousRSTG)}, vec()), "stage 'conv1'"),
    ):
        assert not model.streams
        with pytest.raises(ValueError, match=f"mixes frames: .*{part}"):
            model.stream(clips(dtype=torch.float32))
    with torch.device("meta"):
        model = VideoClassifier(i3d_resnet50(), 5).eval()
    with pytest.raises(ValueError, match="the backbone VideoResNet .* give it the whole clip"):
        model.stream(clips(dtype=torch.float32))


@pytest.mark.parametrize(
    "x, message",
    [
        (clips()[:, :, 0], r"\[B, C, T, H, W\] \(got \[2, 3, 16, 16\]\)"),
        (clips()[:, :, :0], "one frame or more"),
        (clips()[:1], "stream of the same batch and size"),
    ],
)
def test_mistakes_in_a_stream(x, message):
    model = network("mean")
    _, state = model.stream(clips())
    with pytest.raises(ValueError, match=message):
        model.stream(x, state)
    with pytest.raises(ValueError, match="evaluation mode"):
        model.train().stream(clips())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "kwargs, size, message",
    [
        ({}, (3, 2, 5), r"the same 2 clips with 5 nodes, 10 in all \(got 15\)"),
        ({}, (2, 2, 4), r"the same 2 clips with 5 nodes, 10 in all \(got 8\)"),
        ({"cell": "gru"}, (2, 2, 5), r"2 tensor\(s\) of shape \[1, nodes, 8\]"),
        ({"hidden_channels": 6}, (2, 2, 5), r"2 tensor\(s\) of shape \[1, nodes, 8\]"),
    ],
)
def test_rstg_state_of_others(kwargs, size, message, masked):
    """Neither cut nor filled with zeros, where it is of other clips, nodes or another network."""
    kwargs, edge = {"hidden_channels": 8, **kwargs}, torch.tensor([[0], [1]])
    _, state = RSTG(4, **kwargs)(torch.randn(*size, 4), edge, return_state=True)
    mask = torch.ones(2, 3, 5, dtype=torch.bool) if masked else None
    with pytest.raises(ValueError, match=message):
        RSTG(4, 8)(torch.randn(2, 3, 5, 4), edge, mask=mask, state=state)


def test_rstg_without_frames():
    model, x, edge = RSTG(4, 8), torch.randn(2, 3, 5, 4), torch.tensor([[0], [1]])
    empty, state = model(x[:, :0], edge, return_state=True)
    assert empty.shape == (2, 0, 5, 8)
    torch.testing.assert_close(model(x, edge, state=state), model(x, edge), atol=1e-6, rtol=1e-5)
