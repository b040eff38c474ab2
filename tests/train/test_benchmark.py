"""The benchmark's structure and that its variants agree; never its times."""

from dataclasses import replace

import pytest
import torch

from rstg_pyg.train import benchmark
from rstg_pyg.train.benchmarking import measuring
from rstg_pyg.train.benchmarking.cases import PROMISED, SECTIONS, Case
from rstg_pyg.train.benchmarking.tables import as_csv, as_markdown, from_csv, plots, promises
from rstg_pyg.train.benchmarking.variants import stage_variants, whole_variants

TINY = Case((2, 1), frames=3, channels=8)
RATES = {"mm": 1e9, "oneDNN": 2e9}


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


def test_another_function_is_found():
    x, variants = stage_variants(TINY)
    forward = variants[2].forward
    variants[2].forward = lambda x: forward(x) * 1.001
    with pytest.raises(SystemExit, match=f"{variants[2].name} differs from all pairs"):
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
    ours = next(row for row in rows if row["variant"] == "RSTGConv, static")
    assert ours["share_of_mm"] == pytest.approx(2 * ours["share_of_onednn"])
    read = from_csv(as_csv(rows))
    assert [row["ms"] for row in read] == pytest.approx([row["ms"] for row in rows], rel=1e-4)
    page = as_markdown(rows, ["a machine"])
    assert "- a machine" in page and "5 nodes, 16 edges (grid), D = 8" in page
    plots([{**row, "nodes": 14, "frames": 64} for row in rows], tmp_path)
    plots([{**row, "section": "density", "topology": "density 0.5"} for row in rows], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"share.png", "density.png"}


def test_peak_counts_what_is_held_at_once():
    mib = 2**18

    def one_after_the_other():
        for _ in range(4):
            torch.empty(mib)

    def together():
        return [torch.empty(mib) for _ in range(4)]

    assert measuring.peak_bytes(one_after_the_other) == pytest.approx(2**20, rel=0.01)
    assert measuring.peak_bytes(together) == pytest.approx(4 * 2**20, rel=0.01)


def test_half_of_textbook_memory_at_most():
    x, variants = stage_variants(PROMISED[0])
    peak = {
        v.name: measuring.peak_bytes(benchmark.call_of(v, x, backward=True))
        for v in variants
        if v.name in ("textbook MessagePassing", "RSTGConv, static")
    }
    assert 2 * peak["RSTGConv, static"] <= peak["textbook MessagePassing"]


def test_promised_ratios_come_from_the_rows():
    case = {
        "section": "stage", "nodes": 14, "channels": 512, "frames": 64, "topology": "grid",
        "dtype": "float32", "pass": "forward + backward",
    }  # fmt: skip
    times = {"all pairs, concatenated": 12.0, "textbook MessagePassing": 6.0, "RSTGConv, static": 3.0}
    rows = [
        {**case, "variant": name, "ms": ms, "peak_mib": ms, "share_of_mm": 0.5}
        for name, ms in times.items()
    ]
    assert [(bound, value) for _, bound, value, _ in promises(rows)] == [
        ("at least 3.6", 4.0), ("at least 2", 2.0), ("at least 0.78", 0.5), ("at most 0.5", 0.5)
    ]  # fmt: skip
    assert promises([{**row, "dtype": "bfloat16"} for row in rows]) == []


def cases_of(monkeypatch, *cases):
    monkeypatch.setattr(benchmark, "product_rates", lambda device: RATES)
    for section in ("stage", "scaling"):
        monkeypatch.setitem(SECTIONS, section, (list(cases), []))


def test_other_sections_of_the_same_machine_stay(tmp_path, monkeypatch, capsys):
    cases_of(monkeypatch, TINY)
    command = ["--quick", "--threads", "1", "--out", str(tmp_path), "--sections"]
    benchmark.main([*command, "stage"])
    before = from_csv((tmp_path / "benchmark.csv").read_text())
    benchmark.main([*command, "scaling"])
    rows = from_csv((tmp_path / "benchmark.csv").read_text())
    assert [row for row in rows if row["section"] == "stage"] == before
    assert {row["section"] for row in rows} == {"stage", "scaling"}
    assert "## stage" in (tmp_path / "benchmark.md").read_text()

    text = (tmp_path / "benchmark.csv").read_text()
    (tmp_path / "benchmark.csv").write_text(text.replace("1 threads", "64 threads"))
    assert benchmark.main([*command, "stage"]) == 2
    assert "was measured elsewhere" in capsys.readouterr().err
