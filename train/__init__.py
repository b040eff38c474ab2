"""Training, evaluation and prediction of videos: :func:`fit`, :func:`evaluate` and :class:`Predictor`.

They are imported when they are first used: a data set of this package needs no training framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rstg_pyg.train.fitting import Run, evaluate, fit
    from rstg_pyg.train.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor", "Run", "evaluate", "fit"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "predictor" if name.startswith("Predict") else "fitting"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
