"""Exports a checkpoint to a verified ONNX file and its description."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from fcos_train.data.images import read_image
from fcos_train.deploy.onnx import metadata
from fcos_train.deploy.onnx.compare import Difference
from fcos_train.deploy.onnx.graphs import build_graph
from fcos_train.deploy.onnx.opset import choose
from fcos_train.deploy.onnx.options import ExportOptions
from fcos_train.deploy.onnx.spec import ExportGraph, GraphSpec
from fcos_train.deploy.onnx.untrained import faults_beside_ties
from fcos_train.deploy.onnx.verify import beside_mmdet, verify
from fcos_train.deploy.onnx.writing import write
from fcos_train.deploy.parts.description import remember
from fcos_train.infer.detector import Detector
from fcos_train.infer.sources import open_source
from fcos_train.infer.validation_images import validation_images
from fcos_train.progress import working
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import replacing

DOCUMENTED_SHAPE = (800, 1216)
PICTURES = 2
UNTRAINED = " (weights that are not trained have many ties: --allow-untrained compares the maps instead)"


class NotTheSame(UserError):
    """The outputs of the written model differ from PyTorch's; the file is kept as ``*.failed.onnx``."""


def graph_spec(options: ExportOptions, shape: tuple[int, int]) -> GraphSpec:
    """The graph that the options ask for, at a (height, width) in px."""
    return GraphSpec(
        options.end, shape, options.batch, frozenset(options.dynamic), options.normalize_in_graph, options.output_names
    )


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Attributes:
        path: the ONNX file.
        description: the JSON file beside it.
        opset: of the file.
        differences: between PyTorch and the file, one per output.
    """

    path: Path
    description: Path
    opset: int
    differences: tuple[Difference, ...]


def export(options: ExportOptions, say: Callable[[str], None] = print) -> Exported:
    """Export a checkpoint, verify the file, and only then give it its name.

    Args:
        say: prints a line.

    Raises:
        NotTheSame: the outputs of the file differ from PyTorch's.
        UserError: a fault in the checkpoint, configuration, image, shape or opset.
    """
    detector = load_detector(options)
    for notice in detector.notices:
        say(notice)
    path = Path(options.output or f"{Path(options.checkpoint).stem}_{options.end}.onnx")
    exported = export_detector(detector, options, path, say)
    remember(exported.description, options.checkpoint)
    return exported


def load_detector(options: ExportOptions) -> Detector:
    """The checkpoint to export, on the CPU."""
    return Detector.from_checkpoint(
        options.checkpoint,
        options.config,
        "cpu",
        options.trust_checkpoint,
        options.cfg_options,
        safe=options.safe_config,
    )


def export_detector(
    detector: Detector, options: ExportOptions, path: Path, say: Callable[[str], None] = print
) -> Exported:
    """:func:`export` of a loaded detector.

    Args:
        path: of the ONNX file. say: prints a line.
    """
    with working("exporting to ONNX and comparing with PyTorch"):
        exported = write_verified(detector, options, path, say)
    say(f"Successfully exported ONNX model: {exported.path}  (description: {exported.description})")
    return exported


def write_verified(
    detector: Detector, options: ExportOptions, path: Path, say: Callable[[str], None] = print
) -> Exported:
    """:func:`export_detector` without the line at the end."""
    _override(detector.model, options, say)
    shape = options.shape or default_shape(detector)
    graph = build_graph(detector.model, graph_spec(options, shape))
    if options.score_thr is not None:
        graph.selection = replace(graph.selection, score_thr=options.score_thr)
    opset, reason = choose(graph, options.opset, options.usual_opset)
    _announce(graph, f"{opset} ({reason})", say)
    images, source = verification_images(detector, options.input_img)
    model = write(graph, opset)
    content = metadata.describe(graph, model, detector.model, detector.config, detector.classes)
    metadata.embed(model, content)
    differences, fault = _verified(graph, model, opset, images, source, say)
    if fault and options.allow_untrained:
        fault = faults_beside_ties(graph, opset, images, differences, say, partial(_report, say=say))
        if fault is None:
            content["compared"] = "maps"
            metadata.embed(model, content)
            say("The maps are the same between Pytorch and ONNX; detections at ties are not")
    if fault:
        failed = path.with_name(f"{path.stem}.failed.onnx")
        _put(failed, model.SerializeToString(deterministic=True))
        hint = "" if options.allow_untrained or not any(found.apart for found in differences) else UNTRAINED
        raise NotTheSame(
            f"the outputs of the ONNX model differ from PyTorch's ({fault}); the file is kept as {failed}{hint}"
        )
    description = path.with_suffix(".json")
    _put(path, model.SerializeToString(deterministic=True))
    # In the file beside the model alone: measured numbers would make the model's bytes differ between machines.
    content["verified"] = [{"name": found.name, "largest": found.largest} for found in differences]
    _put(description, metadata.as_json(content).encode())
    return Exported(path, description, opset, tuple(differences))


def default_shape(detector: Detector) -> tuple[int, int]:
    """Input (height, width) in px of an export.

    The documented 800 x 1216 for COCO's 1333 x 800, otherwise the size of the test pipeline, rounded up to multiples
    of 32 px.
    """
    scale = metadata.resize_rule(detector.model, detector.config)["scale"]
    if not scale or sorted(scale) == [800, 1333]:
        return DOCUMENTED_SHAPE
    width, height = scale
    return -(-height // 32) * 32, -(-width // 32) * 32


def verification_images(detector: Detector, given: str | None) -> tuple[list[np.ndarray], str]:
    """At least :data:`PICTURES` images u8 [H, W, 3] BGR, and a phrase that says which.

    Args:
        given: an image or a folder; None: validation images, else generated images.

    Raises:
        UserError: ``given`` is neither a readable image nor a folder with one.
    """
    if given is not None:
        files = _files(Path(given))
        images, source = [read_image(file) for file in files], given
    else:
        files = validation_images(detector.config)[:PICTURES]
        images, source = [read_image(file) for file in files], "validation images"
    if not images:
        source = "generated images"
    rng, missing = np.random.default_rng(0), PICTURES - len(images)
    if missing > 0:
        from fcos_train.data.shapes import draw_image

        images += [draw_image(rng, (320, 240))[0] for _ in range(missing)]
        source += " and a generated one" if files else ""
    return images, source


def _files(path: Path) -> list[Path]:
    """The image itself, or the first images of the folder."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp"))
        if not found:
            raise UserError(f"--input-img {path}: there is no image in this folder")
        return found[:PICTURES]
    if not path.is_file():
        open_source(path)  # says what is wrong
        raise UserError(f"--input-img {path}: there is no such image")
    return [path]


