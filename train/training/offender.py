"""Which module is the first to make a number that is not finite, forward or backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rstg_pyg import RSTGConv


class Offender(NamedTuple):
    """Where the first NaN or infinite number comes from.

    Attributes:
        module: The module's dotted name in the network; empty for the network itself or for what
            goes into it.
        what: What happens there, in words.
    """

    module: str
    what: str


def find_offender(network: torch.nn.Module, loss: Callable[[], Tensor]) -> Offender | None:
    """Looks for NaN or Inf in the weights, then in everything that goes in and out of the modules,
    then in the gradients of the same.

    The offender is the innermost module that gets finite numbers and gives others; something between
    two modules belongs to the module around them.

    Args:
        network: The network, in the mode that it was in.
        loss: Computes the loss; it may be called twice: with everybody looked at, and if all is finite
            then, without a look inside space stages, which have a fast path that nobody looks into.

    Returns:
        The offender, or ``None`` if all is finite.
    """
    return broken_tensor(network) or _watched(network, loss, True) or _watched(network, loss, False)


def broken_tensor(network: torch.nn.Module) -> Offender | None:
    """The first weight or running statistic that is not finite."""
    for kind, tensors in (
        ("weights", network.named_parameters()),
        ("running statistics", network.named_buffers()),
    ):
        for name, tensor in tensors:
            if not _finite(tensor):
                module, _, own = name.rpartition(".")
                return Offender(module, f"its {kind} '{own}' are not finite before the step")
    return None


def _watched(network: torch.nn.Module, loss: Callable[[], Tensor], inside: bool) -> Offender | None:
    with _Watch(network, inside) as watch, torch.enable_grad():
        value = loss()
        watch.forward = False
        if watch.first is not None:
            return _forward_offender(*watch.first)
        if not _finite(value):
            return Offender("", "the loss is not finite, although the network's output is")
        parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}
        # Not backward(): .grad and whatever waits for it (other processes) are left alone.
        grads = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    if watch.first is not None:
        return _backward_offender(*watch.first)
    for name, grad in zip(parameters, grads):
        if grad is not None and not _finite(grad):
            module, _, own = name.rpartition(".")
            return Offender(module, f"the gradient of its '{own}' is not finite")
    return None


class _Call:
    """A module being called, inside another one's call."""

    def __init__(self, name: str, parent: _Call | None):
        self.name = name
        self.parent = parent
        self.bad_gradient = False  # of one of its outputs


def _forward_offender(call: _Call, side: str) -> Offender:
    if side == "output":
        return Offender(call.name, "its output is not finite, although its input is")
    if call.parent is None:
        return Offender("", "its input is not finite")
    what = f"it computes something that is not finite and gives it to '{call.name}'"
    return Offender(call.parent.name, what)


def _backward_offender(call: _Call, side: str) -> Offender:
    if side == "input":
        what = "the gradient of its input is not finite, although that of its output is"
        return Offender(call.name, what)
    inner, around = call, call.parent
    while around is not None and around.bad_gradient:  # the same tensor leaves several modules
        inner, around = around, around.parent
    if around is None:
        return Offender("", "the loss has a gradient that is not finite")
    return Offender(around.name, f"the gradient that it gives back to '{inner.name}' is not finite")


class _Watch:
    """Context in which the first number that is not finite is noted: ``first`` is the call and the side
    (``"input"`` or ``"output"``), of values at first and of gradients once ``forward`` is false.

    Args:
        network: The network.
        inside: Whether to look into space stages, too.
    """

    def __init__(self, network: torch.nn.Module, inside: bool):
        self.network = network
        self.inside = inside
        self.forward = True
        self.first: tuple[_Call, str] | None = None

    def __enter__(self):
        hidden = {
            part
            for module in self.network.modules()
            if isinstance(module, RSTGConv) and not self.inside
            for part in module.modules()
            if part is not module
        }
        self.calls: list[_Call] = []
        self.handles = []
        for name, module in self.network.named_modules():
            if module not in hidden:
                before, after = self._hooks(name)
                self.handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                self.handles.append(module.register_forward_hook(after))
        return self

    def __exit__(self, *error: Any):
        for handle in self.handles:
            handle.remove()

    def _hooks(self, name: str) -> tuple[Callable, Callable]:
        def before(module, args, kwargs):
            self.calls.append(_Call(name, self.calls[-1] if self.calls else None))
            return _map(args, enter), _map(kwargs, enter)

        def enter(x: Tensor) -> Tensor:
            call = self.calls[-1]
            self._note(x, call, "input")
            if x.requires_grad:
                x = x.view_as(x)  # so that only this module's share of the gradient is seen
                x.register_hook(lambda grad: self._note_gradient(grad, call, "input"))
            return x

        def after(module, args, output):
            call = self.calls.pop()

            def leave(x: Tensor) -> Tensor:
                self._note(x, call, "output")
                if x.requires_grad:
                    x.register_hook(lambda grad: self._note_gradient(grad, call, "output"))
                return x

            _map(output, leave)

        return before, after

    def _note(self, x: Tensor, call: _Call, side: str) -> None:
        if self.forward and self.first is None and not _finite(x):
            self.first = call, side

    def _note_gradient(self, grad: Tensor, call: _Call, side: str) -> None:
        if _finite(grad):
            return
        call.bad_gradient = call.bad_gradient or side == "output"
        if self.first is None:
            self.first = call, side


def _finite(x: Tensor) -> bool:
    return not x.is_floating_point() or bool(x.detach().isfinite().all())


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Changes the tensors in arguments or results of a module."""
    if type(value) is Tensor:
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_map(v, change) for v in value)
    if type(value) is dict:
        return {k: _map(v, change) for k, v in value.items()}
    return value
