"""Networks built without numbers, on the `meta` device, that get them from a `state_dict` later."""

import copy
import pickle

import pytest
import torch
from helpers.networks import NETWORKS

from rstg_pyg import LSTMHead, RSTGBlock, VideoClassifier
from rstg_pyg.backbones import SimpleConv, TorchvisionVideo, VideoResNet


def with_block():
    backbone = VideoResNet(((3,), (3,), (1,)), depths=(1, 1), width=4)
    block = RSTGBlock(16, 8, (2, 1), topology="complete", residual=True)
    return VideoClassifier(backbone, 5, blocks={"res2": block})


def with_torchvision():
    backbone = TorchvisionVideo("r3d_18", clip_size=(4, 32, 32))
    return VideoClassifier(backbone, 5, blocks={"layer2": RSTGBlock(128, 8, (2, 1))})


MODELS = {
    name: lambda name=name: VideoClassifier(SimpleConv(3, (6, 6)), 5, **NETWORKS[name]())
    for name in ("typed", "projected", "homogeneous", "lstm head")
}
MODELS |= {"block": with_block, "torchvision": with_torchvision}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_network_built_on_the_meta_device(name):
    torch.manual_seed(0)
    trained = MODELS[name]().eval()
    for norm in trained.modules():  # a block's scale starts at zero
        if hasattr(norm, "scale") and torch.is_tensor(norm.scale):
            torch.nn.init.ones_(norm.scale)
    clip = torch.randn(1, 3, 4, 32, 32)
    expected = trained(clip)
    with torch.device("meta"):
        model = MODELS[name]().eval()
        assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
        assert model(clip.to("meta")).shape == (1, 5)

    emptied = copy.deepcopy(model).to_empty(device="cpu")
    emptied.load_state_dict(trained.state_dict())
    torch.testing.assert_close(emptied(clip), expected)
    assigned = pickle.loads(pickle.dumps(model))
    assigned.load_state_dict(trained.state_dict(), assign=True)
    torch.testing.assert_close(assigned(clip), expected)


@pytest.mark.parametrize("topology", ["grid", "complete"])
def test_block_keeps_its_precision_on_the_way_from_the_meta_device(topology):
    def build():
        return RSTGBlock(4, scales=(2, 1), to="vec", topology=topology).double()

    trained, x = build(), torch.randn(2, 4, 3, 6, 6, dtype=torch.double)
    with torch.device("meta"):
        block = build()
    block.to_empty(device="cpu").load_state_dict(trained.state_dict())
    torch.testing.assert_close(block(x), trained(x))


def test_block_moves_as_it_did_from_other_devices():
    # The graph is made again only where it was lost.
    block = RSTGBlock(4, scales=(2, 1))
    block.pos.mul_(2)
    before = block.pos.clone()
    assert torch.equal(block.double().float().pos, before)


def classify(size=32, **kwargs):
    model = VideoClassifier(SimpleConv(3, (8, 8)), **{"num_classes": 5, **kwargs})
    return model(torch.zeros(1, 3, 2, size, size))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RSTGBlock(8, heads=3, form="paper"), r"divisible by the number of heads \(got 3\)"),
        (lambda: RSTGBlock(8, num_rounds=0), r"'num_rounds' to be at least 1 \(got 0\)"),
        (lambda: RSTGBlock(8, dropout=1.5), r"'dropout' to be between 0 and 1 \(got 1.5\)"),
        (lambda: RSTGBlock(8, topology="star"), "'topology' to be 'grid' or 'complete'"),
        (lambda: RSTGBlock(8, num_rounds=3, time_stages=[0, 5]), "to list rounds from 0 to 2"),
        (lambda: RSTGBlock(8, time_stages="none", space_stages=False), "at least one kind of stage"),
        (lambda: RSTGBlock(8, scales=(4,), map_size=3), "'map_size' to be at least 4"),
        (lambda: RSTGBlock(8, out_channels=0), r"'out_channels' to be at least 1 \(got 0\)"),
        (lambda: LSTMHead(8, 0), r"'hidden_channels' to be at least 1 \(got 0\)"),
        (lambda: LSTMHead(8, map_size=(2, 0)), r"'map_size' to be at least 1 \(got 0\)"),
        (lambda: classify(num_classes=0), r"'num_classes' to be at least 1 \(got 0\)"),
        (lambda: classify(pool_window=-1), r"'pool_window' to be at least 1 \(got -1\)"),
        (lambda: classify(head=LSTMHead(8, map_size=5)), r"map of 5 x 5 cells \(got 6 x 6\)"),
        (
            lambda: classify(16, head=RSTGBlock(8, to="vec")),
            r"map of 2 x 2 cells \(got a scale of 3 x 3\); use coarser scales or an earlier",
        ),
    ],
)
def test_mistakes_are_found_without_numbers(make, message):
    """A config is checked this way: what does not fit is said by the layers."""
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        make()
