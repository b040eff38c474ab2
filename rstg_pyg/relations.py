"""Heads of other video networks: relations of frames (TRN), and I3D's mean over windows."""

from itertools import combinations
from math import comb
from typing import List, Optional, Sequence

import torch
from torch import Tensor

from rstg_pyg.checks import check_numbers
from rstg_pyg.means import mean_of_windows


class WindowMean(torch.nn.Module):
    r"""The mean over time of means over windows, the head of I3D and S3D-G.

    Windows of :math:`2 \times 7 \times 7` cells with stride 1, or what of it fits the map: with more
    than two steps, inner ones count double.

    Args:
        channels (int): Channels of the feature map.
        window (tuple, optional): Steps, rows and columns of a window. (default: :obj:`(2, 7, 7)`)
        dropout (float, optional): Dropout of the means over windows, each by itself, as published.
            (That of :class:`VideoClassifier` drops a channel in all windows.) (default: :obj:`0`)

    Shapes:
        - **input:** feature map :math:`(B, C, T, H, W)`
        - **output:** :math:`(B, C)`

    Example:
        >>> WindowMean(64)(torch.randn(2, 64, 8, 7, 7)).shape
        torch.Size([2, 64])
    """

    def __init__(self, channels: int, window: Sequence[int] = (2, 7, 7), dropout: float = 0.0):
        super().__init__()
        self.channels = self.out_channels = channels
        self.window = tuple(window)
        self.dropout = torch.nn.Dropout(dropout)
        check_numbers(1, channels=channels, window=min(window))

    def forward(self, x: Tensor) -> Tensor:
        """The vector of every clip."""
        window = [min(n, size) for n, size in zip(self.window, x.shape[2:])]
        return self.dropout(mean_of_windows(x, window)).mean(dim=(2, 3, 4))

    def extra_repr(self) -> str:
        """The window."""
        return f"{self.channels}, window={self.window}"


