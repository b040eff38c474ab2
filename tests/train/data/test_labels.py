import json

import pytest

from rstg_pyg.train.data.label_files import find_label_files
from rstg_pyg.train.data.labels import read_annotations, read_split
from rstg_pyg.train.data.sources import open_source
from rstg_pyg.train.data.video_lists import Video, class_order
from rstg_pyg.train.errors import UserError

V1 = "something-something-v1-{}.csv"


def test_v1(v1, files):
    labels = read_annotations(v1)
    assert labels.files.kind == "v1" and labels.classes == files.classes
    assert class_order(labels.classes) == "sorted"
    assert labels.splits["train"] == [Video("1", 0), Video("2", 1), Video("3", 2), Video("4", 1)]
    assert labels.splits["val"] == [Video("5", 2), Video("6", 0)]
    assert labels.splits["test"] == [Video("7", None), Video("8", None)]


@pytest.mark.parametrize("name", ["labels/{}.json", "{}.json", "something-something-v2-{}.json"])
def test_v2_in_old_and_new_names(tmp_path, files, name):
    root = files.make_v2(tmp_path / "v2", name, videos=False)
    labels = read_annotations(root)
    assert labels.files.kind == "v2" and labels.classes == files.classes
    assert labels.splits["train"][1] == Video("2", 1)  # brackets stripped
    assert labels.splits["test"] == [Video("7", None), Video("8", None)]
    (labels.files.classes.parent / "test-answers.csv").write_text(f"8;{files.classes[2]}\n")
    assert read_annotations(root).splits["test"] == [Video("7", None), Video("8", 2)]


def test_v2_numbers_come_from_the_file(v2, files):
    numbers = {template: str(i) for i, template in enumerate(reversed(files.classes))}
    (v2 / "labels/labels.json").write_text(json.dumps(numbers))
    labels = read_annotations(v2)
    assert labels.classes == files.classes[::-1] and class_order(labels.classes) == "file"
    assert [video.label for video in labels.splits["train"]] == [2, 1, 0, 1]


def test_byte_order_marks_windows_line_ends_and_blank_lines(v1):
    expected = read_annotations(v1).splits
    for path in v1.glob("*.csv"):
        text = path.read_text().replace("\n", "\r\n") + "\r\n  \r\n"
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_annotations(v1).splits == expected


def write_lists(root, kind):
    root.mkdir()
    if kind == "tsm":
        (root / "category.txt").write_text("A\nB\n")
        (root / "train_videofolder.txt").write_text("1 40 1\n23 31 0\n")
        (root / "val_videofolder.txt").write_text("some clip 2 30 0\n")
        (root / "test_videofolder.txt").write_text("9 30\nmy clip 30\n")
        return
    folder = root / "annotations"
    folder.mkdir()
    (folder / "label_map.txt").write_text("A\nB\n")
    if kind == "rawframes":
        (folder / "sthv1_train_list_rawframes.txt").write_text("1 40 1\n23 31 0\n")
    else:
        (folder / "sthv2_train_list_videos.txt").write_text("1 1\n23.webm 0\n")


@pytest.mark.parametrize("kind", ["tsm", "rawframes", "videos"])
def test_lists_of_tsm_and_mmaction(tmp_path, kind):
    root = tmp_path / "lists"
    write_lists(root, kind)
    option = "tsm" if kind == "tsm" else "mmaction"
    labels = read_annotations(root, option)
    assert labels.classes == ["A", "B"]
    frames = (None, None) if kind == "videos" else (40, 31)
    second = "23.webm" if kind == "videos" else "23"  # as it stands in the list
    assert labels.splits["train"] == [Video("1", 1, frames[0]), Video(second, 0, frames[1])]
    if kind == "tsm":
        assert labels.splits["val"] == [Video("some clip 2", 0, 30)]
        assert labels.splits["test"] == [Video("9", None, 30), Video("my clip", None, 30)]
    with pytest.raises(UserError, match=f"choose data.annotations={option}"):
        read_annotations(root)


L = ";Pulling something from left to right"
BLANKS = "line 1: expected folder num_frames label, separated by blanks"
NUMBER = r"line 1: expected a label from 0 to 1.* 2 classes \(got -?\d\)"
BELOW = "line 1: expected the name of a video below the data folder"


