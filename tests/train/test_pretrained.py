"""Networks with their weights: from a run into a folder, the package or the hub, and back."""

import http.server
import json
import os
import re
import shutil
import sys
import threading
from pathlib import Path

import pytest
import torch
from helpers.tiny_run import ONE_FILTER, tiny_config
from PIL import Image

from rstg_pyg import LSTMHead, VideoClassifier, models
from rstg_pyg.backbones import SimpleConv
from rstg_pyg.train import Predictor
from rstg_pyg.train.config import parse_config
from rstg_pyg.train.data.mini import MiniSomething
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.export import main as export
from rstg_pyg.train.fitting import fit
from rstg_pyg.train.run_folder.weights import open_weights


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of some steps, whose best checkpoint is not its last."""
    train = {"max_steps": 4, "validate_every": 2, "lr": 0.3}
    config = parse_config(tiny_config(model=ONE_FILTER, train=train), "tiny")
    return fit(config, out=tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def clip():
    return torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8)


@pytest.fixture
def shipped(tmp_path, monkeypatch, run):
    """The package with one model, written by the command."""
    monkeypatch.setattr(models, "FOLDER", tmp_path / "models")
    assert export([str(run.folder), "--out", str(tmp_path / "models/tiny")]) == 0
    return tmp_path / "models/tiny"


def contents(folder):
    """Weights, metadata and card, without the name of the folder."""
    found = open_weights(folder / "model.safetensors")
    weights = {name: tensor.tolist() for name, tensor in found.pop("state_dict").items()}
    return found, weights, (folder / "README.md").read_text().replace(f"# {folder.name}\n", "")


def test_a_run_as_a_model_of_the_package(shipped, run, clip):
    assert models.list() == ["tiny"] and {p.name for p in shipped.iterdir()} == {
        "model.safetensors",
        "README.md",
    }
    measured = Predictor.load(run.folder / "checkpoints/last.ckpt", "cpu")  # what results.json is of
    assert Predictor.load("tiny", "cpu")(clip) == measured(clip)
    model = VideoClassifier.from_pretrained("tiny")
    assert not model.training and model.classes == measured.names
    assert model.results["top1"] == run.results["top1"] and model.config["name"] == "tiny"
    text = (shipped / "README.md").read_text()
    assert f"| result | top-1 {run.results['top1']:.2%}, top-5 " in text
    assert "| measured on | `last.ckpt`; the weights are those of `last.ckpt` |" in text
    assert (
        text.startswith("---\nlibrary_name: rstg_pyg\n")
        and f"Classes: {'; '.join(measured.names)}." in text
    )


def test_a_round_trip_by_way_of_a_folder(shipped, tmp_path, clip, run):
    model = VideoClassifier.from_pretrained(shipped)
    model.save_pretrained(tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(shipped)
    found = [Predictor.load(path, "cpu")(clip) for path in (tmp_path / "copy", shipped, str(shipped))]
    assert found[0] == found[1] == found[2]
    best = VideoClassifier.from_pretrained(run.checkpoint)
    best.save_pretrained(tmp_path / "best")
    text = (tmp_path / "best/README.md").read_text()
    assert "| measured on | `last.ckpt`; the weights are those of `best.ckpt` |" in text


def test_what_cannot_be_saved_or_found(tmp_path, shipped, monkeypatch):
    plain = VideoClassifier(SimpleConv(1, (4,)), 3, head=LSTMHead(4, 4))
    with pytest.raises(ValueError, match="Expected a network with 'config' and 'classes'"):
        plain.save_pretrained(tmp_path / "x")
    model = VideoClassifier.from_pretrained("tiny")
    model.classes = ["a", "b"]
    with pytest.raises(ValueError, match=r"Expected 'classes' to name 4 classes \(got 2 names\)"):
        model.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()
    model = VideoClassifier.from_pretrained("tiny")
    model.reset_classifier(2)
    model.classes = ["a", "b"]
    model.save_pretrained(tmp_path / "two")
    assert "top-1" not in (tmp_path / "two/README.md").read_text()  # of the classifier before
    assert VideoClassifier.from_pretrained(tmp_path / "two").classes == ["a", "b"]
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="run: is the folder of a run"):
        model.save_pretrained(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.md").write_text("# mine")
    with pytest.raises(UserError, match="README.md: is no model card, and would be overwritten"):
        model.save_pretrained(tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["README.md"]
    with pytest.raises(UserError, match="tinny: there is no such run, .* that come along: tiny"):
        VideoClassifier.from_pretrained("tinny")
    with pytest.raises(UserError, match=r"it has no checkpoints/best.ckpt .* no model.safetensors"):
        Predictor.load(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()  # of data, for example
    with pytest.raises(UserError, match=f"tiny: expected a run folder.*; the model .* is {shipped}$"):
        Predictor.load("tiny")


def test_networks_for_several_labels_keep_that(tmp_path, shipped, clip):
    model = VideoClassifier.from_pretrained("tiny")
    model.multi_label = True
    model.results |= {"top1": None, "top5": None, "mAP": 0.5}
    model.save_pretrained(tmp_path / "x")
    assert "| result | mAP 50.00% of " in (tmp_path / "x/README.md").read_text()
    several = {p.label: p.probability for p in Predictor.load(tmp_path / "x", "cpu")(clip)}
    logits = Predictor.load("tiny", "cpu").logits(clip[None])
    assert several == pytest.approx(dict(enumerate(logits.sigmoid().tolist())))


def test_paths_of_the_machine_are_left_out(tmp_path, shipped):
    model = VideoClassifier.from_pretrained("tiny")
    model.config["data"]["root"] = "/home/me/mnist"
    model.save_pretrained(tmp_path / "x")
    assert b"/home/me" not in (tmp_path / "x/model.safetensors").read_bytes()


class Hub(http.server.BaseHTTPRequestHandler):
    """A stand-in that serves one model as the hub does."""

    def do_HEAD(self):
        data = (self.server.folder / Path(self.path).name).read_bytes()
        known = self.path == "/me/tiny/resolve/main/model.safetensors"
        self.send_response(200 if known else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return data

    def do_GET(self):
        self.wfile.write(self.do_HEAD())

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(shipped):
    """The address of a hub that has me/tiny."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.folder = shipped
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_from_the_hub(hub, tmp_path, clip):
    pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")
    options = {"endpoint": hub, "cache_dir": tmp_path / "cache"}
    model = VideoClassifier.from_pretrained("me/tiny", **options)
    wanted = VideoClassifier.from_pretrained("tiny")
    assert torch.equal(model(clip[None].float()), wanted(clip[None].float()))
    with pytest.raises(UserError, match="me/other: cannot be fetched from the Hugging Face Hub"):
        VideoClassifier.from_pretrained("me/other", **options)


