"""README and docs: their code runs, their commands are understood, their links lead somewhere and their
figures are those of committed files.
"""

import json
import re

import av
import numpy as np
import pytest
from helpers import pages

from rstg_pyg.train.errors import UserError

ROOT, PAGES = pages.ROOT, pages.PAGES
README = (ROOT / "README.md").read_text()
TUTORIALS = [page for page in PAGES if page.parent.name == "tutorials"]
OTHERS = [page for page in PAGES if page not in TUTORIALS]
PYTHON = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{block.line}")
    for page in OTHERS
    for block in pages.blocks_of(page)
    if block.language == "python"
]
#: What a block may be: run or checked here; output and files to read; parts of Sphinx.
LANGUAGES = {"python", "sh", "", "text", "yaml", "{eval-rst}", "{generated}", "{include}", "{toctree}"}


def name(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with the commands where the pages have them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for room in ("train", "tests"):
        (tmp_path / room).symlink_to(ROOT / room)
    return tmp_path


def write_clips(folder):
    """A few videos of two classes, and one more."""
    random = np.random.default_rng(0)
    names = [f"clips/train/{name}/{n}.mp4" for name in ("left", "right") for n in range(4)]
    for name in [*names, "clip.mp4"]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as file:
            stream = file.add_stream("mpeg4", rate=12)
            stream.width, stream.height, stream.pix_fmt = 64, 56, "yuv420p"
            for frame in random.integers(0, 256, (8, 56, 64, 3), dtype=np.uint8):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(stream.encode())


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON)
def test_code_blocks_run_and_give_what_they_say(folder, block):
    if 'root="clips"' in block.text:
        write_clips(folder)
    assert pages.run_python(block, {}) > 0, "the block says nothing that could be compared"


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=name)
def test_tutorials_run_from_top_to_bottom(folder, page):
    namespace, compared = {}, 0
    for block in pages.blocks_of(page):
        script = re.match(r"# (\w+\.py)\n", block.text)
        if script:
            (folder / script[1]).write_text(block.text)
        elif block.language == "python":
            compared += pages.run_python(block, namespace)
        elif block.language == "sh":
            for command in block.commands():
                assert pages.run_command(command) == 0, command
        elif block.language == "yaml":
            name = block.text.splitlines()[0].removeprefix("# ")  # "save this as ..."
            (folder / name).write_text(block.text)
    assert compared > 0


@pytest.mark.parametrize("page", OTHERS, ids=name)
def test_commands_are_understood(page):
    for block in pages.blocks_of(page):
        if block.language == "sh":
            for command in block.commands():
                pages.check_command(command)


@pytest.mark.parametrize(
    "command",
    [
        "python train/run.py --cfg smt.yaml train.rl=1",
        "python train/run.py --cfg no.yaml",
        "python train/predict.py a.mp4 --ckpt X --no-such-option",
        "python -m rstg_pyg.train.prepare no-such-part",
        "python train/no_such_command.py",
        "rm -r runs",
    ],
)
def test_wrong_commands_are_not(command):
    with pytest.raises((UserError, SystemExit, ImportError, AssertionError)):
        pages.check_command(command)


def test_wrong_comments_are_seen():
    for text in ("print(1)  # 2\n", "import torch\nx = torch.zeros(2, 3)  # [2, 4]\n"):
        with pytest.raises(AssertionError):
            pages.run_python(pages.Block(ROOT / "README.md", 1, "python", text), {})


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_of_a_known_kind(page):
    assert {block.language for block in pages.blocks_of(page)} <= LANGUAGES


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_two_commands():
    commands = [
        'pip install -e ".[train]" && python train/run.py --cfg smt.yaml',
        'pip install -e ".[test]" && python -m pytest',
    ]
    for command in commands:
        assert f"```sh\n{command}\n```" in README
    assert (ROOT / "train/configs/smt.yaml").is_file()


def committed(name):
    return json.loads((ROOT / f"docs/results/{name}.json").read_text())


def test_memory_of_a_step_comes_from_the_committed_file():
    page = (ROOT / "docs/something_something.md").read_text()
    rows = re.findall(r"^\| (\S+) \| (on|off) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert {(precision, what == "on"): gib for precision, what, gib in rows} == {
        (row["precision"], row["grad_checkpointing"]): f"{row['gib']['together']:.1f}"
        for row in committed("footprint")["rows"]
    }


def test_seconds_and_rates_come_from_committed_files():
    run, bench = committed("positional_all_temp"), committed("bench_data")
    first, large = committed("first_command"), committed("smt_full_size_cpu")
    pages_read = (ROOT / "docs/syncmnist.md", ROOT / "docs/something_something.md")
    syncmnist, page = (" ".join(path.read_text().split()) for path in pages_read)
    share, slow = (100 * run["training"][key] for key in ("data_share", "slow_data_steps"))
    assert (
        f"took {run['seconds']:.0f} s on two cores, {share:.1f} % of it waiting for data" in syncmnist
    )
    assert f"({slow:.2f} % of the steps" in syncmnist
    assert f"makes {bench['videos_per_second']:,.0f} videos/s" in syncmnist
    assert f"{first['seconds']} s after installing" in page
    assert f"{first['of_which_training']:.0f} s of them training" in page
    half, reached = committed("first_command_bf16"), committed("smt_first_command_bf16")["top1"]
    seconds = f"it took {half['seconds']} s, {half['of_which_training']:.0f} s of them training"
    assert seconds in page and f"[{100 * reached:.1f} %](results/smt_first_command_bf16.json)" in page
    assert f"took {large['training']['train_seconds']:.0f} s, and one video" in page
    assert f"x 256, {large['test_seconds']:.0f} s" in page


def test_errors_against_the_published_code_come_from_the_committed_file():
    page = (ROOT / "docs/published_code.md").read_text()
    errors = committed("published_code")["largest_relative_errors"]
    rows = re.findall(r"^\| ([gwt]\w+) \| (\S+) \| (\S+) \|$", page, re.MULTILINE)
    assert {name for name, _, _ in rows} == set(errors)
    for name, worst, tolerance in rows:
        assert worst == f"{errors[name]['worst']:.1e}" and float(tolerance) == errors[name]["tolerance"]
        assert errors[name]["worst"] <= errors[name]["tolerance"]


def test_figures_come_from_committed_results():
    row = r"^\| \[([^\]]+)\]\((\S*results/\S+\.json)\) \| ([\d.]+){} \|"
    rows = re.findall(row.format(""), README, re.MULTILINE)
    syncmnist = (ROOT / "docs/syncmnist.md").read_text()
    more = re.findall(row.format(" %"), syncmnist, re.MULTILINE)
    assert len(rows) >= 4 and len(more) == 4
    for name, path, top1 in rows + [(name, f"docs/{path}", top1) for name, path, top1 in more]:
        results = json.loads((ROOT / path).read_text())
        assert f"{100 * results['top1']:.1f}" == top1, name
        assert results["num_videos"] >= 1000

