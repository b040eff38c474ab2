"""Small networks of every kind, which tests stream, pad, compile, export and build without numbers."""

from functools import partial

import torch
from helpers.random_weights import draw

from rstg_pyg import (
    ChannelBatchNorm,
    HomogeneousRSTG,
    JointLayerNorm,
    LSTMHead,
    RSTGBlock,
    VideoClassifier,
    ZeroInitNorm,
    published_arguments,
)
from rstg_pyg.backbones import SimpleConv


def vec(**kwargs):
    return RSTGBlock(6, scales=(2, 1), to="vec", **kwargs)


def inside(**kwargs):
    """A graph inside the backbone, with a norm by running statistics."""
    return RSTGBlock(6, 4, (2, 1), **{"out_norm": partial(ChannelBatchNorm, channel_dim=1), **kwargs})


HEADS = {
    "plain": {},
    "typed": dict(typed_update=True, heads=2),
    "gru": dict(cell="gru", attention="additive"),
    "last": dict(cell="gru", time_stages="last"),
    "residual": dict(residual=True, in_norm=ChannelBatchNorm, out_norm=ZeroInitNorm),
    "space only": dict(time_stages="none", attention=None),
    "time only": dict(space_stages=False, positions=False),
    "published": published_arguments("additive", None, first_batch_norm=True),
    "projected": dict(hidden_channels=4, topology="complete"),
    "norms within frames": dict(in_norm=JointLayerNorm, norm=JointLayerNorm),
}
#: What streams takes frames one by one; it is built anew for every test.
STREAMS = {
    **{name: lambda kwargs=kwargs: dict(head=vec(**kwargs)) for name, kwargs in HEADS.items()},
    "lstm head": lambda: dict(head=LSTMHead(6, 4, in_norm=True)),
    "flat lstm head": lambda: dict(head=LSTMHead(6, map_size=4)),
    "head and mean": lambda: dict(head=vec(), combine="plus"),
    "lstm head and mean": lambda: dict(head=LSTMHead(6), combine="plus"),
    "mean": lambda: {},
    "mean over windows": lambda: dict(pool_window=2),
    "inside": lambda: dict(blocks={"conv0": inside()}, pool_window=2),
    "everywhere": lambda: dict(
        blocks={"conv0": inside(), "conv1": inside(out_norm=None, cell="gru")}, head=vec()
    ),
}
NETWORKS = {
    **STREAMS,
    "norms over frames": lambda: dict(head=vec(**published_arguments("dot", "layer"))),
    "homogeneous": lambda: dict(head=vec(graph=HomogeneousRSTG)),
}


def network(name, dtype=torch.double, backbone=None):
    """A classifier of five classes whose every parameter matters."""
    torch.manual_seed(0)
    model = VideoClassifier(backbone or SimpleConv(3, (6, 6), padding=1), 5, **NETWORKS[name]())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.to(dtype).eval()


def clips(batch=2, frames=3, size=16, dtype=torch.double):
    return draw(batch, 3, frames, size, size, dtype=dtype)
