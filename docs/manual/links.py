"""Links from pages to what is no part of the manual."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

_LINK = re.compile(r"\[([^\]]+)\]\(([^):#]+)\)")


def outside_as_text(app: Sphinx, name: str, source: list[str]) -> None:
    """Links to folders and to Markdown outside ``docs`` lead somewhere when a page is read in the
    repository; here they become the names of these. (Links to other files stay: Sphinx puts a copy of
    the file into the manual.)
    """
    root = Path(app.srcdir).parent
    page = Path(app.env.doc2path(name)).parent

    def text(link: re.Match) -> str:
        target = (page / link[2]).resolve()
        page_outside = target.suffix == ".md" and not target.is_relative_to(app.srcdir)
        if not target.is_dir() and not page_outside:
            return link[0]
        path = target.relative_to(root).as_posix() + "/" * target.is_dir()
        return f"`{path}`" if link[1].strip("`/") in path else f"{link[1]} (`{path}`)"

    source[0] = _LINK.sub(text, source[0])
