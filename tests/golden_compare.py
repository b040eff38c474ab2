"""Comparing tensors with recorded ones, for ``check_golden.py``."""

from __future__ import annotations

import numpy as np
from torch import Tensor

#: Largest error relative to the largest recorded magnitude, in float32 (golden README). Norms over
#: few, nearly constant values amplify rounding; recordings without such norms are held to the second.
TOLERANCE, SHARP_TOLERANCE = 2e-4, 1e-5


class Comparison:
    """Relative errors of everything compared in one file.

    Args:
        tolerance: The largest allowed error.
    """

    def __init__(self, tolerance: float):
        self.tolerance = tolerance
        self.errors: dict[str, float] = {}
        self.tolerances: dict[str, float] = {}

    def add(
        self,
        name: str,
        ours: Tensor | np.ndarray,
        recorded: np.ndarray,
        floor: float = 0.0,
        tolerance: float | None = None,
    ) -> None:
        """Compares one output. Shapes must be equal; what is not finite is an infinite error.

        Args:
            name: The output.
            ours: Our numbers.
            recorded: The recorded ones.
            floor: The least magnitude that the error is relative to.
            tolerance: The largest allowed error of this output. (default: that of the file)
        """
        ours = np.asarray(ours.detach() if isinstance(ours, Tensor) else ours, dtype=np.float64)
        recorded = np.asarray(recorded, dtype=np.float64)
        if ours.shape != recorded.shape:
            raise SystemExit(f"{name}: expected shape {recorded.shape}, got {ours.shape}")
        scale = max(np.abs(recorded).max(initial=0.0), floor)
        error = np.abs(ours - recorded).max(initial=0.0) / (scale if scale > 0 else 1.0)
        self.errors[name] = float(error) if np.isfinite(error) else float("inf")
        self.tolerances[name] = self.tolerance if tolerance is None else tolerance

    def failed(self) -> list[str]:
        """The outputs whose error is above the tolerance."""
        return [name for name, error in self.errors.items() if not error <= self.tolerances[name]]

    def groups(self) -> dict[str, float]:
        """The largest error of every kind of output (``out``, ``mid``, ``grad``, ...)."""
        found: dict[str, float] = {}
        for name, error in self.errors.items():
            head = name.split("/")[0]
            found[head] = max(found.get(head, 0.0), error)
        return found

    def report(self, verbose: bool = True) -> str:
        """One line per output; without ``verbose`` gradients and weights are summed up."""
        lines: dict[str, float] = {}
        for name, error in self.errors.items():
            head = name.split("/")[0]
            many = head in ("grad", "after_step1", "after_step2", "ckpt")
            short = head if many and not verbose else name
            lines[short] = max(lines.get(short, 0.0), error)
        failed = {name.split("/")[0] for name in self.failed()} | set(self.failed())
        return "\n".join(
            f"  {name:60s} {error:8.1e}{'  ABOVE TOLERANCE' if name in failed else ''}"
            for name, error in lines.items()
        )


def under(data: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays below a prefix, by the rest of their names."""
    return {name[len(prefix) :]: value for name, value in data.items() if name.startswith(prefix)}


def add_gradients(compare: Comparison, module, wanted, data: dict[str, np.ndarray]) -> None:
    """Compares the gradients of all weights."""
    recorded = under(data, "grad/")
    gradients = {name: p.grad for name, p in module.named_parameters()}
    found = {variable.name: variable for variable in wanted}
    # Some gradients are zero on paper (an offset before a batch norm), and rounding in practice.
    floor = 1e-3 * max((np.abs(value).max() for value in recorded.values()), default=0.0)
    for name, value in recorded.items():
        compare.add(f"grad/{name}", found[name].to_published(gradients), value, floor)