class RelationClassifier(torch.nn.Linear):
    r"""The sum of one linear layer per scale, :math:`\sum_s (W_s h_s + n_s b_s)`.

    Args:
        in_features (int): Size of all :math:`h_s` together.
        out_features (int): Number of classes.
        counts (list): The :math:`n_s`.
        **kwargs: :obj:`device` and :obj:`dtype`.

    Shapes:
        - **input:** the :math:`h_s`, concatenated, :math:`(B, S \cdot C)`
        - **output:** :math:`(B, \text{out\_features})`
    """

    counts: Tensor

    def __init__(self, in_features: int, out_features: int, counts: Sequence[int], **kwargs):
        super().__init__(in_features, out_features, **kwargs)
        self.bias = torch.nn.Parameter(self.bias.new_zeros(len(counts), out_features))
        self.register_buffer("counts", self.bias.new_tensor(counts).detach(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        return torch.nn.functional.linear(x, self.weight, self.counts @ self.bias)


class RelationHead(torch.nn.Module):
    r"""Temporal relations of frames, the head of `"Temporal Relational Reasoning in Videos"
    <https://arxiv.org/abs/1711.08496>`_ (TRN), as in the authors' code.

    .. math::
        v_t = W \, \mathrm{dropout}(\bar x_t), \qquad
        h_s = \sum_{t_1 < \ldots < t_s} \mathrm{ReLU}(W_s \, \mathrm{ReLU}([v_{t_1}, \ldots, v_{t_s}]))

    Each scale :math:`s = T, T - 1, \ldots, 2` sums over ``num_relations`` of its sets of frames,
    and has its own part of the classifier (:meth:`classifier`), which adds the scales up. If there
    are fewer sets, all are used. In training the sets are drawn anew in every call. The authors'
    code does this in evaluation, too; here evaluation takes the mean over all sets times
    ``num_relations``, which is the expectation of it, and always the same.

    Args:
        channels (int): Channels of the feature map.
        num_frames (int): Frames :math:`T` of a clip.
        hidden_channels (int, optional): Size of the :math:`v_t` and :math:`h_s`. (default: :obj:`256`)
        multi_scale (bool, optional): With :obj:`False` only the scale of all frames, with 512 channels
            for :math:`h`. (default: :obj:`True`)
        num_relations (int, optional): Sets of frames per scale. (default: :obj:`3`)
        dropout (float, optional): Dropout of the frames' means. (default: :obj:`0.8`)
        drawn (list, optional): For every scale after the largest the positions of the sets that are
            always used, in the lexicographic list of all. (default: :obj:`None`, as said above)

    Shapes:
        - **input:** feature map :math:`(B, C, T, H, W)`
        - **output:** the :math:`h_s`, concatenated, :math:`(B, (T - 1) \cdot D)`; single-scale
          :math:`(B, 512)`

    Raises:
        ValueError: If there are fewer than two frames, the map has another number of frames, or
            ``drawn`` does not fit the scales.

    Example:
        >>> head = RelationHead(1024, num_frames=8)
        >>> head(torch.randn(2, 1024, 8, 7, 7)).shape
        torch.Size([2, 1792])
    """

    def __init__(
        self,
        channels: int,
        num_frames: int,
        hidden_channels: int = 256,
        multi_scale: bool = True,
        num_relations: int = 3,
        dropout: float = 0.8,
        drawn: Optional[Sequence[Sequence[int]]] = None,
    ):
        super().__init__()
        check_numbers(2, num_frames=num_frames)
        check_numbers(1, channels=channels, hidden_channels=hidden_channels)
        check_numbers(1, num_relations=num_relations)
        self.channels, self.num_frames = channels, num_frames
        self.multi_scale, self.num_relations = multi_scale, num_relations
        self.scales: List[int] = list(range(num_frames, 1 if multi_scale else num_frames - 1, -1))
        width = hidden_channels if multi_scale else 512
        self.out_channels = width * len(self.scales)
        self.dropout = torch.nn.Dropout(dropout)
        self.lin_in = torch.nn.Linear(channels, hidden_channels)
        self.lins = torch.nn.ModuleList(
            torch.nn.Linear(hidden_channels * scale, width) for scale in self.scales
        )
        fitting = drawn is None or [len(part) for part in drawn] == self.counts[1:]
        if drawn is not None and fitting:
            most = [comb(num_frames, scale) for scale in self.scales[1:]]
            fitting = all(0 <= i < n for part, n in zip(drawn, most) for i in part)
        if not fitting:
            raise ValueError(
                f"Expected 'drawn' to have {self.counts[1:]} positions for the scales "
                f"{self.scales[1:]}, each below the number of sets (got {drawn})"
            )
        self.drawn = drawn
        for i, scale in enumerate(self.scales):  # here, because a GPU would be waited for
            sets = torch.tensor(list(combinations(range(num_frames), scale)))
            sets = sets if drawn is None or i == 0 else sets[list(drawn[i - 1])]
            self.register_buffer(f"sets{scale}", sets, persistent=False)
        self.reset_parameters()

    @property
    def counts(self) -> List[int]:
        """How many sets of frames every scale sums over."""
        return [min(self.num_relations, comb(self.num_frames, scale)) for scale in self.scales]

    def reset_parameters(self):
        """Draws all weights anew (the first layer normal with a deviation of 0.001, as published, the
        others as of :class:`torch.nn.Linear`; its bias zero).
        """
        torch.nn.init.normal_(self.lin_in.weight, std=0.001)
        torch.nn.init.zeros_(self.lin_in.bias)
        for lin in self.lins:
            lin.reset_parameters()

    def classifier(self, in_features: int, num_classes: int, **kwargs) -> torch.nn.Linear:
        """The last layer for this head, which :class:`VideoClassifier` uses."""
        if not self.multi_scale:
            return torch.nn.Linear(in_features, num_classes, **kwargs)
        return RelationClassifier(in_features, num_classes, self.counts, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """The vector of every clip."""
        if x.size(2) != self.num_frames:
            raise ValueError(f"Expected maps of {self.num_frames} frames (got {x.size(2)})")
        frames = self.lin_in(self.dropout(x.mean(dim=(3, 4)).transpose(1, 2)))
        out = []
        for i, (scale, lin, count) in enumerate(zip(self.scales, self.lins, self.counts)):
            sets = self.get_buffer(f"sets{scale}")
            if self.training and (self.drawn is None or i == 0):
                sets = sets[torch.randperm(len(sets), device=x.device)[:count]]
            hidden = lin(frames[:, sets].flatten(2).relu()).relu()  # [B, sets, C]
            out.append(hidden.mean(dim=1) * count)
        return torch.cat(out, dim=1)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.channels}, num_frames={self.num_frames}, multi_scale={self.multi_scale}"
