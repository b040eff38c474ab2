"""The error that a user's mistake ends with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a config, a data set, a checkpoint or on the command line.

    The message is one or two lines: what was expected, what was found, and the remedy. The commands
    print it without a traceback and exit with code 2.
    """


def nearest(word: str, choices: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` if a choice resembles the word, else nothing."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
