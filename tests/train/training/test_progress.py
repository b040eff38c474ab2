"""What a run shows: on a terminal of 80 columns, and in a file."""

import os
import re
import threading

import pytest
import rich
from helpers.tiny_run import ONE_FILTER, write_tiny

from rstg_pyg.train.run import main
from rstg_pyg.train.training import progress

LINE = r"step  ?\d+/12  train loss \d\.\d{4}  val loss \d\.\d{4}  top-1 +\d+\.\d\d%"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = {"max_steps": 12, "epochs": 3, "validate_every": 6, "log_every": 1}
    more = {"trainer": {"progress_bar": True}, "pretrain": {"steps": 2, "batch_size": 4}}
    write_tiny(tmp_path, model=ONE_FILTER, train=train, **more)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def on_terminal():
    """What a run writes to a terminal of 80 columns."""
    pty = pytest.importorskip("pty")
    reader, writer = pty.openpty()
    read = bytearray()

    def listen():
        while chunk := os.read(reader, 1 << 16):
            read.extend(chunk)
            if b"\x04" in chunk:
                return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    with open(writer, "w") as terminal:
        rich.reconfigure(file=terminal, width=80)
        try:
            assert main(["--cfg", "tiny.yaml"]) == 0
        finally:
            rich.reconfigure()
            terminal.write("\x04")  # the end
            terminal.flush()
            thread.join(20)
    os.close(reader)
    return read.decode().removesuffix("\x04")


@pytest.mark.slow
def test_on_a_terminal(monkeypatch):
    """The bar is one line within 80 columns, and lines are printed above it."""
    monkeypatch.setattr(progress.ProgressBar, "_update", always(progress.ProgressBar._update))
    text = on_terminal()
    assert "\x1b[36m" in text and "\x1b[1m" in text  # cyan, bold
    drawn = re.split(r"\x1b\[2K|\r|\n|\x1b\[\d*A", text)
    lines = [re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", line) for line in drawn]
    assert max(map(len, lines)) <= 80
    assert sum(re.fullmatch(LINE, line) is not None for line in lines) == 2
    bar = r"train +[━╸╺]+ +\d+/12 +loss \d\.\d{3}  top-1 +\d+\.\d%  [\d,]+ videos/s +\d:\d\d:\d\d left"
    assert any(re.fullmatch(bar, line) for line in lines), lines
    for what in ("pre-training", "validate", "test "):
        assert any(line.startswith(what) and "━" in line for line in lines), what
    assert text.endswith("rstg report runs/tiny\r\n")


def always(update):
    """Draws the bar whenever it changes, however short the run is."""

    def changed(self, *arguments):
        update(self, *arguments)
        self.bar.refresh()

    return changed


@pytest.mark.slow
def test_no_color(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    codes = re.findall(r"\x1b\[([\d;]*)m", on_terminal())
    assert set(codes) <= {"", "0", "1", "2"}, codes  # bold and dim are no colors


@pytest.mark.slow
def test_in_a_file(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_FIRST", 0)
    monkeypatch.setattr(progress, "_SECONDS", 0)
    assert main(["--cfg", "tiny.yaml", "--out", "a"]) == 0
    text = capsys.readouterr().out
    assert "\r" not in text and "\x1b" not in text and "━" not in text
    lines = text.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("train ")] == [
        f"{step}/12" for step in range(1, 13)
    ]
    last = next(line for line in lines if line.startswith("train     11/12"))
    pattern = r"train     11/12  loss \d\.\d{3}  top-1 +\d+\.\d%  [\d,]+ videos/s  0:00:\d\d left"
    assert re.fullmatch(pattern, last), last
    assert sum(re.fullmatch(LINE, line) is not None for line in lines) == 2
    tail = text.split("\n\n")[-1].splitlines()
    assert [line.split()[0] for line in tail if line[0] != " "] == [
        *("test", "network", "protocol", "time", "files", "next")
    ]
    assert "a: results.json, checkpoints/best.ckpt, metrics.csv, per_class.csv" in " ".join(tail)
    assert tail[-2:] == [
        "next      rstg predict CLIP.mp4 --ckpt a",
        "          rstg report a",
    ]


def test_the_longest_line_fits(monkeypatch):
    """A hundred thousand steps, a fast network, hours left."""
    metrics = {"loss": 12.3456, "acc": 1.0, "videos/s": 12345.6}
    with rich.get_console().capture() as capture:
        bar = progress.ProgressBar().bar
        bar.add_task(
            "train   ",
            total=100_000,
            completed=99_999,
            left="12:34:56 left",
            metrics=progress.metrics_text(metrics),
        )
        rich.get_console().print(bar.get_renderable(), width=80)
    (line,) = capture.get().splitlines()
    assert line.startswith("train ") and line.endswith("12,346 videos/s 12:34:56 left")
    line = progress.validation_line(9, 100_000, {"loss": 12.3, "top1": 1.0}, {"loss": 1.25})
    assert len(line.replace("[bold]", "").replace("[/bold]", "")) <= 80
