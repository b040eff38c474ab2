"""Heads without a graph: what RSTG-to-vec is compared with."""

from typing import Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from rstg_pyg.cells import Cell, CellState, reset_cell
from rstg_pyg.checks import check_numbers
from rstg_pyg.means import MeanState, mean_over_frames, running_mean
from rstg_pyg.norm import ChannelBatchNorm

#: What a stream carries on: the cell's state and the mean of its outputs over frames.
LSTMState = Tuple[CellState, MeanState]


class LSTMHead(torch.nn.Module):
    r"""An LSTM over the frames of a feature map, and the mean of its outputs over time.

    The baselines "Mean + LSTM" and "Conv + LSTM" of the `"Recurrent Space-time Graph Neural Networks"
    <https://arxiv.org/abs/1904.05582>`_ paper (section 4.1): the LSTM sees the mean of each frame's
    map, or with ``map_size`` the flattened map itself. Its outputs are averaged over time as the nodes
    are in RSTG-to-vec, so only the part between map and vector differs.

    Args:
        channels (int): Channels of the feature map.
        hidden_channels (int, optional): Channels of the LSTM, and of the output.
            (default: :obj:`None`, ``channels``)
        map_size (int or tuple, optional): Rows and columns of the map, to keep it spatial; none for
            its mean. (default: :obj:`None`)
        in_norm (bool, optional): Whether the map's channels are batch-normalized first.
            (default: :obj:`False`)

    Shapes:
        - **input:** feature map :math:`(B, C, T, H, W)`
        - **output:** :math:`(B, D)`

    Raises:
        ValueError: If a size is less than one, or the map has other channels or another size.

    Example:
        >>> LSTMHead(64, 32, map_size=6)(torch.randn(2, 64, 10, 6, 6)).shape
        torch.Size([2, 32])
    """

    #: Frames can be fed one by one, see :meth:`stream`.
    streams = True

    def __init__(
        self,
        channels: int,
        hidden_channels: Optional[int] = None,
        map_size: Union[int, Tuple[int, int], None] = None,
        in_norm: bool = False,
    ):
        super().__init__()
        self.channels = channels
        self.out_channels = channels if hidden_channels is None else hidden_channels
        self.map_size = (map_size, map_size) if isinstance(map_size, int) else map_size
        rows, cols = self.map_size or (1, 1)
        check_numbers(1, channels=channels, hidden_channels=self.out_channels)
        check_numbers(1, map_size=min(rows, cols))
        cells = rows * cols
        self.norm = ChannelBatchNorm(channels, channel_dim=1) if in_norm else None
        self.lstm = Cell("LSTM", channels * cells, self.out_channels)
        self.reset_parameters()

    def reset_parameters(self):
        """Re-initializes all weights (Glorot uniform, every gate by itself; biases zero)."""
        if self.norm is not None:
            self.norm.reset_parameters()
        reset_cell(self.lstm)

    def stream(self, x: Tensor, state: Optional[LSTMState] = None) -> Tuple[Tensor, LSTMState]:
        r"""The vector after each further piece of a clip, in evaluation mode.

        Args:
            x (torch.Tensor): The feature map of the next frames, :math:`(B, C, T, H, W)`.
            state (tuple, optional): What the call before returned. (default: :obj:`None`)

        Returns:
            (torch.Tensor, tuple): The vector :math:`(B, D)` of all frames so far, and the state.
        """
        cell, mean = (None, None) if state is None else state
        out, cell = self._run(x, cell)
        out, mean = running_mean(out, 0, mean)
        return out, (cell, mean)

    def _run(self, x: Tensor, state: Optional[CellState] = None) -> Tuple[Tensor, CellState]:
        """The outputs ``[T, B, D]`` of the cell for a map, and its state."""
        if x.dim() != 5 or x.size(1) != self.channels:
            raise ValueError(
                f"Expected the feature map to have shape [B, {self.channels}, T, H, W] "
                f"(got {list(x.shape)})"
            )
        if self.map_size is not None and tuple(x.shape[3:]) != tuple(self.map_size):
            raise ValueError(
                f"Expected a feature map of {self.map_size[0]} x {self.map_size[1]} cells "
                f"(got {x.size(3)} x {x.size(4)})"
            )
        x = x if self.norm is None else self.norm(x)
        x = x.permute(2, 0, 1, 3, 4)  # [T, B, C, H, W]
        x = x.mean(dim=(3, 4)) if self.map_size is None else x.flatten(2)
        return self.lstm(x, state)

    def forward(self, x: Tensor, lengths: Union[Tensor, Sequence[int], None] = None) -> Tensor:
        """Runs the forward pass of the module.

        Args:
            x (torch.Tensor): The feature map :math:`(B, C, T, H, W)`.
            lengths (torch.Tensor or list, optional): How many frames each clip has, :math:`(B)`; frames
                beyond the length are ignored. (default: :obj:`None`, all :math:`T`)
        """
        if lengths is None:
            return self.stream(x)[0]
        return mean_over_frames(self._run(x)[0].transpose(0, 1), 1, lengths)

    def extra_repr(self) -> str:
        """The arguments that the submodules' ``repr`` does not show."""
        return f"channels={self.channels}, map_size={self.map_size}"