def _override(model: Any, options: ExportOptions, say: Callable[[str], None]) -> None:
    """Replace the normalisation of the checkpoint by that of the options."""
    import torch

    processor = getattr(model, "data_preprocessor", None)
    for name in ("mean", "std"):
        values = getattr(options, name)
        old = getattr(processor, name, None)
        if values is None or old is None:
            continue
        if not torch.allclose(old.flatten(), torch.tensor(values, dtype=old.dtype)):
            say(f"--{name} {' '.join(map(str, values))} instead of the configuration's {old.flatten().tolist()}")
            old.copy_(torch.tensor(values, dtype=old.dtype).view_as(old))


def _announce(graph: ExportGraph, opset: str, say: Callable[[str], None]) -> None:
    """Print what is exported."""
    spec = graph.spec
    names = ("batch", "height", "width")
    sides = [name if name in spec.dynamic else str(n) for name, n in zip(names, (spec.batch, *spec.shape), strict=True)]
    say(
        f"{type(graph.model).__name__}, end '{spec.end}', input {sides[0]} x 3 x {sides[1]} x {sides[2]}, opset {opset}"
    )
    if max(graph.decode.get("strides") or [1]) and any(side % 32 for side in spec.shape):
        say(f"note: {spec.shape[0]} x {spec.shape[1]} is not a multiple of 32; evaluation in PyTorch pads to one")


def _verified(
    graph: ExportGraph,
    model: ModelProto,
    opset: int,
    images: Sequence[np.ndarray],
    source: str,
    say: Callable[[str], None],
) -> tuple[list[Difference], str | None]:
    """Compare the model with PyTorch and print the result.

    Without a detected object there is nothing to compare: then the same graph with threshold 0 is compared as well.

    Returns:
        the differences, and what is out of tolerance, or None.
    """
    try:
        differences, shapes, by = verify(graph, model, images)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return [], f"onnx.checker: {str(error).splitlines()[0]}"
    runs = ", ".join("x".join(map(str, shape)) for shape in dict.fromkeys(shapes))
    say(f"verified with {by} on {len(images)} images ({source}), inputs {runs}")
    _report(differences, say)
    fault = _fault(differences)
    dets = next((output.name for output in graph.outputs if output.kind == "dets"), None)
    empty = dets is not None and not next(d.count for d in differences if d.name == dets)
    if fault is None and empty and graph.selection.score_thr > 0:
        say(f"no object above {graph.selection.score_thr:g} in these images; the same graph with threshold 0:")
        selection, graph.selection = graph.selection, replace(graph.selection, score_thr=0.0)
        try:
            more, _, _ = verify(graph, write(graph, opset), images)
        finally:
            graph.selection = selection
        _report(more, say)
        fault = _fault(more)
        differences = more if fault else differences
    if fault is None and not graph.end.selects_as_mmdet:
        shared, own, mmdets = beside_mmdet(graph, images)
        why = "" if shared == own == mmdets else " (order of selection and half precision; see docs/deployment.md)"
        say(f"compared with mmdet's own prediction: {shared} detections in common, of {own} and {mmdets}{why}")
    if fault is None:
        say("The numerical values are the same between Pytorch and ONNX")
    return differences, fault


def _report(differences: Sequence[Difference], say: Callable[[str], None]) -> None:
    """Print one line per output."""
    width = max(len(found.name) for found in differences)
    for found in differences:
        state = "FAILED" if found.fault else "ok"
        note = f"  ({found.note})" if found.note else ""
        say(f"  {found.name:<{width}}  largest difference {found.largest:.3e}  {state}{note}")


def _fault(differences: Sequence[Difference]) -> str | None:
    """The first difference that is out of tolerance, or None."""
    return next((f"{found.name}: {found.fault}" for found in differences if found.fault), None)


def _put(path: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
