import json

import pytest
import torch
from helpers.browser import browser, errors
from helpers.commands import fails
from helpers.results import results_of, rows_of
from torch.utils.flop_counter import FlopCounterMode

from rstg_pyg.fast.autograd import plain_paths
from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import load_config
from rstg_pyg.train.report import count_flops, describe_model, main

TINY = [
    "data.num_frames=4", "data.frame_size=16", "model.backbone.filters=[4]", "model.backbone.padding=1",
    "model.backbone.pool=true", "model.rstg.hidden_channels=8", "model.rstg.scales=[2,1]",
]  # fmt: skip


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(name, top1, *overrides, **changes):
        config = load_config("syncmnist_mini.yaml", [*TINY, *overrides])
        parameters = sum(p.numel() for p in build_model(config, 11).parameters())
        results = results_of(config, top1=top1, parameters=parameters, **changes)
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
        return name

    return make


def written(tmp_path, *arguments):
    assert main([*arguments, "--out", str(tmp_path / "report.csv")]) == 0
    return rows_of(tmp_path / "report.csv")


def test_runs_with_several_labels_per_video(tmp_path, make_run):
    runs = [make_run("one", 0.5), make_run("several", None, "train.lr=0.1", top5=None, mAP=0.75)]
    rows = written(tmp_path, *runs, "--no-flops")
    assert [(row["top-1 %"], row["mAP %"]) for row in rows] == [("", "75.00"), ("50.00", "")]
    assert "mAP %" not in written(tmp_path, "one", "--no-flops")[0]


def test_the_folds_of_a_cross_validation_share_a_row(tmp_path):
    """Their parts may be of different sizes; another seed joins with the same videos only."""
    runs = [(0, 0, 0.5, 20), (1, 0, 0.75, 30), (1, 1, 0.25, 30), (1, 2, 0.9, 29), (0, 0, 0.8, 20)]
    for n, (fold, seed, top1, videos) in enumerate(runs):
        config = load_config("folder.yaml", ["data.root=x", f"data.val_fold={fold}", f"seed={seed}"])
        results = results_of(config, top1=top1, num_videos=videos, steps=100 + fold)
        (tmp_path / f"{n}.json").write_text(json.dumps(results))
    rows = written(tmp_path, *[str(tmp_path / f"{n}.json") for n in range(5)], "--no-flops")
    assert [row["top-1 %"] for row in rows] == ["85.00 ± 7.07", "50.00 ± 25.00"]
    assert [row["fold"] for row in rows] == ["0, 1", "0, 1"]
    assert [(row["videos"], row["seed"]) for row in rows] == [("49", "0, 2"), ("50", "0, 1")]
    assert "fold" not in written(tmp_path, str(tmp_path / "0.json"), "--no-flops")[0]


@pytest.mark.slow
def test_runs_are_sorted_and_seeds_share_a_row(tmp_path, make_run, capsys):
    runs = [
        make_run("time", 0.6, "model.rstg.space_stages=false"),
        make_run("a", 0.90),
        make_run("b", 0.94, "seed=1"),
        make_run("again", 0.90),  # the same seed is no further seed
        make_run("longer", 0.95, steps=2000),
    ]
    rows = written(tmp_path, *runs)
    assert [row["top-1 %"] for row in rows] == ["95.00", "92.00 ± 2.83", "90.00", "60.00"]
    assert [row["seed"] for row in rows] == ["0", "0, 1", "0", "0"]
    assert rows[1]["name"] == "syncmnist_mini (a, b)"
    assert rows[1]["config"].count(",") == 1 and rows[0]["config"] in rows[1]["config"]
    assert rows[0]["model"] == "simple_conv + RSTG at head"
    assert rows[0]["videos"] == "10,000" and rows[0]["machine"] == "a machine"
    assert float(rows[0]["GFLOPs"]) > 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("| name | model | top-1 %") and "single \\| clip" in printed[2]


