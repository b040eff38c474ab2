"""Any of torchvision's video networks as a backbone, with its blocks as named nodes."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models
from torchvision.models import video as networks

#: Called with a node's name and its map ``[B, C, T, H, W]``; returns the map for the next node.
After = Callable[[str, Tensor], Tensor]

#: What the last layers of the networks are called.
CLASSIFIERS = ("fc", "classifier", "head")


def available_networks() -> list[str]:
    """The names of torchvision's video networks."""
    return sorted(list_models(module=networks))


def network_weights(network: str, name: str) -> WeightsEnum | None:
    """The weights of a network of torchvision with a name such as ``KINETICS400_V1``; :obj:`None` if it
    has none of this name.

    Raises:
        ValueError: If there is no such network.
    """
    _check_network(network)
    return get_model_weights(network).__members__.get(name)


def preprocessing(network: str, weights: str) -> dict[str, Any]:
    """How the clips were made for which weights of torchvision were trained.

    Args:
        network: One of :func:`available_networks`.
        weights: The weights' name, or a file of them. (A file of another name counts as the network's
            default weights.)

    Returns:
        ``num_frames``; ``frame_stride`` in videos of 30 frames per second; ``short_side`` and
        ``crop_size`` in pixels; ``mean`` and ``std`` of each channel, for pixels from 0 to 255.

    Raises:
        ValueError: If there is no such network.
    """
    _check_network(network)
    known = get_model_weights(network)
    by_file = {Path(member.url).name: member for member in known}
    found = known.__members__.get(weights) or by_file.get(Path(weights).name) or known["DEFAULT"]
    made = found.transforms()
    numbers = dict(re.findall(r"`(frame_rate|clip_len)=([0-9.]+)`", found.meta["_docs"]))
    return {
        "num_frames": int(numbers["clip_len"]),
        "frame_stride": round(30 / float(numbers["frame_rate"])),
        "short_side": min(made.resize_size),
        "crop_size": made.crop_size[0],
        "mean": [round(255 * x, 4) for x in made.mean],
        "std": [round(255 * x, 4) for x in made.std],
    }


def _check_network(name: str) -> None:
    if name not in available_networks():
        raise ValueError(
            f"Expected 'name' to be one of {', '.join(available_networks())} (got {name!r})"
        )


class TorchvisionVideo(torch.nn.Module):
    r"""A video network of torchvision without its classifier.

    Nodes have torchvision's own names: ``stem`` and ``layer1`` ... ``layer4`` of ``r3d_18``,
    ``mc3_18`` and ``r2plus1d_18``; ``features.0`` ... of ``s3d``; ``patch_embed`` and ``features.0``
    ... of ``swin3d_*``; ``blocks.0`` ... of ``mvit_*``, whose class token is not in the
    maps. The last map is the one that the network's classifier pools.

    Args:
        name: One of :func:`available_networks`.
        clip_size: Frames, height and width of the clips; ``mvit_*`` only accepts 16, 224, 224.
            (default: ``(16, 224, 224)``)
        **kwargs: Arguments of the network, for example ``weights="KINETICS400_V1"``, which
            torchvision downloads. (:func:`load_backbone_weights` loads them, too, also from a file.)

    Attributes:
        channels (dict): The channels of every node, in the order in which they run.
        map_sizes (dict): The ``(T, H, W)`` of every node for clips of ``clip_size``.

    Shapes:
        - **input:** clips :math:`(B, 3, T, H, W)`
        - **output:** the last node's map :math:`(B, C, T', H', W')`

    Raises:
        ValueError: If there is no such network, or clips of that size do not fit it.
    """

    def __init__(self, name: str, clip_size: Sequence[int] = (16, 224, 224), **kwargs: Any):
        super().__init__()
        _check_network(name)
        self.name = name
        self.network = get_model(name, **kwargs)
        for classifier in ("avgpool", *CLASSIFIERS):
            if hasattr(self.network, classifier):
                delattr(self.network, classifier)
        self.channels: dict[str, int] = {}
        self.map_sizes: dict[str, tuple[int, ...]] = {}
        self._measure(tuple(clip_size))

    def _measure(self, clip_size: tuple[int, ...]) -> None:
        """Runs the network on the meta device and stores the size of every node."""

        def note(node: str, x: Tensor) -> Tensor:
            self.channels[node], self.map_sizes[node] = x.size(1), tuple(x.shape[2:])
            return x

        try:
            copy.deepcopy(self).eval().to("meta")(
                torch.empty(1, 3, *clip_size, device="meta"), after=note
            )
        except RuntimeError as e:
            raise ValueError(
                f"Expected clips that fit {self.name} (got {' x '.join(map(str, clip_size))}: "
                f"{str(e).splitlines()[0]})"
            ) from e

    def forward(self, clip: Tensor, after: After | None = None) -> Tensor:
        """The last node's map.

        Args:
            clip: Clips ``[B, 3, T, H, W]``.
            after: A function called after every node. (default: none)
        """
        after = after or (lambda node, x: x)
        network = self.network
        if isinstance(network, networks.MViT):
            return _run_mvit(network, clip, after)
        if isinstance(network, networks.SwinTransformer3d):
            return _run_swin(network, clip, after)
        x = clip
        for node, module in _children(network):
            x = after(node, module(x))
        return x

    def extra_repr(self) -> str:
        """The name of the network."""
        return self.name


def _children(network: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """The nodes of a network that is a sequence of modules."""
    for name, module in network.named_children():
        if name == "features":
            yield from ((f"features.{i}", part) for i, part in enumerate(module))
        else:
            yield name, module


def _run_swin(network: networks.SwinTransformer3d, clip: Tensor, after: After) -> Tensor:
    """Swin has channels last."""

    def node(name: str, x: Tensor) -> Tensor:
        return after(name, x.movedim(-1, 1)).movedim(1, -1)

    x = node("patch_embed", network.pos_drop(network.patch_embed(clip)))
    last = len(network.features) - 1
    for i, stage in enumerate(network.features):
        x = stage(x)
        if i == last:
            x = network.norm(x)
        x = node(f"features.{i}", x)
    return x.movedim(-1, 1)


def _run_mvit(network: networks.MViT, clip: Tensor, after: After) -> Tensor:
    """MViT's maps are sequences of tokens, with a class token first."""
    x = network.conv_proj(clip)
    size = tuple(x.shape[2:])
    encoding = network.pos_encoding
    wanted = (encoding.temporal_size, *encoding.spatial_size)
    if size != wanted:
        raise RuntimeError(f"its position encodings are for {wanted} tokens, these clips give {size}")
    x = encoding(x.flatten(2).transpose(1, 2))
    last = len(network.blocks) - 1
    for i, block in enumerate(network.blocks):
        x, size = block(x, size)
        if i == last:
            x = network.norm(x)
        tokens = x[:, 1:].transpose(1, 2).unflatten(2, size)
        tokens = after(f"blocks.{i}", tokens)
        x = torch.cat([x[:, :1], tokens.flatten(2).transpose(1, 2)], dim=1)
    return tokens
