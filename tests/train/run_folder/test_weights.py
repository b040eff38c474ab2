"""Checkpoints and weights: whole, of this very model or run, or an error in one line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from rstg_pyg.train.build import build_model
from rstg_pyg.train.config import parse_config, to_dict
from rstg_pyg.train.errors import UserError
from rstg_pyg.train.run_folder.weights import (
    check_classes,
    check_resumable,
    load_weights,
    read_checkpoint,
    read_weights,
    write_weights,
)


def config_of(rstg=(), data=(), **model):
    rstg = {"hidden_channels": 4, "scales": [2, 1], "num_rounds": 2, **dict(rstg)}
    model = {"backbone": {"filters": [3, 4]}, **model, "rstg": rstg}
    data = {"frame_size": 32, **dict(data)}
    return parse_config({"name": "x", "data": data, "model": model}, "x.yaml")


@pytest.fixture
def config():
    return config_of()


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return build_model(config, 5)


@pytest.fixture
def path(tmp_path, model, config):
    path = tmp_path / "weights.safetensors"
    write_weights(path, model, config, "a test")
    return path


def refused(path, config, message):
    with pytest.raises(UserError, match=message) as e:
        read_weights(path, config)
    assert str(e.value).startswith(f"{path}: ") and len(str(e.value).splitlines()) == 1


def test_round_trip(path, model, config):
    found = read_weights(path, config)
    assert found["global_step"] == 0
    assert found["config"] == to_dict(config)
    assert found["state_dict"].keys() == model.state_dict().keys()
    other = build_model(config, 5)
    load_weights(other, found["state_dict"], path)
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


def test_what_the_file_says(path):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    told = json.loads(metadata["rstg_pyg"])
    assert told["made_from"] == "a test" and {"model", "data"} < set(told["config"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rstg": {"num_rounds": 3}}, r"model.rstg.num_rounds \(2 against 3\)"),
        ({"backbone": {"filters": [3, 5]}}, r"model.backbone.filters \(\[3, 4\] against \[3, 5\]\)"),
        ({"combine": "plus"}, r"model.combine \('serial' against 'plus'\)"),
        ({"data": {"mean": 12.0}}, r"data.mean \(0.0 against 12.0\)"),
        ({"data": {"num_classes": 9}}, r"data.num_classes \(10 against 9\)"),
    ],
)
def test_weights_of_another_model_are_refused_by_key(path, changes, message):
    refused(path, config_of(**changes), f"another config; checkpoint and now: .*{message}")


def test_other_settings_may_differ(path):
    data = {"seed": 3, "test_videos": 7, "root": "somewhere", "max_step": 2}
    config = config_of(data=data, dropout=0.5)
    assert read_weights(path, config)["state_dict"]


def test_many_differences_are_summed_up(path):
    rstg = {"num_rounds": 3, "heads": 2, "attention": "additive", "cell": "gru", "positions": False}
    refused(path, config_of(rstg={**rstg, "residual": True, "norm": "layer"}), "and 2 more")


def test_files_that_are_no_weights(tmp_path, config):
    path = tmp_path / "x.safetensors"
    refused(path, config, "there is no such file")
    for content in (b"", b"x", b"\0" * 100, b"\xff" * 100, b"PK\x03\x04 zip"):
        path.write_bytes(content)
        refused(path, config, "not a whole safetensors file")
    path.unlink()
    path.mkdir()
    refused(path, config, "there is no such file")


def test_a_truncated_file(path, config):
    raw = path.read_bytes()
    for length in {0, 1, 7, 8, 9, len(raw) // 2, len(raw) - 1, *range(10, len(raw), 997)}:
        path.write_bytes(raw[:length])
        refused(path, config, "not a whole safetensors file")
    path.write_bytes(raw + b"more")
    refused(path, config, "not a whole safetensors file")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(path, model, config, value):
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights["head.rstg.last_cell.weight_hh_l0"][0, 0] = value
    weights["lin.bias"][:] = 9
    with pytest.raises(UserError, match="head.rstg.last_cell.weight_hh_l0 holds values that are not"):
        load_weights(model, weights, path)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("backbone.stages.conv0.conv.bias"), "Missing key.*conv0.conv.bias"),
        (lambda w: w.update(extra=torch.zeros(2)), "Unexpected key.*extra"),
        (lambda w: w.update({"backbone.stages.conv0.conv.bias": torch.zeros(9)}), "size mismatch"),
    ],
)
def test_weights_that_do_not_fit(path, model, change, message):
    weights = dict(model.state_dict())
    change(weights)
    with pytest.raises(UserError, match=f"do not fit the config's model .*{message}") as e:
        load_weights(model, weights, path)
    assert len(str(e.value).splitlines()) == 1 and len(str(e.value)) < 600


def test_another_number_of_classes(path, config):
    weights = read_weights(path, config)["state_dict"]
    with pytest.raises(UserError, match="5 classes, but the data has 6|do not fit the config's model"):
        load_weights(build_model(config, 6), weights, path)


def test_a_checkpoint_of_a_run(tmp_path, model, config):
    """The network's part of it, without what belongs to the training."""
    path = tmp_path / "last.ckpt"
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    content = {
        "config": to_dict(config), "origin": "test", "global_step": 7, "label_names": ["a"],
        "state_dict": {**weights, "train_metrics.loss.value": torch.zeros(1)},
    }  # fmt: skip
    torch.save(content, path)
    found = read_weights(path, config)
    assert found["state_dict"].keys() == model.state_dict().keys()
    assert (found["global_step"], found["origin"], found["label_names"]) == (7, "test", ["a"])
    refused(path, config_of(rstg={"num_rounds": 3}), "model.rstg.num_rounds .2 against 3")
    for value in (1.0, None, torch.ones(2).to_sparse(), torch.ones(2).cfloat()):
        torch.save({**content, "state_dict": {**weights, "model.x": value}}, path)
        refused(path, config, "its weights are not all named tensors")
    torch.save({**content, "label_names": ["a", 3]}, path)
    refused(path, config, "its label_names are not all strings")
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, config, "not a whole checkpoint")
    refused(Path("nowhere.ckpt"), config, "there is no such checkpoint")


