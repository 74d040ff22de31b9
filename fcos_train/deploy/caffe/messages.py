"""The messages of caffe's files, built in Python: neither protoc nor caffe is needed.

Names, numbers and types are those of BVLC caffe's format, of which this is the part that detectors need. Defaults are
left to the readers: a field is written only where it is set.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "caffe"
_SCALARS = {
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "float": descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
}
# Enumerations, each inside a message: values, numbered from 0.
_ENUMS = {
    "EltwiseParameter.EltwiseOp": ("PROD", "SUM", "MAX"),
    "PoolingParameter.PoolMethod": ("MAX", "AVE", "STOCHASTIC"),
}
# Message -> field -> (number, type); "*" marks a repeated field.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "BlobShape": {"dim": (1, "int64*")},
    # `data` is `repeated float [packed]` in caffe. On the wire that is the length and the bytes of the numbers, as of a
    # field of bytes, which is read and written without a Python object for each weight.
    "BlobProto": {"data": (5, "bytes"), "shape": (7, "BlobShape")},
    "InputParameter": {"shape": (1, "BlobShape*")},
    "ConcatParameter": {"axis": (2, "int32")},
    "ConvolutionParameter": {
        "num_output": (1, "uint32"),
        "bias_term": (2, "bool"),
        "pad": (3, "uint32*"),
        "kernel_size": (4, "uint32*"),
        "group": (5, "uint32"),
        "stride": (6, "uint32*"),
        "pad_h": (9, "uint32"),
        "pad_w": (10, "uint32"),
        "kernel_h": (11, "uint32"),
        "kernel_w": (12, "uint32"),
        "stride_h": (13, "uint32"),
        "stride_w": (14, "uint32"),
        "dilation": (18, "uint32*"),
    },
    "EltwiseParameter": {"operation": (1, "EltwiseParameter.EltwiseOp"), "coeff": (2, "float*")},
    "PoolingParameter": {
        "pool": (1, "PoolingParameter.PoolMethod"),
        "kernel_size": (2, "uint32"),
        "stride": (3, "uint32"),
        "pad": (4, "uint32"),
        "kernel_h": (5, "uint32"),
        "kernel_w": (6, "uint32"),
        "stride_h": (7, "uint32"),
        "stride_w": (8, "uint32"),
        "pad_h": (9, "uint32"),
        "pad_w": (10, "uint32"),
    },
    "PowerParameter": {"power": (1, "float"), "scale": (2, "float"), "shift": (3, "float")},
    "ReLUParameter": {"negative_slope": (1, "float")},
    "ScaleParameter": {"axis": (1, "int32"), "num_axes": (2, "int32"), "bias_term": (4, "bool")},
    "LayerParameter": {
        "name": (1, "string"),
        "type": (2, "string"),
        "bottom": (3, "string*"),
        "top": (4, "string*"),
        "blobs": (7, "BlobProto*"),
        "concat_param": (104, "ConcatParameter"),
        "convolution_param": (106, "ConvolutionParameter"),
        "eltwise_param": (110, "EltwiseParameter"),
        "pooling_param": (121, "PoolingParameter"),
        "power_param": (122, "PowerParameter"),
        "relu_param": (123, "ReLUParameter"),
        "scale_param": (142, "ScaleParameter"),
        "input_param": (143, "InputParameter"),
    },
    "NetParameter": {"name": (1, "string"), "layer": (100, "LayerParameter*")},
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    """The description of all messages."""
    file = descriptor_pb2.FileDescriptorProto(name="fcos_train/caffe.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for path, values in _ENUMS.items():
            owner, _, enum_name = path.partition(".")
            if owner == name:
                enum = message.enum_type.add(name=enum_name)
                for number, value in enumerate(values):
                    enum.value.add(name=value, number=number)
        for field, (number, kind) in fields.items():
            _add_field(message, field, number, kind.removesuffix("*"), kind.endswith("*"))
    return file


def _add_field(message: Any, name: str, number: int, kind: str, repeated: bool) -> None:
    proto = descriptor_pb2.FieldDescriptorProto
    field = message.field.add(name=name, number=number)
    field.label = proto.LABEL_REPEATED if repeated else proto.LABEL_OPTIONAL
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        if kind == "int64":  # of BlobShape, packed in caffe
            field.options.packed = True
        return
    field.type = proto.TYPE_ENUM if kind in _ENUMS else proto.TYPE_MESSAGE
    field.type_name = f".{_PACKAGE}.{kind}"


def _classes() -> dict[str, Any]:
    # A pool of its own: a process may also have caffe's own messages.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


# protobuf makes the class while the program runs, hence Any.
NetParameter: Any = _classes()["NetParameter"]
