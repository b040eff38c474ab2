import json
import re
from pathlib import Path

import pytest
import torch

from rstg_pyg.train import chickenpox, sensor_network
from rstg_pyg.train.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def series(tmp_path):
    """A stand-in: what a node is depends on what it was, and on its neighbor."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(60, 4, generator=generator)
    for t in range(1, len(values)):
        values[t] += 0.6 * values[t - 1] + 0.3 * values[t - 1].roll(1)
    path = tmp_path / "series.json"
    edges = [[i, (i + 1) % 4] for i in range(4)] + [[i, i] for i in range(4)]
    path.write_text(json.dumps({"edges": edges, "FX": values.tolist()}))
    return path


def test_windows_are_in_order_and_do_not_overlap_in_what_is_forecast(series):
    _, values = chickenpox.read_series(series)
    fit, val, test = chickenpox.split(values)
    assert [len(w.x) for w in (fit, val, test)] == [9, 2, 45]
    assert torch.equal(torch.cat([fit.y, val.y, test.y]), values[4:])
    assert torch.equal(test.x[0], values[11:15]) and torch.equal(test.y[0], values[15])


def test_the_linear_forecast_is_found():
    torch.manual_seed(0)
    x = torch.randn(200, 4, 3)
    own = torch.randn(4, 3)
    windows = chickenpox.Windows(x, (x * own).sum(1) + 2)
    assert chickenpox.autoregression(windows, windows, True) < 1e-8
    assert chickenpox.autoregression(windows, windows, False) > 0.1
    same = chickenpox.Windows(x, (x * own[:, :1]).sum(1) + 2)
    assert chickenpox.autoregression(same, same, False) < 1e-8


@pytest.mark.slow
def test_the_command(series, tmp_path):
    out = tmp_path / "found.json"
    arguments = ["--series", str(series), "--steps", "3", "--seeds", "2", "--out", str(out)]
    assert sensor_network.main(arguments) == 0
    found = json.loads(out.read_text())
    assert found["settings"]["training"] == 9
    trained = {name: row for name, row in found["rows"].items() if "parameters" in row}
    assert len(trained) == 4 and all(len(row["test"]) == 2 for row in trained.values())
    for row in trained.values():
        assert row["test"][0] != row["test"][1] and all(1 <= step <= 3 for step in row["step"])
    edges = [trained[f"GConvGRU{more}"]["test"] for more in ("", " without edges")]
    assert edges[0] != edges[1]


def test_forecasts_have_the_shape_of_what_is_known(series):
    edges, values = chickenpox.read_series(series)
    fit = chickenpox.split(values)[0]
    for make, links in chickenpox.models(edges).values():
        assert make()(fit.x, links).shape == fit.y.shape


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read"), ('{"FX": []}', "cannot be read"),
     ('{"edges": [[0, 9]], "FX": [[1.0]]}', "at least 40 rows")],
)  # fmt: skip
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "series.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        chickenpox.read_series(path)


def test_figures_of_the_page_come_from_the_committed_file():
    page = (ROOT / "docs/sensor_network.md").read_text().partition("## A real series")[2]
    found = json.loads((ROOT / "docs/results/chickenpox.json").read_text())["rows"]
    rows = re.findall(r"^\| ([^|]+) \| (\d[^|]*) \| ([^|]*) \| ([\d,]*) \|$", page, re.MULTILINE)
    assert {name for name, *_ in rows} == set(found)
    for name, error, later, parameters in rows:
        for text, key in ((error, "test"), (later, "without_stopping")):
            values = torch.tensor(found[name].get(key, []), dtype=torch.double)
            spread = f" ± {float(values.std()):.3f}" if len(values) > 1 else ""
            assert text.strip() == (f"{float(values.mean()):.3f}{spread}" if len(values) else "")
        parameters = parameters.replace(",", "")
        assert parameters == str(found[name].get("parameters", ""))
