"""Writes the measured parts of ``docs/benchmark.md`` anew from the files in ``docs/results``:
``python docs/scripts/make_benchmark.py``. They stand between ``<!-- begin NAME -->`` and
``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rstg_pyg.train.benchmarking.tables import section_table
from rstg_pyg.train.text_tables import as_markdown

DOCS = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def result(name: str) -> Any:
    """A result file."""
    return json.loads((DOCS / "results" / name).read_text(encoding="utf-8"))


def page(text: str) -> str:
    """The page with all measured parts anew."""
    benchmark = result("benchmark/benchmark.json")
    rows = benchmark["rows"]
    amd = [result(f"speed_amd_{threads}.json") for threads in (1, 2)]
    blocks = {
        "answer": _answer([row for row in rows if row["section"] == "network"]),
        "machine": "\n".join(f"- {line}" for line in (benchmark["machine"], *benchmark["notes"])),
        "readers": _readers(result("readers.json")),
        "speed": _speed(result("speed.json")),
        "speed_amd": _by_threads(amd, "before", ("before", "now")),
        "kept_memory": _by_threads(amd, "now, memory not kept", ("given back", "kept")),
        "steps": _steps(amd[0]["rows"]),
        "gpu": _recorded_steps(result("gpu/steps.json")["rows"]),
        "bfloat16": _bfloat16([result(f"bf16/{name}.json") for name in ("intel_xeon", "amd_epyc")]),
    }

    def block(match: re.Match) -> str:
        name = match[2]  # other ones are sections of the benchmark
        return f"{match[1]}{blocks[name] if name in blocks else section_table(rows, name)}\n{match[3]}"

    return _BLOCK.sub(block, text)


def _answer(rows: list[dict[str, Any]]) -> str:
    """How much longer a step and inference take with each layer, in the networks of the benchmark."""
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        lines += [f"{case[0].upper()}{case[1:]}:", ""]
        times = {(row["variant"], row["pass"]): row["ms"] for row in rows if row["case"] == case}
        names = list(dict.fromkeys(name for name, _ in times))
        for name in names[1:]:
            train, infer = (
                100 * (times[name, how] / times[names[0], how] - 1)
                for how in ("forward + backward", "forward")
            )
            lines.append(f"- {name}: {train:+.0f} % in training, {infer:+.0f} % in inference")
        lines.append("")
    return "\n".join(lines[:-1])


def _recorded_steps(rows: list[dict[str, Any]]) -> str:
    """Training steps on a GPU with and without ``trainer.cuda_graph``."""
    ms = {(row["size"], row["precision"], row["cuda_graph"]): row["step_ms"] for row in rows}
    table = [
        {
            "SyncMNIST, ours at size": size, "precision": precision,
            "step, ms": f"{ms[size, precision, False]:.1f}",
            "recorded, ms": f"{ms[size, precision, True]:.1f}",
            "times faster": f"{ms[size, precision, False] / ms[size, precision, True]:.1f}",
        }
        for size, precision in dict.fromkeys((size, precision) for size, precision, _ in ms)
    ]  # fmt: skip
    return as_markdown(table, right=list(table[0])[2:])


def _readers(found: dict[str, Any]) -> str:
    """Clips per second of every reader; each cell's best one in bold."""
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for row in found["rows"]:
        cells.setdefault(row["reader"], {})[f"{row['data']}, {row['frames']}"] = row
    titles = list(cells["rstg_pyg"])
    best = {t: max(c[t]["clips_per_second"] for c in cells.values() if t in c) for t in titles}
    table = []
    for reader, row in cells.items():
        line: dict[str, Any] = {"clips/s": reader}
        for title in titles:
            if title in row:
                rate = row[title]["clips_per_second"]
                text = f"{rate:.1f} ± {row[title]['spread'] / 2:.0%}"
                line[title] = f"**{text}**" if rate == best[title] else text
        table.append({**dict.fromkeys(["clips/s", *titles]), **line})
    versions = {**found["compared"], "torch": found["versions"]["torch"]}
    about = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{as_markdown(table, titles)}\n\n{found['device']}; {about}."


def _speed(found: dict[str, Any]) -> str:
    """Before and after."""
    table = [
        {"what": what, "before, ms": f"{row['before']:.0f}", "now, ms": f"{row['now']:.0f}",
         "ratio": f"{row['before'] / row['now']:.2f}"}
        for what, row in found["rows"].items()
    ]  # fmt: skip
    return as_markdown(table, ("before, ms", "now, ms", "ratio"))


def _by_threads(found: list[dict[str, Any]], first: str, columns: tuple[str, str]) -> str:
    """The times ``first`` and ``now`` of every row, and their ratio, with one and with two threads."""
    table = []
    for rows in zip(*(file["rows"] for file in found)):
        if rows[0]["what"] == "peak, MiB" or (first != "before" and not _is_step_of_network(rows[0])):
            continue
        line = {"network": rows[0]["network"], "what": rows[0]["what"]}
        for threads, row in enumerate(rows, start=1):
            line[f"{threads}: {columns[0]}, ms"] = f"{row[first]:,.0f}"
            line[f"{threads}: {columns[1]}, ms"] = f"{row['now']:,.0f}"
            line[f"{threads}: ratio"] = f"{row[first] / row['now']:.2f}"
        table.append(line)
    return as_markdown(table, list(table[0])[2:])


def _is_step_of_network(row: dict[str, Any]) -> bool:
    return row["what"].startswith("step") and not row["network"].startswith("RSTG")


def _steps(rows: list[dict[str, Any]]) -> str:
    """How long steps of whole trainings take in bfloat16 now, as a share of float32 before."""
    times = {(row["network"], row["what"]): row for row in rows}
    names = [name for name, what in times if what == "step, float32" and name.endswith("32 clips")]
    return "\n".join(
        f"- {name}: {times[name, 'step, bfloat16']['now'] / times[name, 'step, float32']['before']:.2f}"
        for name in names
    )


def _bfloat16(found: list[dict[str, Any]]) -> str:
    """Rates in float32 and bfloat16 of several processors."""
    table = []
    for processor in found:
        line = {"GFLOP/s, one thread": processor["cpu"]}
        rates = processor["by ONEDNN_MAX_CPU_ISA"]["DEFAULT"]
        for what in ("product", "convolution"):
            full, half = (rates[f"{what}, {kind}"] for kind in ("float32", "bfloat16"))
            line |= {f"{what}, float32": f"{full:.0f}", f"{what}, bfloat16": f"{half:.0f}"}
            line[f"{what}, ratio"] = f"{half / full:.2f}"
        table.append(line)
    return as_markdown(table, list(table[0])[1:])


if __name__ == "__main__":
    path = DOCS / "benchmark.md"
    path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
