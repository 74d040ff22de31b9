"""What ``atc`` needs to know of an ONNX file, and what it would refuse: read here before the converter is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fcos_train.deploy.parts.files import some
from mmcv_overrides.errors import UserError

ATC_OPSETS = range(8, 17)  # ai.onnx versions that CANN's parser plugins are registered for
NOT_FOR_ATC = ("NonMaxSuppression",)  # the operator of --end nms, with outputs of a size that depends on the data


@dataclass(frozen=True)
class Signature:
    """What an ONNX file says of itself.

    Attributes:
        name, shape: of its input; None for dynamic axes. outputs: their names.
        nodes: number of outputs of each node, by name. tensors: names of all values that nodes compute.
        opset: of the default domain. operators: types of its nodes.
    """

    name: str
    shape: tuple[int | None, ...]
    outputs: tuple[str, ...]
    nodes: dict[str, int]
    tensors: frozenset[str]
    opset: int
    operators: frozenset[str]


def signature(path: Path) -> Signature:
    """Read the signature of an ONNX file without its external weights.

    Raises:
        UserError: no such file, or not an ONNX model of one image input.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("reading an ONNX file needs onnx: pip install onnx") from None
    if not path.is_file():
        raise UserError(f"--model {path}: no such file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's decoding error
        raise UserError(f"{path} is not an ONNX file: {error}") from None
    graph = model.graph
    weights = {weight.name for weight in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise UserError(f"{path}: expected one input of the form (N, 3, H, W), found {[v.name for v in inputs]}")
    sides = inputs[0].type.tensor_type.shape.dim
    return Signature(
        name=inputs[0].name,
        shape=tuple(side.dim_value if side.HasField("dim_value") and side.dim_value else None for side in sides),
        outputs=tuple(value.name for value in graph.output),
        nodes={node.name: len(node.output) for node in graph.node if node.name},
        tensors=frozenset(name for node in graph.node for name in node.output),
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1),
        operators=frozenset(node.op_type for node in graph.node),
    )


def require_convertible(found: Signature, path: Path) -> None:
    """Refuse a graph that ``atc`` does not convert.

    Raises:
        UserError: it ends in an operator without a counterpart, or has an opset that CANN's parser does not know.
    """
    faults = []
    foreign = sorted(found.operators.intersection(NOT_FOR_ATC))
    if foreign:
        faults.append(f"it contains {', '.join(foreign)}, as --end nms writes it for onnxruntime")
    if found.opset not in ATC_OPSETS:
        faults.append(f"its opset is {found.opset}, and CANN's parser takes {ATC_OPSETS[0]} to {ATC_OPSETS[-1]}")
    if faults:
        raise UserError(
            f"{path} is not for atc: {'; '.join(faults)}. "
            f"Export it with {'--end ascend (opset 11)' if foreign else '--opset 11'}; "
            "--unchecked hands it to the converter as it is"
        )


def require_nodes(found: Signature, out_nodes: str, path: Path) -> None:
    """Refuse ``name;name`` or ``node:0;node:0`` that are not in the graph.

    Raises:
        UserError: the message lists what is missing and the outputs that the file has.
    """
    absent = [entry for entry in out_nodes.split(";") if not _is_there(found, entry)]
    if absent:
        raise UserError(
            f"--out-nodes: {path} has no {some(absent)}; its outputs are {';'.join(found.outputs)}. "
            "Leave --out-nodes out to take them (names such as Concat_1427 are of another file, numbered by torch 1.7)"
        )


def _is_there(found: Signature, entry: str) -> bool:
    """``entry`` is an output of the graph, a value within it, or the k-th output of a node."""
    node, _, index = entry.rpartition(":")
    if entry in found.outputs or entry in found.tensors:
        return True
    return index.isdecimal() and int(index) < found.nodes.get(node, 0)


def input_shape(found: Signature, path: Path, wanted: Sequence[int | None]) -> list[int]:
    """The fixed input shape of an ``.om``.

    Args:
        wanted: batch, height and width as asked for; None: the file's.

    Raises:
        UserError: a dynamic axis without a value, or a value that contradicts the file.
    """
    flags = ("--batch-size", "--input-height", "--input-width")
    fixed = (found.shape[0], *found.shape[2:])
    sides = []
    for flag, own, asked in zip(flags, fixed, wanted, strict=True):
        if own and asked and own != asked:
            cure = (
                f"export it with --batch {asked}, or once with --dynamic batch for all batch sizes"
                if flag == flags[0]
                else "export it for that size"
            )
            raise UserError(f"{path} has a fixed size of {own}, not {asked} as {flag} says; {cure}")
        side = asked or own or (1 if flag == flags[0] else None)
        if not side:
            raise UserError(f"{path} takes inputs of any size, an .om needs a fixed one: give {flag}")
        sides.append(side)
    return [sides[0], found.shape[1] or 3, *sides[1:]]
