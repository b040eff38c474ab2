import pickle
import tracemalloc

import av
import numpy as np
import pytest
import torch
from PIL import Image

from rstg_pyg.train.data.sources import find_sources, open_source, open_video
from rstg_pyg.train.data.sources.video_file import open_file
from rstg_pyg.train.errors import UserError

V1 = "20bn-something-something-v1"
V2 = "20bn-something-something-v2"


def numbers(frames):
    """The frame numbers that the made-up frames tell."""
    return [round(float(frame[..., 1].float().mean()) / 5) for frame in frames]


@pytest.fixture
def folders(v1, files):
    return open_source(v1, [str(i + 1) for i in range(len(files.lengths))])


@pytest.fixture
def webms(v2, files):
    return open_source(v2, [str(i + 1) for i in range(len(files.lengths))])


@pytest.mark.parametrize("source", ["folders", "webms"])
def test_reads_the_frames_asked_for(source, files, request):
    source = pickle.loads(pickle.dumps(request.getfixturevalue(source)))
    assert [source.num_frames(str(i)) for i in range(1, 9)] == files.lengths
    assert source.num_frames("4") == 40  # no longer the last one that was opened
    frames = source.read("4", [7, 0, 39, 7, 20])
    assert frames.dtype == torch.uint8 and frames.shape == (5, 30, 40, 3)
    assert numbers(frames) == [7, 0, 39, 7, 20]
    expected = torch.from_numpy(files.picture(4, 7))
    assert (frames[0].int() - expected.int()).abs().float().mean() < 4
    assert source.read("5", [0, 0]).shape[0] == 2
    assert numbers(source.frames("2")) == list(range(9))
    assert source.read("4", [1, 3], short_side=15).shape == (2, 15, 20, 3)


@pytest.mark.parametrize(
    ("name", "start"),
    [("{:05d}.jpg", 1), ("{:06d}.jpg", 0), ("img_{:05d}.jpg", 1), ("{}.png", 0), ("f-{:03d}.JPG", 1)],
)
def test_names_of_frames_are_detected(tmp_path, files, name, start):
    for video in (1, 2):
        files.frames(tmp_path / "some" / str(video), video, 11, name, start)
        (tmp_path / f"some/{video}/.DS_Store").write_text("x")
        Image.new("L", (4, 4)).save(tmp_path / f"some/{video}/flow_x_00001.jpg")
    source = open_source(tmp_path, ["1", "2"])
    assert source.num_frames("2") == 11 and numbers(source.read("2", range(11))) == list(range(11))


def test_missing_frames(v1):
    for name in ("1/00001.jpg", "4/00008.jpg"):  # also the first one of the first folder
        (v1 / V1 / name).unlink()
    source = open_source(v1, ["1", "2", "3", "4"])
    assert source.num_frames("2") == 9
    with pytest.raises(UserError, match="1/00001.jpg: the frame is missing"):
        source.num_frames("1")
    with pytest.raises(UserError, match=rf"^{v1 / V1}/4/00008.jpg: the frame is missing.*gap; nearest: "
                       "00007.jpg, 00009.jpg, 00006.jpg$"):  # fmt: skip
        source.read("4", [6, 7])


def test_missing_video(folders, webms):
    with pytest.raises(UserError, match=f"{V1}/11: the video's folder is missing; nearest: 8, 7, 6"):
        folders.num_frames("11")
    with pytest.raises(
        UserError, match=f"{V2}/11.webm: the video is missing; nearest: 8.webm, 7.webm, 6.webm"
    ):
        webms.num_frames("11")
    assert folders.missing(["1", "11", "x/2"]) == ["11", "x/2"]
    assert webms.missing(["1", "11", "x/2"]) == ["11", "x/2"]


def test_empty_and_foreign_folders(folders):
    empty = folders.location("21")
    empty.mkdir()
    with pytest.raises(UserError, match=r"21: expected frames like 00001.jpg .the folder has nothing"):
        folders.num_frames("21")
    (empty / "img_1.txt").write_bytes(b"")
    with pytest.raises(UserError, match="the folder has 1 files, such as img_1.txt"):
        folders.num_frames("21")


