"""What the manual needs beside Sphinx: generated parts of pages, links out of ``docs``, formulas.

A page says where a generated part goes::

    ```{generated} config
    ```

The parts are Markdown, made when the manual is built, from the code or from committed data, so they
cannot say something else than these.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from manual.commands import command_reference
from manual.config import config_files, config_reference
from manual.formulas import block, inline
from manual.links import outside_as_text
from manual.results import results_table

PARTS = {
    "commands": command_reference,
    "config": config_reference,
    "config_files": config_files,
    "results": results_table,
}


class Generated(SphinxDirective):
    """Puts a generated part into a page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The part's nodes."""
        return self.parse_text_to_nodes(PARTS[self.arguments[0]](), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("generated", Generated)
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.connect("source-read", outside_as_text)
    return {"parallel_read_safe": True}
