"""Normalizations that the space-time graph needs and PyG or torch do not have."""

from typing import Optional

import torch
from torch import Tensor
from torch_geometric.utils import scatter

#: Statistics of these are taken in float32: the published epsilon is zero in float16.
_HALF = (torch.float16, torch.bfloat16)


def _standardize(x: Tensor, num_dims: int, eps: float) -> Tensor:
    """Mean zero and (biased) variance one over the last dimensions."""
    if x.device.type == "cpu":  # many times as fast; a GPU would take one of its many blocks per row
        return torch.nn.functional.layer_norm(x, x.shape[-num_dims:], eps=eps)
    var, mean = torch.var_mean(x, dim=tuple(range(-num_dims, 0)), correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(var + eps)


class JointLayerNorm(torch.nn.Module):
    r"""Layer normalization over all rows of a graph and all channels jointly.

    .. math::
        y = \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} \cdot \gamma + \beta

    with one mean and one (biased) variance per graph over rows *and* channels, and a gain and an
    offset per channel: the ``LN`` of the published code. (PyG's ``LayerNorm(mode='graph')`` divides
    by another quantity with ``batch`` than without.)

    Args:
        channels (int): Size of the last dimension.
        num_joint_dims (int): How many of the last dimensions are normalized together.
            (default: :obj:`2`: rows and channels)
        eps (float): Added to the variance. Outside of the paper's form take :obj:`1e-5`: with the
            published value, frames that are constant can give very large gradients.
            (default: :obj:`1e-12`, as published)

    Shapes:
        - **input:** :math:`(*, K, C)`, or :math:`(K, C)` with ``batch`` :math:`(K)` that assigns
          rows to graphs
        - **output:** the input's shape
    """

    knows_form = True  # it is quicker with dimensions than with a graph for every row

    def __init__(self, channels: int, num_joint_dims: int = 2, eps: float = 1e-12):
        super().__init__()
        self.channels = channels
        self.num_joint_dims = num_joint_dims
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.empty(channels))
        self.bias = torch.nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self):
        """Sets the gain to one and the offset to zero."""
        torch.nn.init.ones_(self.weight)
        torch.nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, batch: Optional[Tensor] = None, batch_size: Optional[int] = None):
        """"""
        if batch is not None and self.num_joint_dims != 2:
            raise ValueError(f"Expected no 'batch': '{self}' takes its statistics over dimensions")
        if x.numel() == 0:  # the messages of a graph without edges
            return x * self.weight + self.bias
        dtype = x.dtype
        x = x.float() if dtype in _HALF else x
        if batch is None:
            x = _standardize(x, self.num_joint_dims, self.eps)
        else:
            mean = scatter(x.mean(-1), batch, dim=0, dim_size=batch_size, reduce="mean")
            x = x - mean[batch].unsqueeze(-1)
            var = scatter(x.square().mean(-1), batch, dim=0, dim_size=batch_size, reduce="mean")
            x = x * torch.rsqrt(var + self.eps)[batch].unsqueeze(-1)
        return x.to(dtype) * self.weight + self.bias

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.channels}, num_joint_dims={self.num_joint_dims})"


