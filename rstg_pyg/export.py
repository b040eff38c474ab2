"""Exports complete networks to files that run without this package: ``torch.export`` and ONNX."""

import contextlib
import importlib.util
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

#: Packages needed to write ONNX, besides torch.
ONNX_PACKAGES = ("onnx", "onnxscript")


def export_program(
    model: torch.nn.Module, clip: Tensor, *, any_frames: bool = True
) -> torch.export.ExportedProgram:
    r"""Exports a network for clips with :func:`torch.export.export`, for any batch size.

    Save the program with :func:`torch.export.save` and load it with :func:`torch.export.load`. It
    runs without this package.

    Args:
        model (torch.nn.Module): The network, in evaluation mode: a :class:`~rstg_pyg.VideoClassifier`
            or any module that takes clips.
        clip (torch.Tensor): An example, :math:`(B, C, T, H, W)`; the values do not matter.
        any_frames (bool, optional): Whether the program accepts any number of frames, not only
            :math:`T`. (default: :obj:`True`)

    Raises:
        ValueError: If the network is in training mode, the example is not a clip, or the number of
            frames cannot be dynamic: some backbones need a fixed number, and older versions of torch
            unroll the cells over time.

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
    # torch.export treats a size of one in the example as fixed.
    example = clip[:1].repeat(2, 1, 1, 1, 1)
    # If only the batch is dynamic, it may have a limit (convolutions use 32-bit sizes); if frames are
    # dynamic too, there is none.
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
    return _without_traces(program)


def export_onnx(
    model: Union[torch.nn.Module, torch.export.ExportedProgram],
    clip: Tensor,
    path: Union[str, Path],
    *,
    any_frames: bool = True,
    bfloat16_weights: bool = False,
    metadata: Optional[Dict[str, str]] = None,
) -> None:
    r"""Writes a network for clips to an ONNX file, with input ``clip`` and output ``logits``.

    Needs the packages ``onnx`` and ``onnxscript`` (``pip install "rstg_pyg[export]"``).

    Args:
        model (torch.nn.Module or torch.export.ExportedProgram): The network, in evaluation mode, or
            the result of :func:`export_program`.
        clip (torch.Tensor): An example, see :func:`export_program`.
        path (str or Path): The file.
        any_frames (bool, optional): See :func:`export_program`. (default: :obj:`True`)
        bfloat16_weights (bool, optional): Whether to store the weights in bfloat16, which halves the
            file size. They are cast when the file is loaded, and everything is computed in float32,
            because onnxruntime has no bfloat16 kernels for the CPU. (default: :obj:`False`)
        metadata (dict, optional): Strings that are written to the file. (default: :obj:`None`)

    Raises:
        ImportError: If a package is missing.
        ValueError: See :func:`export_program`.
    """
    onnx = _onnx()
    if isinstance(model, torch.nn.Module):
        model = export_program(model, clip, any_frames=any_frames)
    with _frames_left_open(any_frames):
        out = _to_onnx(model, ["clip"], ["logits"])
    for value in (*out.graph.input, *out.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    if any_frames:
        out.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "frames"
    _save_onnx(onnx, out, path, bfloat16_weights, metadata)


class _StreamStep(torch.nn.Module):
    r"""One step of a stream with tensors only. Inputs: the next frames and the state. Outputs: the
    logits of all frames so far and the new state. The initial state is zeros.

    Args:
        model (torch.nn.Module): A network with ``stream`` and ``streams``, as
            :class:`~rstg_pyg.VideoClassifier`, in evaluation mode.
        frames (torch.Tensor): An example of the frames of one step, :math:`(B, C, T, H, W)`.

    Raises:
        ValueError: If a module other than the recurrent cells mixes frames, or the example has the
            wrong shape.
    """

    def __init__(self, model: Any, frames: Tensor):
        super().__init__()
        self.model = model
        leaves, self.structure = tree_flatten(model.stream(frames)[1])
        self.held = [i for i, leaf in enumerate(leaves) if leaf is not None]
        # Frame counts in the state become tensors too.
        self.beginning = [torch.zeros_like(torch.as_tensor(leaves[i])) for i in self.held]
        self.eval()

    def forward(self, frames: Tensor, *state: Tensor) -> Tuple[Tensor, ...]:
        """Returns the logits and the tensors of the new state."""
        leaves: List[Optional[Tensor]] = [None] * self.structure.num_leaves
        for i, value in zip(self.held, state):
            leaves[i] = value
        logits, after = self.model.stream(frames, tree_unflatten(leaves, self.structure))
        leaves = tree_flatten(after)[0]
        return (logits, *(leaves[i] for i in self.held))


def export_stream(model: torch.nn.Module, frames: Tensor) -> torch.export.ExportedProgram:
    r"""Exports one step of :meth:`~rstg_pyg.VideoClassifier.stream` with :func:`torch.export.export`.

    The program takes the next frames and the tensors of the state, and returns the logits of all
    frames so far and the tensors of the new state. The initial state is zeros; the program holds such
    tensors as example inputs: ``program.example_inputs[0][1:]``.

    Args:
        model (torch.nn.Module): The network, in evaluation mode: a :class:`~rstg_pyg.VideoClassifier`
            that streams.
        frames (torch.Tensor): An example input of one step, :math:`(B, C, T, H, W)`, for a camera one
            frame; the values do not matter. The program is for this batch size and number of frames.

    Raises:
        ValueError: If the network is in training mode, a module other than the recurrent cells mixes
            frames, or the example has the wrong shape.

    Example:
        >>> backbone = rstg_pyg.backbones.SimpleConv(3, (8, 8))
        >>> model = VideoClassifier(backbone, 174, head=RSTGBlock(8, to="vec"))
        >>> program = export_stream(model.eval(), torch.zeros(1, 3, 1, 32, 32))
        >>> state, step = program.example_inputs[0][1:], program.module()
        >>> for frame in torch.rand(5, 1, 3, 1, 32, 32):
        ...     logits, *state = step(frame, *state)
    """
    step = _StreamStep(model, frames)
    with torch.no_grad(), _frames_left_open(False):
        program = torch.export.export(step, (frames, *step.beginning), strict=False)
    return _without_traces(program)


def export_stream_onnx(
    model: Union[torch.nn.Module, torch.export.ExportedProgram],
    frames: Tensor,
    path: Union[str, Path],
    *,
    bfloat16_weights: bool = False,
    metadata: Optional[Dict[str, str]] = None,
) -> None:
    r"""Writes one step of a stream to an ONNX file.

    Inputs are ``frames``, ``state0``, ``state1``, ...; outputs are ``logits``, ``next0``, ``next1``,
    ..., the state inputs of the next step. The initial state is zeros.

    Args:
        model (torch.nn.Module or torch.export.ExportedProgram): The network, in evaluation mode, or
            the result of :func:`export_stream`.
        frames (torch.Tensor): An example, see :func:`export_stream`.
        path (str or Path): The file.
        bfloat16_weights (bool, optional): See :func:`export_onnx`. (default: :obj:`False`)
        metadata (dict, optional): Strings that are written to the file. (default: :obj:`None`)

    Raises:
        ImportError: If a package is missing.
        ValueError: See :func:`export_stream`.
    """
    onnx = _onnx()
    if isinstance(model, torch.nn.Module):
        model = export_stream(model, frames)
    count = len(model.graph_signature.user_inputs) - 1
    names = [[f"{name}{i}" for i in range(count)] for name in ("state", "next")]
    with _frames_left_open(False):
        out = _to_onnx(model, ["frames", *names[0]], ["logits", *names[1]])
    _save_onnx(onnx, out, path, bfloat16_weights, metadata)


def _without_traces(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Removes stack traces, which contain file names of this machine, from the program."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _onnx() -> Any:
    """The package ``onnx``."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'Writing ONNX needs {" and ".join(missing)}: pip install "rstg_pyg[export]"')
    return importlib.import_module("onnx")