def test_markdown(tmp_path, make_run, capsys):
    assert main([make_run("a", 0.5), "--no-flops", "--out", "out.md"]) == 0
    assert (tmp_path / "out.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_flops_count_everything(cell):
    """Against the counter on the CPU, which is told what an LSTM there costs."""

    def lstm(shape, weight_in, weight_state, *_, out_shape=None, **__):
        time, batch, _ = shape
        return 2 * time * batch * (weight_in[0] * weight_in[1] + weight_state[0] * weight_state[1])

    config = load_config("syncmnist_mini.yaml", [*TINY, f"model.rstg.cell={cell}"])
    model = build_model(config, 11).eval()
    rule = {torch.ops.aten.mkldnn_rnn_layer: lstm}
    with torch.no_grad(), plain_paths(), FlopCounterMode(display=False, custom_mapping=rule) as counter:
        model(torch.empty(1, 1, 4, 16, 16))
    parameters = sum(p.numel() for p in model.parameters())
    assert count_flops(config, parameters) == counter.get_total_flops()
    conv = 2 * 4 * 16 * 16 * 9 * 4
    last = 2 * 4 * 11
    assert counter.get_flop_counts()["Global"][torch.ops.aten.convolution] == conv
    assert count_flops(config, parameters) - count_flops(config, parameters - 5) == last // 11


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("smt.yaml", "i3d + RSTG at res3, res4"),
        ("smt/i3d.yaml", "i3d"),
        ("syncmnist/conv_lstm.yaml", "simple_conv + LSTM"),
        ("syncmnist/ours.yaml", "simple_conv + RSTG at head"),
    ],
)
def test_models_in_words(config, words):
    assert describe_model(load_config(config, demo=False)) == words


def test_bad_input_is_named(tmp_path, make_run, capsys):
    good = make_run("good", 0.5)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text('{"top1": ')
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.json").write_text('{"top1": 1}')
    for arguments, message in (
        (["nowhere"], "nowhere: expected a run folder with results.json (there is no such folder)"),
        (["empty"], "empty: expected a run folder with results.json (not a run folder)"),
        (["broken"], "broken/results.json: expected the results of a run (the file: Invalid JSON"),
        (["other"], "other/results.json: expected the results of a run (top5: Field required)"),
        (["--out", "report.pdf"], "--out: expected a name ending in .html or .md or .csv"),
        (["--no-flops", "--out", "good/results.json/x.md"], "cannot be written"),
    ):
        assert message in fails(capsys, main, good, *arguments)


def test_the_page_has_links_curves_and_the_protocol(tmp_path, make_run):
    runs = [make_run("a", 0.9), make_run("b", 0.94, "seed=1"), make_run("<i>", 0.5, "train.lr=0.1")]
    metrics = "step,split,loss,top1\n10,train,1,0.2\n50,val,1,0.25\n100,val,1,0.75\n"
    (tmp_path / "a" / "metrics.csv").write_text(metrics)
    (tmp_path / "pages").mkdir()
    out = tmp_path / "pages" / "report.html"
    assert main([*runs, "--no-flops", "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert '<a href="../a/results.json">' in page and '<a href="../b/results.json">' in page
    assert "&lt;i&gt;" in page and "<i>" not in page
    assert 'points="320.0,180.0 640.0,60.0"' in page and ">100 steps<" in page
    protocol = json.loads((tmp_path / "a/results.json").read_text())["protocol"]
    assert f'title="{protocol}"' in page and "BODY" not in page


@pytest.mark.slow
def test_the_page_is_sorted_by_a_click(tmp_path, make_run):
    runs = [make_run(f"r{i}", 0.5 + i / 10, f"train.lr=0.{i}", steps=3000 - i) for i in (1, 2, 3)]
    assert main([*runs, "--no-flops", "--out", str(tmp_path / "report.html")]) == 0
    with browser(tmp_path / "browser") as chromium:
        chromium.get((tmp_path / "report.html").as_uri())

        def column(name):
            names = [head.text for head in chromium.find_elements("css selector", "th")]
            found = chromium.find_elements("css selector", f"td:nth-child({names.index(name) + 1})")
            return [cell.text for cell in found]

        assert column("top-1 %") == ["80.00", "70.00", "60.00"]
        buttons = chromium.find_elements("css selector", "th button")
        steps = next(button for button in buttons if button.text == "steps")
        for order in (["2,999", "2,998", "2,997"], ["2,997", "2,998", "2,999"]):
            steps.click()
            assert column("steps") == order
        assert column("top-1 %") == ["80.00", "70.00", "60.00"] and errors(chromium) == []
