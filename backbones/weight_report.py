"""The account of every tensor when weights go from a file into a network."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Report:
    """What became of every tensor of a file, and of every tensor of the network.

    Attributes:
        used: Our tensors by the name of those that they come from.
        skipped: Why something in the file is not needed, by its name.
        unused: Tensors that nothing here asks for.
        missing: Tensors that the network needs and the file lacks.
        mismatched: What is wrong with a tensor (shape, values), by its name.
    """

    used: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, str] = field(default_factory=dict)

    def table(self) -> str:
        """One line per tensor."""
        return "\n".join(f"{what:12}{line}" for what, lines in self._lines().items() for line in lines)

    def problems(self, allow_unused: bool) -> list[str]:
        """Why these weights cannot be used, if they cannot."""
        problems = []
        if self.missing:
            problems.append(f"{len(self.missing)} tensors are missing ({_some(self.missing)})")
        if self.mismatched:
            listed = [f"{name}: {what}" for name, what in self.mismatched.items()]
            problems.append(f"{len(listed)} tensors do not fit ({_some(listed)})")
        if self.unused and not allow_unused:
            problems.append(
                f"{len(self.unused)} tensors would be left over ({_some(self.unused)}); allow_unused "
                "leaves them out"
            )
        return problems

    def _lines(self) -> dict[str, list[str]]:
        return {
            "used": [f"{theirs} -> {ours}" for theirs, ours in self.used.items()],
            "skipped": [f"{name} ({why})" for name, why in self.skipped.items()],
            "unused": self.unused,
            "missing": self.missing,
            "mismatch": [f"{name}: {what}" for name, what in self.mismatched.items()],
        }

    def __str__(self) -> str:
        return (
            f"{len(self.used)} used, {len(self.skipped)} skipped, {len(self.unused)} unused, "
            f"{len(self.missing)} missing, {len(self.mismatched)} mismatched"
        )


def _some(items: list[str]) -> str:
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")
