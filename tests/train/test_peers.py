"""The comparison with other layers: it runs, and the docs say what the committed run says."""

import json
from pathlib import Path

import pytest
import torch

from rstg_pyg.train import peers
from rstg_pyg.train.peer_tasks import TASKS, Forecast, Nodes

ROOT = Path(__file__).resolve().parents[2]


def test_the_command_measures_all_layers_and_keeps_other_tasks(tmp_path):
    for name in ("forecast", "nodes"):
        assert peers.main(["--quick", "--tasks", name, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "peers.json").read_text())
    assert set(found["tasks"]) == {Forecast.title, Nodes.title}
    for task in found["tasks"].values():
        assert {"RSTG", "no edges"} < set(task["rows"])
        assert all(len(row["scores"]) == 1 for row in task["rows"].values())
        assert torch.__version__.startswith(task["environment"]["versions"]["torch"])
    assert (tmp_path / "peers.md").read_text() == peers.table(found["tasks"])
    assert (tmp_path / "peers.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("text", ['{"protocol": ', "[]", '{"protocol": {}}', "\xff", "3",
    '{"protocol": {}, "tasks": 3}', '{"protocol": {}, "tasks": {"nodes": {"rows": {"GCN": 1}}}}',
])  # fmt: skip
def test_a_file_that_is_not_of_this_command(tmp_path, capsys, text):
    path = tmp_path / "peers.json"
    path.write_bytes(text.encode("latin1"))
    assert peers.main(["--quick", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"error: --out: {path} is damaged, or not a file of this command; choose another" in said
    assert path.read_bytes() == text.encode("latin1")


def test_a_seed_gives_the_same_data_and_another_one_others():
    for task in TASKS.values():
        torch.manual_seed(0)
        first = vars(task(3))
        torch.manual_seed(1)
        assert str(vars(task(3))) == str(first) != str(vars(task(4)))


def test_parts_of_a_task_have_nothing_in_common():
    nodes = Nodes(0)
    assert sum(mask.int() for mask in nodes.masks.values()).eq(1).all()
    assert int(nodes.masks["train"].sum()) == 20 * 7
    links = TASKS["links"](0)
    kept = {tuple(edge) for edge in links.edge_index.t().tolist()}
    for split in ("val", "test"):
        assert not kept & {tuple(edge) for edge in links.positive[split].t().tolist()}


def test_the_page_has_the_table_of_the_committed_run():
    results = ROOT / "docs/results/peers"
    tasks = json.loads((results / "peers.json").read_text())["tasks"]
    table = peers.table(tasks)
    assert table == (results / "peers.md").read_text()
    assert table in (ROOT / "docs/howto/few_labels_deep_stacks_forecasts.md").read_text()
    assert not json.loads((results / "peers.json").read_text())["protocol"]["quick"]
    assert {row["scores"][0] for task in tasks.values() for row in task["rows"].values()}
