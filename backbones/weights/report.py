"""What happened to every tensor when weights were copied from a file into a network."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class WeightsReport:
    """What happened to every tensor of a file, and to every tensor of the network.

    Attributes:
        used: The names of tensors in the file, mapped to our names.
        skipped: The names of tensors in the file that are not needed, mapped to the reason.
        unused: The names of tensors in the file that do not belong to the network.
        missing: The names of tensors of the network that are not in the file.
        mismatched: The names of tensors that do not fit, mapped to the problem (shape, values).
        layout: The layout of the names (empty for TensorFlow weights).
        inflated: Our names of kernels of one frame that were repeated, mapped to the number of frames.
        filled: Our tensors that follow from affine layers in the file (``affine=True``).
        kept: Our tensors that were not changed (``keep_nonlocal=True``).
    """

    used: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, str] = field(default_factory=dict)
    layout: str = ""
    inflated: dict[str, int] = field(default_factory=dict)
    filled: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def table(self) -> str:
        """One line per tensor."""
        frames = {name: f" (inflated to {count} frames)" for name, count in self.inflated.items()}
        rows = {
            "used": [f"{theirs} -> {ours}{frames.get(ours, '')}" for theirs, ours in self.used.items()],
            "skipped": [f"{name} ({why})" for name, why in self.skipped.items()],
            "filled": [f"{name} (affine layer)" for name in self.filled],
            "kept": self.kept,
            "unused": self.unused,
            "missing": self.missing,
            "mismatch": [f"{name}: {what}" for name, what in self.mismatched.items()],
        }
        return "\n".join(f"{what:12}{line}" for what, lines in rows.items() for line in lines)

    def problems(self, allow_unused: bool) -> list[str]:
        """Why these weights cannot be used; empty if they can."""
        problems = []
        if self.missing:
            problems.append(f"{len(self.missing)} tensors are missing ({_some(self.missing)})")
        if self.mismatched:
            listed = [f"{name}: {what}" for name, what in self.mismatched.items()]
            problems.append(f"{len(listed)} tensors do not fit ({_some(listed)})")
        if self.unused and not allow_unused:
            problems.append(
                f"{len(self.unused)} tensors are unused ({_some(self.unused)}); allow_unused skips them"
            )
        return problems

    def __str__(self) -> str:
        counted = ["used", "skipped", "unused", "missing", "mismatched"]
        if self.layout:
            counted[2:2] = ["inflated", "filled", "kept"]
        text = ", ".join(f"{len(getattr(self, name))} {name}" for name in counted)
        return f"{self.layout}: {text}" if self.layout else text


def _some(items: list[str]) -> str:
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")


class WeightsError(ValueError):
    """Weights that cannot be read, or that do not fit the network.

    Attributes:
        report: What happened to every tensor, if the file could be read.
    """

    def __init__(self, message: str, report: WeightsReport | None = None):
        super().__init__(message)
        self.report = report
