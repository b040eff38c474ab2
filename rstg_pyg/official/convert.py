"""Loads the published code's weights into our modules, with a report on every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rstg_pyg.backbones import WeightsReport
from rstg_pyg.block import RSTGBlock
from rstg_pyg.classifier import VideoClassifier
from rstg_pyg.official.build import build
from rstg_pyg.official.names import Variable, model_variables
from rstg_pyg.official.variables import ConversionError

#: The second form in which TensorFlow 1.13 stores an LSTM.
_CANONICAL = "rnn/multi_rnn_cell/cell_0/cudnn_compatible_lstm_cell/"
_OPAQUE = "opaque_kernel"
#: Largest absolute difference between two forms of an LSTM, or between a constant and ours.
_TOLERANCE = 1e-5


def convert(
    config: VideoClassifier | Mapping[str, Any],
    variables: Mapping[str, np.ndarray],
    *,
    allow_unused: bool = False,
) -> tuple[VideoClassifier, WeightsReport]:
    """A network with published weights.

    Args:
        config: The flags of the published code (see :func:`~rstg_pyg.official.build`), or a network
            of the same form to load the weights into.
        variables: The variables by name, see :func:`~rstg_pyg.official.load_variables`.
        allow_unused: Whether to ignore variables that the network does not need, instead of raising an
            error.

    Returns:
        The network in evaluation mode, and the report.

    Raises:
        ConversionError: If a tensor is missing, unused, of the wrong shape, or not finite. In this case
            no weight of a given network is changed.
        ValueError: If the published code cannot build the config.
    """
    model = config if isinstance(config, torch.nn.Module) else build(config)
    graphs: list[Any] = [*model.blocks.values()] + ([] if model.head is None else [model.head])
    report = load_published(model, model_variables(model), variables, graphs, allow_unused=allow_unused)
    return model.eval(), report


def load_published(
    module: torch.nn.Module,
    wanted: list[Variable],
    variables: Mapping[str, np.ndarray],
    graphs: list[RSTGBlock],
    *,
    allow_unused: bool = False,
) -> WeightsReport:
    """Copies published variables into a module, all of them or none.

    Args:
        module: The module.
        wanted: Its variables.
        variables: The values by name.
        graphs: The module's graphs; their positional maps are compared with the stored ones.
        allow_unused: Whether to ignore unused variables instead of raising an error.

    Raises:
        ConversionError: As :func:`convert`.
    """
    report = WeightsReport()
    tensors = module.state_dict()
    values: list[tuple[Variable, torch.Tensor]] = []
    for variable in wanted:
        value, problem = _value(variable, variables)
        if value is None and problem is None:
            report.missing.append(variable.name)
            continue
        if problem is None:
            problem = _problem(value, tuple(variable.to_published(tensors).shape))
        if problem is not None:
            report.mismatched[variable.name] = problem
            continue
        values.append((variable, torch.from_numpy(np.array(value, dtype=np.float32))))
        report.used[variable.name] = ", ".join(key for key, _ in variable.parts)
    names = {variable.name for variable in wanted}
    for name, value in variables.items():
        if name in names:
            continue
        reason = _skipped(name)
        if reason is None:
            report.unused.append(name)
        elif name.endswith("positional_emb") and not _same_positions(value, graphs):
            report.mismatched[name] = "the positional maps differ from those of the config"
        else:
            report.skipped[name] = reason
    problems = report.problems(allow_unused)
    if problems:
        raise ConversionError(f"the weights do not fit the config: {'; '.join(problems)}", report)
    for variable, value in values:
        variable.from_published(value, tensors)
    return report


def _value(variable: Variable, variables: Mapping[str, np.ndarray]):
    """The stored value (or :obj:`None`), and what is wrong with it (or :obj:`None`).

    An LSTM may be stored in one form or in both; if in both, they must agree.
    """
    value = variables.get(variable.name)
    scope = variable.name.removesuffix(_OPAQUE)
    if scope == variable.name or f"{scope}{_CANONICAL}kernel" not in variables:
        return value, None
    kernel = np.asarray(variables[f"{scope}{_CANONICAL}kernel"])
    bias = np.asarray(variables.get(f"{scope}{_CANONICAL}bias", ()))
    for found in (kernel, bias, *([] if value is None else [value])):
        if not np.issubdtype(np.asarray(found).dtype, np.floating):
            return None, f"expected floating point numbers, got {np.asarray(found).dtype}"
    if kernel.ndim != 2 or 2 * kernel.shape[0] != kernel.shape[1]:
        return None, f"the canonical LSTM kernel has shape {list(kernel.shape)}"
    if bias.shape != kernel.shape[1:]:
        return None, f"the canonical LSTM bias has shape {list(bias.shape)}"
    canonical = _flat_lstm(kernel, bias)
    if value is None:
        return canonical, None
    if np.shape(value) != canonical.shape:
        return value, f"its two stored forms have {np.size(value)} and {canonical.size} elements"
    cut, half = kernel.size, bias.size  # then the two biases, of which only the sum matters
    sums = [flat[cut : cut + half] + flat[cut + half :] for flat in (value, canonical)]
    matrices = value[:cut] - canonical[:cut]
    apart = np.abs(np.concatenate([matrices, sums[0] - sums[1]])).max(initial=0.0)
    if not apart <= _TOLERANCE:
        return value, f"the two stored forms of this LSTM differ (by up to {apart:.1e})"
    return value, None


def _flat_lstm(kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Converts the canonical pair (columns i, g, f, o) to the flat order (i, f, g, o; input weights,
    then hidden weights).
    """
    width = kernel.shape[1] // 4
    i, g, f, o = (slice(n * width, (n + 1) * width) for n in range(4))
    order = (i, f, g, o)
    rows = (slice(0, width), slice(width, 2 * width))
    matrices = [kernel[row, gate].T.ravel() for row in rows for gate in order]
    halves = [bias[gate] / 2 for gate in order] * 2
    return np.concatenate(matrices + halves).astype(np.float32)


def _problem(value: np.ndarray, expected: tuple[int, ...]) -> str | None:
    if tuple(np.shape(value)) != expected:
        return f"expected shape {list(expected)}, got {list(np.shape(value))}"
    if not np.issubdtype(np.asarray(value).dtype, np.floating):
        return f"expected floating point numbers, got {np.asarray(value).dtype}"
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.asarray(value, dtype=np.float32))
    if not finite.all():
        return f"{int((~finite).sum())} of {np.size(value)} values are not finite"
    return None


def _skipped(name: str) -> str | None:
    """The reason why a variable of a checkpoint is not needed."""
    if name.endswith("/Momentum"):
        return "momentum of the optimizer"
    if name.rpartition("/")[2] == "global_step":
        return "step counter of the training"
    if "/resize_filters__" in name:
        return "constant area filter, computed here from the size of the map"
    if name.endswith("positional_emb"):
        return "constant positional maps, computed here"
    if f"/{_CANONICAL}" in name:
        return "second copy of an LSTM"
    return None


def _same_positions(value: np.ndarray, graphs: list[Any]) -> bool:
    value = np.asarray(value)
    return np.issubdtype(value.dtype, np.floating) and all(
        value.shape == graph.pos.shape
        and np.allclose(value, graph.pos.float().cpu().numpy(), rtol=0.0, atol=_TOLERANCE)
        for graph in graphs
        if graph.positions
    )
