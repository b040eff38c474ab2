"""Small networks in the published form, and a random value for each of their variables."""

import numpy as np

from rstg_pyg import RSTGBlock, VideoClassifier, official, published_arguments
from rstg_pyg.backbones import C2D_KERNELS, I3D_KERNELS, SimpleConv, VideoResNet


def resnet(kernels, **kwargs):
    return VideoResNet(kernels, depths=(2, 2), width=2, **kwargs)


def block(channels, dims, to="map", **kwargs):
    names = ("attention", "norm", "first_batch_norm", "out_norm")
    chosen = {name: kwargs.pop(name) for name in names if name in kwargs}
    return RSTGBlock(channels, dims, to=to, **kwargs, **published_arguments(**chosen))


MODELS = {
    "simple_conv": lambda: VideoClassifier(
        SimpleConv(1, (4, 4, 8)), 5,
        head=block(8, 8, "vec", attention="additive", norm=None, first_batch_norm=True),
    ),
    "simple_conv_projected": lambda: VideoClassifier(
        SimpleConv(3, (4, 6)), 5,
        head=block(6, 8, "vec", attention="additive", norm="batch", first_batch_norm=True,
                   typed_update=True, num_update_layers=3),
    ),
    "i3d": lambda: VideoClassifier(resnet(I3D_KERNELS), 7, pool_window=14),
    "nonlocal": lambda: VideoClassifier(resnet(I3D_KERNELS, nonlocal_stages=["res2", "res3"]), 7),
    "i3d_blocks": lambda: VideoClassifier(
        resnet(I3D_KERNELS), 7,
        blocks={
            "res2": block(8, 16, heads=8, positions=False, typed_update=True, out_norm="layer"),
            "res3": block(16, 16, norm="batch", positions=False, out_norm="batch"),
        },
        head=block(16, 8, "vec", attention="additive", positions=False, out_norm="batch"),
        combine="plus",
    ),
    "c2d_block": lambda: VideoClassifier(
        resnet(C2D_KERNELS), 7,
        blocks={"res3": block(16, 8, num_update_layers=1, time_stages="last", out_norm="batch")},
    ),
    "c2d_head": lambda: VideoClassifier(
        resnet(C2D_KERNELS), 7, head=block(16, 8, "vec", scales=(4, 1), map_size=4, out_norm="layer"),
    ),
}  # fmt: skip


def random_variables(model, seed=0):
    """A value for every variable; float32, as in files."""
    rng, tensors, out = np.random.default_rng(seed), model.state_dict(), {}
    for v in official.model_variables(model):
        value = rng.standard_normal(tuple(v.to_published(tensors).shape)).astype(np.float32)
        out[v.name] = np.abs(value) if v.name.endswith("variance") else value
    return out
