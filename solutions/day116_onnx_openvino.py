"""Day 116: a PyTorch model as an ONNX graph, and two engines that run it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch

from llm180 import known_mistakes

sys.modules.setdefault("openvino_telemetry", None)  # or the import reports to the web
import openvino as ov  # noqa: E402


def export_onnx(
    model: torch.nn.Module,
    example: dict[str, torch.Tensor],
    axes: dict[str, dict[int, str]],
    outputs: list[str],
    path: Path,
    opset: int = 20,
) -> dict[str, tuple[int | str, ...]]:
    """Write a model's forward pass in evaluation mode to an ONNX file, checked.

    Parameters
    ----------
    model:
        Its forward takes the tensors of ``example`` by these names, in whatever order
        ``example`` has them. Each of its modules is left in the mode, training or
        evaluation, in which it was.
    example:
        One input of the right dtypes and ranks. The graph's inputs get these names.
    axes:
        For each input its free axes and their symbols, as
        ``{"input_ids": {0: "batch", 1: "length"}}``. Every other axis is fixed at the
        length that it has in ``example``. An input may be missing here.
    outputs:
        Names for what forward returns, in its order.
    path:
        The file. If the checker refuses it, no file is left.
    opset:
        Version of the set of operators.

    Returns
    -------
    The shape that the file declares for each input and output, by name: a number where
    the axis is fixed, a symbol where it is free.

    Raises ValueError before any export if ``axes`` names an unknown input or an axis
    that is not in ``range(rank)``. Errors of the exporter and of the checker,
    ``onnx.checker.ValidationError``, go through.
    """
    for name, named in axes.items():
        if name not in example:
            raise ValueError(
                f"axes names {name!r}, which is no input of {list(example)}"
            )
        for axis in named:
            if not 0 <= axis < example[name].ndim:
                raise ValueError(f"{name} has no axis {axis}")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # equivalent `dynamo=True)`: verbose is only about messages
        # equivalent `opset_version=opset, verbose=False`: dynamo is the default since torch 2.9
        program = torch.onnx.export(
            model,
            (),
            kwargs=example,
            dynamic_shapes={name: axes.get(name, {}) for name in example},
            output_names=outputs,
            opset_version=opset,
            dynamo=True,
            verbose=False,  # equivalent `verbose=True`: only messages
        )
    finally:
        for module, training in modes:
            module.training = training
    program.save(path)
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError:
        path.unlink()
        raise
    graph = onnx.load(path).graph
    shapes = {}
    for value in [*graph.input, *graph.output]:
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(d.dim_param or d.dim_value for d in dims)
    return shapes


known_mistakes(
    export_onnx,
    (
        "    model.eval()\n",
        "",
        "the model is exported in training mode: what it does in training only becomes part of the graph",
    ),
    (
        "        for module, training in modes:\n            module.training = training\n",
        "        model.train()\n",
        "afterwards every module is in training mode, also those that were not",
    ),
    (
        "{name: axes.get(name, {}) for name in example}",
        "None",
        "no axis is free: the shape of the example becomes the only shape",
    ),
    (
        "            output_names=outputs,\n",
        '            output_names=outputs,\n            input_names=["ids", "mask"],\n',
        "inputs are named by their place and not by their keyword, so two of them change names",
    ),
    (
        "        path.unlink()\n",
        "",
        "a file that the checker has refused is left behind, to be loaded by someone later",
    ),
    (
        "    try:\n        onnx.checker.check_model(path)\n",
        "    try:\n        pass\n",
        "the file is never checked: a name that the graph has twice goes unnoticed until an engine loads it",
    ),
    (
        "if not 0 <= axis < example[name].ndim:",
        "if False:",
        "an axis that the input does not have is not refused",
    ),
)


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written again. Raises FileNotFoundError."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _fitted(
    inputs: Mapping[str, np.ndarray], wanted: dict[str, np.dtype]
) -> dict[str, np.ndarray]:
    """The inputs as contiguous arrays of the dtypes that the graph declares."""
    if set(inputs) != set(wanted):
        taken, given = ", ".join(wanted), ", ".join(inputs)
        raise ValueError(f"the graph takes {taken}; given are {given}")
    fitted = {}
    for name, dtype in wanted.items():
        array = np.asarray(inputs[name])
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise TypeError(f"{name} holds {array.dtype}; the graph takes {dtype}")
        fitted[name] = np.ascontiguousarray(array, dtype)
    return fitted


def _chosen(outputs: Sequence[str] | None, names: list[str]) -> list[str]:
    """The names of the outputs to return."""
    unknown = [name for name in outputs or [] if name not in names]
    if unknown:
        raise ValueError(f"the graph has no output {unknown[0]!r}; it has {names}")
    return names if outputs is None else list(outputs)


_ORT_DTYPES = {
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(bool)": np.dtype(np.bool_),
}


# equivalent `maxsize=9` `maxsize=7` `lru_cache()`: no promise says how many are kept
@functools.lru_cache(maxsize=8)
def _session(path: Path, stamp: tuple[int, int], threads: int) -> ort.InferenceSession:
    """A session on the CPU, made once per file, its version, and number of threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # equivalent `InferenceSession(path, options)`: the package for processors has no other provider
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_ort(
    path: Path,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str] | None = None,
    threads: int = 1,
) -> list[np.ndarray]:
    """Run an ONNX file with ONNX Runtime on the CPU.

    Parameters
    ----------
    path:
        The file. Its session is made at the first call and used again, per number of
        threads, until the file is written anew.
    inputs:
        An array per input of the graph, in any order, of any strides. An array is cast
        to the dtype that the graph declares where NumPy calls the cast
        ``"same_kind"``: int32 to int64, float64 to float32.
    outputs:
        Names of the outputs wanted, in the order wanted; ``None`` for all, in the order
        of the graph.
    threads:
        Threads within an operator.

    Returns
    -------
    A list of NumPy arrays that no later call changes.

    Raises FileNotFoundError if there is no file, ValueError if the inputs are not those
    of the graph or an output is unknown, TypeError if a cast would lose the kind of
    number, as float to integer.
    """
    session = _session(path, _stamp(path), threads)
    wanted = {port.name: _ORT_DTYPES[port.type] for port in session.get_inputs()}
    names = _chosen(outputs, [port.name for port in session.get_outputs()])
    return session.run(names, _fitted(inputs, wanted))


