import shutil

import pytest

from rstg_pyg.train.data.check import check
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.prepare import main

V1 = "20bn-something-something-v1"


def test_a_whole_data_set(v1, v2):
    for root, kind, source in ((v1, "v1", "frames"), (v2, "v2", "video")):
        report = check(root, deep=True)
        assert report.ok and report.found[0].startswith(f"{root}: {kind} label files")
        assert [line.partition(":")[0] for line in report.found[1:3]] == ["classes", source]
        text = report.text()
        assert "classes: 3, order: sorted" in text and text.endswith("nothing is wrong")
        assert "every frame was read: 0 videos are unreadable" in text
        assert "train: 4 videos; smallest class 1 (Pretending to take" in text
        assert "largest 2 (Pulling something from left to right)" in text
        assert "test: 2 videos, no labels (can be predicted)" in text


def test_what_is_missing(v1, files):
    (v1 / V1 / "2").rename(v1 / "elsewhere")
    (v1 / "something-something-v1-validation.csv").unlink()
    report = check(v1)
    assert not report.ok
    text = report.text()
    assert f"train: 3 of 4 videos are there in the frames; missing are {v1 / V1 / '2'}" in text
    assert "there are no videos of the split 'val'" in text and "val: no list of videos" in text


def test_label_problems(v1, files):
    labels = v1 / "something-something-v1-labels.csv"
    labels.write_text("\n".join([*files.classes[::-1], "Zapping something"]))
    val = v1 / "something-something-v1-validation.csv"
    val.write_text(f"5;{files.classes[0]}\n4;{files.classes[1]}\n")
    test = v1 / "something-something-v1-test.csv"
    test.write_text("7;Zaping something\n")
    report = check(v1)
    assert "order: the file's, which is not sorted" in report.text()
    assert "test: its list cannot be used" in report.text()
    problems = "\n".join(report.problems)
    assert f"{test}, line 1: the label 'Zaping something'" in problems
    assert "did you mean 'Zapping something'" in problems
    assert "1 class has no video (Zapping something)" in report.notes[0]
    assert f"{val}: 1 video is in train too (4)" in problems
    assert len(report.problems) == 2


def test_deep_finds_every_unreadable_file(v1, v2):
    for root, name, length in ((v1, f"{V1}/4/00007.jpg", 200), (v1, f"{V1}/1/00002.jpg", 0)):
        path = root / name
        path.write_bytes(path.read_bytes()[:length])
    webm = v2 / "20bn-something-something-v2/8.webm"
    webm.write_bytes(b"")
    assert check(v1).ok and check(v2).ok  # by name everything is there
    report = check(v1, deep=True)
    assert [p.split(":")[0] for p in report.problems] == [
        str(v1 / V1 / "1/00002.jpg"),
        str(v1 / V1 / "4/00007.jpg"),
    ]
    assert "every frame was read: 2 videos are unreadable" in report.text()
    assert check(v1, deep=True, workers=2).text() == report.text()
    assert check(v2, deep=True).problems == [f"{webm}: the video is empty (0 bytes); download it again"]


def test_no_videos_and_no_classes(v1, tmp_path):
    (v1 / V1).rename(tmp_path / "away")
    (problem,) = check(v1).problems
    assert "has no videos; that is one level too low, give" in problem
    shutil.rmtree(tmp_path / "away")
    (problem,) = check(v1).problems
    assert "none of the videos is in" in problem and "expected FOLDER/1/00001.jpg" in problem
    (v1 / "something-something-v1-labels.csv").write_text("")
    report = check(v1)
    assert not report.ok and "expected the list of classes" in report.text()


def test_no_data_set(tmp_path):
    with pytest.raises(UserError, match="has no something-something-v1-train.csv"):
        check(tmp_path)


def test_the_command(v1, capsys):
    assert main(["check", "--root", str(v1), "--workers", "1"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    (v1 / V1 / "2").rename(v1 / "elsewhere")
    assert main(["check", "--root", str(v1), "--deep", "--workers", "1"]) == 2
    assert "problems: 1" in capsys.readouterr().out
    assert main(["check", "--root", str(v1.parent)]) == 2
    assert f"error: data.root: {v1.parent} has no" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["check", "--root", str(v1), "--cfg", "x"])
