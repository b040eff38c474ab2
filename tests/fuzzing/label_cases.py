"""Damaged and strange label files."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

from fuzzing.cases import BAD, CLASSES, FRAMES, SPLITS, Case, Templates, kind, write_json, write_labels
from fuzzing.damage import BYTES

LISTS = ("v1", "v2", "tsm", "mmaction")


def _labeled(root: Path, templates: Templates, layout: str) -> list[Path]:
    """A data set of frames with label files of a kind; returns those files."""
    templates.copy("frames", root)
    if layout == "v1":
        return sorted(root.glob("*.csv"))
    for path in root.glob("*.csv"):
        path.unlink()
    if layout == "v2":
        write_labels(root, "v2")
        return sorted(root.glob("*.json"))
    classes, lists = ("category.txt", "{}_videofolder.txt") if layout == "tsm" else (
        "label_map.txt", "sthv1_{}_list_rawframes.txt")  # fmt: skip
    (root / classes).write_text("\n".join(CLASSES))
    for split, word in (("train", "train"), ("validation", "val")):
        lines = [f"{video} {FRAMES} {label}\n" for video, label in SPLITS[split].items()]
        (root / lists.format(word)).write_text("".join(lines))
    return sorted(root.glob("*.txt"))


def _option(layout: str) -> str:
    return layout if layout in ("tsm", "mmaction") else "auto"


def _label_damage(layout: str, damage) -> None:
    @kind(f"label file {layout} {damage.__name__}", 3)
    def make(rng: random.Random, root: Path, templates: Templates) -> Case:
        path = rng.choice(_labeled(root, templates, layout))
        data = path.read_bytes()
        damaged = damage(rng, data)
        path.write_bytes(damaged)
        names = (path.name, "something-something", "label", "category", "videos")
        return Case(names, "load" if damaged == data else "change", _option(layout))


for _layout in LISTS:
    for _bytes in BYTES:
        _label_damage(_layout, _bytes)

#: Ids that name nothing below the data set's folder, or nothing that a file system can hold.
WRONG_IDS = (
    "..", "../2", "../../secret", "2/../../../secret", "/etc/passwd", "/", ".", "", " ", "a\0b",
    "..\\2",
    "C:\\2", "C:2", "\\\\host\\share", "2/..", "x" * 300, "x/" * 3000, "²", "٢", "9" * 5000, "a\nb",
    "\x1b[2J",
    "~/x", "~root", "%2e%2e/2", "\u202e2", "-rf", "*", "con", "$(touch code-was-run)", "file:///etc/passwd",
    "http://127.0.0.1/2", "concat:1|2", "\ud800",
)  # fmt: skip


@kind("label file with a wrong id", 8)
def _(rng, root, templates):
    layout = rng.choice(LISTS)
    files = _labeled(root, templates, layout)
    name = rng.choice(WRONG_IDS)
    secret = root.parent / "secret"
    shutil.copytree(root / "videos" / BAD, secret)
    path = next(p for p in files if "train" in p.name)
    if layout == "v2":
        entries = json.loads(path.read_text())
        entries[1]["id"] = name
        write_json(path, entries)
    else:
        lines = {"v1": f"{name};{CLASSES[1]}", "tsm": f"{name} 6 1", "mmaction": f"{name} 6 1"}
        text = path.read_text().splitlines()[0] + "\n" + lines[layout] + "\n"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    shown = (path.name, "videos", name[:20])
    return Case(shown, "not load", _option(layout))


GOOD_IDS = ("a b", " ä ö".strip(), "日本語", "é" * 60, "sub/dir/2", "a;b", "x.y.z", "'quoted'", '"',
"100%", "#1",
            "a,b", "{0}", "%s", "🎥", "name.jpg")  # fmt: skip


@kind("label file with an odd id", 8)
def _(rng, root, templates):
    layout = rng.choice(LISTS)
    name = rng.choice([n for n in GOOD_IDS if layout != "v1" or ";" not in n])
    video = rng.random() < 0.3 and layout in ("v1", "v2")
    if video:
        templates.copy(".mp4", root)
        moved, target = root / f"videos/{BAD}.mp4", root / f"videos/{name}.mp4"
        for path in (*root.glob("*.csv"), *root.glob("*.json")):
            path.unlink()
    else:
        _labeled(root, templates, layout)
        moved, target = root / "videos" / BAD, root / "videos" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    moved.rename(target)
    videos = {"train": {"1": 0, name: 1}, "validation": {"3": 2}}
    if layout in ("v1", "v2"):
        write_labels(root, layout, videos)
    else:
        path = next(p for p in root.glob("*train*"))
        path.write_text(f"1 {FRAMES} 0\n{name} {FRAMES} 1\n")
    return Case((), "load", _option(layout))


@kind("label file of wrong types", 12)
def _(rng, root, templates):
    files = _labeled(root, templates, "v2")
    path = rng.choice(files)
    content = json.loads(path.read_text())
    wrong = rng.choice(
        (
            None,
            True,
            1.5,
            -1,
            10**30,
            "",
            "x",
            [],
            {},
            [[]],
            {"a": 1},
            float("nan"),
            float("inf"),
            2**63,
        )
    )
    if path.name == "labels.json":
        key = rng.choice(list(content))
        where = rng.random()
        if where < 0.6:
            content[key] = wrong
        elif where < 0.8:
            content = wrong
        else:
            content = {
                rng.choice(("", "[]", " ")) if name == key else name: i for name, i in content.items()
            }
    else:
        where = rng.random()
        entry = rng.randrange(len(content))
        if where < 0.4:
            content[entry]["id"] = wrong
        elif where < 0.7:
            content[entry]["template"] = wrong
        elif where < 0.9:
            content[entry] = wrong
        else:
            content = wrong
    write_json(path, content)
    return Case((path.name, "videos", "labels.json"), "not load")


@kind("label file made by hand", 12)
def _(rng, root, templates):
    layout = rng.choice(LISTS)
    files = _labeled(root, templates, layout)
    path = rng.choice(files)
    text = path.read_text()
    may = "change"
    what = rng.choice(
        ("bom", "crlf", "blank", "utf-16", "latin", "twice", "deep", "long number", "long line",
         "folder",
         "fifo", "loop", "gone", "huge", "nul", "many")
    )  # fmt: skip
    if what in ("folder", "fifo", "loop", "gone"):
        path.unlink()
    if what in ("bom", "crlf", "blank"):
        marks = {
            "bom": "\ufeff" + text,
            "crlf": text.replace("\n", "\r\n"),
            "blank": "\n \n" + text + "\n\n",
        }
        path.write_bytes(marks[what].encode())
        may = "load"
    elif what == "utf-16":
        path.write_bytes(text.encode("utf-16"))
        may = "not load"
    elif what == "latin":
        path.write_bytes(text.encode() + "\xe9".encode("latin-1"))
        may = "not load"
    elif what == "twice":
        path.write_text(text + "\n" + text)
        may = "not load"
    elif what == "deep":
        path.write_text("[" * 100_000 if layout == "v2" else text + "[" * 100_000)
        may = "not load" if layout == "v2" else "change"
    elif what == "long number":
        number = "9" * 5000
        path.write_text(text.replace("1", number, 1) if rng.random() < 0.5 else text + number)
    elif what == "long line":
        path.write_text(text + "x" * 5_000_000)
        may = "not load" if layout == "v2" else "change"
    elif what == "folder":
        path.mkdir()
        may = "not load"
    elif what == "fifo":
        os.mkfifo(path)
        may = "not load"
    elif what == "loop":
        path.symlink_to(path.name)
        may = "not load"
    elif what == "gone":
        may = "not load"
    elif what == "huge":
        with open(path, "wb") as file:
            file.truncate(1 << 40)
        may = "not load"
    elif what == "nul":
        path.write_text(text.replace("1", "1\0", 1) if "1" in text else "\0" + text)
    elif what == "many":
        path.write_text(text + "\n".join(f"{i};nothing 1 1" for i in range(20_000)))
        may = "not load" if "label_map" not in path.name else "change"
    return Case(
        tuple(p.name for p in files) + ("label", "list of", "root", "videos"), may, _option(layout)
    )
