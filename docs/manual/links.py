"""Links from pages to folders of the repository."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

_LINK = re.compile(r"\[([^\]]+)\]\((\.\.?/[^)#]*)\)")


def folders_as_text(app: Sphinx, name: str, source: list[str]) -> None:
    """Links to folders, which lead somewhere when a page is read in the repository, become the folders'
    names. (Links to files stay: Sphinx puts a copy of the file into the manual.)
    """
    root = Path(app.srcdir).parent
    page = Path(app.env.doc2path(name)).parent

    def text(link: re.Match) -> str:
        target = (page / link[2]).resolve()
        if not target.is_dir():
            return link[0]
        path = f"`{target.relative_to(root)}/`"
        return path if link[1].strip("`/") in path else f"{link[1]} ({path})"

    source[0] = _LINK.sub(text, source[0])