class ChannelBatchNorm(torch.nn.BatchNorm1d):
    r"""Batch normalization with the channels last, over all other dimensions or some of them.

    With ``num_joint_dims`` the dimensions before are calls of their own: on nodes
    :math:`(T, B, N, C)`, ``num_joint_dims=3`` normalizes every time step by the statistics of its own
    batch, and pushes :math:`T` successive updates into the running statistics, as the published code
    does in its loop over frames.

    With a single row in training (one video, frame and node), mean and variance are the row itself and
    zero, so the output is the offset, as in the published code; without rows it is empty, and the
    running statistics stay.

    Args:
        channels (int): Number of channels.
        eps (float): Added to the variance. (default: :obj:`1e-3`, as published)
        momentum (float): Weight of a new batch in the running statistics. (default: :obj:`0.01`)
        num_joint_dims (int, optional): How many of the last dimensions, the channels among them, are
            normalized together. (default: :obj:`None`, all)
        unbiased (bool): Whether the running variance takes the batch variance with the factor
            :math:`n / (n - 1)`, as torch does. (default: :obj:`True`)
        channel_dim (int): Dimension of the channels. (default: :obj:`-1`)
        zero_init (bool): Whether the gain starts at zero. (default: :obj:`False`)

    Shapes:
        - **input:** :math:`(*, C)`, or with the channels at ``channel_dim``
        - **output:** the input's shape
    """

    knows_form = True

    def __init__(
        self,
        channels: int,
        eps: float = 1e-3,
        momentum: float = 0.01,
        *,
        num_joint_dims: Optional[int] = None,
        unbiased: bool = True,
        channel_dim: int = -1,
        zero_init: bool = False,
    ):
        self.zero_init = zero_init
        super().__init__(channels, eps=eps, momentum=momentum)
        self.num_joint_dims = num_joint_dims
        self.unbiased = unbiased
        self.channel_dim = channel_dim

    def reset_parameters(self):
        """Sets the gain to one (or zero), the offset to zero, and forgets the statistics."""
        super().reset_parameters()
        if self.zero_init:
            torch.nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """"""
        if x.numel() == 0:  # the messages of a graph without edges
            return x
        x = x.movedim(self.channel_dim, -1)
        joint = x.dim() if self.num_joint_dims is None else min(self.num_joint_dims, x.dim())
        # torch refuses to train with one row.
        whole = joint == x.dim() and self.unbiased and x.numel() > x.size(-1)
        if not self.training or whole:
            out = super().forward(x.reshape(-1, x.size(-1))).view(x.shape)
        else:
            calls = x.reshape(-1, *x.shape[x.dim() - joint :]).flatten(1, -2)  # [calls, rows, C]
            out = self._normalize_calls(calls).view(x.shape)
        return out.movedim(-1, self.channel_dim)

    def _normalize_calls(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = x.float() if dtype in _HALF else x
        var, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        out = (x - mean) * torch.rsqrt(var + self.eps)
        self._update(mean.detach().squeeze(1), var.detach().squeeze(1), x.size(1))
        return out.to(dtype) * self.weight + self.bias

    @torch.no_grad()
    def _update(self, means: Tensor, variances: Tensor, rows: int) -> None:
        """As many successive updates of the running statistics as there are calls."""
        if self.unbiased and rows > 1:
            variances = variances * (rows / (rows - 1))
        momentum = self.momentum or 0.0
        keep = 1.0 - momentum
        ages = torch.arange(len(means) - 1, -1, -1, device=means.device, dtype=means.dtype)
        shares = (momentum * keep**ages).unsqueeze(-1)
        for running, new in ((self.running_mean, means), (self.running_var, variances)):
            assert running is not None  # as batch norms have it by default
            running.mul_(keep ** len(means)).add_((shares * new).sum(0).to(running.dtype))
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(len(means))


class ZeroInitNorm(torch.nn.Module):
    r"""Joint layer norm with a zero-initialized scale, for a residual branch that starts at zero.

    .. math::
        y = s \cdot \left( \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} + \beta \right),
        \qquad s = 0 \text{ at first}

    over all dimensions but the first (published code, "after graph" norm).

    Args:
        channels (int): Number of channels.
        channel_dim (int): Dimension of the channels. (default: :obj:`1`)
        eps (float): Added to the variance. (default: :obj:`1e-12`)

    Shapes:
        - **input:** :math:`(B, C, *)`
        - **output:** :math:`(B, C, *)`
    """

    def __init__(self, channels: int, channel_dim: int = 1, eps: float = 1e-12):
        super().__init__()
        self.channels = channels
        self.channel_dim = channel_dim
        self.eps = eps
        self.scale = torch.nn.Parameter(torch.empty(channels))
        self.bias = torch.nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self):
        """Sets scale and offset to zero."""
        torch.nn.init.zeros_(self.scale)
        torch.nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """"""
        shape = [1] * x.dim()
        shape[self.channel_dim] = self.channels
        dtype = x.dtype
        x = x.float() if dtype in _HALF else x
        x = _standardize(x, x.dim() - 1, self.eps).to(dtype)
        return self.scale.view(shape) * (x + self.bias.view(shape))

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.channels})"
