"""The benchmark's structure and that its variants agree; never its times."""

import csv

import pytest
import torch

from rstg_pyg.train import benchmark, measuring
from rstg_pyg.train.variants import Case, stage_variants, whole_variants

TINY = Case((2, 1), frames=3, channels=8)
RATES = {"mm": 1e9, "oneDNN": 2e9}


@pytest.mark.parametrize("density", [None, 0.5])
@pytest.mark.parametrize("topology", ["grid", "complete"])
def test_stage_variants_compute_the_same(topology, density):
    case = Case((2, 1), frames=3, channels=8, topology=topology, density=density)
    x, variants = stage_variants(case)
    assert x.shape == (3, 5, 8)
    found = benchmark.check_equal(variants, x)
    assert len(found) >= 8 and max(found.values()) < 1e-5
    assert {v.name for v in variants} - set(found) == {
        "GATv2Conv per frame (another function)", "TransformerConv per frame (another function)"
    }  # fmt: skip


def test_whole_variants_compute_the_same():
    x, variants = whole_variants(Case((2, 1), frames=3, channels=8, batch=2))
    assert x.shape == (2, 3, 5, 8)
    assert len(benchmark.check_equal(variants, x)) == 3
    for variant in variants:
        assert variant.forward(x).shape == x.shape


def test_gradients_of_the_variants_agree():
    x, variants = stage_variants(TINY)
    grads = [benchmark.call_of(v, x, backward=True)()[0] for v in variants if v.same]
    for grad in grads[1:]:
        torch.testing.assert_close(grad, grads[0], rtol=1e-4, atol=1e-5)


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
    table = list(csv.DictReader(benchmark.as_csv(rows).splitlines()))
    assert len(table) == len(rows) and float(table[0]["ms"]) > 0
    page = benchmark.as_markdown(rows, ["a machine"])
    assert "- a machine" in page and "5 nodes, 16 edges (grid), D = 8" in page
    benchmark.plots(rows, tmp_path)
    assert (tmp_path / "share.png").stat().st_size > 0


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
    x, variants = stage_variants(benchmark.PROMISED[0])
    peak = {
        v.name: measuring.peak_bytes(benchmark.call_of(v, x, backward=True))
        for v in variants
        if v.name in ("textbook MessagePassing", "RSTGConv, static")
    }
    assert 2 * peak["RSTGConv, static"] <= peak["textbook MessagePassing"]


def test_interleaved_takes_turns():
    seen = []
    calls = {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}
    times = measuring.interleaved(calls, repeats=4, seconds=0)
    assert "".join(seen) == "ab" * 4 and [len(t) for t in times.values()] == [3, 3]
    assert measuring.median_and_spread([1.0, 2.0, 3.0])[0] == 2.0


def test_command_line_errors(capsys):
    with pytest.raises(SystemExit) as error:
        benchmark.main(["--threads", "0"])
    assert error.value.code == 2
    with pytest.raises(SystemExit):
        benchmark.main(["--sections", "nothing"])
    assert "invalid choice" in capsys.readouterr().err


def test_cases_cover_the_axes():
    full = benchmark.cases("stage", quick=False)
    assert {len(case.graph()[0][0]) and case.graph()[1] for case in full} == {14, 30, 85, 285}
    assert {case.channels for case in full} == {64, 128, 256, 512}
    assert {case.topology for case in full} == {"grid", "complete"}
    assert benchmark.cases("scaling", quick=True)[-1].graph()[1] == 1365
