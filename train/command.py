"""Turns errors and signals into a one-line message and an exit code, without a traceback.

| exit code | meaning |
|---|---|
| 1 | a loss or a gradient is NaN or infinite |
| 2 | a user error, a file or folder that cannot be used, or too little memory |
| 130, 143 | stopped with Ctrl-C (SIGINT), or with SIGTERM |
| 141 | the reader of the output closed the pipe |
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rstg_pyg.train.errors import Interrupted, NonFiniteError, UserError, printable

_INTERRUPTED, _TERMINATED, _NO_READER = 130, 143, 141

#: Messages of torch, NumPy and Python for sizes that exceed the memory or the range of an integer.
_TOO_LARGE = re.compile(
    r"not enough memory|alloc_cpu|(can't|cannot|unable to) allocate|out of memory|calculation overflow"
    r"|multiplication overflow|overflow when unpacking|too large to convert|exceeds the limit"
    r"|array is too big|maximum (supported|allowed) (dimension|size)|invalid shape dimension"
    r"|storage size"
    r"|can't start new thread|could not create a primitive|without overflow",
    re.IGNORECASE,
)


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Makes a function a command: exceptions become a message and an exit code.

    SIGTERM raises an exception, like Ctrl-C, so that temporary files are removed before it exits.
    """

    @functools.wraps(main)
    def run(*arguments: Any) -> int:
        _keep_freed_memory()
        with _terminable():
            try:
                code = main(*arguments) or 0
                sys.stdout.flush()
                return code
            except UserError as e:
                return _say(f"error: {e}")
            except NonFiniteError as e:
                return _say(f"error: {e}", code=1)
            except (Interrupted, KeyboardInterrupt) as e:
                return _interrupted(str(e))
            except SystemExit as e:
                if isinstance(e.__context__, KeyboardInterrupt):  # Lightning turns it into exit code 1
                    return _interrupted("")
                raise
            except BrokenPipeError:  # as with "| head"; flushing the output at exit would fail again
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return _NO_READER
            except OSError as e:
                if e.filename is None and e.errno in (errno.ENOSPC, errno.EDQUOT):
                    # What was printed, as into a log; flushing it at exit would fail again.
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                    return _say(
                        f"error: the output or a file cannot be written ({e.strerror}); free some space"
                    )
                if e.filename is None:
                    raise
                return _say(
                    printable(f"error: {e.filename}: {e.strerror}; check the name and the rights")
                )
            except (RuntimeError, MemoryError, OverflowError, ValueError, TypeError) as e:
                if not is_too_large(e):
                    raise
                return _say(f"error: {too_large(e)}; use a smaller batch, fewer or smaller frames")

    return run


def is_too_large(error: Exception) -> bool:
    """Whether an error says that something does not fit into memory, or that a number is too large."""
    return isinstance(error, MemoryError | OverflowError) or bool(_TOO_LARGE.search(str(error)))


def too_large(error: Exception) -> str:
    """A one-line message for such an error."""
    reason = str(error).strip().splitlines()
    text = reason[0][:150] if reason else type(error).__name__
    what = (
        "a number is too large to compute with" if "overflow" in text else "there is not enough memory"
    )
    return f"{what} ({text})"


def _keep_freed_memory() -> None:
    """Lets the C library keep freed memory for the next tensors.

    By default glibc gives it back, and the system has to map and clear every page again: up to a fifth
    of a training step on a CPU (docs/benchmark.md, "Memory that stays").
    """
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # not in musl
        if set_option is not None:
            trim_threshold, mmap_max = -1, -4  # their numbers in <malloc.h>
            set_option(trim_threshold, -1)  # never give back the end of the heap
            set_option(mmap_max, 0)  # large blocks come from the heap, too


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM raises ``SystemExit``, and Ctrl-C ``KeyboardInterrupt``."""
    numbers = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.SIG_DFL}
    if threading.current_thread() is not threading.main_thread():
        numbers = {}
    handlers = {signal.SIGTERM: _terminate, signal.SIGINT: signal.default_int_handler}
    before = {
        n: signal.signal(n, handlers[n]) for n, usual in numbers.items() if signal.getsignal(n) is usual
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: Any) -> None:
    raise SystemExit(_TERMINATED)


def _say(message: str, code: int = 2) -> int:
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:  # a log on a full disk; flushing it at exit would fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return code


def _interrupted(hint: str) -> int:
    return _say(f"interrupted{hint and f'; {hint}'}", _INTERRUPTED)
