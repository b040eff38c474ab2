"""Feature extractors with named stages, for :class:`rstg_pyg.VideoClassifier`."""

from rstg_pyg.backbones.bn_inception import BNInception, ECOLite
from rstg_pyg.backbones.inception import (
    InceptionVideo,
    OffsetBatchNorm,
    inception_i3d,
    s3dg,
    s3dg_howto100m,
)
from rstg_pyg.backbones.resnet import (
    C2D_KERNELS,
    I3D_KERNELS,
    FrozenBatchNorm,
    MotionBlock,
    VideoResNet,
    c2d_resnet50,
    i3d_resnet50,
    mfnet_resnet50,
    mfnet_resnet101,
    nonlocal_resnet50,
)
from rstg_pyg.backbones.simple_conv import SimpleConv
from rstg_pyg.backbones.torchvision_video import (
    TorchvisionVideo,
    available_networks,
    preprocessing,
)
from rstg_pyg.backbones.weights import (
    WeightsError,
    WeightsReport,
    load_backbone_weights,
    read_tensors,
)

__all__ = [
    "C2D_KERNELS",
    "I3D_KERNELS",
    "BNInception",
    "ECOLite",
    "FrozenBatchNorm",
    "InceptionVideo",
    "MotionBlock",
    "OffsetBatchNorm",
    "SimpleConv",
    "TorchvisionVideo",
    "VideoResNet",
    "WeightsError",
    "WeightsReport",
    "available_networks",
    "c2d_resnet50",
    "i3d_resnet50",
    "inception_i3d",
    "load_backbone_weights",
    "mfnet_resnet50",
    "mfnet_resnet101",
    "nonlocal_resnet50",
    "preprocessing",
    "read_tensors",
    "s3dg",
    "s3dg_howto100m",
]
