import gc
from functools import partial

import pytest
import torch

from rstg_pyg import (
    RSTG,
    ChannelBatchNorm,
    HomogeneousRSTG,
    JointLayerNorm,
    LSTMHead,
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
    "norms within frames": dict(in_norm=JointLayerNorm, norm=JointLayerNorm),
}


def vec(**kwargs):
    return RSTGBlock(8, scales=(2, 1), to="vec", **kwargs)


def inside(**kwargs):
    """A graph inside the backbone, with a norm by running statistics."""
    kwargs = {"out_norm": partial(ChannelBatchNorm, channel_dim=1), **kwargs}
    return RSTGBlock(8, scales=(3, 1), hidden_channels=6, **kwargs)


#: Everything but the backbone that a stream can go through: built anew for every test.
NETWORKS = {
    **{name: lambda kwargs=kwargs: dict(head=vec(**kwargs)) for name, kwargs in VARIANTS.items()},
    "lstm head": lambda: dict(head=LSTMHead(8, 6, in_norm=True)),
    "flat lstm head": lambda: dict(head=LSTMHead(8, map_size=3)),
    "head and mean": lambda: dict(head=vec(), combine="plus"),
    "lstm head and mean": lambda: dict(head=LSTMHead(8), combine="plus"),
    "mean": lambda: {},
    "mean over windows": lambda: dict(pool_window=2),
    "graph inside": lambda: dict(blocks={"conv0": inside()}),
    "graphs everywhere": lambda: dict(
        blocks={"conv0": inside(), "conv1": inside(out_norm=None, cell="gru")},
        head=vec(),
        combine="plus",
    ),
}


class OneCall(torch.nn.Module):
    """A backbone that runs its stages itself."""

    per_frame = True

    def __init__(self):
        super().__init__()
        self.parts = SimpleConv(3, (8, 8)).stages
        self.channels = {"conv0": 8, "conv1": 8}

    def forward(self, clip, after):
        for name, part in self.parts.items():
            clip = after(name, part(clip))
        return clip


def make(name="plain", backbone=SimpleConv, dtype=torch.double):
    torch.manual_seed(0)
    backbone = SimpleConv(3, (8, 8)) if backbone is SimpleConv else backbone()
    model = VideoClassifier(backbone, 5, **NETWORKS[name]())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.to(dtype).eval()


def clip(frames=7, dtype=torch.double):
    return torch.randn(2, 3, frames, 20, 20, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("pieces", [[1, 1, 3]], ids=str)
@torch.no_grad()
def test_a_stream_gives_the_logits_of_all_frames_so_far(name, pieces):
    model, x, state, seen = make(name), clip(sum(pieces)), None, 0
    assert model.streams
    for piece in x.split(pieces, dim=2):
        logits, state = model.stream(piece, state)
        seen += piece.size(2)
        assert torch.allclose(logits, model(x[:, :, :seen]), atol=1e-12)


def test_a_stream_goes_through_a_backbone_that_runs_its_stages_itself():
    model, x, state = make("graphs everywhere", OneCall), clip(), None
    for frame in x.split(1, dim=2):
        logits, state = model.stream(frame, state)
    torch.testing.assert_close(logits, model(x).detach())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru", "norms within frames", "lstm head and mean"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 6e-2)])
@torch.no_grad()
def test_a_long_stream_within_rounding(name, dtype, tolerance):
    """In bfloat16 a running sum of its own type would be off by half after 400 frames."""
    model, x, state = make(name, dtype=dtype), clip(400, dtype), None
    for frame in x.split(1, dim=2):
        logits, state = model.stream(frame, state)
    whole = model(x)
    assert logits.dtype == dtype
    assert (logits - whole).abs().max() <= tolerance * whole.abs().max()


def held():
    """Tensors that are alive, and the bytes of their storages."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return len(tensors), sum(storages.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm head and mean", "graphs everywhere"])
def test_memory_stays_the_same(name):
    model, x, state = make(name), clip(10), None
    assert torch.is_grad_enabled()  # a stream records no gradients, whoever calls it
    after = {}
    for frame in range(1, 61):
        logits, state = model.stream(x[:, :, frame % 10][:, :, None], state)
        assert not logits.requires_grad
        if frame in (10, 60):
            after[frame] = held()
    assert after[10] == after[60]


def test_networks_that_look_across_frames_say_which_part_does():
    def network(blocks=None, head=None):
        return VideoClassifier(SimpleConv(3, (8, 8)), 5, blocks, head).eval()

    over_frames = partial(JointLayerNorm, num_joint_dims=3)
    head = r"the head \(its graph"
    for model, part in (
        (network(head=vec(in_norm=over_frames)), head),
        (network(head=vec(norm=partial(JointLayerNorm, num_joint_dims=4))), head),
        (network(head=vec(graph=HomogeneousRSTG)), head),
        (network({"conv0": RSTGBlock(8)}), "the block after stage 'conv0'"),  # its ZeroInitNorm
        (network({"conv1": inside(out_norm=lambda c: torch.nn.GroupNorm(2, c))}), "stage 'conv1'"),
        (network({"conv1": inside(graph=HomogeneousRSTG)}, vec()), "stage 'conv1'"),
    ):
        assert not model.streams
        with pytest.raises(ValueError, match=f"looks across frames: .*{part}"):
            model.stream(clip(dtype=torch.float32))
    with torch.device("meta"):
        model = VideoClassifier(i3d_resnet50(), 5).eval()
    with pytest.raises(ValueError, match="the backbone VideoResNet .* give it the whole clip"):
        model.stream(clip(dtype=torch.float32))


def test_mistakes_in_a_stream():
    with pytest.raises(ValueError, match="evaluation mode"):
        make().train().stream(clip())
    with pytest.raises(ValueError, match=r"\[B, C, T, H, W\] \(got \[2, 3, 20, 20\]\)"):
        make().stream(clip()[:, :, 0])
    with pytest.raises(ValueError, match="one frame or more"):
        make().stream(clip()[:, :, :0])
    model = make("mean")
    _, state = model.stream(clip())
    with pytest.raises(ValueError, match="stream of the same batch and size"):
        model.stream(clip()[:1], state)


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
