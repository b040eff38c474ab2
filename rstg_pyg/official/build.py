"""Networks from the flags of the published code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch_geometric.nn import Linear

from rstg_pyg.backbones import SimpleConv, c2d_resnet50, i3d_resnet50
from rstg_pyg.block import RSTGBlock
from rstg_pyg.classifier import VideoClassifier
from rstg_pyg.published import published_arguments

_ATTENTION = {"dot": "dot", "simple": "additive"}
_NORM = {"LN": "layer", "BN": "batch", "none": None, "None": None, None: None}
_STAGES = ("res2", "res3", "res4", "res5")
#: Window size of the published average pooling, for crops of 224 pixels.
POOL_WINDOW = 14


def build_block(flags: Mapping[str, Any], channels: int, to: str = "map") -> RSTGBlock:
    """The graph of a config of the published code, on maps of ``channels`` channels.

    Args:
        flags: The published flags (``use_att``, ``use_norm``, ``num_scales``, ...), and two of our
            own: ``out_norm`` (``LN``, ``BN`` or ``none``), the norm after the graph, and
            ``project_out``, whether nodes are projected back (default: ``True``).
        channels: Channels of the feature map.
        to: ``"map"`` or ``"vec"``.

    Raises:
        ValueError: If a flag is missing or has a value that the published code does not have.
    """
    dims = _flag(flags, "message_dims")
    if flags.get("node_feat_dim", dims) != dims:
        raise ValueError(
            f"Expected 'node_feat_dim' to be 'message_dims', {dims} (got {flags['node_feat_dim']})"
        )
    heads = 8 if _flag(flags, "multihead_att") else 1
    attention = _choice(flags, "use_att", _ATTENTION)
    if heads > 1 and attention != "dot":
        raise ValueError("Expected 'use_att' to be 'dot' with 'multihead_att' (got 'simple')")
    rounds = _flag(flags, "num_process_iter")
    return RSTGBlock(
        channels,
        dims,
        scales=range(_flag(flags, "num_scales"), 0, -1),
        to=to,
        positions=_flag(flags, "use_positional_emb"),
        map_size=_flag(flags, "dim_map") if _flag(flags, "use_positional_emb") else None,
        typed_update=_flag(flags, "scalewise_update"),
        out_channels=channels if flags.get("project_out", True) else dims,
        heads=heads,
        num_rounds=rounds,
        time_stages=[k for k in flags.get("time_iter_mom", (0, 1, 2)) if k < rounds],
        num_update_layers=_flag(flags, "update_layers"),
        **published_arguments(
            attention,
            _choice(flags, "use_norm", _NORM),
            first_batch_norm=flags.get("dataset") == "mnist",
            out_norm=_choice(flags, "out_norm", _NORM) if "out_norm" in flags else None,
        ),
    )


def build(flags: Mapping[str, Any]) -> VideoClassifier:
    """The complete network of a config of the published code, without its weights.

    Args:
        flags: The published flags: ``backbone_model`` (``simple_c2d``, ``i3d``, ``c2d``,
            ``non-local``), ``place_graph`` and ``place_nonlocal`` (``none``, ``final``, ``res3-res4``
            and so on), ``comb_type``, ``final_norm``, and those of :func:`build_block`.

    Raises:
        ValueError: If a flag is missing, or the published code cannot build the combination.
    """
    model = _flag(flags, "backbone_model")
    places = _places(flags, "place_graph", (*_STAGES, "final"))
    backbone: Any
    window: int | None
    if model == "simple_c2d":
        if places != ["final"] or flags.get("comb_type") != "serial":
            raise ValueError(
                "Expected 'place_graph' to be 'final' and 'comb_type' to be 'serial' with "
                f"'backbone_model' simple_c2d (got {places} and {flags.get('comb_type')!r})"
            )
        if _flag(flags, "num_filters") != _flag(flags, "message_dims"):
            raise ValueError(
                f"Expected 'num_filters' to be 'message_dims', {flags['message_dims']}, with "
                f"'backbone_model' simple_c2d (got {flags['num_filters']})"
            )
        backbone = SimpleConv(flags.get("num_chan", 1), [flags["num_filters"]] * 3)
        window, after = None, "none"
    elif model in ("i3d", "c2d", "non-local"):
        make = c2d_resnet50 if model == "c2d" else i3d_resnet50
        backbone = make(nonlocal_stages=_nonlocal_stages(flags, places))
        window, norm = POOL_WINDOW, "use_norm" if model == "c2d" else "final_norm"
        _choice(flags, norm, _NORM)
        after = flags[norm]
        if model == "c2d" and len(set(places) - {"final"}) > 1:
            raise ValueError(
                f"Expected one stage in 'place_graph' with c2d (got {places}): names would collide"
            )
    else:
        raise ValueError(
            f"Expected 'backbone_model' to be 'simple_c2d', 'i3d', 'c2d' or 'non-local' (got {model!r})"
        )
    if len(places) > 1 and _flag(flags, "use_positional_emb"):
        raise ValueError(
            f"Expected 'use_positional_emb' to be false with several graphs (got {places}): the "
            "published code cannot build that"
        )
    flags = {**flags, "out_norm": after, "project_out": True}
    blocks = {
        place: build_block(flags, backbone.channels[backbone.places[place]])
        for place in places
        if place != "final"
    }
    head = None
    if "final" in places:
        head = build_block(flags, list(backbone.channels.values())[-1], to="vec")
    return VideoClassifier(
        backbone,
        _flag(flags, "num_classes"),
        blocks=blocks,
        head=head,
        combine=flags.get("comb_type", "plus"),
        dropout=flags.get("classification_dropout", 0.0),
        pool_window=window,
    )


def build_graph(flags: Mapping[str, Any]) -> RSTGBlock:
    """A graph without a backbone (recorded files ``g*``). The flags also have the map's channels ``C``,
    ``project_in`` and ``project_out``; if these are set, the nodes are projected even if the number of
    channels does not change.

    Raises:
        ValueError: As :func:`build_block`.
    """
    block = build_block({**flags, "out_norm": "none"}, _flag(flags, "C"))
    dims = block.hidden_channels
    if _flag(flags, "project_in") and block.rstg.lin_in is None:
        block.rstg.lin_in = Linear(dims, dims)
    if _flag(flags, "project_out") and block.lin_out is None:
        block.lin_out = Linear(dims, block.out_channels)
    return block


def _nonlocal_stages(flags: Mapping[str, Any], places: list[str]) -> list[str]:
    """The residual stages with non-local blocks, by the published code's rules."""
    if flags["backbone_model"] == "c2d":
        return []  # the C2D file ignores the flag
    stages = _places(flags, "place_nonlocal", _STAGES)
    if flags["backbone_model"] == "non-local" and not places:
        return [stage for stage in _STAGES if stage in (*stages, "res3", "res4")]
    both = sorted(set(stages) & set(places))
    if set(both) & {"res3", "res4"}:
        raise ValueError(
            f"Expected no stage in both 'place_graph' and 'place_nonlocal' (got {both}): the published "
            "code cannot build that"
        )
    return [stage for stage in stages if stage not in both]  # the graph replaces the block


def _places(flags: Mapping[str, Any], name: str, known: tuple[str, ...]) -> list[str]:
    value = flags.get(name) or "none"
    places = [] if value in ("none", "None") else value.split("-")
    if not set(places) <= set(known):
        raise ValueError(f"Expected '{name}' to be 'none' or some of {known} with '-' (got {value!r})")
    return places


def _flag(flags: Mapping[str, Any], name: str) -> Any:
    if name not in flags:
        raise ValueError(f"Expected the flag '{name}' (got {sorted(flags)})")
    return flags[name]


def _choice(flags: Mapping[str, Any], name: str, choices: Mapping[Any, Any]) -> Any:
    value = _flag(flags, name)
    if value not in choices:
        raise ValueError(f"Expected '{name}' to be one of {list(choices)} (got {value!r})")
    return choices[value]
