"""Cameras and addresses whose frames come without times, begin anew, or end too early."""

import itertools
from types import SimpleNamespace

import av
import numpy as np
import pytest
from helpers.results import rows_of
from helpers.tiny_predictor import write_checkpoint
from helpers.video_kinds import write

from rstg_pyg.train import Predictor, windows
from rstg_pyg.train.predict import main


@pytest.fixture
def predictor(tmp_path):
    write_checkpoint(tmp_path / "last.ckpt")
    return Predictor.load(tmp_path / "last.ckpt", "cpu")


def test_a_stream_whose_times_begin_anew(predictor, tmp_path, monkeypatch):
    """As at an advertisement: what follows is seen, too."""
    write(tmp_path / "once.ts", "mpeg2video", 50)
    path = tmp_path / "thrice.ts"
    path.write_bytes((tmp_path / "once.ts").read_bytes() * 3)
    monkeypatch.setattr(windows, "_open", lambda name: av.open(str(path)))
    found = predictor.windows("https://example.org/thrice.ts", 1)
    length = found[-1].end
    assert length == pytest.approx(3 * predictor.windows(tmp_path / "once.ts", 1)[-1].end)
    assert np.allclose([w.start for w in found], [*np.arange(0, length - 1 + 1e-6, 0.5)])


def test_frames_without_times_are_shown_when_they_come(predictor, tmp_path, monkeypatch):
    """JPEGs of an IP camera, for which FFmpeg makes up 25 frames a second."""
    path = write(tmp_path / "x", "mjpeg", 41, format="mpjpeg", pix_fmt="yuvj420p")
    monkeypatch.setattr(windows, "_open", lambda name: av.open(str(path), format="mpjpeg"))
    clock = itertools.count()
    monkeypatch.setattr(windows, "time", SimpleNamespace(monotonic=lambda: next(clock) / 5))
    found = [*itertools.islice(predictor.watch("http://camera/", 3), 3)]
    assert [w[:2] for w in found] == [pytest.approx(x) for x in [(0, 3), (1.5, 4.5), (3, 6)]]
    assert next(clock) == 31  # five frames a second


def test_a_stream_that_breaks_off(tmp_path, monkeypatch, capsys):
    write(tmp_path / "x.ts", "mpeg2video", 50)
    write_checkpoint(tmp_path / "last.ckpt")

    class Stalling:
        def __init__(self):
            self.container = av.open(str(tmp_path / "x.ts"))
            self.streams = self.container.streams

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.container.close()

        def decode(self, stream):
            yield from itertools.islice(self.container.decode(stream), 40)
            raise av.error.ExitError(1, "Immediate exit requested")

    monkeypatch.setattr(windows, "_open", lambda name: Stalling())
    out = tmp_path / "x.csv"
    network = str(tmp_path / "last.ckpt")
    assert main(["http://camera/", "--ckpt", network, "--windows", "1", "--csv", str(out)]) == 2
    error = capsys.readouterr().err
    assert "http://camera/: ended after " in error and "nothing came for 20 seconds" in error
    assert {row["start"] for row in rows_of(out)} >= {"0.0"}
