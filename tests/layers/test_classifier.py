import pytest
import torch

from rstg_pyg import RSTGBlock, VideoClassifier, published_arguments
from rstg_pyg.backbones import SimpleConv


class Toy(torch.nn.Module):
    """The least that a backbone needs: named stages and their channels."""

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


def make_block(channels, to, seed=0, **kwargs):
    """A block that changes something (the scale of a new one is zero)."""
    block = RSTGBlock(channels, scales=(2, 1), to=to, **kwargs)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in block.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    return block


@pytest.fixture
def clip():
    return torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return Toy()


def test_classifier_without_blocks(backbone, clip):
    model = VideoClassifier(backbone, 5)
    x = clip
    for stage in backbone.stages.values():
        x = stage(x)
    out = model(clip)
    assert out.shape == (2, 5)
    torch.testing.assert_close(out, x.mean((2, 3, 4)) @ model.lin.weight.t() + model.lin.bias)
    assert model.lin.in_features == 6
    assert len(model.blocks) == 0 and model.head is None


@pytest.mark.parametrize("names", [("stem",), ("res1", "stem"), ("stem", "res1", "res2")], ids=str)
def test_classifier_adds_blocks_after_their_stages(backbone, clip, names):
    blocks = {name: make_block(backbone.channels[name], "map") for name in names}
    model = VideoClassifier(backbone, 5, blocks=blocks)
    x = clip
    for name, stage in backbone.stages.items():
        x = stage(x)
        if name in names:
            x = x + blocks[name](x)
    torch.testing.assert_close(model(clip), model.lin(x.mean((2, 3, 4))))
    assert not torch.allclose(model(clip), VideoClassifier(backbone, 5)(clip))


