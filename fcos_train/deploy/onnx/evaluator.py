"""Runs an ONNX model: in onnxruntime, or in onnx's reference evaluator where it has Ascend's operators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from fcos_train.deploy.onnx.ascend_ops import OPERATORS
from fcos_train.deploy.onnx.writing import custom_operators
from fcos_train.deploy.parts.session import Session, cpu_session

# Standard operators that the reference evaluator computes slowly: onnxruntime computes these nodes.
HEAVY = ("Conv", "BatchNormalization", "MaxPool", "InstanceNormalization", "Resize", "Relu", "Add", "Mul", "Sigmoid")


def runner(model: ModelProto) -> tuple[Callable[[np.ndarray], list[np.ndarray]], str]:
    """Load a model.

    Returns:
        a function from an input batch [B, 3, H, W] to all outputs, and the name of what computes them.
    """
    if custom_operators(model):
        heavy = [type(name, (_RuntimeNode,), {"op_domain": ""}) for name in HEAVY]
        evaluator = _Evaluator(model, new_ops=[*OPERATORS, *heavy])
        return lambda images: evaluator.run(None, {model.graph.input[0].name: images}), "onnx reference evaluator"
    session = cpu_session(model.SerializeToString())
    return lambda images: session.run(None, {model.graph.input[0].name: images}), "onnxruntime"


class _Evaluator(ReferenceEvaluator):
    """Frees a value after the last node that reads it; the base class keeps all, which is gigabytes at full size.

    Only for graphs without subgraphs (If, Loop, Scan).
    """

    def run(self, output_names: Any, feed_inputs: dict[str, Any], *_: Any, **__: Any) -> list[Any]:
        """The outputs of these names (None: all); other options of the base class are not supported."""
        wanted = output_names or self.output_names
        last = {name: place for place, node in enumerate(self.rt_nodes_) for name in node.input}
        values: dict[str, Any] = {"": None, **self.rt_inits_, **feed_inputs}
        for place, node in enumerate(self.rt_nodes_):
            values.update(zip(node.output, node.run(*(values[name] for name in node.input)), strict=False))
            for name in {*node.input, *node.output} - {"", *wanted}:
                if last.get(name, place) == place:
                    values.pop(name, None)
        return [values[name] for name in wanted]


class _RuntimeNode(OpRun):
    """One node of a standard operator, computed by onnxruntime."""

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
        # A thread pool for small nodes costs more than it saves.
        threads = 0 if self.onnx_node.op_type == "Conv" else 1
        feed = {f"in{place}": value for place, value in enumerate(inputs) if value is not None}
        return tuple(_session(self._alone(feed).SerializeToString(deterministic=True), threads).run(None, feed))

    def _alone(self, feed: dict[str, np.ndarray]) -> ModelProto:
        """A model of this node only, the same for all nodes that differ in names and values alone."""
        node = NodeProto()
        node.CopyFrom(self.onnx_node)
        node.ClearField("name")
        node.input[:] = [f"in{place}" if name else "" for place, name in enumerate(node.input)]
        node.output[:] = [f"out{place}" if name else "" for place, name in enumerate(node.output)]
        values = []
        for name, value in feed.items():
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            values.append(helper.make_tensor_value_info(name, kind, [None] * value.ndim))
        results = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        graph = helper.make_graph([node], "one", values, results)
        opsets = [helper.make_opsetid("", self.run_params["opsets"][""])]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@functools.lru_cache(maxsize=64)
def _session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    """A session, kept because loading takes longer than computing. Weights are inputs, so it holds none."""
    return cpu_session(model, threads, arena=False)  # an arena keeps memory


class ReferenceSession(Session):
    """A model with Ascend's operators in the reference evaluator, as the exporter verifies it: exact and slow.

    Args:
        description: of the export: batch and size of the input.
    """

    def __init__(self, path: str | Path, description: dict[str, Any]) -> None:
        self.path, self.batch = Path(path), int(description["input"]["shape"][0])
        self.height, self.width = description["input"]["example_shape"]
        model = onnx.load(str(path))
        self.outputs = [output.name for output in model.graph.output]
        self._compute, _ = runner(model)

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch f32 [batch, 3, H, W]."""
        return self._compute(images)