def _to_onnx(program: torch.export.ExportedProgram, inputs: List[str], outputs: List[str]) -> Any:
    """The ONNX model without the metadata of each node, which would be half of the file."""
    exported: Any = torch.onnx.export(
        program, dynamo=True, input_names=inputs, output_names=outputs, verbose=False
    )
    out = exported.model_proto
    for node in out.graph.node:
        del node.metadata_props[:]
    return out


def _save_onnx(
    onnx: Any, out: Any, path: Union[str, Path], half: bool, metadata: Optional[Dict[str, str]]
) -> None:
    """Checks and writes a model of ONNX."""
    if half:
        _store_as_bfloat16(out)
    onnx.helper.set_model_props(out, metadata or {})
    onnx.checker.check_model(out)
    onnx.save(out, str(path))


@contextlib.contextmanager
def _frames_left_open(wanted: bool) -> Iterator[None]:
    """A context in which torch does not unroll recurrent cells over the frames of the example (which
    would fix their number) while it computes shapes. torch's own ONNX exporter uses the same functions;
    the exported program contains the cell as one operation in any case.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # About torch's own loop over time.
        warnings.filterwarnings("ignore", message=".*_check_is_size", category=FutureWarning)
        if wanted:
            try:
                from torch.export import _patches
            except ImportError:  # an older torch; export_program raises an error if there is a cell
                pass
            else:
                for cell in ("lstm", "gru"):
                    # torch caches its choice for a cell, also from before this context.
                    found = getattr(torch.ops.aten, cell).input._dispatch_cache
                    found.clear()
                    stack.callback(found.clear)
                    stack.enter_context(
                        getattr(_patches, f"register_{cell}_while_loop_decomposition")()
                    )
        yield


def _store_as_bfloat16(model: Any) -> None:
    """Stores the float32 weights of an ONNX model as bfloat16, each followed by a cast."""
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
