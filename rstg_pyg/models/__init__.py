"""The trained networks that come with the package: folders with ``model.safetensors`` and a card.

Each was written by ``python train/export.py RUN --out rstg_pyg/models/NAME``.
"""

from pathlib import Path
from typing import List

FOLDER = Path(__file__).parent
#: The file of a network's weights, whose header holds its config and class names.
WEIGHTS = "model.safetensors"


def list() -> List[str]:
    """The names that :meth:`rstg_pyg.VideoClassifier.from_pretrained` knows."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{WEIGHTS}"))
