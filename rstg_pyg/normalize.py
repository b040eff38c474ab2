"""How the layers make norms of torch and PyG, and call them with the numbers of each graph alone."""

import functools
import inspect
from typing import Any, Callable, Dict, List, Optional, Union

import torch
import torch_geometric.nn
from torch import Tensor
from torch.nn.modules.instancenorm import _InstanceNorm
from torch_geometric.nn.inits import reset

#: What a norm may be asked for with: rows, the graph of each, and how many graphs there are.
_KNOWN = {"x", "batch", "batch_size", "dim_size"}
#: Norms that take rows ``[R, C]`` and would take other dimensions for something else.
_OF_ROWS = (
    torch.nn.BatchNorm1d, torch.nn.SyncBatchNorm, torch.nn.GroupNorm,
    torch_geometric.nn.BatchNorm, torch_geometric.nn.DiffGroupNorm,
)  # fmt: skip
#: Norms that make no sense here, and why.
_REFUSED = {
    _InstanceNorm: "it takes a graph's rows for channels; 'torch_geometric.nn.InstanceNorm' does not",
    torch.nn.BatchNorm2d: "it is for images",
    torch.nn.BatchNorm3d: "it is for videos",
    torch.nn.LocalResponseNorm: "it is for images",
}

#: A norm: a class (or another callable) that makes it from a number of channels, or a name of PyG's.
NormLike = Union[Callable[..., torch.nn.Module], str]


def make_norm(
    norm: NormLike, channels: int, kwargs: Optional[Dict[str, Any]] = None
) -> torch.nn.Module:
    """Makes a norm from a number of channels.

    Args:
        norm: What makes it, such as ``torch.nn.LayerNorm``, or the name of one of PyG's, such as
            ``"graph_norm"``. Those of PyG that have no channels (``PairNorm``) are made without.
        channels: The number of channels.
        kwargs: Further arguments.

    Raises:
        ValueError: If it cannot be made, or if it is one that cannot be called with rows and the graph
            of each.
    """
    make: Any = norm
    if isinstance(norm, str):
        wanted = norm.lower().replace("_", "").replace(" ", "")
        names = torch_geometric.nn.norm.__all__
        found = [n for n in names if wanted in (n.lower(), n.lower().removesuffix("norm"))]
        if not found:
            raise ValueError(
                f"Expected the name of a norm to be one of torch_geometric.nn.norm's, {names} "
                f"(got {norm!r})"
            )
        make = getattr(torch_geometric.nn.norm, found[0])
    if isinstance(make, torch.nn.Module) or not callable(make):
        raise ValueError(
            f"Expected a norm to be given by what makes it from a number of channels, such as "
            f"'torch.nn.LayerNorm', or by its name in PyG (got {norm!r})"
        )
    kind = make.func if isinstance(make, functools.partial) else make
    if isinstance(kind, type):
        _refuse(kind)
    takes_channels = not _of_pyg(kind) or "in_channels" in inspect.signature(kind).parameters
    module = make(*[channels] if takes_channels else [], **(kwargs or {}))
    for inner in module.modules():
        _refuse(type(inner))
    for inner in _alone(module):
        for below in list(inner.modules())[1:]:
            if takes_batch(below) and not takes_batch(inner):
                raise ValueError(
                    f"Expected '{type(inner).__name__}' to have an argument 'batch' of its forward, as "
                    f"it has '{type(below).__name__}' inside, whose statistics are per graph"
                )
    return module


def _of_pyg(kind: Any) -> bool:
    return isinstance(kind, type) and kind.__module__.startswith("torch_geometric.nn.norm")


def _refuse(kind: Any) -> None:
    """Refuses norms by name."""
    for refused, why in _REFUSED.items():
        if issubclass(kind, refused) and not _of_pyg(kind):
            raise ValueError(f"Expected a norm of nodes and messages, not '{kind.__name__}': {why}")
    forward = set(inspect.signature(kind.forward).parameters) - {"self"}
    if _of_pyg(kind) and not forward <= _KNOWN:
        raise ValueError(
            f"Expected a norm of nodes and messages, not '{kind.__name__}': besides them it wants "
            f"{sorted(forward - _KNOWN)}"
        )


def _alone(norm: torch.nn.Module) -> List[torch.nn.Module]:
    """The norms of a sequence of them, or the one."""
    if not isinstance(norm, torch.nn.Sequential):
        return [norm]
    return [inner for part in norm for inner in _alone(part)]