def test_to_the_hub(shipped, tmp_path, monkeypatch):
    mixin = pytest.importorskip("huggingface_hub.hub_mixin", reason="needs the extra 'hub'")

    class Api:
        """A stand-in that puts what is uploaded into a folder."""

        def __init__(self, token):
            assert token == "secret"

        def create_repo(self, repo_id, private, exist_ok):
            self.repo_id = repo_id
            return self

        def upload_folder(self, repo_id, folder_path, commit_message, **options):
            shutil.copytree(folder_path, tmp_path / repo_id)
            return f"https://hub/{repo_id}/{commit_message}"

    monkeypatch.setattr(mixin, "HfApi", Api)
    model = VideoClassifier.from_pretrained("tiny")
    address = model.push_to_hub("me/tiny", token="secret", commit_message="first")
    assert address == "https://hub/me/tiny/first"
    assert contents(tmp_path / "me/tiny") == contents(shipped)


def test_without_the_hub_names_and_folders_work(shipped, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for name in ("tiny", shipped):
        assert VideoClassifier.from_pretrained(name).num_classes == 4
    with pytest.raises(UserError, match=r'me/tiny: .* pip install "rstg_pyg\[hub\]"'):
        VideoClassifier.from_pretrained("me/tiny")


def test_the_models_of_the_package_are_small_and_have_cards():
    folder = Path(models.__file__).parent
    sizes = [path.stat().st_size for path in folder.glob("*/*")]
    assert sum(sizes) < 8e6
    for name in models.list():
        model = VideoClassifier.from_pretrained(name)
        text = (folder / name / "README.md").read_text()
        assert f"{model.results['top1']:.2%}" in text and len(model.classes) == model.num_classes
        assert not re.search(
            r"/(home|work|tmp|root)/", json.dumps([model.config, model.results]) + text
        )


def test_syncmnist_gives_the_recorded_logits():
    """Two rings that move alike and a disk that does not."""
    model = VideoClassifier.from_pretrained("syncmnist").eval()
    assert model.classes[:3] == ["1+0", "2+0", "2+1"] and model.classes[45:] == ["none"]
    t, y, x = torch.meshgrid(*(torch.arange(n) for n in (10, 64, 64)), indexing="ij")
    clip = torch.zeros(10, 64, 64)
    for row, column, down, right, hole in ((10, 12, 3, 2, 9), (24, 34, 3, 2, 25), (50, 40, -4, 1, -1)):
        distance = (y - row - down * t) ** 2 + (x - column - right * t) ** 2
        clip[(distance < 50) & (distance > hole)] = 255
    with torch.no_grad():
        logits = model((clip[None, None] - 12) / 45)
    assert logits.shape == (1, 46)
    recorded = torch.tensor([5.9209, 8.1840, -0.5878, 9.6220, 1.5187, -0.6090])
    torch.testing.assert_close(logits[0, :6], recorded, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_smt_demo_predicts_clips_that_it_has_never_seen(tmp_path):
    """Its card says 99.5 % of the validation clips."""
    predictor, clips, right = Predictor.load("smt_demo", "cpu"), MiniSomething(size=52, seed=7), 0
    for item in range(30):
        folder = tmp_path / str(item)
        folder.mkdir()
        for t, frame in enumerate(clips.render("test", item)):
            Image.fromarray(frame).save(folder / f"{t:02d}.png")
        right += predictor(folder, top=1)[0].name == clips.label(item)
    assert right >= 28
