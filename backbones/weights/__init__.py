"""Loads pretrained weights of other projects into a :class:`~rstg_pyg.backbones.VideoResNet`."""

from rstg_pyg.backbones.weights.files import read_tensors
from rstg_pyg.backbones.weights.load import load_backbone_weights
from rstg_pyg.backbones.weights.report import WeightsError, WeightsReport

__all__ = ["WeightsError", "WeightsReport", "load_backbone_weights", "read_tensors"]
