"""Figures in docs/ are those of the committed measurements."""

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers.pages import PAGES

from rstg_pyg.train.config import load_config
from rstg_pyg.train.paper.syncmnist import write_table
from rstg_pyg.train.skeletons.protocol import SKELETON_ROWS, write_skeleton_tables

ROOT = Path(__file__).resolve().parent.parent


def test_round_trips_of_exported_files_come_from_the_committed_results():
    page = (ROOT / "docs/export.md").read_text()
    results = json.loads((ROOT / "docs/results/export.json").read_text())
    worst = {
        (row["format"], row["dtype"]): f"{max(row['differences'].values()):.1e}"
        for row in results["rows"]
    }
    rows = re.findall(r"^\| `\.(\w+)`, .* \| (\S+) \| (\S+) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == ["onnx", "pt2"]
    for kind, full, half in rows:
        assert (full, half) == (worst[kind, "float32"], worst[kind, "bfloat16"])
    assert all(row["same_top1"] for row in results["rows"])
    assert all(f"up to {row['largest_logit']:.1f}" in page for row in results["rows"])


def test_memory_of_a_stream_comes_from_the_committed_results():
    page = (ROOT / "docs/own_video.md").read_text()
    results = json.loads((ROOT / "docs/results/stream.json").read_text())
    measured = {
        f"{row['frame']:,}": (
            f"{row['state_bytes']:,}",
            f"{row['tensor_bytes']:,}",
            f"{row['resident_bytes'] / 2**20:.1f}",
        )
        for row in results["rows"]
    }
    rows = re.findall(r"^\| ([\d,]+) \| (\S+) \| (\S+) \| (\S+) \|$", page, re.MULTILINE)
    assert len(rows) == 4 and all(measured[frame] == tuple(rest) for frame, *rest in rows)
    assert f"{results['largest_difference']:.1e} at most" in page


def test_the_syncmnist_page_has_what_the_committed_runs_at_mini_give(tmp_path):
    results = ROOT / "docs/results/syncmnist"
    shutil.copytree(results / "mini" / "3digits", tmp_path / "mini" / "3digits")
    write_table(tmp_path / "mini", "mini")
    assert (tmp_path / "mini/table.md").read_text() == (results / "mini/table.md").read_text()
    page = (ROOT / "docs/syncmnist.md").read_text()
    longer = re.findall(
        r"\]\((results/syncmnist/longer/(\w+)\.json)\) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", page
    )
    assert len(longer) == 4
    for path, row, short, long, minutes in longer:
        before = json.loads((results / "mini/3digits" / row / "seed0/results.json").read_text())
        after = json.loads((ROOT / "docs" / path).read_text())
        assert (
            after["config"]["data"]["train_videos"]
            == 384_000
            == 4 * before["config"]["data"]["train_videos"]
        )
        assert (short, long) == (f"{100 * before['top1']:.1f}", f"{100 * after['top1']:.1f}")
        assert minutes == f"{after['seconds'] / 60:.1f}"


@pytest.mark.parametrize("page, folder", [("syncmnist", ""), ("syncmnist_recipe", "48k")])
def test_the_pages_have_the_tables_of_small_that_the_committed_runs_give(page, folder, tmp_path):
    results = ROOT / "docs/results/syncmnist/small" / folder
    for digits in (3, 5):
        shutil.copytree(results / f"{digits}digits", tmp_path / "small" / f"{digits}digits")
    write_table(tmp_path / "small", "small")
    table = (tmp_path / "small" / "table.md").read_text()
    assert table == (results / "table.md").read_text()
    text = (ROOT / f"docs/{page}.md").read_text()
    single = re.findall(r"\[([\d.]+)(?: %)?\]\((results/syncmnist/small/\S+\.json)\)", text)
    assert len(single) >= 8
    for percent, path in single:
        top1 = json.loads((ROOT / "docs" / path).read_text())["top1"]
        assert abs(100 * top1 - float(percent)) <= 0.051
    orders = [f"## The order, {digits} digits\n\n" for digits in (3, 5)]
    for start in ("\n\n| model |", *orders):
        begin = table.index(start) + start.index("\n\n") + 2
        assert table[begin : table.index("\n\n", begin)] in text


def test_the_time_for_the_nodes_and_the_last_gain_come_from_the_committed_results():
    page = (ROOT / "docs/syncmnist.md").read_text()
    results = ROOT / "docs/results/syncmnist/small"
    parts = json.loads((results / "nodes.json").read_text())["processes"]
    assert sum(part["videos"] for part in parts) == 600_000
    minutes = max(part["videos"] / part["videos_per_second"] for part in parts) / 60
    assert f"\n{minutes:.0f} minutes ([nodes.json]" in page
    half, full = json.loads((results / "precision.json").read_text())["curves"].values()
    gaps = [a["loss"] - b["loss"] for a, b in zip(half, full)]
    assert f"lower by about {sum(gaps) / len(gaps):.2f}, its" in page


def test_the_trials_of_the_recipe_come_from_the_committed_results():
    page = (ROOT / "docs/syncmnist_recipe.md").read_text()
    recipe = json.loads((ROOT / "docs/results/syncmnist/small/recipe.json").read_text())
    rows = re.findall(
        r"^\| (\S{3,}) \| (.+) \| ([\d,]+)( \(stopped\))? \| ([\d.]+) \|$", page, re.MULTILINE
    )
    assert [(f"{t['curve'][-1][0]:,}", bool(t.get("stopped")), f"{t['curve'][-1][1]:.1f}")
            for t in recipe["trials"]] == [(n, bool(s), top1) for _, _, n, s, top1 in rows]  # fmt: skip
    for (_, change, *_), trial in zip(rows, recipe["trials"]):
        assert all(key.removeprefix("model.rstg.") in change for key in trial["changes"])
    filters = re.findall(r"^\| (\d+, .+) \| ([\d,]+) \| ([\d.]+) \| (\d*) \|$", page, re.MULTILINE)
    trials = recipe["filters"]["trials"]
    assert filters == [
        (", ".join(map(str, t["filters"])) + " with batch norm" * t["batch_norm"], f"{t['steps']:,}",
         f"{100 * t['steps_r2']:.1f}", str(t.get("videos_per_second", "")))
        for t in trials
    ]  # fmt: skip
    signal = recipe["signal"]
    for row in ("one_temporal_stage", "positional", "positional, residual=time"):
        assert f"{signal[row]['vector_deviation']}" in page
    assert f"{recipe['template']['top1']} %" in page


def test_the_trials_on_vectors_come_from_the_committed_results():
    page = (ROOT / "docs/syncmnist_recipe.md").read_text()
    results = json.loads((ROOT / "docs/results/syncmnist/small/vectors.json").read_text())
    measured = set()
    for trial in results["trials"]:
        known = trial["known"].replace("positions", "position").replace("steps", "step")
        known = "position and step" if known == "both" else known
        known += f", positions with noise of {trial['noise']:.1f} pixels" if trial["noise"] else ""
        videos = f"{trial['steps'] * results['batch']:,}"
        network = f"{trial['network']}, width {trial['width']}"
        last = f"{trial['curve'][-1][2]:.1f}"
        measured.add((str(trial["digits"]), known, network, videos, last))
    rows = re.findall(r"^\| (\d) \| (.+) \| (.+) \| ([\d,]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert len(rows) == len(results["trials"]) and set(rows) == measured
    errors = results["features"]["position_rmse_pixels"]
    assert f"error of {errors['all 14 nodes']:.1f} pixels" in page
    assert f"of scale 1 with {errors['the node of scale 1']:.1f}." in page


def test_what_better_filters_and_wider_networks_gain_comes_from_the_committed_results():
    page = (ROOT / "docs/syncmnist.md").read_text()
    results = ROOT / "docs/results/syncmnist/small"
    found = json.loads((results / "filters_longer.json").read_text())
    last, free = found["curve"][-1], found["filters trained with the graph"]
    assert f"{last['step']:,} more steps, they explain {100 * last['val_steps_r2']:.1f} %" in page
    assert f"recognize {100 * last['val_accuracy']:.1f} % of the digits" in page
    for rate in ("0.001", "0.0003"):
        curve = free[f"learning rate {rate}"]
        assert f"{rate}, {curve[-1]['top1']:.1f} %" in page
        assert f"{32 * curve[-1]['step']:,}" in page
    exact = {
        (trial["width"], trial["noise"]): trial["curve"][-1][2]
        for trial in json.loads((results / "vectors.json").read_text())["trials"][-4:]
    }
    assert f"has {exact[64, 0.0]:.1f} % there, one of 256\nchannels {exact[256, 0.0]:.1f}." in page


def test_the_skeletons_page_has_the_table_that_the_committed_runs_give(tmp_path):
    results, page = ROOT / "docs/results/skeletons", (ROOT / "docs/tutorials/skeletons.md").read_text()
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    table = write_skeleton_tables(tmp_path)
    assert table.strip() in page and table.count("\n") == 2 + len(SKELETON_ROWS)
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| \[(.+)\]\(docs/tutorials/skeletons.+\) \| (.+?) \|", readme, re.MULTILINE)
    assert rows
    for name, top1 in rows:
        assert f"| {name} | {top1} % |" in table
    trials = json.loads((results / "trials.json").read_text())["trials"]
    chosen = [
        trial
        for trial in trials
        if trial["epochs"] == 80 and len(trial["by_subject"]) == 5 and "changes" not in trial
    ]
    assert {trial["network"] for trial in chosen} == set(SKELETON_ROWS)
    for trial in chosen:
        assert f"{trial['network']} {100 * trial['top1']:.1f} %" in page
    examined = json.loads((results / "examined.json").read_text())
    rows = re.findall(r"^\| (\S+), seed (\d) \| (.+) \|$", page, re.MULTILINE)
    assert len(rows) == len(examined)
    for name, seed, cells in rows:
        folder = name.lower().replace("-", "_")
        found = examined[f"{folder}/seed{seed}"]
        frames = [found["frames"][i - 1] for i in (4, 8, 12, 16)] if "frames" in found else []
        values = [f"{100 * value:.1f}" for value in frames] or [""] * 4
        values += [f"{100 * found['dropped'][share]:.1f}" for share in ("0.1", "0.2", "0.5")]
        assert [cell.strip() for cell in cells.split("|")] == values


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_number_that_links_a_run_is_its_accuracy(page):
    links = re.findall(r"\[([\d.]+)(?: %)?(?: on its own [^]]+)?\]\(([^)]+\.json)\)", page.read_text())
    for percent, path in links:
        top1 = json.loads((page.parent / path).read_text())["top1"]
        assert abs(100 * top1 - float(percent)) <= 0.051, path


def test_times_of_compiled_steps_come_from_the_committed_results():
    page = (ROOT / "docs/howto/compile_and_export.md").read_text()
    results = json.loads((ROOT / "docs/results/compile.json").read_text())
    ratios = {}
    for row in results["rows"]:
        ratio = f"{row['eager_ms'] / row['compiled_ms']:.2f}"
        ratios.setdefault((row["form"], row["pass"]), []).append(ratio)
    rows = re.findall(
        r"^\| (\w+)(?:'s)? form, (?:.*?, )?(training|inference).* \| (\S+) \| (\S+) \|$", page, re.M
    )
    names = {"default": "skip", "paper": "paper"}
    assert {(names[form], what): [a, b] for form, what, a, b in rows} == ratios
    streams = {}
    for row in json.loads((ROOT / "docs/results/benchmark/benchmark.json").read_text())["rows"]:
        if row["section"] == "streams" and row["variant"] != ".pt2":
            streams.setdefault(row["case"], []).append(f"{row['ms']:.2f}")
    assert len(streams) == 2
    for times in streams.values():
        assert " | ".join(times) in page


def test_accuracies_on_the_karate_club_come_from_the_committed_results():
    page = " ".join((ROOT / "docs/faq.md").read_text().split())
    layers = json.loads((ROOT / "docs/results/karate_club.json").read_text())["layers"]
    percent = {name: f"{100 * layer['mean']:.0f}" for name, layer in layers.items()}
    first = f"`GATv2Conv` has {percent['GATv2Conv']} % and without its self loops"
    assert f"{first} {percent['GATv2Conv without self loops']} %" in page
    for name in ("SAGEConv", "TransformerConv", "RSTGConv"):
        assert f"`{name}` {percent[name]}" in page


def test_memory_over_time_comes_from_the_committed_results():
    page = (ROOT / "docs/reliability.md").read_text()
    for name, row in json.loads((ROOT / "docs/results/memory.json").read_text())["figures"].items():
        sizes = f"{row['after_a_tenth_mib']:,.1f} MiB | {row['end_mib']:,.1f} MiB"
        assert f"| {row['measurements']:,} {name} | {sizes} | {100 * row['growth']:.2f} % |" in page


def test_the_forms_are_compared_as_in_the_committed_results():
    page = (ROOT / "docs/howto/few_labels_deep_stacks_forecasts.md").read_text()
    curves = json.loads((ROOT / "docs/results/form_skip/mini_something.json").read_text())
    for form in ("paper", "skip"):
        found = [dict(curves["validation top-1"][f"{form}, seed {seed}"])[1250] for seed in (1, 2, 3)]
        assert "{}, {} and {} %".format(*found) in " ".join(page.split())
    assert load_config("smt.yaml").model.rstg.form == "skip" and "has the default form" in page


def test_no_result_names_a_folder_of_one_machine():
    paths = [*(ROOT / "docs/results").rglob("*.json")]
    assert len(paths) > 100
    assert [p for p in paths if re.search(r"/(home|work|tmp|root)/", p.read_text())] == []
