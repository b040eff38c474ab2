"""What the space stage on edges and the one on all pairs share: arguments, parts, weights.

One ``state_dict`` therefore fits both.
"""

import inspect
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.inits import reset

from rstg_pyg.checks import check_form, check_keywords, check_numbers
from rstg_pyg.fast.linear import Linear
from rstg_pyg.normalize import NormLike, PerGraph
from rstg_pyg.parts import (
    Activation,
    AdditiveAttention,
    Attention,
    DotAttention,
    SendMLP,
    UpdateMLP,
    make_act,
)

_SHOWN = ("num_send_layers", "num_update_layers", "attention", "pos_channels", "num_node_types",
          "edge_weight_on", "dropout", "edge_dim")  # fmt: skip


class SpaceStage(torch.nn.Module):
    """The base of :class:`~rstg_pyg.RSTGConv` (edges) and :class:`~rstg_pyg.DenseRSTGConv` (all pairs).

    The arguments are those of :class:`~rstg_pyg.RSTGConv`. Its modules are ``send``, ``attend`` and
    ``update_mlp``.
    """

    def __init__(
        self,
        in_channels: Union[int, Tuple[int, int]],
        out_channels: int,
        *,
        hidden_channels: Optional[int] = None,
        num_send_layers: int = 2,
        num_update_layers: int = 2,
        attention: Optional[str] = "dot",
        heads: int = 1,
        attention_scale: Optional[float] = None,
        pos_channels: int = 0,
        num_node_types: int = 1,
        edge_weight_on: str = "attention",
        norm: Union[NormLike, Tuple, None] = None,
        norm_kwargs: Optional[Dict[str, Any]] = None,
        after_aggr: Optional[NormLike] = None,
        dropout: float = 0.0,
        edge_dim: Optional[int] = None,
        act: Activation = "relu",
        act_kwargs: Optional[Dict[str, Any]] = None,
        act_last: Optional[bool] = None,
        residual: bool = False,
        bias: bool = True,
        form: str = "skip",
        **kwargs,
    ):
        if isinstance(self, MessagePassing):
            check_keywords(self, MessagePassing, kwargs)
        super().__init__(**kwargs)
        check_form(form)
        skip = form == "skip"
        check_numbers(1, out_channels=out_channels, heads=heads)
        hidden = hidden_channels
        if hidden is None:
            hidden = heads * -(-max(out_channels, 32) // heads) if skip else out_channels
        if attention_scale is None:
            attention_scale = (heads / max(hidden, 1)) ** 0.5 if skip else 1.0
        act_last = not skip if act_last is None else act_last
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.hidden_channels = hidden
        self.num_send_layers = num_send_layers
        self.num_update_layers = num_update_layers
        self.attention = attention
        self.heads = heads
        self.attention_scale = attention_scale
        self.pos_channels = pos_channels
        self.num_node_types = num_node_types
        self.edge_weight_on = edge_weight_on
        self.dropout = dropout
        self.edge_dim = edge_dim
        self.act_last = act_last
        self.residual = residual
        self.form = form
        ends = self._checked_channels()

        self.send = SendMLP(
            ends, hidden, hidden, num_send_layers, pos_channels, edge_dim, bias,
            make_act(act, act_kwargs), skip,
        )  # fmt: skip
        self.attend: Optional[Attention] = None
        seen = edge_dim if skip else None  # by the attention
        if attention == "dot":
            self.attend = DotAttention(ends, hidden, heads, attention_scale, bias, seen)
        elif attention == "additive":
            self.attend = AdditiveAttention(ends, heads, bias, seen)
        self.update_mlp = UpdateMLP(
            ends[1], out_channels, hidden, num_update_layers, num_node_types, act_last, bias,
            make_act(act, act_kwargs), skip,
        )  # fmt: skip
        init = dict(weight_initializer="glorot", bias_initializer="zeros")
        self.lin_value: Optional[Linear] = None
        self.lin_res: Optional[Linear] = None
        if heads > 1 and not skip:
            self.lin_value = Linear(hidden, hidden, bias=bias, **init)
        if residual and ends[1] != out_channels:
            self.lin_res = Linear(ends[1], out_channels, bias=False, **init)
        of_messages, of_nodes = norm if isinstance(norm, tuple) else (norm, norm)
        self.message_norm: Optional[PerGraph] = None
        self.update_norm: Optional[PerGraph] = None
        self.after_aggr: Optional[PerGraph] = None
        if of_messages is not None:
            self.message_norm = PerGraph(of_messages, hidden, norm_kwargs)
        if of_nodes is not None:
            self.update_norm = PerGraph(of_nodes, out_channels, norm_kwargs)
        if after_aggr is not None:
            self.after_aggr = PerGraph(after_aggr, hidden)
        self.reset_parameters()

    def _checked_channels(self) -> Tuple[int, int]:
        """Channels of source and target nodes, -1 while lazy.

        Raises:
            ValueError: If a size is out of range, ``attention`` is unknown or ``hidden_channels`` is
                not divisible by ``heads``.
        """
        given = self.in_channels
        pair = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
        if len(pair) != 2:
            raise ValueError(
                f"Expected 'in_channels' to be one number, or source's and target's (got {pair})"
            )
        for channels in pair:
            check_numbers(-1, in_channels=channels)
        if self.edge_dim is not None:
            check_numbers(-1, edge_dim=self.edge_dim)
        check_numbers(0, pos_channels=self.pos_channels)
        sizes = ("out_channels", "hidden_channels", "num_send_layers", "num_update_layers", "heads")
        check_numbers(1, **{name: getattr(self, name) for name in (*sizes, "num_node_types")})
        if self.hidden_channels % self.heads != 0:
            raise ValueError(
                f"'hidden_channels' (got {self.hidden_channels}) must be divisible by the number of "
                f"heads (got {self.heads})"
            )
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"Expected 'dropout' to be between 0 and 1 (got {self.dropout})")
        if self.attention not in ("dot", "additive", None):
            raise ValueError(
                f"Expected 'attention' to be 'dot', 'additive' or None (got {self.attention!r})"
            )
        if self.edge_weight_on not in ("attention", "logits"):
            raise ValueError(
                f"Expected 'edge_weight_on' to be 'attention' or 'logits' (got {self.edge_weight_on!r})"
            )
        return pair[0], pair[1]

    def weight_of_logits(self, edge_weight: Optional[Tensor]) -> Optional[Tensor]:
        """What multiplies the logits."""
        return edge_weight if self.edge_weight_on == "logits" else None

    def weight_of_attention(self, edge_weight: Optional[Tensor]) -> Optional[Tensor]:
        """What is a factor inside the softmax."""
        return edge_weight if self.edge_weight_on == "attention" else None

    def reset_parameters(self):
        """Re-initializes all weights (Glorot uniform; biases zero)."""
        for module in self.children():
            reset(module)

    def __repr__(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}", f"hidden_channels={self.hidden_channels}"]
        parts += [f"heads={self.heads}", *unusual(self), *unusual(self, ("residual", "form"))]
        return f"{self.__class__.__name__}({', '.join(parts)})"


def unusual(stage: torch.nn.Module, names: Sequence[str] = _SHOWN) -> List[str]:
    """The arguments that differ from their defaults, as a ``repr`` shows them."""
    usual = inspect.signature(SpaceStage).parameters
    values = {name: getattr(stage, name) for name in names}
    return [f"{name}={value!r}" for name, value in values.items() if value != usual[name].default]
