import pytest
import torch

from rstg_pyg.graphs import joint_names
from rstg_pyg.train.build import build_dataset, has_split
from rstg_pyg.train.config import load_config
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.skeletons import protocol
from rstg_pyg.train.skeletons.generated import ACTIONS, generate_recordings

CONFIG = "skeleton/msr_action3d.yaml"


def dataset(split, *overrides):
    return build_dataset(load_config(CONFIG, overrides), split)


def test_subjects_are_in_one_split_each():
    train, test = dataset("train"), dataset("test")
    assert {r.subject for r in train.recordings} == {1, 3, 5}
    assert {r.subject for r in test.recordings} == {2, 4, 6}
    assert len(train) == len(test) == 3 * 3 * len(ACTIONS)
    assert train.label_names[6] == "jog" and len(train.label_names) == 8 and train.num_clips == 1
    assert dataset("train", "data.class_names=[a, b]").label_names[1:3] == ["b", "action 3"]
    assert "of subjects 1, 3, 5" in train.describe()
    changes = ["data.train_subjects=[1, 3]", "data.val_subjects=[5]", "data.test_subjects=[2]"]
    config = load_config(CONFIG, [*changes, "train.validate_every=10"])
    assert has_split(config, "val") and not has_split(load_config(CONFIG, changes), "val")
    assert {r.subject for r in build_dataset(config, "val").recordings} == {5}
    assert {r.subject for r in build_dataset(config, "test").recordings} == {2}
    with pytest.raises(UserError, match="subject 3 is in another split"):
        dataset("train", "data.val_subjects=[3]")
    with pytest.raises(UserError, match=r"data.test_subjects: expected some of 1, 2.* \(got 12\)"):
        dataset("test", "data.test_subjects=[12]")


def test_a_visit_is_always_the_same_and_epochs_differ():
    clips = dataset("train", "data.drop_joints=0.1")
    assert clips[3][0].shape == (16, 16, 1, 20)  # five features of three numbers, and who is there
    assert torch.equal(clips[3][0], clips[3][0]) and clips[3][1] == int(clips.labels[3])
    later = clips[3 + len(clips)]
    assert later[1] == clips[3][1] and not torch.equal(later[0], clips[3][0])
    there = clips[3][0][-1]
    assert set(there.unique().tolist()) <= {0.0, 1.0}
    assert (clips[3][0][:-1] * (1 - there) == 0).all()
    before = torch.get_rng_state()
    clips[0]
    assert torch.equal(torch.get_rng_state(), before)
    test = dataset("test", "data.test_clips=3", "data.crop=0.8")
    assert test.num_clips == 3 and test[0][0].shape == (3, 16, 16, 1, 20)
    assert torch.equal(test[0][0], test[len(test)][0])  # nothing random in evaluation
    assert not torch.equal(test[0][0][0], test[0][0][1])
    assert (dataset("test", "data.test_drop=0.5")[0][0][-1] == 0).any()
    val = dataset("val", "data.test_drop=0.5", "data.train_subjects=[1, 3]", "data.val_subjects=[5]")
    assert (val[0][0][-1] == 1).all()


def test_generated_actions_move_what_they_should():
    names = joint_names("msr20")
    recordings = {r.action: r for r in generate_recordings(1, 1)}
    moved = {
        action: dict(zip(names, (r.pos[1:, 0] - r.pos[:-1, 0]).norm(dim=-1).mean(0).tolist()))
        for action, r in recordings.items()
    }
    assert moved[1]["right hand"] > 2 * moved[1]["left hand"]  # waving
    assert moved[2]["left hand"] > 2 * moved[2]["left foot"]
    assert moved[5]["right ankle"] > 2 * moved[5]["left ankle"]  # kicking
    assert recordings[1].mask.all() and recordings[1].pos[..., 2].min() > 1


def test_data_of_another_kind_are_refused(tmp_path):
    (tmp_path / "a01_s01_e01.txt").write_text("0.1 " * 80)
    with pytest.raises(UserError, match="data.layout: .* of the layout msr20"):
        dataset("train", f"data.root={tmp_path}", "data.layout=ntu25")
    clips = dataset("train", f"data.root={tmp_path}", "data.test_clips=1")
    assert clips.label_names == ["high arm wave"]


def test_candidates_and_rows_are_configs(tmp_path):
    jobs = protocol.choosing_jobs(tmp_path, protocol.CANDIDATES, [])
    assert len(jobs) == 5 * len(protocol.CANDIDATES) and len({job.folder for job in jobs}) == len(jobs)
    even = {2, 4, 6, 8, 10}
    for job in jobs:
        data = load_config(job.cfg, list(job.overrides)).data
        assert len(data.train_subjects) == 4 and len(data.test_subjects) == 1
        assert not even & {*data.train_subjects, *data.test_subjects}
    tests = protocol.test_jobs(tmp_path, protocol.SKELETON_ROWS, [0, 1], [])
    assert len(tests) == 6
    for job in tests:
        config = load_config(job.cfg, list(job.overrides))
        assert config.data.train_subjects == [1, 3, 5, 7, 9] and config.data.test_subjects is None
