"""RSTG as a block that drops into any video network."""

from typing import Any, Callable, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch.nn.modules.instancenorm import _InstanceNorm
from torch_geometric.nn.inits import reset

from rstg_pyg.checks import check_numbers
from rstg_pyg.fast.linear import Linear
from rstg_pyg.graphs import AreaPool, AreaUnpool, complete_graph, multiscale_grid
from rstg_pyg.means import MeanState, mean_over_frames, running_mean
from rstg_pyg.norm import JointLayerNorm, ZeroInitNorm
from rstg_pyg.normalize import takes_batch
from rstg_pyg.rstg import RSTG, CellState

#: What a stream carries on: the cells' state and, on the way to a vector, the mean of the nodes.
State = Tuple[List[CellState], Optional[MeanState]]
#: Norms that take statistics over the frames of a map ``[B, C, T, H, W]``.
_OVER_FRAMES = (JointLayerNorm, ZeroInitNorm, torch.nn.GroupNorm, _InstanceNorm)


class RSTGBlock(torch.nn.Module):
    r"""Pools a feature map to a multi-scale grid of nodes, runs :class:`RSTG`, and goes back.

    ``to="map"`` (RSTG-to-map) spreads the nodes over their regions again, normalizes and scales by
    a learned factor that starts at zero, so that ``x + block(x)`` starts as the identity and can be
    put into a trained network. ``to="vec"`` (RSTG-to-vec) gives one vector per video, the sum over
    the nodes of their mean over time. (`"Recurrent Space-time Graph Neural Networks"
    <https://arxiv.org/abs/1904.05582>`_, section 3.3.)

    Args:
        channels (int): Channels of the feature map.
        hidden_channels (int, optional): Channels :math:`D` of the graph; the nodes are projected
            there and back if it differs from ``channels``. (default: :obj:`None`, ``channels``)
        scales (tuple, optional): Scales of the grid. (default: :obj:`(3, 2, 1)`)
        to (str, optional): ``"map"`` or ``"vec"``. (default: :obj:`"map"`)
        positions (bool, optional): Whether messages know the positions of both nodes.
            (default: :obj:`True`)
        map_size (int, optional): Side of the positional heat maps, see
            :func:`~rstg_pyg.graphs.multiscale_grid`.
        typed_update (bool, optional): Whether every scale has update weights of its own.
            (default: :obj:`False`)
        topology (str, optional): ``"grid"``: messages go between touching regions; ``"complete"``:
            between all, with the 0/1 adjacency on the attention logits, as in the published code
            (see :func:`~rstg_pyg.graphs.complete_graph`). (default: :obj:`"grid"`)
        out_channels (int, optional): Channels of the output; the nodes are projected if it differs
            from ``hidden_channels``. (default: :obj:`None`, ``channels``)
        out_norm (callable or str, optional): Makes a norm of the output from a number of channels.
            ``"auto"`` is :class:`~rstg_pyg.ZeroInitNorm` for ``"map"``, whose scale starts at zero,
            and none for ``"vec"``. (default: :obj:`"auto"`)
        graph (callable, optional): Makes what runs on the nodes, with the arguments and the shapes of
            :class:`RSTG`; for example :class:`~rstg_pyg.HomogeneousRSTG`. (default: :class:`RSTG`)
        **kwargs (optional): Additional arguments of :class:`RSTG`.

    Shapes:
        - **input:** feature map :math:`(B, C, T, H, W)`
        - **output:** :math:`(B, C_{out}, T, H, W)` or, with ``to="vec"``, :math:`(B, C_{out})`

    Raises:
        ValueError: If ``to`` is unknown, the map has other channels, a scale is finer than it, or
            ``lengths`` are given to a block with a graph or a norm over all frames.

    Example:
        >>> block = RSTGBlock(64, hidden_channels=32)
        >>> x = torch.randn(2, 64, 8, 14, 14)
        >>> torch.equal(x + block(x), x)
        True
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: Optional[int] = None,
        scales: Sequence = (3, 2, 1),
        to: str = "map",
        *,
        positions: bool = True,
        map_size: Optional[int] = None,
        typed_update: bool = False,
        topology: str = "grid",
        out_channels: Optional[int] = None,
        out_norm: Union[Callable[[int], torch.nn.Module], str, None] = "auto",
        graph: Callable[..., torch.nn.Module] = RSTG,
        **kwargs,
    ):
        super().__init__()
        if to not in ("map", "vec"):
            raise ValueError(f"Expected 'to' to be 'map' or 'vec' (got {to!r})")
        if topology not in ("grid", "complete"):
            raise ValueError(f"Expected 'topology' to be 'grid' or 'complete' (got {topology!r})")
        if topology == "complete":
            kwargs = {"edge_weight_on": "logits", **kwargs}
            if kwargs.get("attention", "dot") is None or kwargs["edge_weight_on"] != "logits":
                raise ValueError(
                    f"Expected 'attention' to be set and 'edge_weight_on' to be 'logits' with "
                    f"'topology'='complete' (got {kwargs.get('attention', 'dot')!r} and "
                    f"{kwargs['edge_weight_on']!r})"
                )
        hidden_channels = channels if hidden_channels is None else hidden_channels
        out_channels = channels if out_channels is None else out_channels
        check_numbers(1, channels=channels, hidden_channels=hidden_channels, out_channels=out_channels)
        if isinstance(out_norm, str):
            if out_norm != "auto":
                raise ValueError(
                    f"Expected 'out_norm' to be 'auto', a callable or None (got {out_norm!r})"
                )
            out_norm = ZeroInitNorm if to == "map" else None
        self.channels = channels
        self.hidden_channels = hidden_channels
        self.out_channels = out_channels
        self.to_ = to
        self.positions = positions
        self.typed_update = typed_update
        self.topology = topology

        self.map_size = map_size
        self.pool = AreaPool(scales)
        self._make_graph()
        self.register_load_state_dict_post_hook(_graph_beside_assigned_weights)
        self.rstg = graph(
            channels,
            hidden_channels,
            pos_channels=self.pos.size(1) if positions else 0,
            num_node_types=len(self.pool.scales) if typed_update else 1,
            **kwargs,
        )
        self.lin_out = None
        if hidden_channels != out_channels:
            self.lin_out = Linear(
                hidden_channels, out_channels, weight_initializer="glorot", bias_initializer="zeros"
            )
        self.unpool = AreaUnpool(scales) if to == "map" else None
        self.norm = None if out_norm is None else _make_out_norm(out_norm, out_channels)

    edge_index: Tensor
    pos: Tensor

    def _make_graph(self) -> None:
        """The graph follows from the arguments, so it is in buffers that no ``state_dict`` holds."""
        grid = multiscale_grid(self.pool.scales, map_size=self.map_size)
        if self.topology == "complete":
            grid = complete_graph(grid)
        buffers = dict(
            edge_weight=grid.get("edge_weight"),
            edge_index=grid.edge_index,
            node_type=grid.node_type,
            pos=grid.pos_map,
        )
        for name, value in buffers.items():
            before = self._buffers.get(name)
            value = value if before is None else value.to(before.dtype)
            self.register_buffer(name, value, persistent=False)

    def _apply(self, fn: Callable, recurse: bool = True):
        """Moves the block. After the ``meta`` device (``to_empty``) the graph's buffers are computed
        again; weights need ``load_state_dict`` or ``reset_parameters``.
        """
        on_meta = self.edge_index.is_meta
        super()._apply(fn, recurse)
        if on_meta:
            with torch.device(self.edge_index.device):
                self._make_graph()
        return self

    def reset_parameters(self):
        """Re-initializes all weights; the output scale becomes zero again."""
        for module in (self.rstg, self.lin_out, self.norm):
            reset(module)

    def nodes(self, x: Tensor) -> Tensor:
        """The nodes after the last stage, before they go back to a map or a vector.

        Args:
            x (torch.Tensor): The feature map :math:`(B, C, T, H, W)`.

        Returns:
            torch.Tensor: The nodes :math:`(B, T, N, C_{out})`.
        """
        return self._project(self._run(x))

    @property
    def streams(self) -> bool:
        """Whether :meth:`stream` gives the numbers of the whole clip. For this all but the cells has to
        see single frames; a norm over all frames forbids it, such as :class:`~rstg_pyg.ZeroInitNorm`
        after a map.
        """
        if not isinstance(self.rstg, RSTG):
            return False
        if any(isinstance(m, JointLayerNorm) and m.num_joint_dims > 2 for m in self.rstg.modules()):
            return False
        norms = [] if self.unpool is None or self.norm is None else self.norm.modules()
        return not any(isinstance(norm, _OVER_FRAMES) for norm in norms)

    def stream(self, x: Tensor, state: Optional[State] = None) -> Tuple[Tensor, State]:
        r"""The output for each further piece of a clip, in evaluation mode.

        Args:
            x (torch.Tensor): The feature map of the next frames, :math:`(B, C, T, H, W)`.
            state (tuple, optional): What the call before returned. (default: :obj:`None`)

        Returns:
            (torch.Tensor, tuple): The map :math:`(B, C_{out}, T, H, W)` of these frames, or with
            ``to="vec"`` the vector :math:`(B, C_{out})` of all frames so far; and the state, whose size
            does not grow. It is part of the autograd graph if gradients are recorded.
        """
        cells, mean = (None, None) if state is None else state
        nodes, cells = self._run(x, state=cells, return_state=True)
        nodes = self._project(nodes)
        if self.unpool is None:
            nodes, mean = running_mean(nodes, 1, mean)
        return self._back(nodes, x), (cells, mean)

    def _back(self, nodes: Tensor, x: Tensor) -> Tensor:
        """From nodes to a map of the size of ``x``, or from their mean over time to a vector."""
        out = nodes.sum(dim=1) if self.unpool is None else self.unpool(nodes, x.shape[-2:])
        return out if self.norm is None else self.norm(out)

    def _project(self, nodes: Tensor) -> Tensor:
        return nodes if self.lin_out is None else self.lin_out(nodes)

    def _run(self, x: Tensor, **kwargs) -> Any:
        """Pools and runs the graph: the nodes, and the state if asked for."""
        if x.dim() != 5 or x.size(1) != self.channels:
            raise ValueError(
                f"Expected the feature map to have shape [B, {self.channels}, T, H, W] "
                f"(got {list(x.shape)})"
            )
        return self.rstg(
            self.pool(x),
            self.edge_index,
            pos=self.pos if self.positions else None,
            node_type=self.node_type if self.typed_update else None,
            edge_weight=self.edge_weight,
            **kwargs,
        )

    def forward(self, x: Tensor, lengths: Union[Tensor, Sequence[int], None] = None) -> Tensor:
        """Runs the forward pass of the module.

        Args:
            x (torch.Tensor): The feature map :math:`(B, C, T, H, W)`.
            lengths (torch.Tensor or list, optional): How many frames each clip has, :math:`(B)`. Frames
                beyond the length are ignored: they change neither a vector nor the map of earlier
                frames. Needs a block that :attr:`streams`. (default: :obj:`None`, all :math:`T`)
        """
        if lengths is not None and not self.streams:
            raise ValueError(
                "Expected a block that sees single frames but for its cells with 'lengths' (got a "
                "graph or a norm over all frames, which would count the frames beyond)"
            )
        nodes = self.nodes(x)
        return self._back(mean_over_frames(nodes, 1, lengths) if self.unpool is None else nodes, x)

    def extra_repr(self) -> str:
        """The arguments that the submodules' ``repr`` does not show."""
        topology = "" if self.topology == "grid" else f", topology={self.topology!r}"
        return f"channels={self.channels}, to={self.to_!r}, positions={self.positions}{topology}"


def _make_out_norm(norm: Callable[[int], torch.nn.Module], channels: int) -> torch.nn.Module:
    """Makes a norm of maps or vectors.

    Raises:
        ValueError: If it cannot be made, or is one of nodes.
    """
    if isinstance(norm, torch.nn.Module) or not callable(norm):
        raise ValueError(
            f"Expected 'out_norm' to be given by what makes it from a number of channels (got {norm!r})"
        )
    module = norm(channels)
    for inner in module.modules():
        if takes_batch(inner):
            raise ValueError(
                f"Expected 'out_norm' to be a norm of maps or vectors, not '{type(inner).__name__}': "
                "it would take its statistics over the clips of a batch"
            )
    return module


def _graph_beside_assigned_weights(block: RSTGBlock, incompatible_keys) -> None:
    """With ``load_state_dict(..., assign=True)`` the graph, too, leaves the ``meta`` device."""
    device = next(block.parameters()).device
    if block.edge_index.is_meta and device.type != "meta":
        with device:
            block._make_graph()
