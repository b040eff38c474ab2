"""Damaged label files: the data loads as if nothing was wrong, or a message names the file.
"""

import json
import shutil

import pytest
from helpers.damaged_data import CLASSES, SPLITS, Case, write_labels
from helpers.fuzz import SPECIAL, damage, examples, remove
from hypothesis import given
from hypothesis import strategies as st

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

LISTS = ("v1", "v2", "tsm", "mmaction")
#: Ids that name nothing below the data set's folder, or nothing that a file system can hold.
WRONG_IDS = (
    "..", "../2", "../../secret", "2/../../../secret", "/etc/passwd", "/", ".", "", " ", "a\0b",
    "..\\2", "C:\\2", "C:2", "\\\\host\\share", "2/..", "x" * 300, "x/" * 3000, "²", "٢", "9" * 5000,
    "a\nb", "\x1b[2J", "~/x", "~root", "%2e%2e/2", "\u202e2", "-rf", "*", "con",
    "$(touch code-was-run)", "file:///etc/passwd", "http://127.0.0.1/2", "concat:1|2", "\ud800",
)  # fmt: skip
GOOD_IDS = ("a b", "ä ö", "日本語", "é" * 60, "sub/dir/2", "x.y.z", "'quoted'", '"', "100%", "#1",
            "a,b", "{0}", "%s", "🎥", "name.jpg")  # fmt: skip


@examples(16)
@given(st.sampled_from(LISTS), st.sampled_from(WRONG_IDS))
def test_wrong_ids(whole, kind, name):
    with Case(whole, "frames") as case:
        shutil.copytree(case.bad, case.root.parent / "secret")
        write_labels(case.root, kind, {**SPLITS, "train": {"1": 0, name: 1}})
        case.ends("not load", "train", "videos", name[:20], annotations=option(kind))


@examples(12)
@given(st.sampled_from(LISTS), st.sampled_from(GOOD_IDS), st.sampled_from(["frames", ".mp4"]))
def test_odd_ids(whole, kind, name, layout):
    layout = "frames" if kind in ("tsm", "mmaction") else layout
    with Case(whole, layout) as case:
        target = case.videos / (name if layout == "frames" else f"{name}{layout}")
        target.parent.mkdir(parents=True, exist_ok=True)
        case.bad.rename(target)
        write_labels(case.root, kind, {**SPLITS, "train": {"1": 0, name: 1}})
        case.ends("load", annotations=option(kind))


def option(kind):
    return kind if kind in ("tsm", "mmaction") else "auto"


@examples(24)
@given(st.sampled_from(LISTS), st.integers(0, 2), damage() | st.sampled_from(list(SPECIAL)))
def test_label_files(whole, kind, which, done):
    with Case(whole, "frames") as case:
        path = write_labels(case.root, kind)[which]
        names = (path.name, "something-something", "label", "category", "videos", "list of")
        data = path.read_bytes()
        if isinstance(done, str):
            remove(path)
            SPECIAL[done](path)
            case.ends("not load", *names, annotations=option(kind))
        else:
            path.write_bytes(done[1](data))
            case.ends("load" if done[1](data) == data else "change", *names, annotations=option(kind))


WRONG = (None, True, 1.5, -1, 10**30, "", "x", [], {}, [[]], {"a": 1}, float("nan"), 2**63)


@examples(16)
@given(
    st.sampled_from(["labels", "train", "validation"]),
    st.sampled_from(WRONG),
    st.sampled_from(["id", "template", "entry", "all"]),
)
def test_label_values_of_other_types(whole, name, wrong, place):
    with Case(whole, "frames") as case:
        write_labels(case.root, "v2")
        path = case.root / f"{name}.json"
        content = json.loads(path.read_text())
        if place == "all":
            content = wrong
        elif name == "labels":
            content[CLASSES[1]] = wrong
        elif place == "entry":
            content[-1] = wrong
        else:
            content[-1][place] = wrong
        path.write_text(json.dumps(content))
        case.ends("not load", path.name, "videos", "labels.json")


BY_HAND = {
    "a mark at the beginning": (lambda text: b"\xef\xbb\xbf" + text, "load"),
    "line ends of Windows": (lambda text: text.replace(b"\n", b"\r\n"), "load"),
    "blank lines": (lambda text: b"\n \n" + text + b"\n\n", "load"),
    "UTF-16": (lambda text: text.decode().encode("utf-16"), "not load"),
    "Latin-1": (lambda text: text + b"\xe9", "not load"),
    "everything twice": (lambda text: text + b"\n" + text, "not load"),
    "deep brackets": (lambda text: b"[" * 100_000 + text, "not load"),
    "a long number": (lambda text: text + b"9" * 5000, "change"),
    "a zero byte": (lambda text: b"\0" + text, "not load"),
    "many lines": (lambda text: text + b"\n".join(b"%d;no 1 1" % i for i in range(9000)), "change"),
}


@examples(24)
@given(st.sampled_from(LISTS), st.integers(0, 2), st.sampled_from(list(BY_HAND)))
def test_label_files_made_by_hand(whole, kind, which, what):
    change, may = BY_HAND[what]
    with Case(whole, "frames") as case:
        files = write_labels(case.root, kind)
        files[which].write_bytes(change(files[which].read_bytes()))
        if what == "deep brackets" and kind != "v2":
            may = "change"
        case.ends(may, *(path.name for path in files), "label", "videos", annotations=option(kind))
