"""What all commands do to their process."""

import platform
import subprocess
import sys

import pytest

_COUNT = """
import resource, torch
from rstg_pyg.train.command import command

@command
def main():
    faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    before = faults()
    for _ in range(10):
        torch.ones(2**24)  # 64 MiB, freed at once
    print(faults() - before)

main()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_command_keeps_freed_memory():
    """Of ten tensors of 16,384 pages, most take those of others; given back, all are mapped again."""
    done = subprocess.run([sys.executable, "-c", _COUNT], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 * 16384
