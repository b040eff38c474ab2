"""A video classifier from any backbone with named stages and RSTG blocks."""

from typing import Dict, Optional

import torch
from torch import Tensor

from rstg_pyg.block import RSTGBlock


class VideoClassifier(torch.nn.Module):
    r"""Runs a backbone stage by stage, adds RSTG blocks where asked, and classifies.

    A backbone is any module with

    - ``stages``: a :class:`torch.nn.ModuleDict` whose modules, run in their order, each take and
      give a feature map :math:`(B, C, T, H, W)`;
    - ``channels``: a dictionary from stage name to the channels of its output.

    After a stage named in ``blocks`` the map becomes ``x + block(x)``. The classified vector is the
    mean of the last map over time and space, the ``head`` block's vector instead of it
    (``combine="serial"``), or their sum (``combine="plus"``).

    Args:
        backbone (torch.nn.Module): The backbone.
        num_classes (int): Number of classes.
        blocks (dict, optional): RSTG-to-map blocks by the name of the stage they follow.
            (default: :obj:`None`)
        head (RSTGBlock, optional): An RSTG-to-vec block on the last map. (default: :obj:`None`)
        combine (str, optional): ``"serial"`` or ``"plus"``, see above. (default: :obj:`"serial"`)
        dropout (float, optional): Dropout before the last layer. (default: :obj:`0`)

    Shapes:
        - **input:** clips :math:`(B, C_{in}, T, H, W)`
        - **output:** logits :math:`(B, \text{num\_classes})`

    Raises:
        ValueError: If a block names a stage that does not exist, has other channels than its stage,
            or goes to the wrong kind of output.

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
        head: Optional[RSTGBlock] = None,
        combine: str = "serial",
        dropout: float = 0.0,
    ):
        super().__init__()
        blocks = blocks or {}
        stages = list(backbone.stages)
        last = backbone.channels[stages[-1]]
        if combine not in ("serial", "plus"):
            raise ValueError(f"Expected 'combine' to be 'serial' or 'plus' (got {combine!r})")
        for name, block in blocks.items():
            if name not in stages:
                raise ValueError(
                    f"Expected 'blocks' to name stages of the backbone, {stages} (got {name!r})"
                )
            _check_block(f"The block after stage '{name}'", block, backbone.channels[name], "map")
        if head is not None:
            _check_block("The head", head, last, "vec")
        self.backbone = backbone
        self.num_classes = num_classes
        self.blocks = torch.nn.ModuleDict(blocks)
        self.head = head
        self.combine = combine
        self.dropout = torch.nn.Dropout(dropout)
        self.lin = torch.nn.Linear(last, num_classes)
        self.reset_classifier()

    def reset_classifier(self):
        """Draws the last layer anew (Glorot uniform; bias zero)."""
        torch.nn.init.xavier_uniform_(self.lin.weight)
        torch.nn.init.zeros_(self.lin.bias)

    def forward(self, clip: Tensor) -> Tensor:
        """Logits of every clip.

        Args:
            clip (torch.Tensor): Clips :math:`(B, C, T, H, W)`, normalised as the backbone wants.
        """
        x = clip
        for name, stage in self.backbone.stages.items():
            x = stage(x)
            if name in self.blocks:
                x = x + self.blocks[name](x)
        if self.head is None:
            out = x.mean(dim=(2, 3, 4))
        else:
            out = self.head(x)
            if self.combine == "plus":
                out = out + x.mean(dim=(2, 3, 4))
        return self.lin(self.dropout(out))


def _check_block(what: str, block: RSTGBlock, channels: int, to: str) -> None:
    if block.channels != channels:
        raise ValueError(
            f"{what} must have {channels} channels like its feature map (got {block.channels})"
        )
    if block.to_ != to:
        raise ValueError(f"{what} must be built with to={to!r} (got {block.to_!r})")
