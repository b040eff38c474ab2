"""Recurrent Space-time Graph networks for video understanding, on PyTorch Geometric."""

import warnings

with warnings.catch_warnings():  # PyG's own, about torch.jit.script, when it is imported
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    import torch_geometric.nn  # noqa: F401

from rstg_pyg import graphs, models
from rstg_pyg.block import RSTGBlock
from rstg_pyg.classifier import VideoClassifier
from rstg_pyg.conv import RSTGConv
from rstg_pyg.dense import DenseRSTGConv
from rstg_pyg.heads import LSTMHead
from rstg_pyg.homogeneous import HomogeneousRSTG
from rstg_pyg.norm import ChannelBatchNorm, JointLayerNorm, ZeroInitNorm
from rstg_pyg.published import BiasReLU, published_arguments
from rstg_pyg.regions import RegionGraph, RegionHead
from rstg_pyg.relations import RelationHead, WindowMean
from rstg_pyg.rstg import RSTG

__version__ = "0.1.0"

__all__ = [
    "RSTG",
    "BiasReLU",
    "ChannelBatchNorm",
    "DenseRSTGConv",
    "HomogeneousRSTG",
    "JointLayerNorm",
    "LSTMHead",
    "RSTGBlock",
    "RSTGConv",
    "RegionGraph",
    "RegionHead",
    "RelationHead",
    "VideoClassifier",
    "WindowMean",
    "ZeroInitNorm",
    "graphs",
    "models",
    "published_arguments",
]
