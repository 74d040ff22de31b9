"""Compares the written model with PyTorch. This cannot be skipped."""

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
    """Run onnx.checker with full shape inference; it sees Ascend's operators in a domain of their own.

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
    """Compare the model with PyTorch on every image; with dynamic axes, at two sizes and batches.

    Args:
        images: at least two, uint8 [H, W, 3] BGR of any size; fitted into the input by :func:`fit`.

    Returns:
        the largest difference of each output, the input shapes that were run, and the name of what ran the model.
    """
    check(model)
    run, by = runner(model)
    worst: dict[str, Difference] = {}
    shapes: list[tuple[int, ...]] = []
    for index, (batch, size) in enumerate(_cases(graph, len(images))):
        chosen = [images[(index + i) % len(images)] for i in range(batch)]
        inputs = np.stack([fit(image, size, graph) for image in chosen])
        theirs = answer(graph, inputs)
        again = functools.cache(functools.partial(_answer_again, graph, inputs))
        for found in compare(graph.outputs, run(inputs), theirs, graph.selection, graph.half_precision, again):
            worst[found.name] = _worse(worst.get(found.name), found)
        shapes.append(inputs.shape)
    return list(worst.values()), shapes, by


def beside_mmdet(graph: ExportGraph, images: Sequence[np.ndarray]) -> tuple[int, int, int]:
    """Compare a graph that selects candidates in another way than mmdet with mmdet's own prediction.

    The graph runs in PyTorch; :func:`verify` shows that the file gives the same result.

    Returns:
        number of detections that both have, that the graph has, that mmdet has.
    """
    found = np.zeros(3, int)
    for image in images:
        inputs = torch.from_numpy(fit(image, graph.spec.shape, graph)[None])
        with torch.no_grad():
            dets, labels, *others = (tensor.numpy() for tensor in (*graph(inputs), *graph.mmdets(inputs)))
        found += agreement(dets, labels, others[0], others[1], graph.half_precision)
    return int(found[0]), int(found[1]), int(found[2])


def answer(graph: ExportGraph, inputs: np.ndarray) -> list[np.ndarray]:
    """PyTorch's outputs, computed in the precision of the inputs [B, 3, H, W]."""
    images = torch.from_numpy(inputs)
    if images.dtype == torch.float64:
        graph = copy.deepcopy(graph).double()
    with torch.no_grad():
        return [tensor.numpy() for tensor in graph.reference(images)]


def _answer_again(graph: ExportGraph, inputs: np.ndarray, number: int) -> list[np.ndarray]:
    """PyTorch's outputs once more, for :func:`.compare.compare`.

    Args:
        number: 0: in float64; otherwise the seed of a relative change of the inputs by a millionth.
    """
    if number == 0:
        return answer(graph, inputs.astype(np.float64))
    noise = np.random.default_rng(number).standard_normal(inputs.shape, np.float32)
    return answer(graph, inputs * (1 + np.float32(1e-6) * noise))


def _cases(graph: ExportGraph, images: int) -> list[tuple[int, tuple[int, int]]]:
    """(batch, (height, width)) of each run: the example size once per image, and another size if axes are dynamic."""
    spec = graph.spec
    cases = [(spec.batch, spec.shape)] * images
    if spec.dynamic:
        batch = spec.batch + 1 if "batch" in spec.dynamic else spec.batch
        height = _other(spec.shape[0], 0.75) if "height" in spec.dynamic else spec.shape[0]
        width = _other(spec.shape[1], 1.25) if "width" in spec.dynamic else spec.shape[1]
        cases.append((batch, (height, width)))
    return cases


def _other(side: int, factor: float) -> int:
    """Another side length, a multiple of 32 px."""
    found = max(64, round(side * factor / 32) * 32)
    return found if found != side else found + 32


def fit(image: np.ndarray, size: tuple[int, int], graph: ExportGraph) -> np.ndarray:
    """Prepare an image uint8 [h, w, 3] BGR as the graph takes it: f32 [3, H, W].

    It is resized with its aspect ratio and padded right and below with zeros, after the normalisation (before it if
    the graph normalises).
    """
    height, width = size
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = (
        max(1, min(width, int(image.shape[1] * scale + 0.5))),
        max(1, min(height, int(image.shape[0] * scale + 0.5))),
    )
    pixels: np.ndarray = cv2.resize(image, inner, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    if not graph.spec.normalize:
        mean, std, flip = normalisation(graph.model)
        pixels = ((pixels[..., ::-1] if flip else pixels) - np.array(mean, np.float32)) / np.array(std, np.float32)
    result = np.zeros((3, height, width), np.float32)
    result[:, : inner[1], : inner[0]] = pixels.transpose(2, 0, 1)
    return result


def _worse(old: Difference | None, new: Difference) -> Difference:
    """Combine the differences of one output in two runs."""
    if old is None:
        return new
    note = new.note if new.largest >= old.largest or not old.note else old.note
    return Difference(
        new.name,
        max(old.largest, new.largest),
        old.fault or new.fault,
        old.count + new.count,
        note,
        old.apart + new.apart,
        old.unexplained + new.unexplained,
    )
