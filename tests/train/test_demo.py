import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request

import av
import numpy as np
import pytest
from helpers.browser import browser, errors
from helpers.tiny_predictor import write_checkpoint, write_video

from rstg_pyg.train.data.mini import MiniSomething
from rstg_pyg.train.demo import Camera, check_video, main
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.predictor import Predictor

CLIPS = MiniSomething(size=96, num_frames=24, noise=0)
TRUTH = CLIPS.label(2)  # of the test split


def frames():
    return np.ascontiguousarray(CLIPS.render("test", 2))


def write_clip(path, codec, rate, pictures, **options):
    with av.open(str(path), "w", **options) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.width = stream.height = 96
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


def test_without_gradio(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main([]) == 2
    assert capsys.readouterr().err == 'error: the demo needs Gradio: pip install "rstg_pyg[demo]"\n'


def test_long_videos_are_refused(tmp_path):
    write_video(tmp_path / "long.mp4", 700)  # ten a second
    with pytest.raises(UserError, match="at most 60 seconds .got 70"):
        check_video(str(tmp_path / "long.mp4"))


@pytest.mark.slow
def test_a_camera_is_seen_in_pieces_as_long_as_a_clip(tmp_path):
    predictor = Predictor.load("smt_demo", "cpu")
    camera, length = Camera(predictor), predictor.num_frames
    clip = frames()[1::3]  # 8 of 24
    answers = [camera.step(frame) for frame in [*clip, *clip]]
    assert answers[length - 1][0].name == TRUTH
    step = predictor.stream()  # the same as a stream that begins with the clip
    assert answers[length - 1] == [step(frame) for frame in clip][-1]
    assert len(camera.frames) == length and len(camera.streams) == 2
    page = camera.page()
    assert page.startswith('<iframe sandbox="allow-scripts" srcdoc="&lt;!doctype html')


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The command in a process of its own; its address."""
    pytest.importorskip("gradio", reason="needs the extra 'demo'")
    folder = tmp_path_factory.mktemp("server")
    write_checkpoint(folder / "tiny.ckpt")
    (folder / "secret.txt").write_text("secret")
    process = subprocess.Popen(
        [sys.executable, "-m", "rstg_pyg.train.demo", "smt_demo", "tiny.ckpt"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        for line in process.stdout:
            if "http://" in line:
                yield folder, line.split()[0].rstrip("/")
                break
        else:
            pytest.fail("the server has not started")
    finally:
        process.terminate()
        process.wait(30)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError("this took too long")


@pytest.mark.slow
def test_no_other_file_can_be_read(server):
    folder, address = server
    assert address.startswith("http://127.0.0.1:")
    for path in (folder / "secret.txt", folder / "tiny.ckpt", "/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{address}/gradio_api/file={path}")
        assert caught.value.code in (403, 404)
    config = json.load(urllib.request.urlopen(f"{address}/config"))
    assert not config["analytics_enabled"]
    (models,) = [c for c in config["components"] if c["type"] == "dropdown"]
    assert [name for name, _ in models["props"]["choices"]] == ["smt_demo", "tiny.ckpt", "syncmnist"]


@pytest.mark.slow
def test_a_clip_and_a_camera_in_the_browser(server, tmp_path):
    _, address = server
    write_clip(tmp_path / "clip.mp4", "mpeg4", 12, frames())
    # The camera shows each of eight frames for a quarter of a second, again and again.
    write_clip(tmp_path / "camera.mjpeg", "mjpeg", 4, frames()[1::3], format="mjpeg")
    flags = ["use-fake-device-for-media-stream", "use-fake-ui-for-media-stream",
             f"use-file-for-fake-video-capture={tmp_path / 'camera.mjpeg'}"]  # fmt: skip
    with browser(tmp_path / "browser", *flags) as chromium:
        chromium.get(address)
        body = chromium.find_element("tag name", "body")
        wait_for(lambda: "Network" in body.text)
        outside = chromium.execute_script(
            "return performance.getEntriesByType('resource').map(e => e.name)"
        )
        assert outside and all(name.startswith((address, "data:", "blob:")) for name in outside)

        chromium.find_element("css selector", "input[type=file]").send_keys(str(tmp_path / "clip.mp4"))
        wait_for(lambda: body.text.count(TRUTH) > 1)  # the label's title, and its first bar
        wait_for(lambda: chromium.find_elements("tag name", "iframe"))

        def press(words):
            from selenium.common.exceptions import StaleElementReferenceException

            def pressed():
                with contextlib.suppress(StaleElementReferenceException):  # it is being drawn anew
                    for button in chromium.find_elements("tag name", "button"):
                        if words in button.text and button.is_displayed():
                            button.click()
                            return True

            wait_for(pressed)

        press("Camera")
        wait_for(lambda: TRUTH not in body.text)  # of the other tab
        press("Access Webcam")
        press("Record")
        wait_for(lambda: body.text.count(TRUTH) > 1)
        frame = chromium.find_element("tag name", "iframe").get_attribute("srcdoc")
        press("Attention of the last frames")  # while the camera goes on
        wait_for(lambda: chromium.find_element("tag name", "iframe").get_attribute("srcdoc") != frame)
        chromium.switch_to.frame(chromium.find_element("tag name", "iframe"))
        wait_for(lambda: "row 1" in chromium.find_element("tag name", "body").text)
        assert errors(chromium) == []
