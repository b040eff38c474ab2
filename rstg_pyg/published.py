"""The published code's form of the graph, as arguments of the ordinary layers.

The released TensorFlow code differs from the paper's text: every ordered pair of nodes exchanges
messages, the 0/1 adjacency multiplies the attention logits, a bias and ReLU follow the aggregation,
and layer norms take their statistics over all pairs of a frame jointly. Nothing of this needs layers
of its own; :func:`published_arguments` says which arguments make :class:`~rstg_pyg.RSTGBlock` compute
the same numbers (``tests/check_golden.py`` compares them with recorded ones).
"""

from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor
from torch_geometric.nn.inits import reset

from rstg_pyg.norm import ChannelBatchNorm, JointLayerNorm, ZeroInitNorm
from rstg_pyg.normalize import NormLike, convention, make_norm, normalize


class BiasReLU(torch.nn.Module):
    r"""What follows the aggregation in the published code: :math:`\mathrm{ReLU}(\mathrm{norm}(x + b))`.

    Args:
        channels (int): Size of the last dimension.
        norm (callable or str, optional): Makes the norm from the number of channels.
            (default: :obj:`None`, no norm)

    Shapes:
        - **input:** :math:`(*, C)`, or rows :math:`(K, C)` with ``batch`` :math:`(K)` that assigns them
          to graphs
        - **output:** the input's shape
    """

    knows_form = True

    def __init__(self, channels: int, norm: Optional[NormLike] = None):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(channels))
        self.norm = None if norm is None else make_norm(norm, channels)
        self.how = None if self.norm is None else convention(self.norm)

    def reset_parameters(self):
        """Sets the bias to zero, and resets the norm."""
        torch.nn.init.zeros_(self.bias)
        if self.norm is not None:
            reset(self.norm)

    def forward(self, x: Tensor, batch: Optional[Tensor] = None) -> Tensor:
        """"""
        x = x + self.bias
        return (x if self.norm is None else normalize(self.norm, self.how, x, batch)).relu()


def published_arguments(
    attention: str = "dot",
    norm: Optional[str] = "layer",
    *,
    first_batch_norm: bool = False,
    out_norm: Optional[str] = None,
) -> Dict[str, Any]:
    """Arguments of :class:`~rstg_pyg.RSTGBlock` for the published code's form of the graph.

    Args:
        attention (str): ``"dot"`` or ``"additive"`` (there called ``simple``). (default: ``"dot"``)
        norm (str, optional): ``"layer"``, ``"batch"`` or :obj:`None`: the norm before the graph, of
            messages and of updated nodes and, with additive attention, of what is aggregated.
            (default: ``"layer"``)
        first_batch_norm (bool): Whether batch norm precedes everything (there: on SyncMNIST).
            (default: :obj:`False`)
        out_norm (str, optional): Norm of the block's output: ``"layer"``
            (:class:`~rstg_pyg.ZeroInitNorm`), ``"batch"`` (gain starts at zero) or :obj:`None`.
            (default: :obj:`None`)

    Example:
        >>> block = RSTGBlock(1024, 512, typed_update=True, **published_arguments(out_norm="layer"))
    """
    for name, value in (("norm", norm), ("out_norm", out_norm)):
        if value not in ("layer", "batch", None):
            raise ValueError(f"Expected '{name}' to be 'layer', 'batch' or None (got {value!r})")
    # Statistics over: all pairs [B, N, N, D] or nodes [B, N, D] of a frame, whose batch norms take
    # the batch as well; before the graph all of [B, T, N, D]. TensorFlow's running variance is the
    # biased one unless the input has four dimensions.
    table: Dict[Optional[str], Tuple[Any, Any, Any]] = {
        "layer": (JointLayerNorm, JointLayerNorm, partial(JointLayerNorm, num_joint_dims=3)),
        "batch": (
            partial(ChannelBatchNorm, num_joint_dims=3),
            partial(ChannelBatchNorm, num_joint_dims=3, unbiased=False),
            ChannelBatchNorm,
        ),
        None: (None, None, None),
    }
    messages, nodes, sequence = table[norm]
    before = ([ChannelBatchNorm] if first_batch_norm else []) + ([sequence] if norm else [])
    after = {
        "layer": ZeroInitNorm,
        "batch": partial(ChannelBatchNorm, channel_dim=1, unbiased=False, zero_init=True),
        None: None,
    }[out_norm]
    return dict(
        form="paper",
        topology="complete",
        attention=attention,
        edge_weight_on="logits",
        in_norm=partial(_in_turn, before) if before else None,
        norm=(messages, nodes) if norm else None,
        after_aggr=partial(BiasReLU, norm=nodes if attention == "additive" else None),
        out_norm=after,
    )


def _in_turn(norms: List[Callable[[int], torch.nn.Module]], channels: int) -> torch.nn.Module:
    return torch.nn.Sequential(*(norm(channels) for norm in norms))
