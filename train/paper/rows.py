"""The rows of the SyncMNIST table with the paper's results, and the ablation of "Ours"."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        name: The name of its config, ``syncmnist/NAME.yaml``.
        title: The paper's name for it.
        paper: The paper's top-1 in percent, by number of digits.
        what: A short description.
        overrides: Overrides of the config.
    """

    name: str
    title: str
    paper: dict[int, float]
    what: str
    overrides: tuple[str, ...] = ()

    @property
    def cfg(self) -> str:
        """The config."""
        return f"syncmnist/{self.name.partition('-')[0]}.yaml"


DIGITS = (3, 5)

_ROWS = [
    Row("mean_lstm", "Mean + LSTM", {3: 77.0}, "spatial mean of the features, LSTM over time"),
    Row("conv_lstm", "Conv + LSTM", {3: 95.0, 5: 39.7}, "flattened features, LSTM over time"),
    Row("i3d", "I3D", {5: 90.6}, "3-D convolutions"),
    Row("non_local", "Non-Local", {5: 93.5}, "the same with non-local blocks"),
    Row("space_only", "RSTG: Space-Only", {3: 61.3}, "messages, no time stage"),
    Row("time_only", "RSTG: Time-Only", {3: 89.7}, "time stages, no messages"),
    Row("homogeneous", "RSTG: Homogeneous", {3: 95.7, 5: 58.3}, "time treated like space, no LSTM"),
    Row("one_temporal_stage", "RSTG: 1-temp-stage", {3: 97.0, 5: 74.1}, "one time stage at the end"),
    Row("all_temporal_stages", "RSTG: All-temp-stages", {3: 98.9, 5: 94.5}, "also one in every round"),
    Row("positional", "RSTG: Positional All-temp", {5: 97.2}, "the same, positions in the messages"),
    Row("ours", "Ours", {}, "positional, separate weights for each round; see the config"),
]

#: The rows of the table by name, in the paper's order; ours is the last.
ROWS: dict[str, Row] = {row.name: row for row in _ROWS}

#: Single changes of "Ours": a description and the overrides.
_CHANGES = {
    "no_residual": (
        "stages replace the nodes",
        ["model.rstg.residual=false", "model.rstg.out_norm=null"],
    ),
    "shared_rounds": ("rounds share their weights", ["model.rstg.shared_rounds=true"]),
    "one_round": ("one round", ["model.rstg.num_rounds=1"]),
    "two_rounds": ("two rounds", ["model.rstg.num_rounds=2"]),
    "three_rounds": ("three rounds", ["model.rstg.num_rounds=3"]),
    "no_positions": ("no positions in the messages", ["model.rstg.positions=false"]),
    "padding": ("zero padding in the filters", ["model.backbone.padding=1"]),
    "residual": ("residual pre-norm stages", ["model.rstg.residual=true", "model.rstg.out_norm=layer"]),
    "one_time_stage": ("one time stage, at the end", ["model.rstg.time_stages=last"]),
    "all_time_stages": ("also a time stage in every round", ["model.rstg.time_stages=all"]),
    "no_pretraining": ("no pre-training", ["pretrain.steps=0"]),
    "dot_attention": ("dot attention", ["model.rstg.attention=dot"]),
    "mean": ("no attention, the mean", ["model.rstg.attention=null"]),
    "four_heads": ("four heads of attention", ["model.rstg.heads=4"]),
    "complete": ("messages between all nodes", ["model.rstg.topology=complete"]),
    "finest_scale": ("only the finest scale", ["model.rstg.scales=[3]"]),
    "gru": ("GRU cells", ["model.rstg.cell=gru"]),
    "no_in_norm": ("no batch norm before the graph", ["model.rstg.in_norm=null"]),
    "no_out_norm": ("no norm of the vector", ["model.rstg.out_norm=null"]),
    "typed_update": ("separate update weights for each scale", ["model.rstg.typed_update=true"]),
}

#: "Ours" with one change, by the name of the change.
ABLATIONS: dict[str, Row] = {
    name: Row(f"ours-{name}", what, {}, " ".join(overrides), tuple(overrides))
    for name, (what, overrides) in _CHANGES.items()
}
