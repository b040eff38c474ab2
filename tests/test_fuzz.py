"""A few cases of the three fuzzers; their scripts run thousands (docs/reliability.md)."""

import json
import os
import re
import time
from collections import Counter
from pathlib import Path

import fuzz_configs
import fuzz_data
import fuzz_mistakes
import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs/reliability.md"


def test_damaged_data_load_or_are_named():
    outcomes = fuzz_data.run(200, seed=100)
    assert [outcome for outcome in outcomes if outcome.result not in fuzz_data.GOOD] == []
    summary = fuzz_data.summarize(outcomes)
    assert summary["kinds"].keys() == fuzz_data.KINDS.keys()
    assert min(summary["results"][result] for result in fuzz_data.GOOD) > 5


def test_strange_configs_load_or_are_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where code in a config would leave its mark
    outcomes = fuzz_configs.run(300, 100, tmp_path)
    assert outcomes.keys() == fuzz_configs.KINDS.keys()
    results = sum(outcomes.values(), Counter())
    assert results.keys() == set(fuzz_configs.GOOD) and min(results.values()) > 20


def test_the_page_has_the_figures_of_the_results():
    page, rows = PAGE.read_text(), []
    for name in re.findall(r"results/(fuzz_\w+)\.json", page):
        found = json.loads((PAGE.parent / "results" / f"{name}.json").read_text())
        kinds = fuzz_data.GOOD if "data" in name else fuzz_configs.GOOD
        figures = [found["cases"], *(found["results"][kind] for kind in kinds), found["failures"]]
        rows.append((name, " | ".join(f"{figure:,}" for figure in figures)))
    assert [name for name, _ in rows] == ["fuzz_data_before", "fuzz_data", "fuzz_configs"]
    assert all(f"](results/{name}.json) | {figures} |" in page for name, figures in rows)


def test_mistakes_are_named():
    cases = [case for case in fuzz_mistakes.cases() if case.command != "benchmark"]
    outcomes = fuzz_mistakes.run(cases[7::60])
    assert [outcome for outcome in outcomes if outcome.result not in fuzz_mistakes.GOOD] == []
    assert {"named", "done"} <= {outcome.result for outcome in outcomes}


def test_every_command_has_its_mistakes():
    commands = {case.command for case in fuzz_mistakes.cases()}
    assert commands == fuzz_mistakes.COMMANDS.keys()
    modules = {module.removeprefix("train.") for module, _ in fuzz_mistakes.COMMANDS.values()}
    text = 'if __name__ == "__main__":'
    folder = PAGE.parents[1] / "train"
    assert {path.stem for path in folder.glob("*.py") if text in path.read_text()} == modules - {
        "official.__main__"
    }


def test_the_page_has_the_figures_of_the_mistakes():
    page = PAGE.read_text()
    for name in ("mistakes_before", "mistakes"):
        found = json.loads((PAGE.parent / "results" / f"{name}.json").read_text())
        good = [found["results"].get(kind, 0) for kind in fuzz_mistakes.GOOD]
        figures = " | ".join(f"{figure:,}" for figure in [found["cases"], *good, found["failures"]])
        assert re.search(rf"\]\(results/{name}\.json\)[^|]*\| {re.escape(figures)} \|", page)
        if name == "mistakes_before":
            bad = {k: v for k, v in found["results"].items() if k not in fuzz_mistakes.GOOD}
            assert all(f"{count} {kind}" in page.replace("\n", " ") for kind, count in bad.items())


@pytest.mark.parametrize("what", ["crash", "hang", "memory"])
def test_the_fuzzer_sees_what_is_wrong(what):
    """It would be of no use if it could not."""

    def case(number, folder):
        if number == 1 and what == "crash":
            os.abort()
        if number == 1 and what == "hang":
            time.sleep(60)
        if number == 1 and what == "memory":
            return "kind", "loaded", str(len(b"x" * (200 << 20)))
        return "kind", "loaded", ""

    outcomes = list(fuzz_data.run_cases(case, lambda number: "kind", 3, limit=1.0, memory=100 << 20))
    assert [outcome.result for outcome in outcomes] == ["loaded", what, "loaded"]