def test_classifier_new_blocks_leave_the_network_as_it_was(backbone, clip):
    plain = VideoClassifier(backbone, 5)
    blocks = {name: RSTGBlock(4, scales=(2, 1)) for name in ("stem", "res1")}
    model = VideoClassifier(backbone, 5, blocks=blocks)
    missing = model.load_state_dict(plain.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert all(key.startswith("blocks.") for key in missing.missing_keys)
    assert torch.equal(model(clip), plain(clip))


@pytest.mark.parametrize("combine", ["serial", "plus"])
def test_classifier_head(backbone, clip, combine):
    head = make_block(6, "vec")
    model = VideoClassifier(backbone, 5, head=head, combine=combine)
    x = clip
    for stage in backbone.stages.values():
        x = stage(x)
    vector = head(x) + (x.mean((2, 3, 4)) if combine == "plus" else 0)
    torch.testing.assert_close(model(clip), model.lin(vector))


def test_classifier_head_after_blocks(backbone, clip):
    head, block = make_block(6, "vec"), make_block(6, "map", seed=3)
    model = VideoClassifier(backbone, 5, blocks={"res2": block}, head=head, combine="plus")
    x = clip
    for stage in backbone.stages.values():
        x = stage(x)
    x = x + block(x)
    torch.testing.assert_close(model(clip), model.lin(head(x) + x.mean((2, 3, 4))))


def test_classifier_dropout_only_in_training(backbone, clip):
    torch.manual_seed(0)
    model = VideoClassifier(backbone, 5, dropout=0.5)
    plain = VideoClassifier(backbone, 5)
    plain.load_state_dict(model.state_dict())
    model.eval()
    torch.testing.assert_close(model(clip), plain(clip))
    model.train()
    outs = torch.stack([model(clip) for _ in range(8)])
    assert outs.std(dim=0).max() > 0
    out = VideoClassifier(backbone, 5, dropout=1.0)(clip)  # nothing but the (zero) bias is left
    assert out.abs().max() == 0


def test_classifier_trains(backbone, clip):
    torch.manual_seed(0)
    model = VideoClassifier(
        backbone, 2, blocks={"res1": RSTGBlock(4, 6, scales=(2, 1))},
        head=RSTGBlock(6, 8, scales=(2, 1), to="vec", residual=True), combine="plus",
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    label = torch.tensor([0, 1])
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(model(clip), label)
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
    weight = model.lin.weight.clone()
    stem = model.backbone.stages["stem"].weight.clone()
    torch.nn.init.ones_(model.lin.bias)
    model.reset_classifier()
    assert not torch.equal(model.lin.weight, weight) and model.lin.bias.abs().max() == 0
    assert torch.equal(model.backbone.stages["stem"].weight, stem)


def test_classifier_with_simple_conv():
    torch.manual_seed(0)
    backbone = SimpleConv(1, (4, 4, 6))
    model = VideoClassifier(backbone, 46, blocks={"conv1": RSTGBlock(4)}, head=RSTGBlock(6, to="vec"))
    assert model(torch.randn(2, 1, 3, 64, 64)).shape == (2, 46)


def test_classifier_state_dict_round_trip(backbone, clip):
    def build():
        return VideoClassifier(
            Toy(), 5, blocks={"stem": make_block(4, "map")}, head=make_block(6, "vec")
        )

    model, other = build(), build()
    assert not torch.allclose(other(clip), model(clip))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(clip), model(clip))


def test_classifier_errors(backbone):
    with pytest.raises(ValueError, match=r"whose 'channels' is a dictionary .* \(got 'Conv3d'\)"):
        VideoClassifier(torch.nn.Conv3d(3, 8, 3), 5)
    with pytest.raises(ValueError, match=r"\['stem', 'res1', 'res2'\] \(got 'res3'\)"):
        VideoClassifier(backbone, 5, blocks={"res3": RSTGBlock(4)})
    with pytest.raises(ValueError, match=r"after stage 'res2' must have 6 channels .*\(got 4\)"):
        VideoClassifier(backbone, 5, blocks={"res2": RSTGBlock(4)})
    with pytest.raises(ValueError, match=r"after stage 'stem' must be built with to='map'"):
        VideoClassifier(backbone, 5, blocks={"stem": RSTGBlock(4, to="vec")})
    with pytest.raises(ValueError, match=r"The head must have 6 channels .*\(got 4\)"):
        VideoClassifier(backbone, 5, head=RSTGBlock(4, to="vec"))
    with pytest.raises(ValueError, match=r"The head must be built with to='vec' \(got 'map'\)"):
        VideoClassifier(backbone, 5, head=RSTGBlock(6))
    with pytest.raises(ValueError, match=r"'combine' to be 'serial' or 'plus' \(got 'sum'\)"):
        VideoClassifier(backbone, 5, combine="sum")


class Places(Toy):
    """Stages that have other names as well."""

    def __init__(self):
        super().__init__()
        self.places = {"early": "stem", "late": "res2"}


def test_classifier_blocks_by_places(clip):
    torch.manual_seed(0)
    backbone = Places()
    blocks = {"early": make_block(4, "map"), "late": make_block(6, "map"), "res1": make_block(4, "map")}
    model = VideoClassifier(backbone, 5, blocks=blocks)
    assert model.block_after == {"stem": "early", "res2": "late", "res1": "res1"}
    assert {key.split(".")[1] for key in model.state_dict() if key.startswith("blocks.")} == set(blocks)
    x = clip
    for stage, name in (("stem", "early"), ("res1", "res1"), ("res2", "late")):
        x = backbone.stages[stage](x)
        x = x + blocks[name](x)
    torch.testing.assert_close(model.features(clip), x)
    torch.testing.assert_close(model(clip), model.lin(x.mean((2, 3, 4))))


def test_classifier_errors_of_places():
    with pytest.raises(ValueError, match=r"\['stem', 'res1', 'res2', 'early', 'late'\] \(got 'mid'\)"):
        VideoClassifier(Places(), 5, blocks={"mid": RSTGBlock(4)})
    with pytest.raises(ValueError, match="one block after stage 'stem' .got two"):
        VideoClassifier(Places(), 5, blocks={"early": RSTGBlock(4), "stem": RSTGBlock(4)})
    with pytest.raises(ValueError, match="after stage 'late' must have 6 channels"):
        VideoClassifier(Places(), 5, blocks={"late": RSTGBlock(4)})


def test_classifier_features_are_the_last_map(backbone, clip):
    block = make_block(6, "map")
    model = VideoClassifier(backbone, 5, blocks={"res2": block})
    x = clip
    for stage in backbone.stages.values():
        x = stage(x)
    features = model.features(clip)
    assert features.shape == (2, 6, 2, 4, 4)
    torch.testing.assert_close(features, x + block(x))


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize("combine", ["none", "serial", "plus"])
def test_classifier_pool_window(backbone, clip, window, combine):
    """The mean of the logits of all windows; windows are no larger than the map."""
    head = None if combine == "none" else make_block(6, "vec")
    kwargs = {} if combine == "none" else {"combine": combine}
    model = VideoClassifier(backbone, 5, head=head, pool_window=window, **kwargs)
    x = model.features(clip).mean(2)  # [2, 6, 4, 4]
    side = min(window, 4)
    logits = []
    for i in range(5 - side):
        for j in range(5 - side):
            cell = x[..., i : i + side, j : j + side].mean((2, 3))
            if combine == "serial":
                cell = head(model.features(clip))
            elif combine == "plus":
                cell = cell + head(model.features(clip))
            logits.append(model.lin(cell))
    torch.testing.assert_close(model(clip), torch.stack(logits).mean(0))


def test_classifier_pool_window_of_rectangular_maps(backbone):
    model = VideoClassifier(backbone, 5, pool_window=3)
    clip = torch.randn(1, 1, 2, 4, 12)  # a map of 2 x 6 cells: windows of 2 x 3
    x = model.features(clip).mean(2)
    logits = [model.lin(x[..., j : j + 3].mean((2, 3))) for j in range(4)]
    torch.testing.assert_close(model(clip), torch.stack(logits).mean(0))
    whole = VideoClassifier(backbone, 5)
    whole.load_state_dict(model.state_dict())
    assert not torch.allclose(whole(clip), model(clip))


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


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (4, 8, 8), (1, 1, 1, 1, 4, 8, 8)])
def test_classifier_clips_of_a_wrong_shape(backbone, shape):
    model = VideoClassifier(backbone, 5)
    with pytest.raises(ValueError, match=r"\[B, C, T, H, W\] or \[B, L, C, T, H, W\] \(got "):
        model(torch.randn(shape))


def test_classifier_errors_of_windows(backbone):
    for window in (0, -1):
        with pytest.raises(ValueError, match=rf"'pool_window' to be at least 1 \(got {window}\)"):
            VideoClassifier(backbone, 5, pool_window=window)
    with pytest.raises(ValueError, match=r"must have 6 channels .*\(got 4 at its output\)"):
        VideoClassifier(backbone, 5, head=RSTGBlock(6, to="vec", out_channels=4))


def checkpointed(norm, checkpointing):
    torch.manual_seed(0)
    block = RSTGBlock(4, scales=(2, 1), **published_arguments("dot", norm))
    model = VideoClassifier(Toy(), 3, blocks={"res1": block}, grad_checkpointing=checkpointing)
    model(torch.randn(2, 1, 4, 8, 8)).square().sum().backward()
    return model


def test_classifier_grad_checkpointing_gives_the_same_gradients():
    plain, model = checkpointed("layer", False), checkpointed("layer", True)
    for p, q in zip(plain.parameters(), model.parameters()):
        torch.testing.assert_close(p.grad, q.grad)


def test_classifier_grad_checkpointing_gives_the_same_statistics():
    plain, model = checkpointed("batch", False), checkpointed("batch", True)
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()))
