import importlib.util
import json

import pytest
import torch
from helpers.commands import fails
from helpers.tiny_predictor import write_checkpoint
from helpers.tiny_run import ONE_FILTER, tiny_config

from rstg_pyg.backbones import SimpleConv
from rstg_pyg.train import export
from rstg_pyg.train.build import normalize
from rstg_pyg.train.export import main
from rstg_pyg.train.predictor import Predictor

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch.export._patches") is None,
    reason="needs a torch that exports recurrent cells for any number of frames",
)
NAMES = ["one", "two", "three", "four"]


@pytest.fixture()
def run(tmp_path):
    """A run folder with a best checkpoint."""
    path = tmp_path / "run/checkpoints/best.ckpt"
    write_checkpoint(path, tiny_config(model=ONE_FILTER), NAMES)
    return tmp_path / "run"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_as_pt2(run, tmp_path, capsys, dtype):
    out, figures = tmp_path / "x.pt2", tmp_path / "x.json"
    assert main([str(run), "--out", str(out), "--dtype", dtype, "--json", str(figures)]) == 0
    printed = capsys.readouterr().out
    assert f"{run} (trained with the config tiny) in {dtype}" in printed
    assert "[batch, 1, frames, 16, 16]" in printed
    found = json.loads(figures.read_text())
    assert found["any_frames"] and found["bytes"] == out.stat().st_size
    assert set(found["differences"]) == {"random", "longer", "rendered"}
    worst = max(found["differences"].values()) / found["largest_logit"]
    assert worst < 1e-6 if dtype == "float32" else 1e-6 < worst < 0.1
    about = {"rstg_pyg.json": ""}
    program = torch.export.load(out, extra_files=about).module()
    assert json.loads(about["rstg_pyg.json"])["classes"] == NAMES
    predictor = Predictor.load(run / "checkpoints" / "best.ckpt", "cpu")
    clip = torch.randint(256, (2, 1, 4, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        wanted = predictor.model(normalize(clip, predictor.config))
        logits = program(clip)
    assert logits.dtype == torch.float32
    tolerance = 1e-6 if dtype == "float32" else 0.1
    assert (logits - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.slow
def test_a_checkpoint_as_onnx(run, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    out = tmp_path / "x.onnx"
    assert main([str(run / "checkpoints" / "best.ckpt"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"run by onnxruntime {onnxruntime.__version__}" in printed
    assert "the best class is the same for all clips" in printed
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["rstg_pyg"])
    assert about["classes"] == NAMES and about["frames"] == 3 and about["size"] == 16
    assert session.get_inputs()[0].type == "tensor(uint8)"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.pt2", "x.onnx"])
def test_a_step_of_a_stream(run, tmp_path, capsys, name):
    if name == "x.onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
        pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    out, figures = tmp_path / name, tmp_path / "x.json"
    assert main([str(run), "--out", str(out), "--stream", "--json", str(figures)]) == 0
    printed = capsys.readouterr().out
    assert "frames uint8 [1, 1, 1, 16, 16] and state to logits float32 [1, 4] and state" in printed
    assert "the initial state of a stream is zeros" in printed
    found = json.loads(figures.read_text())
    assert found["stream"] and set(found["differences"]) == {"random", "longer", "rendered"}
    assert max(found["differences"].values()) < 1e-5 * found["largest_logit"]


def test_a_network_that_looks_across_frames_has_no_step(run, tmp_path, capsys, monkeypatch):
    fixed = property(lambda self: False, lambda self, value: None)
    monkeypatch.setattr(SimpleConv, "per_frame", fixed, raising=False)
    error = fails(capsys, main, run, "--out", tmp_path / "x.pt2", "--stream")
    assert error.startswith("error: --stream: Expected a network in which only")
    assert "give it the whole clip" in error


@pytest.mark.slow
def test_a_file_that_computes_something_else_is_not_kept(run, tmp_path, capsys, monkeypatch):
    opened = export.open_file
    monkeypatch.setattr(
        export, "open_file", lambda *a: lambda clip, state: (opened(*a)(clip, state)[0] + 1, None)
    )
    out = tmp_path / "x.pt2"
    out.write_text("what was there")
    error = fails(capsys, main, run, "--out", out)
    assert "outputs of the file differ from the network's" in error
    assert out.read_text() == "what was there"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "x.pt2"}


def test_mistakes_are_named(run, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([str(run), "--out", "x.pth"], "--out: expected a name ending in .onnx or .pt2 (got x.pth)"),
        ([str(tmp_path / "empty"), "--out", "x.pt2"], "expected a run folder (it has no checkpoints/"),
        ([str(tmp_path / "lost.ckpt"), "--out", "x.pt2"], "there is no such checkpoint"),
        ([str(run), "--out", str(run / "checkpoints/best.ckpt/model")], "cannot be written"),
        ([str(run), "--out", str(run / "checkpoints" / "best.ckpt" / "x.pt2")], "cannot be written"),
    ):
        assert message in fails(capsys, main, *arguments)
    find = importlib.util.find_spec
    lacking = {"onnxruntime": None, "onnx": True, "onnxscript": True}  # whatever is installed here
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: lacking[n] if n in lacking else find(n))
    error = fails(capsys, main, run, "--out", "x.onnx")
    assert "ONNX needs onnxruntime; pip install" in error
