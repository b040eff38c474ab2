import copy

import pytest
import torch
from torchvision.models import video

from rstg_pyg import RSTGBlock, VideoClassifier
from rstg_pyg.backbones import TorchvisionVideo

SIZES = {"r2plus1d_18": (4, 32, 32), "s3d": (16, 64, 64), "swin3d_t": (4, 32, 32)}


def pooled_logits(network, maps):
    """What the network's own classifier makes of the last map."""
    if isinstance(network, video.S3D):
        return network.classifier(network.avgpool(maps)).mean(dim=(2, 3, 4))
    head = network.fc if hasattr(network, "fc") else network.head
    return head(network.avgpool(maps).flatten(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_the_map_is_what_the_network_classifies(name):
    torch.manual_seed(0)
    network = getattr(video, name)().eval()
    backbone = TorchvisionVideo(name, SIZES[name]).eval()
    state = {k: v for k, v in network.state_dict().items() if k in backbone.network.state_dict()}
    backbone.network.load_state_dict(state)
    if name == "s3d":  # its head pools 2 x 7 x 7 cells
        network.avgpool = torch.nn.AdaptiveAvgPool3d(1)
    clip = torch.randn(2, 3, *SIZES[name])
    with torch.no_grad():
        maps = backbone(clip)
        assert torch.allclose(pooled_logits(network, maps), network(clip), atol=1e-5)
    last = list(backbone.channels)[-1]
    assert maps.shape == (2, backbone.channels[last], *backbone.map_sizes[last])


@pytest.mark.slow
def test_mvit_with_its_class_token():
    """The whole network with its class token, from the backbone's parts."""
    torch.manual_seed(0)
    network = video.mvit_v2_s().eval()
    backbone = TorchvisionVideo("mvit_v2_s").eval()
    backbone.network.load_state_dict(
        {k: v for k, v in network.state_dict().items() if not k.startswith("head")}
    )
    heard = {}
    backbone.network.norm.register_forward_hook(lambda _, __, y: heard.update(tokens=y))
    clip = torch.randn(1, 3, 16, 224, 224)
    with torch.no_grad():
        maps = backbone(clip)
        assert torch.allclose(network.head(heard["tokens"][:, 0]), network(clip), atol=1e-4)
    assert torch.equal(maps, heard["tokens"][:, 1:].transpose(1, 2).unflatten(2, (8, 7, 7)))


@pytest.mark.slow
@pytest.mark.parametrize("name, node", [("r2plus1d_18", "layer3"), ("swin3d_t", "features.2")])
def test_blocks_at_named_nodes(name, node):
    torch.manual_seed(0)
    backbone = TorchvisionVideo(name, (4, 64, 64))
    block = RSTGBlock(backbone.channels[node], 16, scales=(2, 1))
    model = VideoClassifier(backbone, 5, blocks={node: block}).eval()
    clip = torch.randn(1, 3, 4, 64, 64)
    plain = model(clip)
    with torch.no_grad():
        block.norm.scale.fill_(1.0)
    assert not torch.allclose(model(clip), plain, atol=1e-3)
    model(clip).sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    copied = copy.deepcopy(model)
    assert torch.equal(copied(clip), model(clip))


def test_every_node_is_visited_in_order():
    backbone = TorchvisionVideo("r3d_18", (4, 32, 32))
    seen = []

    def after(name, x):
        seen.append((name, x.size(1), tuple(x.shape[2:])))
        return x

    with torch.no_grad():
        backbone(torch.randn(1, 3, 4, 32, 32), after)
    assert seen == [
        (name, backbone.channels[name], backbone.map_sizes[name]) for name in backbone.channels
    ]
    assert [name for name, _, _ in seen] == ["stem", "layer1", "layer2", "layer3", "layer4"]


def test_errors():
    with pytest.raises(ValueError, match="r2plus1d_18.* \\(got 'resnet50'\\)"):
        TorchvisionVideo("resnet50")
    with pytest.raises(ValueError, match=r"fit mvit_v2_s \(got 8 x 224 x 224: its position encodings"):
        TorchvisionVideo("mvit_v2_s", (8, 224, 224))
    with pytest.raises(ValueError, match="fit s3d"):
        TorchvisionVideo("s3d", (4, 16, 16))
