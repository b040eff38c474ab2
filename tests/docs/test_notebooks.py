"""The notebooks run from top to bottom, and have been stored with their outputs."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need pip install -e .[test]")
nbclient = pytest.importorskip("nbclient", reason="notebooks need pip install -e .[test]")
pytest.importorskip("ipykernel", reason="notebooks need pip install -e .[test]")

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs/notebooks").glob("*.ipynb"))


def kinds(notebook):
    """What each cell of code puts out, without what is printed by the way."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        sorted({kind for out in cell.outputs for kind in out.get("data", {}) if kind != "text/plain"})
        for cell in cells
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    stored = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 300_000
    outputs = [out for cell in stored.cells for out in cell.get("outputs", ())]
    assert not any(out.output_type == "error" for out in outputs)
    again = nbformat.from_dict(stored)
    run = nbclient.NotebookClient(again, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    run.execute()  # raises where a cell does
    assert kinds(again) == kinds(stored)
    assert any("image" in kind for found in kinds(stored) for kind in found)  # with its pictures
