"""Files from strangers: no command runs what is in them, and each says in a line that it does not."""

import gzip
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import fails
from helpers.tiny_run import ONE_FILTER, write_tiny
from safetensors.torch import save_file

from rstg_pyg.official.__main__ import main as convert
from rstg_pyg.train.config import parse_config, to_dict
from rstg_pyg.train.data.labels import read_annotations
from rstg_pyg.train.data.mini import write_mini_something
from rstg_pyg.train.data.sources import open_source
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.predict import main as predict
from rstg_pyg.train.prepare import main as prepare
from rstg_pyg.train.report import main as report
from rstg_pyg.train.run import main as run

MARK = "code-was-run"
RESNET = ("model.backbone={kind: c2d, depths: [1], width: 4, small_stem: true, weights: ~FILE~}",)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (MARK,)


def raw(path):
    path.write_bytes(pickle.dumps({"state_dict": Bomb()}))


def zipped(path):
    torch.save({"config": {}, "origin": "x", "global_step": 1, "state_dict": {"a": Bomb()}}, path)


def legacy(path):
    content = {"config": Bomb(), "origin": "x", "global_step": 1, "state_dict": {}}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def arrays(path):
    with open(path, "wb") as file:
        np.savez(file, **{"pred/bias": np.array([Bomb()], dtype=object)})


def one_array(path):
    with open(path, "wb") as file:
        np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)


KINDS = (raw, zipped, legacy, arrays, one_array)
COMMANDS = {
    "resume": (run, ["--cfg", "tiny.yaml", "--resume", "~FILE~"], (".ckpt", ".pt")),
    "evaluate": (run, ["--cfg", "tiny.yaml", "--evaluate", "~FILE~"], (".ckpt", ".pkl",
    ".safetensors")),
    "predict": (predict, ["video.mp4", "--ckpt", "~FILE~"], (".ckpt", ".npz", ".safetensors")),
    "backbone": (run, ["--cfg", "tiny.yaml", "data.num_workers=0", "model.rstg=null", *RESNET],
                 (".pkl", ".pth", ".safetensors")),
    "convert": (convert, ["~FILE~", "--cfg", "tiny.yaml", "--out", "out.safetensors"], (".npz",)),
    "config": (run, ["--cfg", "~FILE~"], (".yaml",)),
    "report": (report, ["~FILE~"], (".json",)),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, model=ONE_FILTER, train={"max_steps": 1})
    return tmp_path


def refused(command, arguments, capsys):
    """The command's one line, with nothing run."""
    message = fails(capsys, command, *arguments)
    assert not Path(MARK).exists()
    return message


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_pickle_that_would_run_code_is_refused(folder, capsys, name):
    command, arguments, suffixes = COMMANDS[name]
    for kind in KINDS:
        for suffix in suffixes:
            path = folder / f"{kind.__name__}{suffix}"
            kind(path)
            message = refused(command, [a.replace("~FILE~", str(path)) for a in arguments], capsys)
            assert path.name in message


def test_they_would_have_run_code(folder):
    for kind in KINDS:
        kind(folder / "x")
        data = (folder / "x").read_bytes()
        if kind in (zipped, legacy):
            torch.load("x", weights_only=False)
        elif kind in (arrays, one_array):
            found = np.load("x", allow_pickle=True)
            found if kind is one_array else found["pred/bias"]
        else:
            pickle.loads(data)
        os.rmdir(MARK)


def test_a_tensorflow_checkpoint_of_pickles(folder, capsys):
    pytest.importorskip("tensorflow")
    raw(folder / "m.ckpt.index")
    raw(folder / "m.ckpt.data-00000-of-00001")
    message = refused(convert, ["m.ckpt", "--cfg", "tiny.yaml", "--out", "o.safetensors"], capsys)
    assert "m.ckpt: not a readable TensorFlow checkpoint" in message


@pytest.fixture
def root(folder):
    return write_mini_something(folder / "data", train=2, validation=1, size=16, num_frames=2)


DATA = "{dataset: something, root: data, num_frames: 2, short_side: 16, crop_size: 16, num_workers: 0}"
SOMETHING = (f"data={DATA}", "--cfg", "tiny.yaml")
VIDEOS = "20bn-something-something-v1"


def test_pickles_in_the_place_of_data(folder, root, capsys):
    lists = "something-something-v1-{}.csv"
    shutil.copytree(root, folder / "kept")
    for place in (
        lists.format("train"),
        lists.format("labels"),
        f"{VIDEOS}/*/00001.jpg",
        "videos.lmdb",
    ):
        shutil.rmtree(root)
        shutil.copytree(folder / "kept", root)
        for path in list(root.glob(place)) or [root / place]:
            raw(path)
        message = refused(run, SOMETHING, capsys)
        assert Path(place).name in message
        shutil.rmtree("runs", ignore_errors=True)
    idx = folder / "mnist"
    idx.mkdir()
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        raw(idx / name)
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (idx / name).write_bytes(b"")
    message = refused(run, ["--cfg", "tiny.yaml", "data.digits=mnist", f"data.root={idx}"], capsys)
    assert "not an IDX file" in message
    raw(folder / "cache.json")
    os.remove(root / "mini-something.json")
    raw(root / "mini-something.json")
    with pytest.raises(UserError, match="no readable mini-something.json"):
        write_mini_something(root, train=2, validation=1, size=16, num_frames=2)
    assert not Path(MARK).exists()


