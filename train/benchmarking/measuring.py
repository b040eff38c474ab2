"""Times, memory and rates for the benchmark."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch

from rstg_pyg.fast.linear import product
from rstg_pyg.train.run_folder.results import device_name

CPU = torch.device("cpu")
Call = Callable[[], object]


def interleaved(
    calls: dict[str, Call], repeats: int, seconds: float, device: torch.device = CPU
) -> dict[str, list[float]]:
    """Times calls in alternation (A B C A B C ...), so that all run under the same conditions.

    Every call is warmed up once. No new round starts after the given number of seconds, but at least
    three are run. Returns the seconds.
    """
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    start = time.perf_counter()
    for n in range(repeats):
        if n >= min(3, repeats) and time.perf_counter() - start > seconds:
            break
        for name, call in calls.items():
            wait()
            before = time.perf_counter()
            call()
            wait()
            times[name].append(time.perf_counter() - before)
    return times


def median_and_spread(times: list[float]) -> tuple[float, float]:
    """The median, and the interquartile range divided by it."""
    median = statistics.median(times)
    low, _, high = statistics.quantiles(times, n=4)
    return median, (high - low) / median


def peak_bytes(call: Call, device: torch.device = CPU) -> int:
    """Peak memory during a call, above the memory in use before it.

    Counts memory from PyTorch's allocator, including temporaries inside operations, but not the
    workspaces that libraries allocate themselves.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    events = profile.profiler.kineto_results.events()
    steps = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = most = 0
    for _, size in steps:
        held += size
        most = max(most, held)
    return most


def product_rates(device: torch.device = CPU, size: int = 2048, repeats: int = 5) -> dict[str, float]:
    """FLOP/s of a large matrix product: by ``torch.mm``, and on a CPU by oneDNN."""
    size *= 4 if device.type == "cuda" else 1
    a, b = torch.randn(2, size, size, device=device)
    calls: dict[str, Call] = {"mm": lambda: a @ b}
    if device.type == "cpu":
        calls["oneDNN"] = lambda: product(a, b)
    times = interleaved(calls, repeats, 60, device)
    return {name: 2 * size**3 / statistics.median(t) for name, t in times.items()}


def machine(device: torch.device = CPU) -> str:
    """Processor, threads and versions in one line."""
    name = f"{device_name(CPU)} ({torch.backends.cpu.get_cpu_capability()})"
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name()}, cuDNN {torch.backends.cudnn.version()}, {name}"
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"