@pytest.mark.parametrize(
    ("kind", "name", "text", "message"),
    [
        (
            "v1",
            "train",
            "9,Pulling something",
            "line 1: expected id;template, separated by a semicolon",
        ),
        ("v1", "train", f"9{L}\n9", "line 2: expected id;template"),
        ("v1", "train", "9;", "line 1: expected id;template"),
        ("v1", "test", "7,8", "separated by a semicolon"),
        ("v1", "train", f"9{L.replace('ll', 'l')}", f"did you mean '{L[1:]}'"),
        ("v1", "train", f"1{L}\n2{L}\n2{L}", "line 3: the video 2 is there twice .first in line 2"),
        *(("v1", "train", name + L, BELOW) for name in ("../x", "a/../../x", "/etc", "C:\\x", "")),
        ("v1", "labels", "Déplacer\n".encode("utf-16"), "expected UTF-8 text .it seems to be UTF-16"),
        ("v1", "labels", "Déplacer\n".encode("latin-1"), "expected UTF-8 text .it seems to be Latin-1"),
        ("v1", "labels", "A\nA\n", "the class 'A' is there twice"),
        ("v2", "train", "[{", "not whole JSON"),
        ("v2", "train", "{}", "expected a list of videos"),
        ("v2", "train", "[]", "empty file"),
        ("v2", "train", "[7]", "entry 1: expected {'id', 'template', ...}"),
        ("v2", "train", '[{"id": "1"}]', "has no template"),
        ("v2", "labels", '{"A": "0", "B": "2"}', "every number from 0 to 1 once"),
        ("v2", "labels", '{"A": "0", "B": "x"}', "every number from 0 to 1 once"),
        ("v2", "labels", "[1]", "expected {template: number}"),
        *(("tsm", "train", line, BLANKS) for line in ("1 40", "1;40;1", "1 40 x", "40")),
        *(("tsm", "train", line, NUMBER) for line in ("1 40 2", "1 40 -1")),
    ],
)
def test_mistakes(request, tmp_path, files, kind, name, text, message):
    if kind == "v1":
        path = request.getfixturevalue("v1") / V1.format(name)
    elif kind == "v2":
        path = files.make_v2(tmp_path / "v2", videos=False) / f"labels/{name}.json"
    else:
        write_lists(tmp_path / "tsm", "tsm")
        path = tmp_path / f"tsm/{name}_videofolder.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        read_annotations(tmp_path / kind, "tsm" if kind == "tsm" else "auto")
    assert str(caught.value).startswith(str(path))


def test_no_list_of_classes(v1):
    (v1 / V1.format("labels")).unlink()
    with pytest.raises(
        UserError, match="no list of classes; expected something-something-v1-labels.csv"
    ):
        read_annotations(v1)


def test_the_wrong_level_names_the_right_one(v1):
    with pytest.raises(UserError, match=f"one level too high, give {v1}$"):
        find_label_files(v1.parent)
    with pytest.raises(UserError, match=f"one level too low, give {v1}$"):
        find_label_files(v1 / "20bn-something-something-v1")
    with pytest.raises(UserError, match=f"one level too low, give {v1}$"):
        find_label_files(v1 / "20bn-something-something-v1" / "1")


def test_labels_folder_given_as_root(v2):
    assert find_label_files(v2 / "labels").kind == "v2"  # they are there, but the videos are not
    with pytest.raises(UserError, match=f"has no videos; that is one level too low, give {v2}$"):
        open_source(v2 / "labels", ["1"])


def test_no_root(v1, tmp_path):
    with pytest.raises(UserError, match="does not exist; nearest: v1"):
        find_label_files(tmp_path / "v2")
    with pytest.raises(UserError, match="is a file"):
        find_label_files(v1 / V1.format("train"))
    (tmp_path / "empty").mkdir()
    for path in v1.glob("*.csv"):
        path.unlink()
    with pytest.raises(UserError, match=r"has no something-something-v1-train.csv or .*nor in labels/"):
        find_label_files(tmp_path / "empty")
    with pytest.raises(UserError, match="expected auto, v1"):
        find_label_files(tmp_path, "v3")


def test_both_versions_in_one_folder(v1, files):
    files.make_v2(v1, videos=False)
    with pytest.raises(UserError, match="v1 and of v2; choose with data.annotations=v1"):
        read_annotations(v1)
    assert read_annotations(v1, "v2").files.kind == "v2"


def test_a_missing_split(v1):
    (v1 / V1.format("validation")).unlink()
    found = read_annotations(v1)
    assert list(found.splits) == ["train", "test"]
    with pytest.raises(
        UserError, match=r"no list of the split 'val'.* something-something-v1-validation"
    ):
        read_split(found.files, "val", found.classes)
