"""Does memory grow? Long runs only; tests/train/test_memory.py counts tensors in short ones."""

import os
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.fuzz import nightly
from helpers.tiny_run import ONE_FILTER, write_tiny

from rstg_pyg.train.predict import main as predict
from rstg_pyg.train.run import main as run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.nightly,
    pytest.mark.skipif(not nightly(), reason="takes minutes: --hypothesis-profile=nightly"),
]
MOST_GROWTH = 0.02


def resident():
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(call):
    """By what share the resident set grew between the first and the last tenth of a call."""
    samples, done = [], threading.Event()

    def sample():
        while not done.is_set():
            samples.append(resident())
            time.sleep(0.02)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        assert call() == 0
    finally:
        done.set()
        thread.join()
    assert len(samples) > 500
    tenth = len(samples) // 10
    return samples[-tenth] / samples[tenth] - 1


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a config and a run, made to load and warm up everything."""
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, model=ONE_FILTER, data={"val_videos": 8}, train={"batch_size": 8})
    assert run(["--cfg", "tiny.yaml", "--out", "warm", "train.max_steps=4"]) == 0
    return tmp_path


@pytest.mark.parametrize(("steps", "validate_every"), [(4000, 4000), (500, 1)])
def test_training_and_evaluation(folder, steps, validate_every):
    train = [f"train.max_steps={steps}", f"train.validate_every={validate_every}", "train.epochs=1000"]
    assert growth(lambda: run(["--cfg", "tiny.yaml", *train])) < MOST_GROWTH


def test_stream(folder):
    """A square that moves about in 10,000 frames."""
    with av.open("video.mp4", "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        for i in range(10_000):
            picture = np.zeros((16, 16, 3), np.uint8)
            picture[i % 12 : i % 12 + 4, (i // 7) % 12 :] = 255
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    line = ["video.mp4", "--ckpt", "warm/checkpoints/last.ckpt", "--stream", "--device", "cpu"]
    assert growth(lambda: predict(line)) < MOST_GROWTH
