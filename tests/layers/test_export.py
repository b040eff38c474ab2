import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import networks

from rstg_pyg import RSTGBlock, VideoClassifier
from rstg_pyg.backbones import SimpleConv, TorchvisionVideo
from rstg_pyg.export import (
    ONNX_PACKAGES,
    export_onnx,
    export_program,
    export_stream,
    export_stream_onnx,
)
from rstg_pyg.fast import space
from rstg_pyg.fast.autograd import plain_paths

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch.export._patches") is None,
    reason="needs a torch that exports recurrent cells for any number of frames",
)
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in (*ONNX_PACKAGES, "onnxruntime")),
    reason="needs the extra 'export': onnx, onnxscript, onnxruntime",
)


NAMES = ["typed", "gru", "space only", "residual", "inside"]
NAMES += ["norms over frames", "homogeneous", "lstm head"]
CLIP = torch.zeros(1, 3, 3, 16, 16)
#: Names of files of this machine begin with it.
HERE = str(Path(__file__).parents[2]).encode()
#: Other batches and numbers of frames than the example has.
SHAPES = [(1, 3, 1, 16, 16), (5, 3, 3, 16, 16), (3, 3, 20, 16, 16)]


def network(name):
    return networks.network(name, torch.float)


def clips(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def onnx_session(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_program_computes_the_same_for_any_batch_and_any_number_of_frames(name, monkeypatch):
    # Were it to look at the limit of the fast path, the limit would be that of the program's clips.
    monkeypatch.setattr(space, "LEAST_WORK", 2**14)
    model = network(name)
    before = model(clips(SHAPES[1]))
    program = export_program(model, CLIP).module()
    assert torch.equal(model(clips(SHAPES[1])), before)
    for shape in SHAPES:
        torch.testing.assert_close(program(clips(shape)), model(clips(shape)))


@torch.no_grad()
def test_differences_of_frames_leave_their_number_open():
    """As in the network ``syncmnist``."""
    model = VideoClassifier(SimpleConv(3, (4,), padding=1, difference=True), 5).eval()
    program = export_program(model, CLIP).module()
    for shape in SHAPES:
        torch.testing.assert_close(program(clips(shape)), model(clips(shape)))


@pytest.mark.slow
@torch.no_grad()
def test_half_precision_is_exported_as_it_is():
    model = network("plain").bfloat16()
    program = export_program(model, CLIP.bfloat16()).module()
    x = clips(SHAPES[1]).bfloat16()
    assert program(x).dtype == torch.bfloat16
    with plain_paths():  # what is exported; the fast path rounds in another order
        torch.testing.assert_close(program(x), model(x))


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("name", ["gru", "inside"])
@torch.no_grad()
def test_onnx_computes_the_same_for_any_batch_and_any_number_of_frames(name, tmp_path):
    import onnx

    model = network(name)
    export_onnx(model, CLIP, tmp_path / "x.onnx", metadata={"about": "a test"})
    file = onnx.load(tmp_path / "x.onnx")
    kinds = [node.op_type for node in file.graph.node]
    assert kinds.count("GRU" if name == "gru" else "LSTM") == 2 and "Loop" not in kinds
    assert [(p.key, p.value) for p in file.metadata_props] == [("about", "a test")]
    assert HERE not in file.SerializeToString()
    for shape in SHAPES:
        torch.testing.assert_close(
            run_onnx(tmp_path / "x.onnx", clips(shape)), model(clips(shape)), atol=1e-5, rtol=1e-5
        )


def run_onnx(path, x):
    session = onnx_session(path)
    (clip,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (clip.name, clip.shape) == ("clip", ["batch", 3, "frames", 16, 16])
    assert (logits.name, logits.shape) == ("logits", ["batch", 5])
    return torch.from_numpy(session.run(None, {"clip": x.numpy()})[0])


@pytest.mark.slow
@needs_onnx
@torch.no_grad()
def test_onnx_with_bfloat16_weights(tmp_path):
    import onnx

    model = network("plain")
    program = export_program(model, CLIP)
    export_onnx(program, CLIP, tmp_path / "half.onnx", bfloat16_weights=True)
    weights = [w for w in onnx.load(tmp_path / "half.onnx").graph.initializer if len(w.dims) > 0]
    kinds = {onnx.TensorProto.DataType.Name(weight.data_type) for weight in weights}
    assert kinds == {"BFLOAT16", "INT64"}
    wanted = model(clips(SHAPES[1]))
    found = run_onnx(tmp_path / "half.onnx", clips(SHAPES[1]))
    error = (found - wanted).abs().max() / wanted.abs().max()
    assert 1e-5 < error < 2e-2  # eight bits of mantissa


@pytest.mark.slow
def test_a_program_needs_nothing_of_this_package(tmp_path):
    torch.export.save(export_program(network("typed"), CLIP), tmp_path / "x.pt2")
    assert HERE not in (tmp_path / "x.pt2").read_bytes()
    code = (
        "import sys, torch; program = torch.export.load(sys.argv[1]).module(); "
        "assert program(torch.rand(2, 3, 5, 16, 16)).shape == (2, 5); "
        "assert not {'rstg_pyg', 'torch_geometric'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.pt2")], check=True)


@pytest.mark.slow
@torch.no_grad()
def test_a_backbone_with_a_fixed_number_of_frames():
    torch.manual_seed(0)
    backbone = TorchvisionVideo("r3d_18", (4, 32, 32))
    blocks = {"layer1": RSTGBlock(64, 8, scales=(2, 1))}
    model = VideoClassifier(backbone, 3, blocks).eval()
    clip = torch.zeros(1, 3, 4, 32, 32)
    with pytest.raises(ValueError, match=r"(?s)any number of frames .* use any_frames=False for 4"):
        export_program(model, clip)
    program = export_program(model, clip, any_frames=False).module()
    for batch in (1, 3):
        x = clips((batch, 3, 4, 32, 32))
        torch.testing.assert_close(program(x), model(x))


def follow(step, state, steps):
    """Logits after every step of a stream; the state goes from one to the next."""
    found = []
    for frames in steps:
        logits, *state = step(frames, *state)
        found.append(logits)
    return torch.stack(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch", "frames"), [("typed", 1, 1), ("lstm head and mean", 1, 1), ("everywhere", 2, 3)]
)
@torch.no_grad()
def test_a_step_of_a_stream_gives_the_logits_of_all_frames_so_far(name, batch, frames, tmp_path):
    model, x = network(name), clips((batch, 3, 5 * frames, 16, 16))
    torch.export.save(export_stream(model, x[:, :, :frames]), tmp_path / "x.pt2")
    assert HERE not in (tmp_path / "x.pt2").read_bytes()
    program = torch.export.load(tmp_path / "x.pt2")
    found = follow(program.module(), program.example_inputs[0][1:], x.split(frames, dim=2))
    wanted = [model(x[:, :, :seen]) for seen in range(frames, 5 * frames + 1, frames)]
    torch.testing.assert_close(found, torch.stack(wanted))


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("name", ["gru", "everywhere"])
@torch.no_grad()
def test_onnx_of_a_step_of_a_stream(name, tmp_path):
    import numpy as np

    model, x = network(name), clips((1, 3, 6, 16, 16))
    export_stream_onnx(model, x[:, :, :1], tmp_path / "x.onnx", metadata={"about": "a test"})
    session = onnx_session(tmp_path / "x.onnx")
    inputs, outputs = session.get_inputs(), [value.name for value in session.get_outputs()]
    count = len(inputs) - 1
    assert [value.name for value in inputs] == ["frames", *(f"state{i}" for i in range(count))]
    assert outputs == ["logits", *(f"next{i}" for i in range(count))]
    assert session.get_modelmeta().custom_metadata_map == {"about": "a test"}
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    state = [np.zeros(value.shape, kinds[value.type]) for value in inputs[1:]]

    def step(frames, *state):
        values = zip(inputs, (frames.numpy(), *state), strict=True)
        logits, *state = session.run(None, {value.name: given for value, given in values})
        return torch.from_numpy(logits), *state

    wanted = [model(x[:, :, :seen]) for seen in range(1, 7)]
    found = follow(step, state, x.split(1, dim=2))
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-5, rtol=1e-5)
    # Writing a step unrolls its cells, which torch would remember: the number of frames stays open.
    x = clips((2, 3, 5, 16, 16))
    program = export_program(model, CLIP).module()
    torch.testing.assert_close(program(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "export, name, clip, message",
    [
        (export_stream, "homogeneous", CLIP[:, :, :1], "mixes frames: the head"),
        (export_stream, "training", CLIP[:, :, :1], "evaluation mode"),
        (export_program, "training", CLIP, "evaluation mode"),
        (export_program, "plain", CLIP[0], r"of shape \[B, C, T, H, W\] \(got \[3, 3, 16, 16\]\)"),
    ],
)
def test_mistakes_are_named(export, name, clip, message):
    model = network("plain").train() if name == "training" else network(name)
    with pytest.raises(ValueError, match=message):
        export(model, clip)


def test_onnx_without_its_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs onnx and onnxscript: pip install .*\[export\]"):
        export_onnx(network("plain"), CLIP, tmp_path / "x.onnx")
