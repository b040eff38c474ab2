"""Every kind of video is read as a player shows it, in order and at random places."""

import pickle
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from helpers import video_kinds as kinds
from helpers.fuzz import nightly
from helpers.video_kinds import KINDS, ORIENTATIONS, in_order, picture, write, wrong
from PIL import Image

from rstg_pyg.train.data.sampling import uniform
from rstg_pyg.train.data.sources import open_source, open_video
from rstg_pyg.train.data.sources.video_file import VideoFile, open_file
from rstg_pyg.train.errors import UserError

FAST = {"preset": "ultrafast", "crf": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_random_places_are_those_of_reading_in_order(tmp_path, kind):
    assert wrong(kind, 0, tmp_path, draws=4) == ""


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.skipif(not nightly(), reason="takes minutes: --hypothesis-profile=nightly")
def test_300_files_of_all_kinds(tmp_path):
    for number in range(300):
        kind = list(KINDS)[number % len(KINDS)]
        (folder := tmp_path / str(number)).mkdir()
        assert wrong(kind, number, folder, draws=10) == "", (number, kind)


def test_a_seek_that_fails_costs_nothing_but_time(tmp_path):
    options = {"preset": "ultrafast", "x265-params": "keyint=20:bframes=0:scenecut=0:log-level=none"}
    path = write(tmp_path / "a.mp4", "libx265", 60, options=options)
    assert open_file(path)._keys == [0, 20, 40]
    video, wanted = open_file(kinds.patch(path, b"stss", b"free")), in_order(path)
    assert not video._keys
    video._keys = [0, 10, 30, 50]  # as if these could be decoded from, which the file says, too
    found = list(video.frames([12, 33, 55]))
    assert all(np.array_equal(a, wanted[i]) for a, i in zip(found, [12, 33, 55])) and not video._keys


def test_frames_that_no_other_needs_are_not_decoded(tmp_path, monkeypatch):
    options = {"preset": "fast", "x264-params": "keyint=40:bframes=3:b-adapt=0:scenecut=0"}
    path = write(tmp_path / "a.mp4", "libx264", 60, options=options)
    wanted, decoded, decode = in_order(path), [], VideoFile._decoded

    def counted(*args):
        for frame in decode(*args):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(VideoFile, "_decoded", counted)
    video = open_file(path)
    sent = pickle.loads(pickle.dumps(video))  # before and after what was opened is used
    for copy in (video, video, sent, pickle.loads(pickle.dumps(video))):
        decoded.clear()
        found = list(copy.frames([2, 30, 59]))
        assert all(np.array_equal(a, wanted[i]) for a, i in zip(found, [2, 30, 59], strict=True))
        assert len(decoded) < 40 and copy._keys == [0, 40]


@pytest.mark.parametrize("number", ORIENTATIONS)
@pytest.mark.parametrize("degrees", [0, 4, -4])
def test_turned_and_mirrored_videos(tmp_path, number, degrees):
    matrix, turn = ORIENTATIONS[number]
    angle = np.radians(degrees)
    off = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    path = write(tmp_path / "a.mp4", "libx264", 3, options=FAST)
    (wanted, *_) = in_order(path)
    kinds.display(path, (np.array(matrix) @ off).tolist())
    assert np.array_equal(next(open_file(path).frames()), turn(wanted))


@pytest.mark.parametrize("number", ORIENTATIONS)
def test_turned_and_mirrored_images(tmp_path, number):
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = number
    Image.fromarray(picture(0)).save(tmp_path / "a/1.png", exif=exif)
    source, video = open_video(tmp_path / "a")
    assert np.array_equal(source.read(video, [0])[0], ORIENTATIONS[number][1](picture(0)))


def test_a_cover_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    write(path, "mjpeg", 1, pix_fmt="yuvj420p", audio=True)
    with pytest.raises(UserError, match="song.mp4: the file has no video, only a cover picture"):
        open_file(path)
    attached = tmp_path / "attached.mp4"
    with av.open(str(path)) as source, av.open(str(attached), "w") as container:
        streams = {s.index: container.add_stream_from_template(s) for s in source.streams}
        streams[0].disposition = av.stream.Disposition.attached_pic
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                container.mux(packet)
    with pytest.raises(UserError, match="only a cover picture"):
        open_file(attached)
    assert open_file(write(tmp_path / "one.mp4", "mjpeg", 1, pix_fmt="yuvj420p")).num_frames == 1


TIMES = [0, 1, 2, 3, 4, 5, 6, 14, 22, 30, 38, 46]  # twelfths of a second


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webp"])
def test_a_frame_rate_that_varies(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".webp":
        kinds.webp(path, 12, [int(d) for d in np.diff([*TIMES, 54]) * 1000 / 12])
    else:
        write(path, "libx264", 12, 12, times=TIMES, options=FAST)
    source, video = open_video(path)
    assert np.abs(source.times(video) - np.array(TIMES) / 12).max() < 0.01
    times = source.varying_times(video)
    assert times is not None
    # At even times, the frame that is shown then; by number it would be the second line.
    assert uniform(12, 8, times).tolist() == [0, 6, 6, 7, 8, 9, 10, 11]
    assert uniform(12, 8).tolist() == [0, 1, 3, 4, 6, 7, 9, 11]


def test_a_constant_rate_is_sampled_by_number(tmp_path):
    for times in (range(20), [*range(10), *range(11, 21)]):  # a frame that was dropped changes nothing
        path = write(tmp_path / "a.mp4", "libx264", 20, times=list(times), options=FAST)
        assert open_video(path)[0].varying_times("a.mp4") is None
    even = np.arange(20) / 25
    for count in (3, 8, 20, 32):
        assert uniform(20, count).tolist() == uniform(20, count, even).tolist()


@pytest.mark.parametrize(
    ("aspect", "size"), [("64/45", (48, 91)), ("1/2", (96, 64)), ("300/299", (48, 64))]
)
def test_pixels_are_square(tmp_path, aspect, size):
    path = write(tmp_path / "a.mp4", "libx264", 2, aspect=Fraction(aspect), options=FAST)
    frame = next(open_file(path).frames())
    assert frame.shape == (*size, 3)
    stored = torch.from_numpy(in_order(path)[0]).float().mean((0, 1))
    assert (frame.float().mean((0, 1)) - stored).abs().max() < 3


def half(number):
    """An opaque left and a transparent right half."""
    opacity = np.full((48, 64, 1), 255, np.uint8)
    opacity[:, 32:] = 0
    return np.concatenate([255 - picture(number) // 4, opacity], 2)


def test_what_is_transparent_is_black(tmp_path):
    path = write(tmp_path / "a.mov", "qtrle", 3, pix_fmt="argb", pixels=half)
    frames = [*open_file(path).frames()]
    (tmp_path / "b").mkdir()
    Image.fromarray(half(0)).save(tmp_path / "b/1.png")
    source, video = open_video(tmp_path / "b")
    for frame, number in [*zip(frames, range(3)), (source.read(video, [0])[0], 0)]:
        assert np.array_equal(frame[:, :32], half(number)[:, :32, :3]) and not frame[:, 32:].any()
    frames = list(open_file(kinds.webp(tmp_path / "c.webp", 2, alpha=True)).frames())
    assert np.abs(frames[0].numpy() - picture(0) * 128.0 / 255).max() <= 1


def test_animated_webp(tmp_path):
    path = kinds.webp(tmp_path / "a.webp", 12)
    source, video = open_video(path)
    assert source.num_frames(video) == 12 and source.varying_times(video) is None
    frames = source.read(video, [11, 3, 3])
    assert [np.array_equal(f, picture(i)) for f, i in zip(frames, (11, 3, 3))] == [True] * 3
    source = open_source(tmp_path, ["a"])
    assert source.kind == "video" and source.num_frames("a") == 12
    for name, data, reason in (
        ("cut", path.read_bytes()[:-50], "truncated"),
        ("no", b"RIFF\4\0\0\0WEBP", ""),
    ):
        (tmp_path / f"{name}.webp").write_bytes(data)
        with pytest.raises(UserError, match=f"{name}.webp: the video .*{reason}"):
            open_file(tmp_path / f"{name}.webp")


def test_relative_names(tmp_path, monkeypatch):
    write(tmp_path / "12:30.mp4", "mpeg4", 3)
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mp4", "./12:30.mp4"):
        source, video = open_video(name)
        assert source.num_frames(video) == 3


def test_what_is_no_file(tmp_path):
    for name in ("rtsp://camera/1", "http://x/a.mp4", "0"):
        with pytest.raises(UserError, match=f"{name}: expected a file .*cameras are not read"):
            open_video(name)
    with pytest.raises(UserError, match="/dev/null: expected a file .a camera"):
        open_file("/dev/null")
    write(tmp_path / "a.mp4", "libx264", 2)
    with pytest.raises(UserError, match=r"it has video files, such as a.mp4; give those"):
        open_video(tmp_path)