@pytest.fixture
def checkpoint(tmp_path, config):
    """Of a run with values for nothing but the config."""
    content = {"config": to_dict(config), "origin": "digits", "global_step": 1, "state_dict": {}}
    torch.save(content, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def test_keys_that_came_after_a_checkpoint_have_their_defaults(checkpoint, config):
    content = torch.load(checkpoint, weights_only=True)
    del content["config"]["model"]["rstg"]["homogeneous"], content["config"]["model"]["head"]
    torch.save(content, checkpoint)
    step, precision, stored = check_resumable(checkpoint, config)
    assert (stored["origin"], step, precision) == ("digits", 1, config.trainer.precision)
    with pytest.raises(UserError, match=r"model.rstg.homogeneous \(False against True\)"):
        check_resumable(checkpoint, config_of({"homogeneous": True, "time_stages": "none"}))


def test_a_changed_bit_is_found(checkpoint):
    """Every fifth byte in turn: what is read is what was written, or an error."""
    data = bytearray(checkpoint.read_bytes())
    whole, damaged = repr(read_checkpoint(checkpoint)), 0
    for i in range(0, len(data), 5):
        checkpoint.write_bytes(data[:i] + bytes([data[i] ^ 16]) + data[i + 1 :])
        try:
            assert repr(read_checkpoint(checkpoint)) == whole
        except UserError:
            damaged += 1
    assert damaged > len(data) / 20


def test_what_may_change_between_a_run_and_its_continuation(checkpoint, config):
    values = to_dict(config) | {"trainer": {"threads": 1}}
    values["data"]["num_workers"] = 2
    check_resumable(checkpoint, parse_config(values, "x.yaml"))


def test_classes_have_to_be_those_of_the_data():
    path = Path("last.ckpt")
    check_classes(path, None, ["a", "b"], None)
    check_classes(path, ["a", "b"], ["a", "b"], "clips")
    with pytest.raises(UserError, match="in another order .class 0 is 'b', here 'a'"):
        check_classes(path, ["b", "a"], ["a", "b"], "clips")
    with pytest.raises(UserError, match=r"trained on other classes \(a, b; clips has a, c\)"):
        check_classes(path, ["a", "b"], ["a", "c"], "clips")