known_mistakes(
    run_ort,
    (
        "    session = _session(path, _stamp(path), threads)\n",
        "    session = _session.__wrapped__(path, _stamp(path), threads)\n",
        "a session is built on every call: parsing and optimizing the graph cost more than running it",
    ),
    (
        "    session = _session(path, _stamp(path), threads)\n",
        "    session = _session(path, (0, 0), threads)\n",
        "the session is kept by the file's name alone: after a new export the old model answers",
    ),
    (
        "    session = _session(path, _stamp(path), threads)\n",
        "    session = _session(path, _stamp(path), 1)\n",
        "the number of threads is not passed on",
    ),
    (
        "    return session.run(names, _fitted(inputs, wanted))\n",
        "    return session.run(None, _fitted(inputs, wanted))\n",
        "all outputs come back in the graph's order, whatever was asked for",
    ),
    (
        "    return session.run(names, _fitted(inputs, wanted))\n",
        "    return session.run(names, dict(inputs))\n",
        "inputs go to the engine as they are: int32 ids are refused where the graph takes int64",
    ),
    (
        'if not np.can_cast(array.dtype, dtype, "same_kind"):',
        "if False:",
        "ids that arrive as floats are cut off to integers without a word",
    ),
    (
        "    if set(inputs) != set(wanted):\n",
        "    if not set(inputs) <= set(wanted):\n",
        "an input that is missing is not refused with a ValueError that names it",
    ),
)


# equivalent `maxsize=9` `maxsize=7` `lru_cache()`: no promise says how many are kept
@functools.lru_cache(maxsize=8)
def _compiled(path: Path, stamp: tuple[int, int], threads: int) -> ov.CompiledModel:
    """A model compiled for the CPU, once per file, its version, and number of threads."""
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    return ov.Core().compile_model(path, "CPU", settings)


def run_openvino(
    path: Path,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str] | None = None,
    threads: int = 1,
) -> list[np.ndarray]:
    """Run an ONNX file with OpenVINO on the CPU, in float32 on every processor.

    Parameters
    ----------
    path:
        The file. It is compiled at the first call; the compiled model is used again,
        per number of threads, until the file is written anew.
    inputs:
        As in ``run_ort``: any order, any strides, cast where ``"same_kind"``.
    outputs:
        Names of the outputs wanted, in the order wanted; ``None`` for all, in the order
        of the graph.
    threads:
        Threads of the engine.

    Returns
    -------
    A list of NumPy arrays that no later call changes.

    Raises FileNotFoundError if there is no file, ValueError if the inputs are not those
    of the graph or an output is unknown, TypeError if a cast would lose the kind of
    number, as float to integer.
    """
    compiled = _compiled(path, _stamp(path), threads)
    wanted = {port.any_name: port.element_type.to_dtype() for port in compiled.inputs}
    names = _chosen(outputs, [port.any_name for port in compiled.outputs])
    results = compiled(_fitted(inputs, wanted))
    return [results[name] for name in names]


known_mistakes(
    run_openvino,
    (
        "    compiled = _compiled(path, _stamp(path), threads)\n",
        "    compiled = _compiled.__wrapped__(path, _stamp(path), threads)\n",
        "the model is compiled on every call",
    ),
    (
        "    compiled = _compiled(path, _stamp(path), threads)\n",
        "    compiled = _compiled(path, (0, 0), threads)\n",
        "the compiled model is kept by the file's name alone: after a new export the old model answers",
    ),
    (
        "    compiled = _compiled(path, _stamp(path), threads)\n",
        "    compiled = _compiled(path, _stamp(path), 1)\n",
        "the number of threads is not passed to the engine",
    ),
    (
        "    results = compiled(_fitted(inputs, wanted))\n",
        "    results = compiled(_fitted(inputs, wanted), share_outputs=True)\n",
        "the results are views of the engine's own memory, which the next call writes over",
    ),
    (
        "    return [results[name] for name in names]\n",
        "    return list(results.values())\n",
        "all outputs come back in the graph's order, whatever outputs were asked for",
    ),
)