def garbled(data):
    return data[: len(data) // 2] + np.random.default_rng(0).bytes(len(data) // 2 - 200) + data[-200:]


@pytest.mark.parametrize(
    ("source", "damage", "reason"),
    [
        ("folders", lambda data: data[: len(data) // 2], "truncated"),
        ("folders", lambda data: data[:-2], "truncated"),
        ("folders", lambda data: b"", "the image is empty"),
        ("folders", lambda data: b"hello", "it is not an image"),
        ("folders", lambda data: data[:20], "cannot be decoded"),
        ("webms", lambda data: b"", "the video is empty"),
        ("webms", lambda data: b"not a video", "cannot be decoded"),
        ("webms", lambda data: data[:40], "cannot be decoded"),
        ("webms", lambda data: data[: len(data) // 2], "truncated"),
        ("webms", garbled, "4.webm"),
    ],
)
def test_damage(source, damage, reason, request):
    source = request.getfixturevalue(source)
    path = source.location("4")
    path = path / "00003.jpg" if path.is_dir() else path
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=reason) as caught:
        list(source.frames("4"))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
def test_other_kinds_of_images_become_rgb(tmp_path, mode):
    (tmp_path / "a").mkdir()
    suffix = "jpg" if mode in ("L", "CMYK") else "png"
    Image.new("RGB", (9, 7), (204, 204, 204)).convert(mode).save(tmp_path / f"a/1.{suffix}")
    frames = open_source(tmp_path, ["a"]).read("a", [0])
    assert frames.shape == (1, 7, 9, 3) and (frames.int() - 204).abs().max() <= 8


def test_a_file_without_pictures(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="a.mp4: the file has no video stream"):
        open_file(tmp_path / "a.mp4")


def test_sizes(tmp_path, files):
    files.video(tmp_path / "a.webm", 1, 3, height=31, width=45)
    source, video = open_video(tmp_path / "a.webm")
    assert source.read(video, [0, 2], short_side=16).shape == (2, 16, 23, 3)
    files.frames(tmp_path / "b", 1, 2, height=1, width=3)
    source = open_source(tmp_path, ["b"], "frames")
    assert source.read("b", [1], 8).shape == (1, 8, 24, 3)
    Image.new("RGB", (50, 1)).save(tmp_path / "b/00002.jpg")
    with pytest.raises(UserError, match=r"b: expected frames of 3 x 1 .*frame 1 has 50 x 1"):
        source.read("b", [0, 1])
    with pytest.raises(UserError, match="at most 32 times as long as wide"):
        source.read("b", [1], 8)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path, files):
    options = {"preset": "ultrafast"}
    files.video(tmp_path / "long.mp4", 1, 10_000, "libx264", height=16, width=16, options=options)
    tracemalloc.start()
    video = open_file(tmp_path / "long.mp4")
    assert video.num_frames == 10_000
    assert sum(1 for _ in video.frames()) == 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6  # all frames are 7.7 MB; the time stamps are under 1


def test_the_packed_store_comes_before_folders_before_files(v1, files):
    for i in (1, 2, 3):
        files.video(v1 / "videos" / f"{i}.mp4", i, 3)
    videos = ["1", "2", "3"]
    assert [source.kind for source in find_sources(v1, videos)] == ["frames", "video"]
    assert open_source(v1, videos).kind == "frames"
    assert open_source(v1, videos, "video").num_frames("1") == 3
    with pytest.raises(UserError, match=r"data.source=packed: .* it has data.source=frames, video"):
        open_source(v1, videos, "packed")
    with pytest.raises(UserError, match="expected one of auto, packed"):
        open_source(v1, videos, "film")


def test_no_videos(v1):
    with pytest.raises(UserError, match=rf"none of the videos is in {v1} .*{V1}.*\n.*nearest: 8, 7, 6"):
        open_source(v1, ["907"])


def test_one_video_of_ones_own(v1, v2):
    for path in (v1 / V1 / "4", v2 / V2 / "4.webm"):
        source, video = open_video(path)
        assert source.num_frames(video) == 40 and numbers(source.read(video, [5, 30])) == [5, 30]
    with pytest.raises(UserError, match="it has none"):
        open_video(v1 / V1)
    source, video = open_video(v1 / "5.webm")
    with pytest.raises(UserError, match="5.webm: the video is missing"):
        source.num_frames(video)
