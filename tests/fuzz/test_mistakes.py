"""Users' mistakes: each command ends with exit code 2 and a message of a few lines, or does what was
asked for where that is possible. There is no traceback, and every file is there as it was.
"""

import contextlib
import copy
import fnmatch
import hashlib
import importlib
import io
import json
import os
import shutil
import traceback
from pathlib import Path

import numpy
import pytest
import torch
from helpers.fuzz import FOREIGN, SPECIAL, damage, examples, inside, put, remove, within
from helpers.tiny_run import ONE_FILTER, write_tiny
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from rstg_pyg.train.config import Config, load_config, to_dict
from rstg_pyg.train.data.mini import write_mini_something
from rstg_pyg.train.run import main as run

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

SOME = """
name: some
data: {dataset: something, root: data, num_frames: 2, short_side: 16, crop_size: 16, num_workers: 0}
model: {backbone: {filters: [4], padding: 1}, rstg: {hidden_channels: 8, scales: [2, 1]}}
train: {batch_size: 2, max_steps: 1}
trainer: {accelerator: cpu, progress_bar: false, threads: 1}
"""
CKPT, CLIP = "runs/some/checkpoints/best.ckpt", "data/20bn-something-something-v1/1"
LABELS = "data/something-something-v1-train.csv"
RESULTS = "table/mini/5digits/ours/seed0/results.json"
TABLE = ["--size", "mini", "--table-only", "--out", "table"]
STEPS = ["--steps", "2", "--seeds", "1"]
#: Every command: its module, the words of a command line that works, what it reads, and the option with
#: which it writes a file or folder.
COMMANDS = {
    "run": ("train.run", "--cfg tiny.yaml", ["tiny.yaml"], "--out o"),
    "run on data": ("train.run", "--cfg some.yaml", ["some.yaml", "data", LABELS], "--out o"),
    "resume": ("train.run", "--cfg tiny.yaml --resume --out half", ["half/checkpoints/last.ckpt",
               "half/checkpoints/step-1.ckpt", "half/metrics.csv", "half/tensorboard", "half"], ""),
    "evaluate": ("train.run", f"--cfg some.yaml --evaluate {CKPT}", [CKPT, "data"], "--out o"),
    "predict": ("train.predict", f"{CLIP} --ckpt {CKPT} --device cpu", [CKPT, CLIP], "--json o.json"),
    "overlay": ("train.predict", f"video.gif --ckpt {CKPT}", ["video.gif", CKPT], "--overlay o.png"),
    "check": ("train.prepare", "check --root data --workers 1", ["data", LABELS], ""),
    "pack": ("train.prepare", "pack --root data --workers 1", ["data", LABELS], "--out o"),
    "show": ("train.prepare", "show --cfg tiny.yaml", ["tiny.yaml"], "--out o.png"),
    "bench": ("train.prepare", "bench-data --cfg tiny.yaml --seconds 0.01", ["tiny.yaml"],
              "--out o.json"),
    "reproduce": ("train.reproduce", f"syncmnist {' '.join(TABLE)}", [RESULTS], ""),
    "figures": ("train.reproduce", "figures runs/tiny --videos 8", ["runs/tiny/config.yaml",
                "runs/tiny/metrics.csv", "runs/tiny/checkpoints/best.ckpt"], "--out o"),
    "report": ("train.report", "runs/tiny --no-flops", ["runs/tiny", "runs/tiny/results.json"],
               "--out o.md"),
    "export": ("train.export", f"{CKPT} --out o.pt2", [CKPT], ""),
    "footprint": ("train.footprint", "--cfg tiny.yaml --stream 3", ["tiny.yaml"], "--json o.json"),
    "sensor": ("train.sensor_network", " ".join(STEPS), [], "--out o.json"),
    "official": ("official.__main__", "x.npz --cfg tiny.yaml --out o.safetensors",
                 ["x.npz", "tiny.yaml"], ""),
}  # fmt: skip
#: Files that a command is there to change.
MAY_CHANGE = {"resume": ["half*"], "reproduce": ["table/*"], "figures": ["o*"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A user's folder: configs, runs, data, published weights, a video, files of other kinds."""
    folder = tmp_path_factory.mktemp("home")
    with inside(folder):
        often = {"max_steps": 2, "validate_every": 1, "log_every": 1}
        write_tiny(folder, model=ONE_FILTER, train=often)
        Path("some.yaml").write_text(SOME)
        write_mini_something("data", train=3, validation=2, size=16, num_frames=2)
        assert run(["--cfg", "tiny.yaml"]) == run(["--cfg", "some.yaml"]) == 0
        shutil.copytree("runs/tiny", "half")  # a run that is not done
        for name in ("results.json", *(f"checkpoints/{n}.ckpt" for n in ("step-2", "last", "best"))):
            Path("half", name).unlink()
        for name in ("last", "best"):
            os.link("half/checkpoints/step-1.ckpt", f"half/checkpoints/{name}.ckpt")
        Path(RESULTS).parent.mkdir(parents=True)
        shutil.copy("runs/tiny/results.json", RESULTS)
        frames = [Image.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(4)]
        frames[0].save("video.gif", save_all=True, append_images=frames[1:])
        numpy.savez("x.npz", **{"pred/bias": numpy.ones(4, "f")})
        Path("precious.json").write_text('{"mine": true}\n')
        Path("precious.csv").write_text("a,b\n1,2\n")
    return folder


def files(folder):
    """Names below a folder with what they are."""
    out = {}
    for path, folders, names in os.walk(folder):
        for name in (*folders, *names):
            one = Path(path, name)
            what = "folder" if one.is_dir() else "special"
            if one.is_symlink():
                what = f"link to {os.readlink(one)}"
            elif one.is_file():
                regular = one.stat().st_size < 1 << 30
                what = hashlib.sha256(one.read_bytes()).hexdigest() if regular else "huge"
            out[str(one.relative_to(folder))] = what
    return out


class Mistakes:
    """Makes mistakes in copies of the user's folder, one after the other, and looks how it ends.

    Args:
        home: The folder.
        place: Where its copies are put.
    """

    def __init__(self, home, place):
        self.home, self.place, self.codes = home, place / "home", set()

    def ends(self, command, arguments, make=lambda: None, names=(), may_change=()):
        """Runs a command after ``make``; a message must name one of ``names``."""
        remove(self.place) if self.place.exists() else None
        shutil.copytree(self.home, self.place, symlinks=True)
        said, code = io.StringIO(), "traceback"
        main = importlib.import_module(f"rstg_pyg.{COMMANDS[command][0]}").main
        with inside(self.place):
            make()
            before = files(".")
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), within(120, 3000):
                try:
                    code = main(list(arguments))
                except SystemExit as error:  # argparse's
                    code = error.code or 0
                except Exception:
                    traceback.print_exc(file=said)
            after = files(".")
        text = said.getvalue()
        where = f"{command}: {arguments}: exit code {code}\n{text[-2000:]}"
        assert "Traceback (most recent" not in text and code in (0, 1, 2), where
        free = (*may_change, *MAY_CHANGE.get(command, ()))
        for name, content in before.items():
            same = after.get(name) == content or any(fnmatch.fnmatch(name, one) for one in free)
            assert same, f"{name} is lost or changed: {where}"
        assert not [n for n in after if n.endswith(".tmp") and n not in before], where
        self.codes.add(code)
        if code == 2 and "usage: " not in text and command != "check":  # that says it in a report
            errors = [line for line in text.splitlines() if "error: " in line]
            message = text[text.index("error: ") :] if errors else ""
            assert message and len(message) <= 3000 and message.count("\n") <= 4, where
            assert not names or any(name in message for name in names), f"none of {names}: {where}"
        return code


@pytest.fixture
def mistakes(home, tmp_path):
    return Mistakes(home, tmp_path)


def words(command, out=True):
    line, option = COMMANDS[command][1].split(), COMMANDS[command][3].split()
    return [*line, *(option if out else [])]


@pytest.mark.parametrize("command", [name for name in COMMANDS if COMMANDS[name][2]])
def test_files_that_are_read(mistakes, command):
    @examples(4)
    @given(st.data())
    def try_one(data):
        name = data.draw(st.sampled_from(COMMANDS[command][2]))
        kinds = st.sampled_from(list(SPECIAL)) | st.sampled_from(FOREIGN)
        kinds = kinds | damage() if Path(name).suffix not in ("", ".yaml") else kinds
        done = data.draw(kinds)
        assume(done != b"" or Path(name).suffix != ".yaml")  # an empty config is a large training

        def make():
            path = Path(name)
            if isinstance(done, str):
                remove(path)
                SPECIAL[done](path)
            else:
                changed = done if isinstance(done, bytes) else done[1](path.read_bytes())
                put(path, changed)

        known = ("--cfg", "--root", "data.root", "checkpoint", "run", "cannot", "problem")
        mistakes.ends(command, words(command), make, (Path(name).name, name.split("/")[0], *known))

    try_one()


#: Names that lead nowhere, or that nothing can be written to.
NOWHERE = ("", ".", "tiny.yaml/x", "x" * 300, "caf\udce9", "~nobody-of-this-name/x", "/dev/zero",
           "a\nb")  # fmt: skip
MINE = ("precious.csv", "precious.json", "tiny.yaml", CKPT, "video.gif", "runs/tiny", "data",
        "runs/tiny/results.json", "runs/tiny/metrics.csv", "runs/tiny/confusion.png")  # fmt: skip


def may_be_written(name, out):
    """Whether a file of that kind may be written anew, or into that folder."""
    kinds = ({".json"}, {".png", ".gif"}, {".md", ".csv"}, {""})
    return "runs/tiny" not in name and any({Path(name).suffix, Path(out).suffix} <= k for k in kinds)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_lines(mistakes, command):
    @examples(5)
    @given(st.data())
    def try_one(data):
        line = words(command)
        first = 1 if COMMANDS[command][0] in ("train.prepare", "train.reproduce") else 0
        at = data.draw(st.integers(first, len(line) - 1))
        kind = data.draw(st.sampled_from(["lose", "nowhere", "wrong", "another", "unknown", "twice"]))
        if kind == "lose":
            del line[at]
        elif kind == "unknown":
            line.insert(at, data.draw(st.sampled_from(["--epochs", "extra", "=3", "train.lr", "x=1"])))
        elif kind == "twice":
            line.insert(at, line[at])
        else:
            assume(not line[at].startswith("--"))
            wrong = ("0", "-1", "x", "nan", "9" * 30, "1e400", "o.pdf", "o", "missing/o/")
            names = {"nowhere": NOWHERE, "wrong": wrong, "another": MINE}[kind]
            line[at] = data.draw(st.sampled_from(names))
            writes = at == len(line) - 1 and COMMANDS[command][3]
            assume(not (kind == "another" and writes and may_be_written(line[at], words(command)[-1])))
        mistakes.ends(command, line)

    try_one()


@pytest.mark.parametrize("command", [name for name in COMMANDS if COMMANDS[name][3]])
def test_places_that_cannot_be_written(mistakes, command):
    *line, out = words(command)
    for kind in ("a folder", "a pipe", "a link to itself"):
        code = mistakes.ends(command, [*line, out], lambda kind=kind: SPECIAL[kind](Path(out)))
        assert code == 2 or not Path(out).suffix
    for name in (f"tiny.yaml/{out}", "", "runs/tiny", *(n for n in MINE if not may_be_written(n, out))):
        assert mistakes.ends(command, [*line, name]) == 2, name


def keys(values, prefix=""):
    """The dotted keys of a config."""
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


ABSURD = ("0", "-1", "1", "2.5", "x", "[]", "{}", "null", "true", ".nan", ".inf", "1e38", "1e-300",
          "99999999999")  # fmt: skip


@pytest.mark.parametrize("command", ["run", "run on data", "show", "bench", "footprint"])
def test_values_that_nothing_can_be_computed_with(mistakes, home, command):
    cfg = "some.yaml" if command == "run on data" else "tiny.yaml"
    with inside(home):
        known = [*keys(to_dict(load_config(cfg))), *Config.model_fields]

    @examples(10)
    @given(st.sampled_from(known), st.sampled_from(ABSURD))
    def try_one(key, value):
        assume(key not in ("train.max_steps", "train.epochs"))
        mistakes.ends(command, [*words(command), f"{key}={value}"])

    try_one()


WRONG = (..., None, 7, -1, 10**400, 2.5, float("nan"), True, "x", [], {}, [{}], {"x": 1})


def change(found, data, values):
    """Changes or removes something anywhere in nested values."""
    while True:
        inner = list(found) if isinstance(found, dict) else range(len(found))
        key = data.draw(st.sampled_from(inner))
        deeper = isinstance(found[key], dict | list) and len(found[key]) > 0
        if not deeper or data.draw(st.integers(0, 2)) == 0:
            value = data.draw(st.sampled_from(values))
            if value is ...:
                del found[key]
            else:
                found[key] = copy.deepcopy(value)
            return
        found = found[key]


@pytest.mark.parametrize(
    ("command", "name"), [("report", "runs/tiny/results.json"), ("reproduce", RESULTS)]
)
def test_values_of_results(mistakes, home, command, name):
    @examples(12)
    @given(st.data())
    def try_one(data):
        found = json.loads((home / name).read_text())
        change(found, data, WRONG)
        text = json.dumps(found).encode()
        names = ("results.json", str(Path(name).parent))
        mistakes.ends(command, words(command), lambda: put(Path(name), text), names, [name])

    try_one()


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_values_of_checkpoints(mistakes, home, command):
    @examples(8)
    @given(st.data())
    def try_one(data):
        found = torch.load(home / CKPT, weights_only=True)
        tensors = (torch.ones(9, 8), torch.ones(4, 8).cfloat(), torch.ones(0, 8), torch.ones(()))
        change(found, data, [*(w for w in WRONG if w != 10**400), *tensors])

        def make():
            Path(CKPT).unlink()
            torch.save(found, CKPT)

        mistakes.ends(command, words(command), make, ("best.ckpt",))

    try_one()


def test_every_command_has_its_mistakes():
    folder = Path(__file__).resolve().parents[2] / "train"
    text = 'if __name__ == "__main__":'
    scripts = {path.stem for path in folder.glob("*.py") if text in path.read_text()}
    known = {module.removeprefix("train.") for module, *_ in COMMANDS.values()}
    assert scripts - {"benchmark", "peers", "demo"} <= known  # minutes, and a server
