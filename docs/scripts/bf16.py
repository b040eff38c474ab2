"""How fast float32 and bfloat16 are on this processor: python docs/scripts/bf16.py [OUT.json]

Rates of a matrix product and a convolution, with the instruction sets that oneDNN may use, each in a
process of its own (the variable is read once). They say why ``trainer.precision: auto`` takes float32
on processors that have instructions for bfloat16.
"""

import json
import os
import statistics
import subprocess
import sys
import time

import torch

ISAS = ("DEFAULT", "AVX2", "AVX512_CORE", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX")


def rates() -> dict[str, float]:
    """GFLOP/s with one thread, medians of 15 in turns, in CPU time."""
    torch.set_num_threads(1)
    calls, flops, times = {}, {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        a, b = torch.randn(1024, 512, dtype=dtype), torch.randn(512, 512, dtype=dtype)
        x = torch.randn(8, 32, 64, 64, dtype=dtype).contiguous(memory_format=torch.channels_last)
        w = torch.randn(64, 32, 3, 3, dtype=dtype)
        calls[f"product, {name}"] = lambda a=a, b=b: a @ b
        calls[f"convolution, {name}"] = lambda x=x, w=w: torch.conv2d(x, w, padding=1)
        flops[f"product, {name}"] = 2 * 1024 * 512 * 512
        flops[f"convolution, {name}"] = 2 * 8 * 64 * 64 * 64 * 32 * 9
    with torch.no_grad():
        for _ in range(17):
            for name, call in calls.items():
                start = time.process_time()
                call()
                times.setdefault(name, []).append(time.process_time() - start)
    return {name: round(flops[name] / statistics.median(t[2:]) / 1e9, 1) for name, t in times.items()}


def main() -> None:
    """Runs a process for every instruction set, and writes or prints all of it."""
    if sys.argv[1:] == ["--rates"]:
        return print(json.dumps(rates()))
    found = {}
    for isa in ISAS:
        env = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
        out = subprocess.run([sys.executable, __file__, "--rates"], env=env, check=True, stdout=-1)
        found[isa] = json.loads(out.stdout)
    known = torch.cpu.get_capabilities()
    told = [key for key, value in known.items() if value is True and ("bf16" in key or "amx" in key)]
    result = {"unit": "GFLOP/s, one thread", "cpu": known["cpu_name"], "bfloat16 instructions": told,
              "torch": torch.__version__, "by ONEDNN_MAX_CPU_ISA": found}  # fmt: skip
    text = json.dumps(result, indent=1) + "\n"
    with open(sys.argv[1], "w") if sys.argv[1:] else sys.stdout as file:
        file.write(text)


if __name__ == "__main__":
    main()
