import importlib.machinery
import sys
from pathlib import Path

import rstg_pyg.train


def test_no_module_of_train_hides_another():
    """``python train/run.py`` puts ``train/`` at the head of the search path."""
    folder = Path(rstg_pyg.train.__file__).parent
    elsewhere = [p for p in sys.path if p and Path(p).resolve() != folder]
    names = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    assert "run" in names
    for name in names:
        assert name not in sys.stdlib_module_names
        if name == "build":  # PyPA's, which packages projects: nothing here imports it
            continue
        assert importlib.machinery.PathFinder.find_spec(name, elsewhere) is None, name
