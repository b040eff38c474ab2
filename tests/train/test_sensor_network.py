import json
import re
from pathlib import Path

import pytest
import torch

from rstg_pyg.train import sensor_network as sensors

ROOT = Path(__file__).resolve().parents[2]


def test_the_network_is_the_same_for_the_same_seed_and_farther_is_later():
    network, again = sensors.sensor_network(seed=3), sensors.sensor_network(seed=3)
    assert torch.equal(network.edge_index, again.edge_index) and torch.equal(network.pos, again.pos)
    assert not torch.equal(network.pos, sensors.sensor_network(seed=4).pos)
    assert (network.edge_index[1].bincount() == 3).all()
    order = network.edge_attr.view(-1).argsort()
    assert (network.delay[order].diff() >= 0).all()
    assert network.delay.min() >= 1 and network.delay.max() == 4


def test_events_arrive_after_the_delay_of_their_edge():
    network = sensors.sensor_network()
    values, expected = sensors.readings(network, 400, seed=0)
    surprise = values - expected  # noise, and events, which are at least 1
    assert 0.005 < (surprise > 0.5).float().mean() < 0.05
    source, target = network.edge_index
    seen = 0
    for t, sensor in (surprise[:-5] > 0.5).nonzero().tolist():
        for edge in (source == sensor).nonzero().view(-1).tolist():
            later = expected[t + int(network.delay[edge]), target[edge]]
            assert later > sensors.SENT * (values[t, sensor] - 5 * sensors.NOISE)
            seen += 1
    assert seen > 20


def test_nothing_forecasts_better_than_the_rule():
    network = sensors.sensor_network()
    values, _ = sensors.readings(network, 1000, seed=1)
    test, expected = sensors.readings(network, 500, seed=2)
    again, rule = sensors.error(test[:-1], test), sensors.error(expected[1:], test)
    assert rule < sensors.least_squares(network, values, test) < again


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sensors, "sensor_network", lambda: NETWORK)
    monkeypatch.setattr(sensors, "LENGTH", 100)
    out = tmp_path / "found.json"
    assert sensors.main(["--out", str(out), "--steps", "2", "--seeds", "2"]) == 0
    found = json.loads(out.read_text())
    assert found["settings"]["steps"] == 2 and found["environment"]["threads"] == 1
    trained = [row for row in found["rows"].values() if "parameters" in row]
    assert len(trained) == 5
    assert all(len(row["errors"]) == len(row["ms_per_step"]) == 2 for row in trained)
    assert trained[0]["errors"][0] != trained[0]["errors"][1]
    with pytest.raises(SystemExit, match="2"):
        sensors.main(["--out", str(out), "--steps", "1"])
    assert "--steps: expected at least 2 (got 1)" in capsys.readouterr().err


NETWORK = sensors.sensor_network(num_sensors=5, neighbors=2)


def test_figures_of_the_page_come_from_the_committed_file():
    page = (ROOT / "docs/sensor_network.md").read_text().partition("## A real series")[0]
    found = json.loads((ROOT / "docs/results/sensor_network.json").read_text())
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+)(?: ± ([\d.]+))? \| ([\d,]*) \|$", page, re.MULTILINE)
    assert {name for name, *_ in rows} == set(found["rows"])
    for name, mean, spread, parameters in rows:
        row = found["rows"][name]
        errors = torch.tensor(row["errors"], dtype=torch.double)
        assert mean == f"{float(errors.mean()):.3f}", name
        assert spread == (f"{float(errors.std()):.3f}" if len(errors) > 1 else "")
        assert parameters == (f"{row['parameters']:,}" if "parameters" in row else "")
