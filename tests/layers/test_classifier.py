import pytest
import torch
from helpers.random_weights import randomize
from hypothesis import given, settings
from hypothesis import strategies as st

from rstg_pyg import RSTGBlock, VideoClassifier, published_arguments


class Toy(torch.nn.Module):
    """The least that a backbone needs: named stages and their channels. And other names of stages."""

    def __init__(self):
        super().__init__()
        self.stages = torch.nn.ModuleDict(
            {
                "stem": torch.nn.Conv3d(1, 4, (1, 3, 3), padding=(0, 1, 1)),
                "res1": torch.nn.Sequential(torch.nn.Conv3d(4, 4, 1), torch.nn.ReLU()),
                "res2": torch.nn.Conv3d(4, 6, (2, 2, 2), stride=(2, 2, 2)),
            }
        )
        self.channels = {"stem": 4, "res1": 4, "res2": 6}


class Places(Toy):
    def __init__(self):
        super().__init__()
        self.places = {"early": "stem", "late": "res2"}


def make_block(channels, to, seed=0, **kwargs):
    """A block that changes something (the scale of a new one is zero)."""
    return randomize(RSTGBlock(channels, scales=(2, 1), to=to, **kwargs), seed, 0.5)


@pytest.fixture
def clip():
    return torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return Toy()


def by_hand(model, clip, after, combine, window):
    """The last map; and the mean of the logits of all windows, which are no larger than the map."""
    x = clip
    for name, stage in model.backbone.stages.items():
        x = stage(x)
        x = x + after[name](x) if name in after else x
    sides = [size if window is None else min(window, size) for size in x.shape[3:]]
    vector, mean, logits = 0 if model.head is None else model.head(x), x.mean(2), []
    for i in range(mean.size(2) - sides[0] + 1):
        for j in range(mean.size(3) - sides[1] + 1):
            cell = mean[..., i : i + sides[0], j : j + sides[1]].mean((2, 3))
            logits.append(model.lin(vector if combine == "serial" else cell + vector))
    return x, torch.stack(logits).mean(0)


@settings(max_examples=60, deadline=None)
@given(
    places=st.sets(st.sampled_from(["early", "res1", "res2"])),
    combine=st.sampled_from([None, "serial", "plus"]),
    window=st.sampled_from([None, 1, 2, 3, 4, 5, 100]),
    size=st.sampled_from([(8, 8), (4, 12)]),
)
def test_classifier_definition(places, combine, window, size):
    """Blocks after their stages, by either name; the head, alone or beside the mean; windows."""
    torch.manual_seed(0)
    backbone, stages = Places(), {"early": "stem"}
    of = {name: make_block(backbone.channels[stages.get(name, name)], "map") for name in places}
    kwargs = {} if combine is None else dict(head=make_block(6, "vec"), combine=combine)
    model = VideoClassifier(backbone, 5, blocks=of, pool_window=window, **kwargs)
    assert model.block_after == {stages.get(name, name): name for name in places}
    found = {key.split(".")[1] for key in model.state_dict() if key.startswith("blocks.")}
    assert found == places and model.lin.in_features == 6 and (model.head is None) == (not kwargs)
    clip = torch.randn(2, 1, 4, *size)
    after = {stages.get(name, name): block for name, block in of.items()}
    features, logits = by_hand(model, clip, after, combine, window)
    assert features.shape == (2, 6, 2, size[0] // 2, size[1] // 2) and logits.shape == (2, 5)
    torch.testing.assert_close(model.features(clip), features)
    torch.testing.assert_close(model(clip), logits)


def test_classifier_new_blocks_leave_the_network_as_it_was(backbone, clip):
    plain = VideoClassifier(backbone, 5)
    blocks = {name: RSTGBlock(4, scales=(2, 1)) for name in ("stem", "res1")}
    model = VideoClassifier(backbone, 5, blocks=blocks)
    missing = model.load_state_dict(plain.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert all(key.startswith("blocks.") for key in missing.missing_keys)
    assert torch.equal(model(clip), plain(clip))


def test_classifier_dropout_only_in_training(backbone, clip):
    torch.manual_seed(0)
    model, plain = VideoClassifier(backbone, 5, dropout=0.5), VideoClassifier(backbone, 5)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.eval()(clip), plain(clip))
    model.train()
    assert torch.stack([model(clip) for _ in range(8)]).std(dim=0).max() > 0
    out = VideoClassifier(backbone, 5, dropout=1.0)(clip)  # nothing but the (zero) bias is left
    assert out.abs().max() == 0


def test_classifier_drops_channels_of_every_window_before_their_mean():
    """Four windows of ones: their sum is of the masks' zeros and twos, as in the published code."""

    class Map(torch.nn.Module):
        stages, channels = torch.nn.ModuleDict({"map": torch.nn.Identity()}), {"map": 64}

    class Head(torch.nn.Module):
        channels = out_channels = 64

        def forward(self, x):
            return x.mean(dim=(2, 3, 4))

    torch.manual_seed(0)
    ones = torch.ones(32, 64, 2, 3, 3)
    for kwargs, value in (({}, 1), ({"head": Head(), "combine": "plus"}, 2)):
        model = VideoClassifier(Map(), 64, dropout=0.5, pool_window=2, **kwargs)
        torch.nn.init.eye_(model.lin.weight)
        kept = model(ones) / (2 * value) * 4  # of four windows
        assert torch.equal(kept, kept.round())
        share = kept.long().flatten().bincount(minlength=5) / kept.numel()
        assert torch.allclose(share, torch.tensor([1, 4, 6, 4, 1]) / 16, atol=0.05)
    # The head alone has one vector.
    model = VideoClassifier(Map(), 64, dropout=0.5, pool_window=2, head=Head())
    torch.nn.init.eye_(model.lin.weight)
    assert set(model(ones).unique().tolist()) == {0.0, 2.0}


def test_classifier_trains(backbone, clip):
    torch.manual_seed(0)
    model = VideoClassifier(
        backbone, 2, blocks={"res1": RSTGBlock(4, 6, scales=(2, 1))},
        head=RSTGBlock(6, 8, scales=(2, 1), to="vec", residual=True), combine="plus",
    )  # fmt: skip
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.01), []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(model(clip), torch.tensor([0, 1]))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name


