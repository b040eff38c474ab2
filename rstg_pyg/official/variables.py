"""Reads the published code's variables from files."""

from __future__ import annotations

import os

import numpy as np

from rstg_pyg.backbones import WeightsError
from rstg_pyg.backbones.weights.tensorflow import read_variables


class ConversionError(WeightsError):
    """Weights of the published code that cannot be read, or that do not fit the network."""


def load_variables(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads named arrays.

    Args:
        path: An ``.npz`` file of named arrays; or a TensorFlow V2 checkpoint, given as its prefix
            (``model_2.ckpt``), its ``.index`` or ``.data`` file, or a folder with one checkpoint in
            it. The latter needs tensorflow (``pip install "rstg_pyg[convert]"``).

    Returns:
        The arrays by their names.

    Raises:
        ConversionError: If the file is missing, damaged, or contains anything other than arrays
            (pickled objects are never loaded), or if tensorflow is needed but not installed.
    """
    try:
        return read_variables(path)
    except WeightsError as e:
        raise ConversionError(str(e)) from None
