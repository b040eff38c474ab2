"""The numbers of the published code, recorded, replayed through the public layers."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import check_golden
import golden_models
import numpy as np
import pytest
import torch

from rstg_pyg import official
from rstg_pyg.backbones import I3D_KERNELS, VideoResNet

FOLDER = Path(__file__).parent / "golden"
FILES = sorted(FOLDER.glob("*.npz"))


def test_there_are_recordings():
    assert len(FILES) == 25 and (FOLDER / "tf_checkpoint" / "expected.npz").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recording(path):
    compare = check_golden.check(path)
    assert compare.failed() == [], compare.report()
    with np.load(path) as file:
        recorded = [name for name in file.files if name.startswith(("out/", "eval/", "grad/"))]
    assert set(recorded) <= set(compare.errors), "everything recorded is compared"


def test_checkpoint(capsys):
    compare = check_golden.check(FOLDER / "tf_checkpoint")
    assert compare.failed() == [], compare.report()
    assert {"out/logits", "out/logits (canonical LSTM)"} <= set(compare.errors)
    assert "27 used, 34 skipped, 0 unused, 0 missing, 0 mismatched" in capsys.readouterr().out


def changed(path, tmp_path, change):
    with np.load(path) as file:
        data = {name: file[name] for name in file.files}
    change(data)
    np.savez(tmp_path / path.name, **data)
    return str(tmp_path / path.name)


@pytest.mark.parametrize(
    "name",
    ["out/final_nodes_feats", "mid/messages_k0_t0", "mid/attention_k0_t0", "grad_in/feature_map"],
)
def test_a_difference_is_found(name, tmp_path, capsys):
    """The check fails when a recorded number is not ours."""

    def change(data):
        data[name].flat[3] += 1e-3 * np.abs(data[name]).max()

    path = FOLDER / "g02_dot_ln_scalewise.npz"
    assert check_golden.main([str(path)]) == 0
    assert check_golden.main([changed(path, tmp_path, change)]) == 1
    assert "ABOVE TOLERANCE" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flag, value",
    [("use_att", "simple"), ("scalewise_update", False), ("num_process_iter", 2), ("use_norm", "none")],
)
def test_another_config_does_not_fit_the_recording(flag, value, tmp_path):
    """The recordings see every flag: with another value, names or numbers differ."""

    def change(data):
        flags = json.loads(str(data["config"]))
        flags[flag] = value
        data["config"] = np.array(json.dumps(flags))

    assert not agrees(changed(FOLDER / "g02_dot_ln_scalewise.npz", tmp_path, change))


def agrees(path):
    """Whether the weights fit the config and give the recorded numbers."""
    try:
        return check_golden.main([path]) == 0
    except (check_golden.official.ConversionError, SystemExit):
        return False


@torch.no_grad()
def record_small_network(path):
    """A recording as ``w11`` and ``w12``, of a narrow network whose last map, 4 x 4 cells, has 2 x 2
    windows of 3 x 3 cells; what is behind the last map is computed here, window by window.
    """
    flags = {
        "backbone_model": "i3d", "place_graph": "final", "place_nonlocal": "none",
        "comb_type": "plus", "final_norm": "LN", "use_norm": "LN", "use_att": "dot",
        "scalewise_update": True, "multihead_att": False, "use_positional_emb": False,
        "num_scales": 2, "num_process_iter": 1, "update_layers": 1, "message_dims": 8,
        "num_classes": 5, "clips": 2, "video_num_frames": 4, "input_size": 64, "input_seed": 3,
    }  # fmt: skip
    model, tensors = official.build(flags), {}
    variables = official.model_variables(model)
    shapes = [(v.name, list(v.to_published(model.state_dict()).shape), True) for v in variables]
    values = {name: golden_models.recipe_value(name, shape) for name, shape, _ in shapes}
    flags["n_params"] = sum(value.size for value in values.values())
    model, _ = official.convert(model, values)
    rng = np.random.Generator(np.random.PCG64(flags["input_seed"]))
    frames = rng.integers(0, 256, size=(2, 4, 64, 64, 3), dtype=np.uint8)
    clips = (torch.from_numpy(frames).float() - 114.75) / 57.375
    last = model.backbone(clips.movedim(-1, 1))
    mean, vector = last.mean(2), model.head(last)
    cells = torch.empty(2, 1, 2, 2, last.size(1))
    for h, w in itertools.product(range(2), range(2)):
        cells[:, 0, h, w] = mean[:, :, h : h + 3, w : w + 3].mean((2, 3)) + vector
    scores = cells @ model.lin.weight.t()
    tensors["mid/pred_no_bias"] = scores
    tensors["out/logits"] = (scores.mean((0, 1, 2, 3)) + model.lin.bias)[None]
    tensors["in/first_values"] = clips.flatten()[:64]
    tensors["mid/head_in/shape"] = torch.tensor(cells.shape)
    tensors["mid/head_in/channel_mean"] = cells.flatten(0, 3).mean(0)
    tensors["mid/head_in/channel_std"] = cells.flatten(0, 3).std(0, correction=0)
    tensors["mid/head_in/slice"] = cells[..., :48]
    sums = {name: [v.flat[0], v.flat[-1], v.sum(dtype=float)] for name, v in values.items()}
    texts = {"config": flags, "variables": shapes, "variables_first_last_sum": sums, "recipe": ""}
    data = {name: np.array(json.dumps(text, default=float)) for name, text in texts.items()}
    np.savez(path, **data, **{name: tensor.numpy() for name, tensor in tensors.items()})


def test_a_last_map_larger_than_the_pool_window(tmp_path, monkeypatch):
    build = sys.modules[official.build.__module__]
    monkeypatch.setattr(build, "POOL_WINDOW", 3)
    monkeypatch.setattr(
        build, "i3d_resnet50", lambda **kwargs: VideoResNet(I3D_KERNELS, width=2, **kwargs)
    )
    path = tmp_path / "w00.npz"
    record_small_network(path)
    compare = check_golden.check(path)
    assert compare.failed() == [], compare.report()
    assert {"mid/head_in/slice", "mid/pred_no_bias", "out/logits"} <= set(compare.errors)

    for name in ("mid/head_in/slice", "mid/pred_no_bias"):  # rows and columns of windows are told apart

        def change(data, name=name):
            data[name] = data[name].swapaxes(2, 3)

        (tmp_path / "changed").mkdir(exist_ok=True)
        assert check_golden.check(Path(changed(path, tmp_path / "changed", change))).failed() == [name]


def test_not_a_recording(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(SystemExit, match="not a recording"):
        check_golden.check(tmp_path / "x.npz")


@pytest.mark.slow
def test_as_a_command(tmp_path):
    """As people call it: no folder beside the script may hide the package."""
    script = Path(__file__).parent / "check_golden.py"
    command = [sys.executable, str(script), str(FOLDER / "g06_scales2.npz"), "--json", "errors.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "ok: worst" in done.stdout
    errors = json.loads((tmp_path / "errors.json").read_text())["largest_relative_errors"]
    assert errors["g06_scales2"]["worst"] <= errors["g06_scales2"]["tolerance"] == 2e-4