def test_classifier_reset_classifier(backbone):
    model = VideoClassifier(backbone, 5)
    bound = (6 / (6 + 5)) ** 0.5
    assert 0 < model.lin.weight.abs().max() <= bound and model.lin.bias.abs().max() == 0
    weight, stem = model.lin.weight.clone(), model.backbone.stages["stem"].weight.clone()
    torch.nn.init.ones_(model.lin.bias)
    model.results = {"top1": 0.5}
    model.reset_classifier()
    assert model.results is None  # they were those of the layer before
    assert not torch.equal(model.lin.weight, weight) and model.lin.bias.abs().max() == 0
    assert torch.equal(model.backbone.stages["stem"].weight, stem)
    model.to(torch.float64).reset_classifier(7)
    assert (model.num_classes, model.lin.weight.shape, model.lin.weight.dtype) == (
        7, torch.Size([7, 6]), torch.float64,
    )  # fmt: skip
    assert model.lin.bias.count_nonzero() == 0
    with pytest.raises(ValueError, match="'num_classes'"):
        model.reset_classifier(0)


def test_classifier_state_dict_round_trip(clip):
    def build():
        blocks = {"stem": make_block(4, "map")}
        return VideoClassifier(Toy(), 5, blocks=blocks, head=make_block(6, "vec"))

    model, other = build(), build()
    assert not torch.allclose(other(clip), model(clip))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(clip), model(clip))


@pytest.mark.parametrize(
    "backbone, kwargs, message",
    [
        (torch.nn.Conv3d(3, 8, 3), {}, r"whose 'channels' is a dictionary .* \(got 'Conv3d'\)"),
        (Toy(), {"blocks": {"res3": RSTGBlock(4)}}, r"\['stem', 'res1', 'res2'\] \(got 'res3'\)"),
        (Toy(), {"blocks": {"res2": RSTGBlock(4)}}, r"after stage 'res2' must have 6 .*\(got 4\)"),
        (Toy(), {"blocks": {"stem": RSTGBlock(4, to="vec")}}, "after stage 'stem' .* with to='map'"),
        (Toy(), {"head": RSTGBlock(4, to="vec")}, r"The head must have 6 channels .*\(got 4\)"),
        (Toy(), {"head": RSTGBlock(6)}, r"The head must be built with to='vec' \(got 'map'\)"),
        (Toy(), {"head": RSTGBlock(6, to="vec", out_channels=4)}, r"have 6 .*\(got 4 at its output\)"),
        (Toy(), {"combine": "sum"}, r"'combine' to be 'serial' or 'plus' \(got 'sum'\)"),
        (Toy(), {"pool_window": 0}, r"'pool_window' to be at least 1 \(got 0\)"),
        (Toy(), {"pool_window": -1}, r"'pool_window' to be at least 1 \(got -1\)"),
        (Places(), {"blocks": {"mid": RSTGBlock(4)}}, r"'res2', 'early', 'late'\] \(got 'mid'\)"),
        (Places(), {"blocks": {"early": RSTGBlock(4), "stem": RSTGBlock(4)}},
         "one block after stage 'stem' .got two"),
        (Places(), {"blocks": {"late": RSTGBlock(4)}}, "after stage 'late' must have 6 channels"),
    ],
)  # fmt: skip
def test_classifier_errors(backbone, kwargs, message):
    with pytest.raises(ValueError, match=message):
        VideoClassifier(backbone, 5, **kwargs)


def test_classifier_several_clips_of_a_video(backbone):
    model = VideoClassifier(backbone, 5, head=make_block(6, "vec"), combine="plus", pool_window=3)
    clips = torch.randn(2, 3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    out = model(clips)
    assert out.shape == (2, 5)
    torch.testing.assert_close(out, torch.stack([model(clips[:, i]) for i in range(3)], 1).mean(1))
    torch.testing.assert_close(out, model(clips[:, [2, 0, 1]]))  # in any order
    torch.testing.assert_close(model(clips[:, :1]), model(clips[:, 0]))
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_classifier_clips_of_a_wrong_shape(backbone):
    for shape in [(1, 4, 8, 8), (4, 8, 8), (1, 1, 1, 1, 4, 8, 8)]:
        with pytest.raises(ValueError, match=r"\[B, C, T, H, W\] or \[B, L, C, T, H, W\] \(got "):
            VideoClassifier(backbone, 5)(torch.randn(shape))


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_classifier_grad_checkpointing_gives_the_same_gradients_and_statistics(norm):
    def build(checkpointing):
        torch.manual_seed(0)
        block = RSTGBlock(4, scales=(2, 1), **published_arguments("dot", norm))
        model = VideoClassifier(Toy(), 3, blocks={"res1": block}, grad_checkpointing=checkpointing)
        model(torch.randn(2, 1, 4, 8, 8)).square().sum().backward()
        return model

    plain, model = build(False), build(True)
    if norm == "layer":
        for p, q in zip(plain.parameters(), model.parameters()):
            torch.testing.assert_close(p.grad, q.grad)
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()))
