"""The errors that a command ends with: a message and an exit code, no traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_LONGEST = 2_000  # characters of a message


class UserError(Exception):
    """A mistake in a config, a data set, a checkpoint or on the command line.

    The message is one or two lines: what was expected, what was found, and what to do. The commands
    print it without a traceback and exit with code 2. Characters that a terminal or a UTF-8 file cannot
    show (file names and labels may contain anything) are escaped.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


class Interrupted(Exception):
    """The user pressed Ctrl-C, and a checkpoint is saved. The message says how to continue."""


class NonFiniteError(Exception):
    """A loss or a gradient is NaN or infinite. The commands print the message and exit with code 1."""


def printable(text: str) -> str:
    """Text with control characters (except newlines) and lone surrogates escaped, shortened if long."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    unfit = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
    return re.sub(unfit, lambda match: match[0].encode("unicode_escape").decode(), text)


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number with its noun: ``counted(1, "step")`` is ``"1 step"``, others ``"1,200 steps"``.

    Args:
        number: The number.
        one: What follows 1.
        several: What follows other numbers. (default: ``one`` with an s)
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many others there are: ``"a, b, c and 7 more"``."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def nearest(word: str, choices: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` if a choice is similar to the word, otherwise an empty string."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