def takes_batch(module: torch.nn.Module) -> bool:
    """Whether a norm wants to know the graph of every row."""
    return "batch" in inspect.signature(module.forward).parameters


def convention(norm: torch.nn.Module) -> Any:
    """How :func:`normalize` calls a norm: ``"form"`` (with whatever dimensions), ``"rows"``,
    ``"graphs"`` (rows and the graph of each), ``"sized graphs"`` (and their number), ``"either"``
    (form, or rows and graphs), or a list of these for a sequence of norms.
    """
    if isinstance(norm, torch.nn.Sequential):
        return [convention(part) for part in norm]
    if getattr(norm, "knows_form", False):
        return "either" if takes_batch(norm) else "form"
    if takes_batch(norm):
        names = set(inspect.signature(norm.forward).parameters)
        return "sized graphs" if names & {"batch_size", "dim_size"} else "graphs"
    return "rows" if isinstance(norm, _OF_ROWS) else "form"


def normalize(
    norm: Any, how: Any, x: Tensor, batch: Optional[Tensor] = None, size: Optional[int] = None
) -> Tensor:
    """Calls any norm so that the numbers are those of each graph alone.

    Args:
        norm: The norm.
        how: Its :func:`convention`.
        x: Rows ``[*, K, C]``: each index of the leading dimensions is a graph of its own.
        batch: The graph of each of the rows ``[K, C]``. (default: all in one)
        size: The number of graphs, if known.
    """
    if isinstance(how, list):
        if all(way == "form" or (way == "either" and batch is None) for way in how):
            return norm(x)
        for part, way in zip(norm, how):
            x = normalize(part, way, x, batch, size)
        return x
    if x.numel() == 0:  # such as the messages of a graph without edges; the weights take part
        return x + sum(weight.sum() for weight in norm.parameters())
    if how == "form" or (how == "either" and batch is None):
        return norm(x)
    if how == "either":
        return norm(x, batch)
    rows = x.flatten(0, -2)
    if how == "rows":
        return norm(rows).view(x.shape)
    if batch is None:
        size = rows.size(0) // x.size(-2)
        batch = torch.arange(size, device=x.device).unsqueeze(-1).expand(size, x.size(-2)).reshape(-1)
    out = norm(rows, batch, size) if how == "sized graphs" else norm(rows, batch)
    return out.view(x.shape)


def check_norms(module: torch.nn.Module) -> None:
    """Refuses norms that need all nodes in all frames, where they are not there.

    Raises:
        ValueError: If the statistics are over frames or clips as dimensions.
    """
    for norm in module.modules():
        joint = getattr(norm, "num_joint_dims", None)
        if joint is not None and not (joint == 2 and takes_batch(norm)):
            raise ValueError(
                f"'{norm}' takes its statistics over frames as a dimension, and where nodes come and "
                "go there is none: expected a norm of each node (LayerNorm), of all of them "
                "(ChannelBatchNorm) or of each graph (JointLayerNorm, PyG's)"
            )


class PerGraph(torch.nn.Module):
    """A norm inside a layer, called by :func:`normalize`.

    Args:
        norm (callable or str): Makes a module from a number of channels, see :func:`make_norm`.
        channels (int): The number of channels.
        kwargs (dict, optional): Further arguments of the norm. (default: :obj:`None`)
    """

    def __init__(self, norm: NormLike, channels: int, kwargs: Optional[Dict[str, Any]] = None):
        super().__init__()
        self.module = make_norm(norm, channels, kwargs)
        self.how = convention(self.module)

    def reset_parameters(self):
        """Resets the wrapped module."""
        reset(self.module)

    def forward(self, x: Tensor, batch: Optional[Tensor] = None, size: Optional[int] = None) -> Tensor:
        """"""
        return normalize(self.module, self.how, x, batch, size)

    def of_present(self, x: Tensor, present: Optional[Tensor]) -> Tensor:
        """The same of those rows ``[*, K, C]`` of each graph that are present, ``[*, K]``. The others
        stay as they are.
        """
        if present is None:
            return self(x)
        check_norms(self.module)
        flat = x.flatten(0, -3) if x.dim() > 2 else x.unsqueeze(0)
        graph, row = present.expand(x.shape[:-1]).reshape(flat.shape[:-1]).nonzero(as_tuple=True)
        normed = self(flat[graph, row], graph, flat.size(0))
        return flat.index_put((graph, row), normed).view(x.shape)
