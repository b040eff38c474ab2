"""The benchmark's page has the numbers of the committed files."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date():
    script = DOCS / "scripts" / "make_benchmark.py"
    spec = importlib.util.spec_from_file_location("make_benchmark", script)
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    page = (DOCS / "benchmark.md").read_text(encoding="utf-8")
    assert page == make.page(page), "run: python docs/scripts/make_benchmark.py"
    assert page.count("<!-- begin ") == page.count("<!-- end -->") == 17
