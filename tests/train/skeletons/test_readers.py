"""The formats are tested on files made here; those of NTU RGB+D are after its public description."""

import zipfile

import pytest
import torch

from rstg_pyg.train.build import build_dataset, build_model
from rstg_pyg.train.config import load_config
from rstg_pyg.train.data.skeletons import read_recording, read_recordings
from rstg_pyg.train.errors import UserError


def msr_text(pos):
    """The text of positions ``[T, 20, 3]``."""
    return "\n".join(f"{x:.6f} {y:.6f} {z:.6f} 1.000000" for x, y, z in pos.reshape(-1, 3).tolist())


def ntu_text(frames):
    """The text of frames, each with positions ``[25, 3]`` and states ``[25]`` by the bodies' ids."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for body, (pos, state) in bodies.items():
            lines += [f"{body} 0 1 1 0 0 0.1 -0.2 0.3 2", "25"]
            lines += [
                f"{x:.6f} {y:.6f} {z:.6f} 256.1 209.7 1036.2 525.9 0.1 0.2 0.3 0.4 {int(s)}"
                for (x, y, z), s in zip(pos.tolist(), state.tolist())
            ]
    return "\n".join(lines) + "\n"


def test_msr_action3d(tmp_path):
    pos = torch.randn(4, 20, 3)
    pos[1] = 0  # a frame without anybody
    pos[2, 5] = 0
    path = tmp_path / "a07_s03_e02_skeleton3D.txt"
    path.write_text(msr_text(pos))
    found = read_recording(path, bodies=2)
    assert (found.action, found.subject, found.layout) == (7, 3, "msr20")
    assert found.name == "a07_s03_e02_skeleton3D" and found.pos.shape == (3, 2, 20, 3)
    assert torch.allclose(found.pos[:, 0], pos[[0, 2, 3]], atol=1e-5)
    assert found.mask[:, 0].sum() == 59 and not found.mask[1, 0, 5] and not found.mask[:, 1].any()


def test_ntu_keeps_the_bodies_that_are_there_and_move(tmp_path):
    torch.manual_seed(0)
    still = torch.randn(25, 3)
    ones, lost = torch.full((25,), 2), torch.tensor([2] * 24 + [0])
    moving = [torch.randn(25, 3) for _ in range(3)]
    frames = [
        {72057: (still, ones), 72058: (moving[0], lost), 99: (still, ones)},
        {72057: (still, ones), 72058: (moving[1], lost)},
        {72058: (moving[2], lost), 72057: (still, ones)},
    ]
    path = tmp_path / "S001C002P003R002A013.skeleton"
    path.write_text(ntu_text(frames))
    found = read_recording(path, bodies=2)
    assert (found.action, found.subject, found.layout) == (13, 3, "ntu25")
    assert found.pos.shape == (3, 2, 25, 3)
    assert torch.allclose(found.pos[:, 0, :24], torch.stack(moving)[:, :24], atol=1e-5)
    assert torch.allclose(found.pos[:, 1], still.expand(3, 25, 3), atol=1e-5)
    assert not found.mask[:, 0, 24].any() and (found.pos[:, 0, 24] == 0).all()
    assert read_recording(path).pos.shape == (3, 1, 25, 3)


def test_a_folder_a_zip_file_and_what_is_left_out(tmp_path):
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    for name in ("a02_s01_e01", "a01_s02_e03"):
        (folder / f"{name}_skeleton3D.txt").write_text(msr_text(torch.randn(3, 20, 3)))
    (folder / "a13_s09_e02_skeleton3D.txt").write_text(msr_text(torch.zeros(3, 20, 3)))
    (folder / "readme.txt").write_text("not a recording")
    recordings, empty = read_recordings(tmp_path)
    assert [r.name[:11] for r in recordings] == ["a01_s02_e03", "a02_s01_e01"]
    assert empty == ["a13_s09_e02_skeleton3D"]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for path in folder.iterdir():
            file.write(path, f"skeletons/{path.name}")
    again, empty_again = read_recordings(tmp_path / "all.zip")
    assert empty_again == empty and len(again) == 2
    assert all(torch.equal(a.pos, b.pos) for a, b in zip(recordings, again))
    (tmp_path / "a02_s01_e01_skeleton3D.txt").write_text(msr_text(torch.randn(3, 20, 3)))
    with pytest.raises(UserError, match="there are two recordings a02_s01_e01_skeleton3D"):
        read_recordings(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a01_s01_e01.txt", "1 2 3", "20 lines x y z confidence for every frame .*3 numbers"),
        ("a01_s01_e01.txt", "x " * 80, "20 lines x y z confidence"),
        ("a01_s01_e01.txt", "nan " * 80, "not all numbers are finite"),
        ("a01_s01_e01.txt", "", "20 lines"),
        ("a01_s01_e01.txt", "0 " * 80, "no joint is there in any frame"),
        ("S001C001P001R001A001.skeleton", "2\n1\n", "it ends too early"),
        ("S001C001P001R001A001.skeleton", "1\n1\n" + "0 " * 10 + "\n24\n", "expected 25 joints"),
        ("S001C001P001R001A001.skeleton", "-1", "expected the number of frames"),
        ("S001C001P001R001A001.skeleton", "0 7", "there is more after the last frame"),
        ("S001C001P001R001A001.skeleton", "1 0", "no joint is there in any frame"),
    ],
)
def test_damaged_files(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=f"{name}: .*{message}"):
        read_recording(path)


def test_places_without_recordings(tmp_path):
    with pytest.raises(UserError, match="expected recordings like a01_s01_e01_skeleton3D.txt"):
        read_recordings(tmp_path)
    with pytest.raises(UserError, match="expected a folder or a zip file"):
        read_recordings(tmp_path / "missing")
    with pytest.raises(UserError, match="cannot be read"):
        read_recording(tmp_path / "a01_s01_e01.txt")
    (tmp_path / "a01_s01_e01.txt").write_text(msr_text(torch.randn(3, 20, 3)))
    one = {1: (torch.randn(25, 3), torch.ones(25))}
    (tmp_path / "S001C002P003R002A013.skeleton").write_text(ntu_text([one]))
    with pytest.raises(UserError, match=r"expected .txt or .skeleton files \(got both\)"):
        read_recordings(tmp_path)


def test_two_bodies_of_25_joints(tmp_path):
    made = build_dataset(load_config("skeleton/ntu.yaml", ["data.test_clips=1"]), "test")
    clip = made[0][0]
    assert clip.shape[1:] == (16, 2, 25) and {r.subject for r in made.recordings} == {3, 6}
    assert (clip[-1, :, 0] == 1).all() and (clip[:, :, 1] == 0).all()  # one of two persons is there
    for name in ("S001C001P003R001A001", "S001C001P003R001A060"):
        frame = {7: (torch.randn(25, 3), torch.ones(25)), 8: (torch.randn(25, 3), torch.ones(25))}
        (tmp_path / f"{name}.skeleton").write_text(ntu_text([frame] * 3))
    config = load_config("skeleton/ntu.yaml", [f"data.root={tmp_path}", "data.test_clips=1"])
    read = build_dataset(config, "test")
    assert read.label_names == ["action 1", "action 60"] and (read[0][0][-1] == 1).all()
    assert build_model(config, 2).eval()(read[0][0][None]).shape == (1, 2)
