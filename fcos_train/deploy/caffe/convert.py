"""Writes an ONNX graph as a caffe network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf import text_format
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fcos_train.deploy.caffe.network import Blob, Network
from fcos_train.deploy.caffe.operators import CURES, OPERATORS, TRANSPARENT, Node, Unsupported, Value
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole


def write_caffe(onnx_file: Path, prototxt: Path) -> None:
    """Convert a file of one input and fixed sizes; the weights go into a `.caffemodel` of the same name.

    Raises:
        UserError: an operator that has no counterpart in caffe; all of them are named, with the cure.
    """
    message = network_of(onnx.load(str(onnx_file)), prototxt.stem)
    write_whole(prototxt.with_suffix(".caffemodel"), message.SerializeToString(deterministic=True))
    for layer in message.layer:
        layer.ClearField("blobs")
    write_whole(prototxt, text_format.MessageToString(message).encode())


def network_of(model: ModelProto, name: str) -> Any:
    """The `NetParameter` of an ONNX model, weights included.

    Args:
        name: of the network.

    Raises:
        UserError: as :func:`write_caffe`.
    """
    _require_known(model)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    net, shapes, faults = Network(name), _shapes(model), dict[str, str]()
    outputs = [value.name for value in model.graph.output]
    values = _inputs(model, net)
    for node in model.graph.node:
        if any(name not in values for name in node.input):
            continue  # the node before it was refused
        try:
            values[node.output[0]] = _translated(node, net, values, shapes, outputs)
        except Unsupported as reason:
            faults.setdefault(f"{node.op_type} {reason}", f"{node.op_type} {node.name} ({reason})")
    if faults:
        raise UserError(f"--target caffe cannot represent {'; '.join(faults.values())}")
    for name in outputs:
        value = values[name]
        if not isinstance(value, Blob):
            raise UserError(f"--target caffe cannot represent the output {name}, which is a constant")
        if value.name != name:  # another name of a blob: a layer that changes nothing
            net.power(name, value)
    return net.message


def _require_known(model: ModelProto) -> None:
    """Refuse operators without a counterpart; where a known cause is among them, it alone is named."""
    known = {*OPERATORS, *TRANSPARENT, "Constant"}
    foreign = {node.op_type: node.name for node in reversed(model.graph.node) if node.op_type not in known}
    if not foreign:
        return
    causes = {kind: foreign[kind] for kind in foreign if kind in CURES} or foreign
    cures = list(dict.fromkeys(CURES[kind] for kind in causes if kind in CURES))
    names = ", ".join(f"{kind} ({name})" for kind, name in sorted(causes.items()))
    raise UserError(
        f"--target caffe has no layer for {names}: "
        + ("; ".join(cures) or f"it has {', '.join(OPERATORS)}; other targets may have more")
    )


def _inputs(model: ModelProto, net: Network) -> dict[str, Value]:
    """The values that are there before the first node; adds the layer of the input."""
    values: dict[str, Value] = {"": None}
    values.update({tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer})
    for entry in model.graph.input:
        if entry.name not in values:
            shape = _shapes(model)[entry.name]
            values[entry.name] = Blob(net.input(entry.name, shape), shape)
    return values


def _translated(
    node: NodeProto, net: Network, values: dict[str, Value], shapes: dict[str, tuple[int, ...]], outputs: list[str]
) -> Value:
    """The result of a node, whose layers are added to the network.

    Raises:
        Unsupported: caffe has no such layer.
    """
    attributes = {entry.name: _plain(helper.get_attribute_value(entry)) for entry in node.attribute}
    if node.op_type == "Constant":
        (value,) = attributes.values()
        return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
    inputs = tuple(values[name] for name in node.input)
    if node.op_type in TRANSPARENT:
        return inputs[0]
    result = node.output[0]
    name = result if result in outputs else net.unused(node.name or result)
    step = Node(node.op_type, name, inputs, attributes, shapes[result])
    return Blob(OPERATORS[node.op_type](net, step), step.shape)


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of each value."""
    graph = model.graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def _plain(value: Any) -> Any:
    """Text instead of bytes."""
    return value.decode() if isinstance(value, bytes) else value
