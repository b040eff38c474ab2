"""Times, memory and rates for the benchmark."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rstg_pyg.fast.linear import product

CPU = torch.device("cpu")


def interleaved(
    calls: dict[str, Callable[[], object]],
    repeats: int,
    seconds: float,
    wait: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Times calls in turns (A B C A B C ...), so that all see the same machine; warmed up once.

    Args:
        calls: What to time.
        repeats: Rounds.
        seconds: No further round begins after this many seconds; three are always made.
        wait: Waits until the device has done what a call gave it to do.

    Returns:
        The seconds of every call.
    """
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


def waiter(device: torch.device) -> Callable[[], object]:
    """What waits for the device."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def median_and_spread(times: list[float]) -> tuple[float, float]:
    """The median, and the distance between the quartiles as a share of it."""
    median = statistics.median(times)
    if len(times) < 3:
        return median, 0.0
    low, _, high = statistics.quantiles(times, n=4)
    return median, (high - low) / median


def peak_bytes(call: Callable[[], object], device: torch.device = CPU) -> int:
    """The most memory that is held at once during a call, above what is held before it.

    Counts what PyTorch's allocator hands out and takes back, temporaries inside operations
    included; scratch space that libraries take for themselves is not in it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    events = profile.profiler.kineto_results.events()
    steps = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = most = 0
    for _, size in steps:
        held += size
        most = max(most, held)
    return most


def host_waits(call: Callable[[], object]) -> bool:
    """Whether a call on a GPU makes the host wait for it."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as e:
        if "synchroniz" not in str(e):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def product_rates(
    device: torch.device = CPU, size: int = 2048, repeats: int = 5
) -> dict[str, float]:
    """FLOP/s of a large matrix product: by ``torch.mm`` in float32, and by oneDNN on a CPU or in
    bfloat16 on a GPU.
    """
    size *= 4 if device.type == "cuda" else 1
    a, b = torch.randn(2, size, size, device=device)
    if device.type == "cuda":
        short_a, short_b = a.bfloat16(), b.bfloat16()
        calls = {"mm": lambda: a @ b, "bfloat16": lambda: short_a @ short_b}
    else:
        calls = {"mm": lambda: a @ b, "oneDNN": lambda: product(a, b)}
    times = interleaved(calls, repeats, seconds=60, wait=waiter(device))
    return {name: 2 * size**3 / statistics.median(t) for name, t in times.items()}


def machine(device: torch.device = CPU) -> str:
    """Processor, threads and versions in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    name += f" ({torch.backends.cpu.get_cpu_capability()})"
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name()}, cuDNN {torch.backends.cudnn.version()}, {name}"
    return (
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )
