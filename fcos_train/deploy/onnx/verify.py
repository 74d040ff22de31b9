"""Runs the written model beside PyTorch. There is no flag to skip this."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import onnx
import torch
from onnx import ModelProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from fcos_train.deploy.onnx.ascend_ops import OPERATORS
from fcos_train.deploy.onnx.compare import Difference, agreement, compare
from fcos_train.deploy.onnx.spec import ExportGraph, normalisation
from fcos_train.deploy.onnx.writing import INPUT, custom_operators

# Standard operators that the reference evaluator computes slowly: a runtime computes these nodes.
HEAVY = ("Conv", "BatchNormalization", "MaxPool", "InstanceNormalization", "Resize", "Relu", "Add", "Mul", "Sigmoid")


def check(model: ModelProto) -> None:
    """onnx.checker with full shape inference; Ascend's operators are shown to it under a domain of their own.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: the file is not valid ONNX.
    """
    names = custom_operators(model)
    if names:
        model = copy.deepcopy(model)
        for node in model.graph.node:
            if node.op_type in names:
                node.domain = "ascend"
        model.opset_import.append(helper.make_opsetid("ascend", 1))
    onnx.checker.check_model(model, full_check=True)


def runner(model: ModelProto) -> tuple[Callable[[np.ndarray], list[np.ndarray]], str]:
    """A function from an input batch to all outputs, and the name of what computes: onnxruntime, or the reference
    evaluator of onnx where the model has Ascend's operators."""
    if custom_operators(model):
        heavy = [type(name, (_RuntimeNode,), {"op_domain": ""}) for name in HEAVY]
        evaluator = _Evaluator(model, new_ops=[*OPERATORS, *heavy])
        return lambda images: evaluator.run(None, {INPUT: images}), "onnx reference evaluator"
    session = _session(model)
    return lambda images: session.run(None, {INPUT: images}), "onnxruntime"


def _session(model: ModelProto, threads: int = 0, arena: bool = True):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # 0: all cores
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class _Evaluator(ReferenceEvaluator):
    """Forgets a value after the last node that reads it; the original keeps all, which is gigabytes at full size.

    For graphs without bodies (If, Loop, Scan).
    """

    def run(self, output_names, feed_inputs, **_):
        wanted = output_names or self.output_names
        last = {name: place for place, node in enumerate(self.rt_nodes_) for name in node.input}
        values = {"": None, **self.rt_inits_, **feed_inputs}
        for place, node in enumerate(self.rt_nodes_):
            values.update(zip(node.output, node.run(*(values[name] for name in node.input)), strict=False))
            for name in {*node.input, *node.output} - {"", *wanted}:
                if last.get(name, place) == place:
                    values.pop(name, None)
        return [values[name] for name in wanted]


class _RuntimeNode(OpRun):
    """One node of the standard, computed by onnxruntime."""

    def _run(self, *inputs, **attributes):
        if not hasattr(self, "_one"):
            # a pool of threads for each of hundreds of small nodes costs more than it saves, and an arena keeps memory
            threads = 0 if self.onnx_node.op_type == "Conv" else 1
            self._one = _session(self._alone(inputs), threads, arena=False)
        feed = {name: value for name, value in zip(self.onnx_node.input, inputs, strict=False) if name}
        return tuple(self._one.run(None, feed))

    def _alone(self, inputs) -> ModelProto:
        values = []
        for name, value in zip(self.onnx_node.input, inputs, strict=False):
            if name:
                kind = helper.np_dtype_to_tensor_dtype(value.dtype)
                values.append(helper.make_tensor_value_info(name, kind, [None] * value.ndim))
        results = [helper.make_empty_tensor_value_info(name) for name in self.onnx_node.output]
        graph = helper.make_graph([self.onnx_node], "one", values, results)
        opsets = [helper.make_opsetid("", self.run_params["opsets"][""])]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def verify(
    graph: ExportGraph, model: ModelProto, images: Sequence[np.ndarray]
) -> tuple[list[Difference], list[tuple[int, ...]], str]:
    """Compare the model with PyTorch on every image, at two sizes and batches when those are open.

    Args:
        images: at least two, uint8 [H, W, 3] BGR of any size; fitted into the input by :func:`fit`.

    Returns:
        the worst difference of each output, the input shapes that were run, and what computed the model.
    """
    check(model)
    run, by = runner(model)
    worst: dict[str, Difference] = {}
    shapes: list[tuple[int, ...]] = []
    for index, (batch, size) in enumerate(_cases(graph, len(images))):
        chosen = [images[(index + i) % len(images)] for i in range(batch)]
        inputs = np.stack([fit(image, size, graph) for image in chosen])
        theirs = _answer(graph, inputs)
        half = graph.spec.end == "ascend" and graph.spec.half
        again = functools.cache(functools.partial(_answer_again, graph, inputs))
        for found in compare(graph.outputs, run(inputs), theirs, graph.rules, half, again):
            worst[found.name] = _worse(worst.get(found.name), found)
        shapes.append(inputs.shape)
    return list(worst.values()), shapes, by


