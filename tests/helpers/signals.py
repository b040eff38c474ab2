"""Ctrl-C in the middle of a command that runs in the tests' own process."""

import contextlib
import os
import signal
import threading
import time


@contextlib.contextmanager
def signal_when(condition, number=signal.SIGINT, seconds=120):
    """Sends a signal to this process as soon as a condition holds, or after so many seconds."""

    def send():
        deadline = time.time() + seconds
        while time.time() < deadline and not condition():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    # What a shell starts in the background ignores SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
