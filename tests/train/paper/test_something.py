"""The Something-Something table: networks, inputs, sampling, and what the page says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_rows import make_input
from helpers.commands import fails
from helpers.results import results_of

from rstg_pyg.train.build import check_model, normalize
from rstg_pyg.train.config import load_config, parse_config
from rstg_pyg.train.data.sampling import test_indices as frames_of_a_test_clip
from rstg_pyg.train.data.sampling import train_indices
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.paper.cells import NOT_MEASURED
from rstg_pyg.train.paper.something import (
    DEMO,
    NEEDS_DATA,
    SOMETHING_ROWS,
    full_size,
    page,
    write_something_table,
)
from rstg_pyg.train.reproduce import main

GOLDEN = Path(__file__).parents[2] / "golden"
DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", SOMETHING_ROWS)
def test_every_row_is_a_config_in_full_and_small(name):
    row = SOMETHING_ROWS[name]
    config = load_config(row.cfg, demo=False)
    check_model(config)
    demo = load_config(row.cfg, DEMO)
    check_model(demo)
    assert config.name == f"smt_{name}" and demo.name == f"smt_{name}_demo"
    assert demo.model.backbone.kind == config.model.backbone.kind
    places = [c.model.rstg and c.model.rstg.places for c in (config, demo)]
    assert places[0] == places[1]
    data = {key: getattr(demo.data, key) for key in ("builtin", "num_frames", "crop", "flip")}
    small = load_config(SOMETHING_ROWS["c2d"].cfg).data
    assert data == {key: getattr(small, key) for key in data}  # all rows see the same clips


@pytest.mark.parametrize(
    "name, parameters, multiply_adds",
    [
        ("trn", 13_141_218, 16.3),
        ("eco_lite", 37_387_918, 46.5),
        ("i3d_inception", 12_465_614, 111.2),
        ("s3dg", 9_324_830, 79.0),
        ("mfnet_c50", 57_291_758, 90.0),
    ],
)
def test_full_size_is_what_is_known(name, parameters, multiply_adds):
    found = full_size(SOMETHING_ROWS[name])
    assert found[0] == parameters
    assert found[1] / 1e9 == pytest.approx(multiply_adds, rel=0.01)
    assert SOMETHING_ROWS[name].known[1] == multiply_adds
    assert SOMETHING_ROWS[name].known[0] == pytest.approx(parameters / 1e6, abs=0.01)


@pytest.mark.parametrize("name", ["i3d_inception", "s3dg"])
@pytest.mark.parametrize("demo", [True, False])
def test_graphs_go_into_any_stage(name, demo):
    graph = "model.rstg={places: [mixed_3c, mixed_4c], hidden_channels: 16, scales: [2, 1]}"
    check_model(load_config(SOMETHING_ROWS[name].cfg, [graph], demo=demo))


@pytest.mark.parametrize(
    "row, recording",
    [
        ("trn", "trn_multiscale_8f"),
        ("eco_lite", "eco_lite_16f"),
        ("i3d_inception", "i3d_inception_16f_224"),
        ("s3dg", "s3dg_16f_224_k7"),
    ],
)
def test_frames_reach_the_network_as_in_the_recordings(row, recording):
    data = np.load(GOLDEN / f"{recording}.npz")
    flags = json.loads(str(data["config"]))
    rng = np.random.Generator(np.random.PCG64(flags["input_seed"]))
    frames = torch.from_numpy(rng.integers(0, 256, size=flags["frames_shape"], dtype=np.uint8))
    config = load_config(SOMETHING_ROWS[row].cfg, demo=False)
    clip = normalize(frames.movedim(-1, 1), config)
    expected, to_layout = make_input(flags)
    torch.testing.assert_close(clip, expected, atol=1e-5, rtol=0)
    first = torch.from_numpy(data["in/first_values"])
    torch.testing.assert_close(to_layout(clip).flatten()[:64], first, atol=1e-5, rtol=0)
    # A config of one's own that does not say how has the same.
    kind = {"kind": config.model.backbone.kind}
    mine = parse_config({"model": {"backbone": kind}, "data": {"dataset": "folder"}}, "mine.yaml")
    assert (mine.data.mean, mine.data.std) == (config.data.mean, config.data.std)


@pytest.mark.parametrize("count", [3, 8, 10, 16])
@pytest.mark.parametrize("length", [10, 16, 33, 48, 160])
def test_segments_are_those_of_tsn(count, length):
    """Their formulas: in training a random frame of each of ``count`` parts, in tests the middle."""
    (test,) = frames_of_a_test_clip(length, count, "segments")
    assert test.tolist() == [int(length / count / 2 + length / count * i) for i in range(count)]
    drawn = [
        train_indices(length, count, "segments", np.random.default_rng(i)).tolist() for i in range(200)
    ]
    for i, seen in enumerate(zip(*drawn)):
        edges = length * i / count, length * (i + 1) / count
        assert all(edges[0] - 1 < frame < edges[1] for frame in seen)
        if length % count == 0 and length // count <= 16:
            assert set(seen) == set(range(length // count * i, length // count * (i + 1)))


def record(out, name, top1, seed=0, **changes):
    config = load_config(SOMETHING_ROWS[name].cfg, [*DEMO, f"seed={seed}"])
    folder = out / name / f"seed{seed}"
    folder.mkdir(parents=True)
    results = results_of(config, top1=top1, protocol="center1", **changes)
    (folder / "results.json").write_text(json.dumps(results))


def line_of(text, title):
    return next(line for line in text.splitlines() if line.startswith(f"| {title} |"))


def test_the_table_has_the_runs_beside_the_papers_numbers(tmp_path):
    record(tmp_path, "s3dg", 0.25, top5=0.5)
    record(tmp_path, "s3dg", 0.35, seed=1, top5=0.7)
    text = write_something_table(tmp_path, demo=True)
    assert text == (tmp_path / "table.md").read_text()
    line = line_of(text, "S3D-G")
    assert line.startswith("| S3D-G | 3D Inception | 48.2 | 30.0 ± 7.1 (2 seeds) | 78.7 | 60.0 |")
    assert line.endswith("| center1 | 1,234 | 2.0 | `smt/s3dg.yaml` |")
    assert f"| TRN | 2D Inception | 34.4 | {NOT_MEASURED} | - | {NOT_MEASURED} |" in text
    assert NEEDS_DATA not in text
    assert "| TRN | 8 x 224 x 224 | 13,141,218 | 13.14 | 16.3 | 16.3 |" in text
    assert "mini-something" in text
    (tmp_path / "s3dg/seed1/results.json").write_text("{}")
    with pytest.raises(UserError, match="expected the results of a run"):
        write_something_table(tmp_path, demo=True)


def test_mistakes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["--rows", "s3d"], "--rows: there is no 's3d'; did you mean 's3dg'"),
        (["--demo", "--jobs", "0"], "--jobs: expected at least 1"),
        (["--demo", "train.lrr=3"], "unknown key 'train.lrr'"),
        (["--demo", "data.root=x"], "--demo: expected no data.root"),
    ):
        assert message in fails(capsys, main, "something", *arguments)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_rows_from_nothing(tmp_path, monkeypatch, capsys):
    """One of them with boxes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = ["data.builtin.train=40", "data.builtin.validation=20", "train.max_steps=2"]
    rows = ["--rows", "s3dg", "nonlocal_i3d_gcn"]
    command = ["something", "--demo", *rows, "trainer.accelerator=cpu", *small]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "s3dg, seed 0: done" in out and "nonlocal_i3d_gcn, seed 0: done" in out
    folder = tmp_path / "runs/table_something/demo"
    found = json.loads((folder / "s3dg/seed0/results.json").read_text())
    assert f"| 48.2 | {100 * found['top1']:.1f} |" in (folder / "table.md").read_text()
    assert main([*command, "--table-only"]) == 0 and main(command) == 0
    assert "2 of 2 runs are already done" in capsys.readouterr().out
    # Without data only the table is written.
    assert main(["something"]) == 0
    out = capsys.readouterr().out
    assert "nothing to run" in out and out.count(NEEDS_DATA) >= 2 * len(SOMETHING_ROWS)


def test_the_committed_table_is_that_of_the_committed_files(tmp_path):
    committed = DOCS / "results/something/demo"
    copy = shutil.copytree(committed, tmp_path / "demo")
    write_something_table(copy, demo=True)
    assert (copy / "table.md").read_text() == (committed / "table.md").read_text()


def test_the_manual_has_the_table_as_it_is_written():
    manual = (DOCS / "something_something.md").read_text(encoding="utf-8")
    lines = [line for line in page({}, demo=False).splitlines() if line.startswith("|")]
    assert len(lines) == 2 * (len(SOMETHING_ROWS) + 2)
    assert set(lines) <= set(manual.splitlines())
