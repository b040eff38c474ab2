"""Formulas as MathML, which browsers draw themselves: the manual needs no network."""

from __future__ import annotations

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging
from sphinx.util.docutils import SphinxTranslator

_log = logging.getLogger(__name__)


def _mathml(node: nodes.Element, as_block: bool) -> str:
    # Sphinx takes paragraphs of a formula for its lines.
    tex = re.sub(r"\n\s*\n", r" \\\\ ", node.astext().strip())
    try:
        return str(tex2mathml(tex, as_block=as_block))
    except (MathError, SyntaxError) as e:
        _log.warning("formula cannot be drawn: %s", e, location=node)
        return f"<code>{tex}</code>"


def inline(translator: SphinxTranslator, node: nodes.math) -> None:
    """Writes a formula inside a line."""
    translator.body.append(_mathml(node, as_block=False))
    raise nodes.SkipNode


def block(translator: SphinxTranslator, node: nodes.math_block) -> None:
    """Writes a formula of its own."""
    translator.body.append(f'<div class="math">{_mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode
