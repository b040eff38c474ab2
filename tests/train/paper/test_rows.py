"""Every row of the SyncMNIST table, at every size."""

import pytest
import torch

from rstg_pyg import RSTG, HomogeneousRSTG, LSTMHead
from rstg_pyg.backbones import FrozenBatchNorm
from rstg_pyg.backbones.resnet import NonLocalBlock
from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import CONFIG_FOLDER, load_config

ROWS = sorted(
    path.stem for path in (CONFIG_FOLDER / "syncmnist").glob("*.yaml") if path.stem != "common"
)


def build(row, size, *overrides):
    config = load_config(f"syncmnist/{row}.yaml", [f"size={size}", *overrides])
    data = config.data
    return config, build_model(config, data.num_classes * (data.num_classes - 1) // 2 + 1)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("size", ["mini", "small", "base"])
def test_every_row_runs_at_every_size(row, size):
    config, model = build(row, size)
    data = config.data
    model.eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 1, data.num_frames, data.frame_size, data.frame_size))
    assert logits.shape == (1, 11 if size == "mini" else 46)
    assert (data.num_digits, data.num_classes) == ((3, 5) if size == "mini" else (5, 10))
    assert config.name == row


def test_positional_at_full_size_is_the_papers_network():
    """Its parts as in ``syncmnist.yaml``."""
    model = build("positional", "full")[1]
    whole = load_config("syncmnist.yaml").model
    assert load_config("syncmnist/positional.yaml", ["size=full"]).model == whole
    assert sum(p.numel() for p in model.parameters()) == 10_564_656


def test_rows_differ_in_what_they_are_named_for():
    models = {row: build(row, "full")[1] for row in ROWS}
    graphs = {row: model.head.rstg for row, model in models.items() if hasattr(model.head, "rstg")}
    assert set(ROWS) - set(graphs) == {"mean_lstm", "conv_lstm", "i3d", "non_local"}
    stages = {
        row: (len(g.time_rounds), g.last_cell is not None, len(g.convs))
        for row, g in graphs.items()
        if isinstance(g, RSTG)
    }
    assert stages == {
        "space_only": (0, False, 1),
        "time_only": (3, True, 0),
        "one_temporal_stage": (0, True, 1),
        "all_temporal_stages": (3, True, 1),
        "positional": (3, True, 1),
        "ours": (3, True, 3),
    }
    assert isinstance(graphs["homogeneous"], HomogeneousRSTG)
    positions = {row: graph.convs[0].pos_channels > 0 for row, graph in graphs.items() if graph.convs}
    assert {row for row, there in positions.items() if there} == {"positional", "ours"}
    assert {row for row, graph in graphs.items() if graph.residual} == {"ours"}

    assert isinstance(models["mean_lstm"].head, LSTMHead) and models["mean_lstm"].head.map_size is None
    assert models["conv_lstm"].head.map_size == (6, 6)
    for row, blocks in {"i3d": 0, "non_local": 5}.items():
        modules = list(models[row].modules())
        assert sum(isinstance(m, NonLocalBlock) for m in modules) == blocks
        assert not any(isinstance(m, FrozenBatchNorm) for m in modules)
