"""The benchmark's structure and that its variants agree; never its times."""

import json
from dataclasses import replace

import pytest
import torch

from rstg_pyg.train import benchmark
from rstg_pyg.train.benchmarking.cases import SECTIONS, Case, peak_bytes
from rstg_pyg.train.benchmarking.streams import stream_rows
from rstg_pyg.train.benchmarking.tables import page, plots, section_table
from rstg_pyg.train.benchmarking.variants import (
    networks,
    published_variants,
    stage_variants,
    whole_variants,
)

TINY = Case((2, 1), frames=3, channels=8)
RATES = {"mm": 1e9, "onednn": 2e9}


@pytest.mark.parametrize("density", [None, 0.5])
@pytest.mark.parametrize("topology", ["grid", "complete"])
def test_stage_variants_compute_the_same(topology, density):
    x, variants = stage_variants(replace(TINY, topology=topology, density=density))
    assert x.shape == (3, 5, 8)
    found = benchmark.check_equal(variants, x)
    assert len(found) >= 8 and max(found.values()) < 1e-5
    assert {v.name for v in variants} - set(found) == {
        "GATv2Conv per frame (another function)", "TransformerConv per frame (another function)"
    }  # fmt: skip
    grads = [benchmark.call_of(v, x, backward=True)()[0] for v in variants if v.same]
    for grad in grads[1:]:
        torch.testing.assert_close(grad, grads[0], rtol=1e-4, atol=1e-5)


def test_whole_variants_compute_the_same():
    x, variants = whole_variants(replace(TINY, batch=2))
    assert x.shape == (2, 3, 5, 8)
    assert len(benchmark.check_equal(variants, x)) == 3
    assert all(variant.forward(x).shape == x.shape for variant in variants)


@pytest.mark.parametrize("topology", ["grid", "complete"])
def test_published_variants_compute_the_same(topology):
    x, variants = published_variants(replace(TINY, batch=2, topology=topology))
    assert len(benchmark.check_equal(variants, x)) == 3
    grads = [benchmark.call_of(v, x, backward=True)()[0] for v in variants if v.same]
    for grad in grads:
        assert (grad - grads[0]).norm() < 1e-3 * grads[0].norm()
    exact, *_, half = (benchmark.call_of(v, x, backward=False)() for v in variants)
    assert 0 < (half - exact).norm() < 0.05 * exact.norm()


def test_another_function_is_found():
    x, variants = stage_variants(TINY)
    forward = variants[2].forward
    variants[2].forward = lambda x: forward(x) * 1.001
    with pytest.raises(SystemExit, match=f"{variants[2].name} differs from textbook"):
        benchmark.check_equal(variants, x)


def test_flops_needed():
    # 5 nodes, 16 edges: 2 * (7 * 5 + 16) * C * C per frame.
    assert TINY.flops(stage=True) == 2 * (7 * 5 + 16) * 3 * 64
    assert TINY.flops(stage=False) == 2 * (3 * (7 * 5 + 16) + 4 * 8 * 5) * 3 * 64


def test_rows_and_pages(tmp_path):
    rows = benchmark.measure("stage", TINY, RATES, quick=True)
    assert {row["pass"] for row in rows} == {"forward", "forward + backward"}
    for row in rows:
        assert row["ms"] > 0 and row["peak_mib"] > 0 and row["nodes"] == 5 and row["edges"] == 16
    last = {row["variant"]: row for row in rows if row["pass"] == "forward + backward"}
    ours, textbook = last["RSTGConv, static"], last["textbook MessagePassing"]
    assert ours["share_of_mm"] == pytest.approx(2 * ours["share_of_onednn"])
    assert ours["share_of_mm"] == pytest.approx(3 * TINY.flops(stage=True) / ours["ms"] * 1e3 / 1e9)
    lines = page(rows, ["a machine"]).splitlines()
    assert "- a machine" in lines and "## stage" in lines
    title = "5 nodes, 16 edges (grid), D = 8, 1 x 3 frames"
    assert [line for line in lines if title in line and "textbook" in line and " | 1.00 | " in line]
    (line,) = [line for line in lines if "| RSTGConv, static |" in line]
    assert f"| {ours['ms'] / textbook['ms']:.2f} | {ours['peak_mib']:.0f} | " in line
    for section in ("scaling", "density"):
        small = [{**row, "section": section, "density": 0.5} for row in rows]
        plots(small, tmp_path)
        assert not (tmp_path / f"{section}.png").exists()  # one point is no curve
        plots([*small, *({**row, "nodes": 9, "density": 0.9} for row in small)], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"scaling.png", "density.png"}


