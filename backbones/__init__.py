"""Feature extractors with named stages, for :class:`rstg_pyg.VideoClassifier`."""

from rstg_pyg.backbones.simple_conv import SimpleConv

__all__ = ["SimpleConv"]
