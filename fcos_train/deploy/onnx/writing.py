"""Traces an :class:`ExportGraph` to an ONNX model with stable names, declared axes and nothing specific to the run."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from fcos_train.deploy.onnx import deform_conv
from fcos_train.deploy.onnx.ascend_ops import DOMAIN, OPERATORS
from fcos_train.deploy.onnx.options import OPSETS
from fcos_train.deploy.onnx.spec import ExportGraph
from mmcv_overrides.errors import UserError

# Layers of mmcv that would be written with operators of mmcv's own, which no runtime has.
WITHOUT_OPERATOR = {"CARAFE", "CARAFENaive", "CARAFEPack", "BorderAlign", "DeformRoIPool", "MaskedConv2d", "PSAMask"}
# Function with (graph) -> context manager, entered while a model is traced.
PATCHES: list[Callable[[ExportGraph], AbstractContextManager[None]]] = [deform_conv.traceable]


def write(graph: ExportGraph, opset: int) -> ModelProto:
    """Trace a graph.

    Raises:
        UserError: the opset is out of range, or lacks an operator of the model; a layer that ONNX has no operator for.
    """
    if opset not in OPSETS or not graph.min_opset <= opset <= graph.max_opset:
        low, high = max(OPSETS[0], graph.min_opset), min(OPSETS[-1], graph.max_opset)
        raise UserError(f"--opset {opset}: this graph needs an opset of {low} to {high}")
    require_operators(graph.model)
    spec = graph.spec
    example = torch.zeros(spec.batch, 3, *spec.shape)
    axes = {graph.end.input_name: graph.input_axes(), **{output.name: output.axes for output in graph.outputs}}
    file: Any = io.BytesIO()  # the annotation of `export` lacks streams
    try:
        with torch.no_grad(), contextlib.ExitStack() as stack:
            for manager in (_quiet(), _fixed_upsampling(graph), *(patch(graph) for patch in PATCHES)):
                stack.enter_context(manager)
            torch.onnx.export(
                graph,
                (example,),
                file,
                dynamo=False,
                opset_version=opset,
                input_names=[graph.end.input_name],
                output_names=[output.name for output in graph.outputs],
                dynamic_axes={name: value for name, value in axes.items() if value},
                do_constant_folding=True,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"the model cannot be written with opset {opset}: {line} (try a larger --opset)") from error
    except (
        AttributeError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # of operators that the exporter cannot write
        raise UserError(
            f"{type(graph.model).__name__} cannot be exported: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    model = onnx.load_from_string(file.getvalue())
    return _named(_declared(_default_domain(model), graph))


def require_operators(model: nn.Module) -> None:
    """Refuse layers that ONNX has no operator for.

    Raises:
        UserError: the message has the layers.
    """
    kinds = {type(part) for part in model.modules() if type(part).__module__.startswith("mmcv.ops.")}
    unknown = sorted(kind.__name__ for kind in kinds if WITHOUT_OPERATOR & {base.__name__ for base in kind.__mro__})
    if unknown:
        raise UserError(
            f"{type(model).__name__} cannot be exported: ONNX has no operator for mmcv's {' and '.join(unknown)}. "
            "Take a config without it"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of tracing that sizes become constants, which is intended for fixed axes."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _fixed_upsampling(graph: ExportGraph) -> Iterator[None]:
    """For fixed sizes, upsample maps by a constant factor if it is an integer, else to a constant size.

    Compilers for accelerators only accept a Resize with constants.
    """
    if graph.spec.dynamic_size:
        yield
        return
    functional: Any = nn.functional
    original = functional.interpolate

    def interpolate(
        input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *rest: Any, **named: Any
    ) -> Tensor:
        if size is not None:
            size = [int(side) for side in (size if isinstance(size, (list, tuple, torch.Size)) else [size] * 2)]
            factors = [side / int(old) for side, old in zip(size, input.shape[2:], strict=True)]
            if mode == "nearest" and all(factor == int(factor) for factor in factors):
                size, scale_factor = None, factors
        return original(input, size, scale_factor, mode, *rest, **named)

    functional.interpolate = interpolate
    try:
        yield
    finally:
        functional.interpolate = original


def _default_domain(model: ModelProto) -> ModelProto:
    """Move Ascend's operators to the default domain, where ATC expects them."""
    for node in model.graph.node:
        if node.domain == DOMAIN:
            node.domain = ""
    kept = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def _declared(model: ModelProto, graph: ExportGraph) -> ModelProto:
    """Declare the shapes of the outputs, which the exporter loses in part."""
    with torch.no_grad():
        example = graph(torch.zeros(graph.spec.batch, 3, *graph.spec.shape))
    for value, tensor, output in zip(model.graph.output, example, graph.outputs, strict=True):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for axis, side in enumerate(tensor.shape):
            dim = shape.dim.add()
            if axis in output.axes:
                dim.dim_param = output.axes[axis]
            else:
                dim.dim_value = side
    del model.graph.value_info[:]
    return model


def _named(model: ModelProto) -> ModelProto:
    """Name values after their node and constants after their position.

    Names then depend on the model only, not on weights or counters of the exporter. Parameters keep the names of the
    checkpoint.
    """
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    names: dict[str, str] = {"": ""}
    taken = set(fixed)
    for place, tensor in enumerate(graph.initializer):
        numbered = "::" in tensor.name or tensor.name.isdigit()
        names[tensor.name] = _unused(f"constant_{place}" if numbered else tensor.name, taken)
        tensor.name = names[tensor.name]
    used: set[str] = set()
    for node in graph.node:
        node.name = _unused(_tidy(node.name) or node.op_type, used)
        node.ClearField("doc_string")
        for index, name in enumerate(node.output):
            if name and name not in fixed:
                names[name] = _unused(f"{node.name}:{index}", taken)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    graph.name = "detector"
    return model


def _tidy(name: str) -> str:
    """``/model/backbone/conv1/Conv`` -> ``backbone/conv1/Conv``."""
    return name.strip("/").removeprefix("model/")


def _unused(wish: str, used: set[str]) -> str:
    """The wished name, with a number if it is taken; marked as taken."""
    name, number = wish, 1
    while name in used:
        name, number = f"{wish}_{number}", number + 1
    used.add(name)
    return name


def custom_operators(model: ModelProto) -> set[str]:
    """Names of Ascend's operators in a model."""
    known = {operator.__name__ for operator in OPERATORS}
    return {node.op_type for node in model.graph.node if node.domain == "" and node.op_type in known}
