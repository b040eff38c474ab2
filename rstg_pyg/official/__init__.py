"""Networks from the flags of the published TensorFlow code, with its weights.

``python -m rstg_pyg.official CHECKPOINT --cfg smt.yaml --out weights.safetensors`` converts a
checkpoint for ``train/run.py --evaluate``.
"""

from rstg_pyg.official.build import build, build_graph
from rstg_pyg.official.convert import convert, load_published
from rstg_pyg.official.names import Variable, graph_variables, model_variables
from rstg_pyg.official.variables import ConversionError, load_variables

__all__ = [
    "ConversionError",
    "Variable",
    "build",
    "build_graph",
    "convert",
    "graph_variables",
    "load_published",
    "load_variables",
    "model_variables",
]