def test_a_table_names_a_case_once_and_compares_with_its_first_variant():
    row = {"section": "network", "case": "small", "spread": 0.2, "parameters": 1234, "peak_mib": 5}
    both = [("forward", (10, 250)), ("forward + backward", (30, 1500))]
    rows = [
        {**row, "variant": name, "pass": how, "ms": ms}
        for how, times in both
        for name, ms in zip(("nothing", "RSTG"), times)
    ]
    assert page(rows, []).splitlines()[-3:] == [
        "|---|---|---:|---:|---:|---:|---:|",
        "| small | nothing | 1,234 | 10.0 ± 10% | 30.0 ± 10% | 1.00 | 5 |",
        "|  | RSTG | 1,234 | 250 ± 10% | 1,500 ± 10% | 50.00 | 5 |",
    ]


@pytest.mark.slow
def test_networks_differ_only_in_what_runs_on_the_nodes():
    for x, models in networks(quick=True).values():
        shapes = {name: model.eval()(x[:1]).shape for name, model in models.items()}
        assert len(set(shapes.values())) == 1
        assert len({sum(p.numel() for p in m.backbone.parameters()) for m in models.values()}) == 1


@pytest.mark.slow
def test_streams_give_the_same_in_every_form(monkeypatch):
    pytest.importorskip("onnxruntime")
    rows = stream_rows(quick=True)
    assert {row["variant"].split(",")[0] for row in rows} == {"eager", ".pt2", "ONNX"}
    assert all(row["frames_per_s"] == pytest.approx(1000 / row["ms"]) for row in rows)
    assert {row["threads"] for row in rows} == {1}


def test_peak_counts_what_is_held_at_once():
    mib = 2**18

    def one_after_the_other():
        for _ in range(4):
            torch.empty(mib)

    def together():
        return [torch.empty(mib) for _ in range(4)]

    assert peak_bytes(one_after_the_other, "cpu") == pytest.approx(2**20, rel=0.01)
    assert peak_bytes(together, "cpu") == pytest.approx(4 * 2**20, rel=0.01)


def test_half_of_textbook_memory_at_most():
    x, variants = stage_variants(SECTIONS["stage"][0])
    peak = {
        v.name: peak_bytes(benchmark.call_of(v, x, backward=True), "cpu")
        for v in variants
        if v.name in ("textbook MessagePassing", "RSTGConv, static")
    }
    assert 2 * peak["RSTGConv, static"] <= peak["textbook MessagePassing"]


def test_other_sections_of_the_same_machine_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "product_rates", lambda device: RATES)
    for section in ("stage", "scaling"):
        monkeypatch.setitem(SECTIONS, section, [TINY])
    command = ["--quick", "--threads", "1", "--out", str(tmp_path), "--sections"]
    path = tmp_path / "benchmark.json"
    benchmark.main([*command, "stage"])
    before = json.loads(path.read_text())["rows"]
    benchmark.main([*command, "scaling"])
    rows = json.loads(path.read_text())["rows"]
    assert [row for row in rows if row["section"] == "stage"] == before
    assert {row["section"] for row in rows} == {"stage", "scaling"}
    assert "## stage" in (tmp_path / "benchmark.md").read_text()

    path.write_text(path.read_text().replace("1 thread (", "64 threads ("))
    assert benchmark.main([*command, "stage"]) == 2
    assert "was measured elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize("text", ['{"machine": "a', "[]", '{"machine": "x"}', "\xff", "3",
    '{"machine": "x", "rows": 3}', '{"machine": "x", "rows": [{"section": "stage"}]}',
])  # fmt: skip
def test_a_file_that_is_not_of_a_benchmark(tmp_path, capsys, text):
    path = tmp_path / "benchmark.json"
    path.write_bytes(text.encode("latin1"))
    assert benchmark.main(["--quick", "--threads", "1", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"error: --out: {path} is damaged, or not a file of this command; choose another" in said
    assert path.read_bytes() == text.encode("latin1")


def test_backbones_are_compared_per_operation(monkeypatch):
    x = torch.randn(1, 3, 2, 4, 4)
    models = {"one": torch.nn.Conv3d(3, 5, 1), "two": torch.nn.Conv3d(3, 10, 1)}
    figures = [{"ms": 2.0, "spread": 0.1, "peak_mib": 1.0}, {"ms": 6.0, "spread": 0.1, "peak_mib": 1.0}]
    monkeypatch.setattr(benchmark, "inception_networks", lambda *_: {"a clip": (x, models)})
    monkeypatch.setattr(benchmark, "timed", lambda *_: figures)
    rows = benchmark.network_rows(True, "cpu", "backbones")
    assert [row["gflop"] for row in rows[:2]] == [2 * 15 * 32 / 1e9, 2 * 30 * 32 / 1e9]
    assert [row["relative_per_flop"] for row in rows] == [1.0, 1.5, 1.0, 1.5]
    assert "| 1.50 | 1.50 |" in section_table(rows, "backbones")
