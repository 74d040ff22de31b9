"""Runs the written model beside PyTorch. There is no flag to skip this."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import cv2
import numpy as np
import onnx
import torch
from onnx import ModelProto, helper

from fcos_train.deploy.onnx.ascend_ops import DOMAIN
from fcos_train.deploy.onnx.compare import Difference, agreement, compare
from fcos_train.deploy.onnx.evaluator import runner
from fcos_train.deploy.onnx.spec import ExportGraph, normalisation
from fcos_train.deploy.onnx.writing import custom_operators


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
                node.domain = DOMAIN
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    onnx.checker.check_model(model, full_check=True)


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
        again = functools.cache(functools.partial(_answer_again, graph, inputs))
        for found in compare(graph.outputs, run(inputs), theirs, graph.selection, graph.half, again):
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
        found += agreement(*parts, graph.half)
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