def test_a_small_file_that_unpacks_to_a_large_one(folder, capsys):
    (folder / "mnist").mkdir()
    with gzip.open(folder / "mnist/train-images-idx3-ubyte.gz", "wb", 1) as file:
        file.write(bytes((1 << 27) + 1))
    (folder / "mnist/train-labels-idx1-ubyte.gz").write_bytes(b"")
    message = refused(run, ["--cfg", "tiny.yaml", "data.digits=mnist", "data.root=mnist"], capsys)
    assert "holds more than 128 MiB" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"config": []}, {"config": {"model": 3}}, {"config": {"x": 1}}, {"state_dict": []},
        {"global_step": "x"},
        {"state_dict": {1: torch.ones(1)}}, {"state_dict": {"model.lin.weight": "x"}}, {"origin": None},
        {"state_dict": {"model.lin.weight": torch.ones(())}}, {"label_names": 3}, {"label_names": [1,
        2]},
        {"state_dict": {"model.lin.weight": torch.ones(3, 4)}}, {"state_dict": {}},
        {"state_dict": {"model.lin.weight": torch.ones(4, 4).cfloat()}},
    ],
)  # fmt: skip
def test_checkpoints_of_other_things(folder, capsys, changes):
    config = {k: v for k, v in to_dict(parse_config({"name": "x"}, "x")).items() if k != "name"}
    content = {"config": config, "origin": "x", "global_step": 1, "state_dict": {}} | changes
    torch.save(content, "a.ckpt")
    assert "a.ckpt" in refused(predict, ["video.mp4", "--ckpt", "a.ckpt"], capsys)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, "9" * 5000, '{"config": []}',
    '{"config": {"model": {}, "data": 1}}',
             '{"config": {"model": {"x": 1}, "data": {}}}'],
)  # fmt: skip
def test_safetensors_of_other_things(folder, capsys, text):
    save_file({"lin.weight": torch.ones(3, 4)}, "a.safetensors", {"rstg_pyg": text})
    assert "a.safetensors" in refused(predict, ["video.mp4", "--ckpt", "a.safetensors"], capsys)


OUTSIDE = ("../secret", f"{VIDEOS}/../../secret", "/etc/passwd", "~/secret", "..\\secret", "C:secret")


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["v1", "v2", "tsm"])
def test_a_label_file_cannot_name_what_is_outside(folder, root, kind, name):
    shutil.copytree(root / VIDEOS / next(iter(os.listdir(root / VIDEOS))), folder / "secret")
    path = root / "something-something-v1-train.csv"
    label = path.read_text().splitlines()[0].partition(";")[2]
    if kind == "v1":
        path.write_text(f"{name};{label}\n")
    elif kind == "v2":
        (root / "labels.json").write_text(json.dumps({label: "0"}))
        path = root / "train.json"
        path.write_text(json.dumps([{"id": name, "template": label}]))
    else:
        (root / "category.txt").write_text("A\n")
        path = root / "train_videofolder.txt"
        path.write_text(f"{name} 2 0\n")
    if name.startswith("~"):  # a folder of that name, which is not there
        labels = read_annotations(root, kind)
        with pytest.raises(UserError, match="none of the videos is in|has no videos"):
            open_source(root, [labels.splits["train"][0].id])
        return
    with pytest.raises(UserError, match="expected the name of a video below the data folder") as caught:
        read_annotations(root, kind)
    assert str(caught.value).startswith(f"{path}, ")


def test_links_that_the_user_made_are_followed(folder, root):
    """A link is the folder's owner's doing, not a label file's: videos often lie on another disk."""
    videos = root / VIDEOS
    videos.rename(folder / "elsewhere")
    videos.symlink_to(folder / "elsewhere")
    ids = [video.id for video in read_annotations(root).splits["train"]]
    assert open_source(root, ids).num_frames(ids[0]) == 2


def test_commands_that_look_at_data_refuse_the_same(folder, root, capsys):
    path = root / "something-something-v1-train.csv"
    path.write_text("../secret;Moving something up\n")
    assert prepare(["check", "--root", str(root), "--workers", "1"]) == 2
    assert "expected the name of a video below the data folder" in capsys.readouterr().out
    assert "below the data folder" in refused(prepare, ["pack", "--root", root, "--out", "p"], capsys)
    assert not (folder / "p").exists() and not (folder / "p.partial").exists()
