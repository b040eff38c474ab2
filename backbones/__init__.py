"""Feature extractors with named stages, for :class:`rstg_pyg.VideoClassifier`."""

from rstg_pyg.backbones.resnet import (
    C2D_KERNELS,
    I3D_KERNELS,
    VideoResNet,
    c2d_resnet50,
    i3d_resnet50,
    nonlocal_resnet50,
)
from rstg_pyg.backbones.simple_conv import SimpleConv

__all__ = [
    "C2D_KERNELS",
    "I3D_KERNELS",
    "SimpleConv",
    "VideoResNet",
    "c2d_resnet50",
    "i3d_resnet50",
    "nonlocal_resnet50",
]
