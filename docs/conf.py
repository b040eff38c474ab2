"""How Sphinx builds the manual: ``python -m sphinx -W --keep-going -b html docs OUT``."""

import os
import sys
from pathlib import Path

import rstg_pyg

sys.path.insert(0, str(Path(__file__).parent))  # for the extension `manual` beside this file
os.environ.setdefault("COLUMNS", "96")  # of the commands' help

project = "rstg_pyg"
author = "the rstg_pyg authors"
version = release = rstg_pyg.__version__

extensions = [
    "manual",
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
exclude_patterns += ["results/peers/peers.md"]

nb_execution_mode = "off"  # a test runs the notebooks; their outputs are committed
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
highlight_language = "none"  # blocks that do not say theirs are output
copybutton_selector = "div:not(.highlight-none, .highlight-text) > div.highlight > pre"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "exclude-members": "graphs, models"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shapes"]
napoleon_use_ivar = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"rstg_pyg {version}"
html_copy_source = False
html_show_copyright = False
html_static_path = ["manual/static"]
html_css_files = ["manual.css"]
