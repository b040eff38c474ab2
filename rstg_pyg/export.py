"""Whole networks as files that run without this package: ``torch.export`` and ONNX."""

import contextlib
import importlib.util
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Union

import torch
from torch import Tensor

#: What writing ONNX needs besides torch.
ONNX_PACKAGES = ("onnx", "onnxscript")


def export_program(
    model: torch.nn.Module, clip: Tensor, *, any_frames: bool = True
) -> torch.export.ExportedProgram:
    r"""Captures a network for clips with :func:`torch.export.export`, for any batch size.

    The program is what :func:`torch.export.save` writes and :func:`torch.export.load` reads; it runs
    without this package.

    Args:
        model (torch.nn.Module): The network, in evaluation mode: a :class:`~rstg_pyg.VideoClassifier`
            or any module that takes clips.
        clip (torch.Tensor): An example, :math:`(B, C, T, H, W)`; the values do not matter.
        any_frames (bool, optional): Whether the program takes any number of frames, not only
            :math:`T`. (default: :obj:`True`)

    Raises:
        ValueError: If the network is in training mode, the example is no clip, or the number of frames
            cannot be left open: some backbones are made for one, and older versions of torch unroll
            the cells over time.

    Example:
        >>> backbone = rstg_pyg.backbones.SimpleConv(3, (8, 8))
        >>> model = VideoClassifier(backbone, 174, head=RSTGBlock(8, to="vec"))
        >>> program = export_program(model.eval(), torch.zeros(1, 3, 8, 32, 32))
        >>> torch.export.save(program, "model.pt2")
        >>> torch.export.load("model.pt2").module()(torch.rand(5, 3, 12, 32, 32)).shape
        torch.Size([5, 174])
    """
    if model.training:
        raise ValueError("Expected a network in evaluation mode: call eval() first")
    if clip.dim() != 5 or 0 in clip.shape:
        raise ValueError(f"Expected an example of shape [B, C, T, H, W] (got {list(clip.shape)})")
    # A size of one in the example would be taken for a fixed one.
    example = clip[:1].repeat(2, 1, 1, 1, 1)
    # Alone, the batch may have a limit (convolutions count in 32 bits); beside open frames, none.
    sizes = {0: torch.export.Dim.DYNAMIC}
    if any_frames:
        example = example if example.size(2) > 1 else example.repeat(1, 1, 2, 1, 1)
        sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("frames")}
    try:
        with torch.no_grad(), _frames_left_open(any_frames):
            program = torch.export.export(model, (example,), dynamic_shapes=(sizes,), strict=False)
    except Exception as e:  # torch raises many kinds
        if not any_frames:
            raise
        lines = [line.strip() for line in str(e).splitlines() if line.strip()] or [type(e).__name__]
        reason = next((line[2:] for line in lines if line.startswith("- ")), lines[0])
        raise ValueError(
            f"Expected a network that can be exported for any number of frames (got, from torch: "
            f"{reason}); use any_frames=False for {clip.size(2)} frames"
        ) from e
    for node in program.graph.nodes:  # they name files of this machine
        node.meta.pop("stack_trace", None)
    return program


def export_onnx(
    model: Union[torch.nn.Module, torch.export.ExportedProgram],
    clip: Tensor,
    path: Union[str, Path],
    *,
    any_frames: bool = True,
    bfloat16_weights: bool = False,
    metadata: Optional[Dict[str, str]] = None,
) -> None:
    r"""Writes a network for clips as ONNX, with input ``clip`` and output ``logits``.

    Needs the packages ``onnx`` and ``onnxscript`` (``pip install "rstg_pyg[export]"``).

    Args:
        model (torch.nn.Module or torch.export.ExportedProgram): The network, in evaluation mode, or
            what :func:`export_program` made of it.
        clip (torch.Tensor): An example, see :func:`export_program`.
        path (str or Path): The file.
        any_frames (bool, optional): See :func:`export_program`. (default: :obj:`True`)
        bfloat16_weights (bool, optional): Whether the file keeps the weights in bfloat16, half the
            size. They are cast when the file is loaded, and everything is computed in float32:
            onnxruntime has no bfloat16 kernels for the CPU. (default: :obj:`False`)
        metadata (dict, optional): Strings that are written to the file. (default: :obj:`None`)

    Raises:
        ImportError: If a package is missing.
        ValueError: See :func:`export_program`.
    """
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'Writing ONNX needs {" and ".join(missing)}: pip install "rstg_pyg[export]"')
    import onnx

    if isinstance(model, torch.nn.Module):
        model = export_program(model, clip, any_frames=any_frames)
    with _frames_left_open(any_frames):
        program = torch.onnx.export(
            model, dynamo=True, input_names=["clip"], output_names=["logits"], verbose=False
        )
    out = program.model_proto
    for node in out.graph.node:  # notes on where each comes from: half of the file
        del node.metadata_props[:]
    for value in (*out.graph.input, *out.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    if any_frames:
        out.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "frames"
    if bfloat16_weights:
        _store_as_bfloat16(out)
    onnx.helper.set_model_props(out, metadata or {})
    onnx.checker.check_model(out)
    onnx.save(out, str(path))


@contextlib.contextmanager
def _frames_left_open(wanted: bool) -> Iterator[None]:
    """Inside, torch does not unroll recurrent cells over the frames of the example (which would fix
    their number) while it works out shapes. Its own ONNX exporter does the same with these functions;
    what is captured is the cell's one operation either way.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # About torch's own code: its loop over time, and its cells' list of weights.
        warnings.filterwarnings("ignore", message=".*_check_is_size", category=FutureWarning)
        warnings.filterwarnings("ignore", message="(?s).*_flat_weights.*assigned during export")
        if wanted:
            try:
                from torch.export import _patches
            except ImportError:  # an older torch: export_program says so if there is a cell
                pass
            else:
                for cell in ("lstm", "gru"):
                    stack.enter_context(
                        getattr(_patches, f"register_{cell}_while_loop_decomposition")()
                    )
        yield


def _store_as_bfloat16(model: Any) -> None:
    """Rounds the float32 weights of an ONNX model and puts a cast behind each."""
    import onnx

    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or len(weight.dims) == 0:
            continue
        values = torch.from_numpy(onnx.numpy_helper.to_array(weight).copy()).bfloat16()
        name, stored = weight.name, f"{weight.name}.bfloat16"
        bits = values.view(torch.int16).numpy().tobytes()
        weight.CopyFrom(
            onnx.helper.make_tensor(stored, onnx.TensorProto.BFLOAT16, weight.dims, bits, raw=True)
        )
        casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
