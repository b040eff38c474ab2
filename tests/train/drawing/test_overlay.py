import numpy as np
import pytest
import torch
from PIL import Image

from rstg_pyg import RSTGBlock, VideoClassifier
from rstg_pyg.backbones import SimpleConv
from rstg_pyg.train.drawing.overlay import Attention, attention, graphs, overlay
from rstg_pyg.train.errors import UserError


def network(places=("conv1", "head"), **arguments):
    torch.manual_seed(0)
    arguments = {"hidden_channels": 8, "scales": (3, 2, 1), "num_rounds": 2, **arguments}
    blocks = {p: RSTGBlock(6, **arguments) for p in places if p != "head"}
    head = RSTGBlock(6, to="vec", **arguments) if "head" in places else None
    return VideoClassifier(SimpleConv(3, (6, 6), padding=1), 4, blocks, head).eval()


def clip(size=24, frames=5, channels=3):
    return torch.randint(0, 256, (channels, frames, size, size), dtype=torch.uint8)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"heads": 2, "shared_rounds": False},
        {"attention": "additive", "typed_update": True, "residual": True},
        {"attention": None, "positions": False},
    ],
)
def test_the_attention_is_what_the_layer_itself_computes(arguments):
    model = network(**arguments)
    x = clip() / 255
    heads = arguments.get("heads", 1)
    for place, block in graphs(model).items():
        own = []
        hooks = [
            conv.register_edge_update_forward_hook(lambda *call, own=own: own.append(call[-1]))
            for conv in block.rstg.convs
        ]
        with torch.no_grad():
            logits = model(x[None])
        for hook in hooks:
            hook.remove()
        found = attention(model, x, place)
        assert found.place == place and found.rounds == len(own) == 2
        wanted = torch.stack([alpha.view(-1, 5, heads) for alpha in own]).mean(dim=(0, 3)).T  # [T, E]
        torch.testing.assert_close(found.alpha, wanted)  # hooks see the plain path
        assert torch.equal(found.edge_index, block.edge_index)
        sums = torch.zeros(5, 14).index_add_(1, found.edge_index[1], found.alpha)
        torch.testing.assert_close(sums, torch.ones(5, 14))
        by_hand = torch.zeros(5, 14)
        for edge, source in enumerate(found.edge_index[0].tolist()):
            by_hand[:, source] += found.alpha[:, edge]
        torch.testing.assert_close(found.received(), by_hand)
        if arguments.get("attention", "dot") is None:
            torch.testing.assert_close(found.relative(), torch.ones(5, 14))
        with torch.no_grad():
            torch.testing.assert_close(model(x[None]), logits)  # nothing is left behind


def test_graphs_are_named_by_their_places():
    model = network(("conv1", "conv0"))
    assert list(graphs(model)) == ["conv0", "conv1"]
    assert attention(model, clip() / 255).place == "conv1"  # the last
    with pytest.raises(UserError, match=r"--place: expected one of conv0, conv1 \(got 'res3'\)"):
        attention(model, clip() / 255, "res3")


@pytest.mark.parametrize("model", [network(()), network(space_stages=False, positions=False)])
def test_without_messages_there_is_nothing_to_draw(model):
    with pytest.raises(UserError, match="nothing to draw"):
        attention(model, clip() / 255)


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "size", "frames"), [(3, 48, 3), (1, 16, 9)])
def test_pictures(tmp_path, channels, size, frames):
    seen = attention(network(), clip(frames=frames) / 255)
    picture = clip(size, frames, channels)
    for kind in (".png", ".gif"):
        path = tmp_path / f"out{kind}"
        overlay(picture, seen, "Moving something up", [f"frame {t}" for t in range(frames)], kind)(path)
        with Image.open(path) as image:
            image.load()
            assert getattr(image, "n_frames", 1) == (frames if kind == ".gif" else 1)
            assert image.width >= (3 if kind == ".gif" else min(frames, 8)) * 224
            assert len(image.convert("RGB").getcolors(1 << 24)) > 30
    with pytest.raises(UserError, match=r"\.png or \.gif"):
        overlay(picture, seen, "", [""] * frames, ".jpg")


def looked_at(node):
    """Four cells; in the second of two steps all look at the given one."""
    edges = torch.tensor([[i, j] for i in range(4) for j in range(4) if i != j]).T
    region = torch.tensor([[x / 2, y / 2, x / 2 + 0.5, y / 2 + 0.5] for y in (0, 1) for x in (0, 1)])
    alpha = torch.full((2, 12), 1 / 3)
    others = edges[1] != node
    alpha[1, others] = (edges[0] == node)[others].float()
    alpha = alpha[None, ..., None]  # one round, one head
    return Attention("head", ((2, 2),), region, torch.zeros(4, dtype=torch.long), edges, alpha)


def test_the_region_that_all_look_at_is_bright(tmp_path):
    assert looked_at(0).received()[1].tolist() == pytest.approx([3, 1 / 3, 1 / 3, 1 / 3])
    assert looked_at(0).relative()[0].tolist() == pytest.approx([1, 1, 1, 1])
    gray = torch.full((3, 4, 224, 224), 128, dtype=torch.uint8)
    pages = []
    for node in (0, 3):  # upper left, lower right
        path = tmp_path / f"{node}.png"
        overlay(gray, looked_at(node), "", ["", "", "", ""], ".png")(path)
        pages.append(np.asarray(Image.open(path).convert("L"), np.float32))
    difference = pages[0] - pages[1]
    first, second = ((difference > 30).nonzero(), (difference < -30).nonzero())
    assert len(first[0]) > 10_000 and len(second[0]) > 10_000
    for axis in (0, 1):  # below and to the right
        assert 50 < second[axis].mean() - first[axis].mean() < 120
    middle = difference.shape[1] // 2  # four frames, of which the last two show the second step
    assert abs(difference[:, :middle]).mean() < 1 < abs(difference[:, middle:]).mean()
