import json
import math

import pytest
from helpers.results import results_of

from rstg_pyg.train.config import load_config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.paper.cells import NOT_MEASURED
from rstg_pyg.train.paper.syncmnist import ABLATIONS, ROWS, order, read_cells, write_table


@pytest.fixture
def record(tmp_path):
    """Writes a ``results.json`` by hand."""

    def write(name, top1, seed=0, digits=3, *overrides, **changes):
        row = {**ROWS, **{r.name: r for r in ABLATIONS.values()}}[name]
        changed = [f"seed={seed}", f"data.num_digits={digits}", f"name={name}"]
        config = load_config(row.cfg, ["size=base", *changed, *row.overrides, *overrides])
        folder = tmp_path / f"{digits}digits" / name / f"seed{seed}"
        folder.mkdir(parents=True)
        results = results_of(config, top1=top1, **changes)
        (folder / "results.json").write_text(json.dumps(results))
        return folder

    return write


def lines_of(text, title):
    return [line for line in text.splitlines() if line.startswith(f"| {title} |")]


def test_the_table_has_the_runs_beside_the_papers_numbers(record, tmp_path):
    record("positional", 0.97, digits=5)
    record("positional", 0.95, seed=1, digits=5)
    record("conv_lstm", 0.4, digits=5, seconds=60.0)
    record("time_only", 0.9)
    text = write_table(tmp_path, "base")
    assert text == (tmp_path / "table.md").read_text()
    (row,) = lines_of(text, "RSTG: Positional All-temp")
    found = row.removeprefix("| RSTG: Positional All-temp ")
    assert found.startswith(f"| - | {NOT_MEASURED} | 97.2 | 96.0 ± 1.4 (2 seeds) | 1,234 | 2.0 |")
    (row,) = lines_of(text, "RSTG: Time-Only")
    assert row.startswith(f"| RSTG: Time-Only | 89.7 | 90.0 | - | {NOT_MEASURED} |")
    (row,) = lines_of(text, "I3D")
    assert row.startswith(f"| I3D | - | {NOT_MEASURED} | 90.6 | {NOT_MEASURED} |  |  |")
    assert len(lines_of(text, "Ours")) == 1 and "one change" not in text
    assert "differ from the paper's" not in text  # base has the paper's videos
    assert "- training videos: 600,000" in text and "- data: MNIST digits" in text

    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")


def test_an_empty_table_says_so(tmp_path):
    text = write_table(tmp_path, "full")
    assert text.count(NOT_MEASURED) == 2 * len(ROWS) + 1
    assert "Nothing is measured yet" in text


def test_whether_the_order_of_the_paper_holds(record, tmp_path):
    """Standard errors by hand: those of 10,000 videos, and the seeds' of 1 point over 2 seeds."""
    for seed, shift in ((0, 0.01), (1, -0.01)):
        record("conv_lstm", 0.5 + shift, seed, 5)  # paper: 39.7
    record("homogeneous", 0.525, digits=5)  # 58.3
    record("one_temporal_stage", 0.40, digits=5)  # 74.1
    record("positional", 0.90, digits=5)  # 97.2
    record("ours", 0.99, digits=5)
    record("time_only", 0.1)  # another number of digits, one seed each
    record("conv_lstm", 0.1)
    assert "One seed each" not in "".join(order(read_cells(tmp_path), 5))
    assert "One seed each" in order(read_cells(tmp_path), 3)[-1]
    found = order(read_cells(tmp_path), 5)
    assert [line.split(" (")[0] for line in found] == [
        "RSTG: Homogeneous above Conv + LSTM: within the noise",
        "RSTG: 1-temp-stage above RSTG: Homogeneous: reversed",
        "RSTG: Positional All-temp above RSTG: 1-temp-stage: holds",
        "Ours above RSTG: Positional All-temp: holds",
    ]
    spread = math.sqrt(2)  # of 51 and 49
    videos = 1e4 * 0.5 * 0.5 / 1e4 + 1e4 * 0.525 * 0.475 / 1e4
    error = math.sqrt(videos + spread**2 / 2 + spread**2)
    assert error < 2.5 and f"(+2.5 points, standard error {error:.1f})" in found[0]


def test_ablation_of_ours(record, tmp_path):
    record("ours-no_positions", 0.97)
    assert f"| 97.0 | {NOT_MEASURED} | 2.0 | `model.rstg.positions=false` |" in write_table(
        tmp_path, "base"
    )
    record("ours", 0.985)
    text = write_table(tmp_path, "base")
    assert "| no positions in the messages | 97.0 | -1.5 | 2.0 |" in text
    assert "| none | 98.5 |  | 2.0 |  |" in text


def test_other_videos_than_the_papers_are_named(record, tmp_path):
    record("ours", 0.9, 0, 3, "size=mini")
    assert "differ from the paper's (num_classes=5, num_frames=8, frame_size=32" in write_table(
        tmp_path, "mini"
    )


@pytest.mark.parametrize(
    ("overrides", "data", "message"),
    [
        (("train.lr=0.5", "trainer.threads=3"), "MNIST digits", r"in train.lr \(0.002"),
        ((), "builtin digits", "'MNIST digits' against 'builtin digits'"),
    ],
)
def test_runs_of_a_cell_must_be_of_one_experiment(record, tmp_path, overrides, data, message):
    record("ours", 0.9)
    record("ours", 0.9, 1, 3, *overrides, data=data)
    with pytest.raises(UserError, match=f"differ only in the seed; they differ .*{message}"):
        read_cells(tmp_path)


@pytest.mark.parametrize("row", ABLATIONS.values(), ids=str)
def test_every_ablation_is_one_change_of_ours(row):
    assert load_config(row.cfg, list(row.overrides)) is not None
    changes = [o for o in row.overrides if "out_norm" not in o]  # that goes with residual
    assert len(changes or row.overrides) == 1 and row.cfg == "syncmnist/ours.yaml"