def beside_mmdet(graph: ExportGraph, images: Sequence[np.ndarray]) -> tuple[int, int, int]:
    """Detections that a graph with the end ``ascend`` and mmdet's own prediction share, that the graph has, that mmdet
    has. The graph is computed by PyTorch, which :func:`verify` shows to be the same as the file."""
    found = np.zeros(3, int)
    for image in images:
        inputs = torch.from_numpy(fit(image, graph.spec.shape, graph)[None])
        with torch.no_grad():
            parts = [tensor.numpy() for tensor in (*graph(inputs), *graph.mmdets(inputs))]
        found += agreement(*parts, graph.spec.half)
    return tuple(int(count) for count in found)


def _answer(graph: ExportGraph, inputs: np.ndarray) -> list[np.ndarray]:
    """What PyTorch answers, computed in the precision of the inputs."""
    images = torch.from_numpy(inputs)
    if images.dtype == torch.float64:
        graph = copy.deepcopy(graph).double()
    with torch.no_grad():
        return [tensor.numpy() for tensor in graph.reference(images)]


def _answer_again(graph: ExportGraph, inputs: np.ndarray, number: int) -> list[np.ndarray]:
    """See :func:`.compare.compare`: 0 in float64, else with the inputs changed by a millionth, each number otherwise."""
    if number == 0:
        return _answer(graph, inputs.astype(np.float64))
    noise = np.random.default_rng(number).standard_normal(inputs.shape, np.float32)
    return _answer(graph, inputs * (1 + np.float32(1e-6) * noise))


def _cases(graph: ExportGraph, images: int) -> list[tuple[int, tuple[int, int]]]:
    """(batch, (height, width)) of each run: the example size once for each image, and another size when it is open."""
    spec = graph.spec
    cases = [(spec.batch, spec.shape)] * images
    if spec.dynamic:
        batch = spec.batch + 1 if "batch" in spec.dynamic else spec.batch
        height = _other(spec.shape[0], 0.75) if "height" in spec.dynamic else spec.shape[0]
        width = _other(spec.shape[1], 1.25) if "width" in spec.dynamic else spec.shape[1]
        cases.append((batch, (height, width)))
    return cases


def _other(side: int, factor: float) -> int:
    """Another side, a multiple of 32 px."""
    found = max(64, round(side * factor / 32) * 32)
    return found if found != side else found + 32


def fit(image: np.ndarray, size: tuple[int, int], graph: ExportGraph) -> np.ndarray:
    """uint8 [h, w, 3] BGR -> f32 [3, H, W] as the graph takes it: resized with its proportions, padded right and
    below with zeros after the normalisation (before it, when the graph normalises)."""
    height, width = size
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = (
        max(1, min(width, int(image.shape[1] * scale + 0.5))),
        max(1, min(height, int(image.shape[0] * scale + 0.5))),
    )
    pixels = cv2.resize(image, inner, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    if not graph.spec.normalize:
        mean, std, flip = normalisation(graph.model)
        pixels = ((pixels[..., ::-1] if flip else pixels) - np.float32(mean)) / np.float32(std)
    result = np.zeros((3, height, width), np.float32)
    result[:, : inner[1], : inner[0]] = pixels.transpose(2, 0, 1)
    return result


def _worse(old: Difference | None, new: Difference) -> Difference:
    if old is None:
        return new
    note = new.note if new.largest >= old.largest or not old.note else old.note
    return Difference(new.name, max(old.largest, new.largest), old.fault or new.fault, old.count + new.count, note)
