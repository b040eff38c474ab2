"""A video classifier from any backbone with named stages and RSTG blocks."""

import contextlib
from collections.abc import Mapping
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple, Union

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from rstg_pyg.block import RSTGBlock, State
from rstg_pyg.checks import check_numbers
from rstg_pyg.means import MeanState, mean_over_frames, running_mean
from rstg_pyg.pretrained import Pretrained

#: What a stream carries on: the states of the blocks, of the head, and the mean of the last map.
StreamState = Tuple[Dict[str, State], Any, Optional[MeanState]]


class VideoClassifier(torch.nn.Module, Pretrained):
    r"""Runs a backbone stage by stage, adds RSTG blocks where asked, and classifies.

    A backbone is any module with

    - ``channels``: a dictionary from the names of its stages, in the order in which they run, to the
      channels of their feature maps :math:`(B, C, T, H, W)`;
    - ``stages``: a :class:`torch.nn.ModuleDict` with these names, whose modules each take and give a
      map; or a method ``forward(clip, after)`` that goes on with ``x = after(name, x)`` after every
      stage;
    - optionally ``places``: a dictionary from other names to stages.

    After a stage named in ``blocks`` (by its own name or that of a place) the map becomes
    ``x + block(x)``. The classified vector is the mean of the last map over time and space, the
    ``head``'s vector instead of it (``combine="serial"``), or their sum (``combine="plus"``).

    A head is an RSTG-to-vec block or any other module that makes a vector of :obj:`out_channels`
    from a map of :obj:`channels`, both its attributes; frames can be streamed through it if it has
    ``streams`` and ``stream`` as :class:`RSTGBlock` has, and clips may have different lengths if its
    ``forward`` takes ``lengths``. :class:`LSTMHead` is an example. A head with a method
    ``classifier(in_features, num_classes)`` makes the last layer, too (:class:`RelationHead`); one
    with a true ``takes_boxes`` gets the ``boxes`` of the clips (:class:`RegionHead`).

    Args:
        backbone (torch.nn.Module): The backbone.
        num_classes (int): Number of classes.
        blocks (dict, optional): RSTG-to-map blocks by the name of the stage they follow.
            (default: :obj:`None`)
        head (torch.nn.Module, optional): An RSTG-to-vec block or another head on the last map, see
            above. (default: :obj:`None`)
        combine (str, optional): ``"serial"`` or ``"plus"``, see above. (default: :obj:`"serial"`)
        dropout (float, optional): Dropout before the last layer. (default: :obj:`0`)
        pool_window (int, optional): Averages the last map over sliding windows of so many cells
            instead of the whole, classifies every window and takes the mean of the logits: with 14,
            a network for 224 pixels sees larger frames as it was trained (published code).
            (default: :obj:`None`)
        grad_checkpointing (bool, optional): Keeps only the maps between the backbone's stages for the
            backward pass and computes the rest again: less memory for about a third more time. Needs
            a backbone with ``stages``. (default: :obj:`False`)

    Shapes:
        - **input:** clips :math:`(B, C_{in}, T, H, W)`, or :math:`(B, L, C_{in}, T, H, W)`, of which
          the :math:`L` clips of a video get the mean of their logits
        - **output:** logits :math:`(B, \text{num\_classes})`

    Raises:
        ValueError: If a block names a stage that does not exist, has other channels than its stage,
            or goes to the wrong kind of output, if the clips have another number of dimensions, or if
            ``lengths`` are given to a network that mixes frames other than by its recurrent cells.

    Example:
        >>> backbone = rstg_pyg.backbones.SimpleConv(1, (16, 16, 16))
        >>> model = VideoClassifier(backbone, 46, head=RSTGBlock(16, to="vec"))
        >>> model(torch.randn(2, 1, 10, 64, 64)).shape
        torch.Size([2, 46])
    """

    def __init__(
        self,
        backbone: torch.nn.Module,
        num_classes: int,
        blocks: Optional[Dict[str, RSTGBlock]] = None,
        head: Optional[torch.nn.Module] = None,
        combine: str = "serial",
        dropout: float = 0.0,
        pool_window: Optional[int] = None,
        grad_checkpointing: bool = False,
    ):
        super().__init__()
        if not isinstance(getattr(backbone, "channels", None), Mapping):
            raise ValueError(
                f"Expected a backbone whose 'channels' is a dictionary from the names of its stages to "
                f"their channels (got '{type(backbone).__name__}'); 'backbones.TorchvisionVideo' "
                f"makes one of a network of torchvision"
            )
        blocks = blocks or {}
        channels: Dict[str, int] = getattr(backbone, "channels", {})
        stages = list(channels)
        places = getattr(backbone, "places", {})
        last = channels[stages[-1]]
        if combine not in ("serial", "plus"):
            raise ValueError(f"Expected 'combine' to be 'serial' or 'plus' (got {combine!r})")
        check_numbers(1, num_classes=num_classes)
        if pool_window is not None:
            check_numbers(1, pool_window=pool_window)
        if grad_checkpointing and not hasattr(backbone, "stages"):
            raise ValueError("Expected a backbone with 'stages' for 'grad_checkpointing'")
        self.block_after: Dict[str, str] = {}  # the block's name by the stage it follows
        for name, block in blocks.items():
            stage = places.get(name, name)
            if stage not in stages:
                raise ValueError(
                    f"Expected 'blocks' to name stages of the backbone, {stages + list(places)} "
                    f"(got {name!r})"
                )
            if stage in self.block_after:
                raise ValueError(f"Expected one block after stage '{stage}' (got two)")
            width = channels[stage]
            _check_block(f"The block after stage '{name}'", block, width, "map", width)
            self.block_after[stage] = name.replace(".", "_")
        size = last
        if head is not None:
            # Alone, a head other than a block may give a vector of its own size.
            if combine == "serial" and not isinstance(head, RSTGBlock):
                size = int(getattr(head, "out_channels", last))
            _check_block("The head", head, last, "vec", size)
        self.backbone: Any = backbone  # its attributes are described above
        self.num_classes = num_classes
        # Names of modules have no dots.
        self.blocks: Any = torch.nn.ModuleDict({k.replace(".", "_"): v for k, v in blocks.items()})
        self.head: Any = head
        self.combine = combine
        self.pool_window = pool_window
        self.grad_checkpointing = grad_checkpointing
        self.dropout = torch.nn.Dropout(dropout)
        self.lin = self._classifier(size, num_classes)
        self.reset_classifier()

    def reset_classifier(self, num_classes: Optional[int] = None):
        """Draws the last layer anew (Glorot uniform; bias zero).

        Args:
            num_classes (int, optional): For so many classes. (default: :obj:`None`, as many as before)
        """
        self.results = None  # those of the last layer before
        if num_classes is not None:
            check_numbers(1, num_classes=num_classes)
            self.num_classes = num_classes
            weight = self.lin.weight
            size = self.lin.in_features
            self.lin = self._classifier(size, num_classes, device=weight.device, dtype=weight.dtype)
        torch.nn.init.xavier_uniform_(self.lin.weight)
        torch.nn.init.zeros_(self.lin.bias)

    def _classifier(self, size: int, num_classes: int, **kwargs: Any) -> torch.nn.Linear:
        make = getattr(self.head, "classifier", torch.nn.Linear)
        return make(size, num_classes, **kwargs)

    def features(self, clip: Tensor) -> Tensor:
        """The last feature map, blocks included.

        Args:
            clip (torch.Tensor): Clips :math:`(B, C, T, H, W)`.
        """
        if not (self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            return self._run_backbone(clip, self._add_block)
        x = clip
        for name in self.backbone.stages:
            x = torch.utils.checkpoint.checkpoint(
                self.stage,
                name,
                x,
                use_reentrant=False,
                context_fn=lambda: (contextlib.nullcontext(), _statistics_kept(self)),
            )
        return x

    def _run_backbone(self, x: Tensor, after: Callable[[str, Tensor], Tensor]) -> Tensor:
        if not hasattr(self.backbone, "stages"):
            return self.backbone(x, after=after)
        for name, stage in self.backbone.stages.items():
            x = after(name, stage(x))
        return x

    def stage(self, name: str, x: Tensor) -> Tensor:
        """The map after a stage of the backbone and the block that follows it, from the map before."""
        return self._add_block(name, self.backbone.stages[name](x))

    @property
    def streams(self) -> bool:
        """Whether frames can be fed one by one. For this the backbone has to see single frames
        (``per_frame``), and so have the blocks and the head but for the cells of their graphs.
        """
        return self._obstacle() is None

    def _obstacle(self) -> Optional[str]:
        """The module, other than the recurrent cells, that mixes frames."""
        if not getattr(self.backbone, "per_frame", False):
            return f"the backbone {type(self.backbone).__name__} (it does not say 'per_frame')"
        for stage, name in self.block_after.items():
            if not self.blocks[name].streams:
                return f"the block after stage '{stage}' (its graph, or a norm over all frames)"
        if self.head is not None and not getattr(self.head, "streams", False):
            return "the head (its graph, a norm over all frames, or no 'stream')"
        return None

    def _check_frames(self, instead: str) -> None:
        """Refuses networks in which a module other than the recurrent cells mixes frames."""
        obstacle = self._obstacle()
        if obstacle is not None:
            raise ValueError(
                f"Expected a network in which only the recurrent cells mix frames (got one in which "
                f"this mixes frames: {obstacle}); {instead}"
            )

    @torch.no_grad()
    def stream(self, frames: Tensor, state: Optional[StreamState] = None) -> Tuple[Tensor, StreamState]:
        r"""Logits after each further piece of a clip, the same as of all frames so far at once.

        Gradients are not recorded, so that memory does not grow with the video.

        Args:
            frames (torch.Tensor): The next frames :math:`(B, C, T, H, W)`, one or more.
            state (tuple, optional): What the call before returned. (default: :obj:`None`, at the
                beginning of a clip)

        Returns:
            (torch.Tensor, tuple): Logits :math:`(B, \text{num\_classes})` after these frames, and the
            state, whose size does not grow.

        Raises:
            ValueError: If a module other than the recurrent cells mixes frames, or the
                frames have another shape.
        """
        if state is None:
            self._check_frames("give it the whole clip")
        if self.training:
            raise ValueError("Expected evaluation mode for a stream: call eval() first")
        if frames.dim() != 5 or frames.size(2) == 0:
            raise ValueError(
                f"Expected one frame or more of shape [B, C, T, H, W] (got {list(frames.shape)})"
            )
        before, head, mean = ({}, None, None) if state is None else state
        after: Dict[str, State] = {}

        def add_block(stage: str, x: Tensor) -> Tensor:
            if stage in self.block_after:
                name = self.block_after[stage]
                out, after[name] = self.blocks[name].stream(x, before.get(name))
                x = x + out
            return x

        x = self._run_backbone(frames, add_block)
        vector = average = None
        if self.head is not None:
            vector, head = self.head.stream(x, head)
        if self.head is None or self.combine == "plus":
            average, mean = running_mean(x, 2, mean)
        return self._classify(vector, average), (after, head, mean)

    def _add_block(self, name: str, x: Tensor) -> Tensor:
        if name in self.block_after:
            x = x + self.blocks[self.block_after[name]](x)
        return x

    def forward(
        self,
        clip: Tensor,
        lengths: Union[Tensor, Sequence[int], None] = None,
        boxes: Optional[Tensor] = None,
    ) -> Tensor:
        """Logits of every video.

        Args:
            clip (torch.Tensor): Clips :math:`(B, C, T, H, W)` or :math:`(B, L, C, T, H, W)`,
                normalized as the backbone wants.
            lengths (torch.Tensor or list, optional): How many frames each clip has, :math:`(B)` or
                :math:`(B, L)`; frames beyond the length are ignored. For networks whose frames can
                be fed one by one (:attr:`streams`); in training, batch norms count all frames.
                (default: :obj:`None`, all :math:`T`)
            boxes (torch.Tensor, optional): Regions of the frames for a head that takes them,
                :math:`(B, T, N, 4)` or :math:`(B, L, T, N, 4)`. (default: :obj:`None`)
        """
        if lengths is not None:
            self._check_frames("give it clips of one length")
        if boxes is not None and not getattr(self.head, "takes_boxes", False):
            raise ValueError("Expected no boxes: the network has no head that takes them")
        if clip.dim() == 6:
            if lengths is not None:
                lengths = torch.as_tensor(lengths).flatten()
            if boxes is not None:
                boxes = boxes.flatten(0, 1)
            logits = self(clip.flatten(0, 1), lengths, boxes)
            return logits.unflatten(0, clip.shape[:2]).mean(dim=1)
        if clip.dim() != 5:
            raise ValueError(
                f"Expected clips to have shape [B, C, T, H, W] or [B, L, C, T, H, W] "
                f"(got {list(clip.shape)})"
            )
        x = self.features(clip)
        vector = average = None
        if self.head is not None:
            more = [given for given in (lengths, boxes) if given is not None]
            vector = self.head(x, *more)
        if self.head is None or self.combine == "plus":
            average = mean_over_frames(x, 2, lengths)
        return self._classify(vector, average)

    def _classify(self, vector: Optional[Tensor], average: Optional[Tensor]) -> Tensor:
        """Logits from the head's vector ``[B, C]``, the last map's mean over time, or both."""
        out = None if vector is None else vector.unsqueeze(1)
        if average is not None:
            pooled = self._windows(average)
            out = pooled if out is None else out + pooled
        return self.lin(self.dropout(out)).mean(dim=1)

    def _windows(self, x: Tensor) -> Tensor:
        """Means of a map ``[B, C, H, W]`` over windows, ``[B, windows, C]``."""
        if self.pool_window is None:
            return x.mean(dim=(2, 3)).unsqueeze(1)
        window = [min(self.pool_window, side) for side in x.shape[-2:]]
        x = torch.nn.functional.avg_pool2d(x, window, stride=1)
        return x.flatten(2).transpose(1, 2)


@contextlib.contextmanager
def _statistics_kept(module: torch.nn.Module) -> Iterator[None]:
    """Inside, batch norms leave their running statistics alone: what is computed again in the backward
    pass must not count twice.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms]
    before = [None if count is None else count.clone() for count in counts]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        for count, value in zip(counts, before):
            if count is not None and value is not None:
                count.copy_(value)


def _check_block(what: str, block: Any, channels: int, to: str, out: int) -> None:
    for found, wanted, where in (
        (block.channels, channels, ""),
        (block.out_channels, out, " at its output"),
    ):
        if found != wanted:
            raise ValueError(
                f"{what} must have {channels} channels like its feature map (got {found}{where})"
            )
    if getattr(block, "to_", to) != to:
        raise ValueError(f"{what} must be built with to={to!r} (got {block.to_!r})")
