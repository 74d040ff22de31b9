"""Exports a checkpoint to a target: ONNX, conversion, comparison of every map with PyTorch, and only then its name."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fcos_train.deploy.onnx.compare import agreement, overlapping
from fcos_train.deploy.onnx.export import (
    NotTheSame,
    default_shape,
    graph_spec,
    load_detector,
    verification_images,
    write_verified,
)
from fcos_train.deploy.onnx.graphs import build_graph
from fcos_train.deploy.onnx.metadata import as_json
from fcos_train.deploy.onnx.options import ExportOptions
from fcos_train.deploy.onnx.verify import answer
from fcos_train.deploy.options import OF_TARGETS, TargetOptions
from fcos_train.deploy.parts.blobs import Blob, compare_maps, table
from fcos_train.deploy.parts.calibration import calibration_files, read_images, spread
from fcos_train.deploy.parts.description import read_description, read_rule, remember
from fcos_train.deploy.parts.reference_sessions import FinishedSession
from fcos_train.deploy.parts.session import Session
from fcos_train.deploy.parts.target import Conversion, Target
from fcos_train.deploy.targets import shared_files, target_of
from fcos_train.infer.detector import Detector
from fcos_train.progress import working
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole

COMPARED = 2  # images of --data-path on which maps are compared


@dataclass(frozen=True)
class Converted:
    """A finished conversion.

    Attributes:
        path: the main file. files: all files, the main file first. description: the JSON file beside it.
        blobs: differences between PyTorch and the artefact, one per map.
    """

    path: Path
    files: tuple[Path, ...]
    description: Path
    blobs: tuple[Blob, ...]


def convert(options: TargetOptions, say: Callable[[str], None] = print) -> Converted:
    """Export a checkpoint to ``options.target``.

    Args:
        say: prints a line.

    Raises:
        NotTheSame: the maps differ from PyTorch's by more than the target allows; the files are kept as ``*.failed.*``.
        UserError: a fault in the checkpoint, the options, the data, or what the target cannot represent.
    """
    target = target_of(options.target)
    target.require()
    precision = options.precision or target.precisions[0]
    if precision not in target.precisions:
        raise UserError(f"--precision {precision}: --target {target.name} has {', '.join(target.precisions)}")
    if options.calibration_images and not target.calibrates(precision):
        raise UserError(f"--calibration-images: nothing is calibrated with --precision {precision}")
    path = Path(options.output or target.file_name(Path(options.checkpoint).stem, precision))
    _refuse(target, shared_files(target, path))
    detector = load_detector(options)
    shape = options.shape or default_shape(detector)
    _refuse(target, target.early_faults(detector.model, shape))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as scratch:
        folder = Path(scratch)
        source = _onnx_options(options, target, shape)
        files = _data_files(options, folder, target.calibrates(precision))
        with working("exporting to ONNX and comparing with PyTorch"):
            exported = write_verified(detector, source, folder / "onnx" / f"{path.stem}.onnx", say)
        description = read_description(exported.description)
        _refuse(target, target.faults(description, detector.model))
        written = folder / "files" / path.name
        written.parent.mkdir()
        calibration = partial(_calibration, files, options.calibration_images)
        own = [name for name, targets in OF_TARGETS.items() if target.name in targets]
        settings = {name: getattr(options, name) for name in own if getattr(options, name) is not None}
        job = Conversion(exported.path, description, written, precision, calibration, settings, say)
        with working(f"converting to {target.name} {precision}"):
            target.convert(job)
        description.update(target=target.name, precision=precision)
        description.pop("verified", None)  # of the ONNX file
        main = target.written(written)
        place = write_whole(main.with_name(f"{main.name}.json"), as_json(description))
        if files and source.input_img is None:
            images, origin = read_images(spread(files, COMPARED)), "of --data-path"
        else:
            images, origin = verification_images(detector, source.input_img)
        say(f"{target.name} {precision}: every map compared with PyTorch's on {len(images)} images ({origin})")
        with working(f"comparing {target.name} with PyTorch"):
            blobs, fault = _verified(target, main, description, place, detector, source, images, say)
        description["verified"] = [{"name": blob.name, "largest": blob.largest} for blob in blobs]
        write_whole(place, as_json(description))
        done = _named(target, written, path, place, blobs, fault, say)
    remember(done.description, options.checkpoint)
    _finished(target, path, bool(options.dry_run), say)
    return done


def _finished(target: Target, path: Path, dry_run: bool, say: Callable[[str], None]) -> None:
    """Print the command of the last step where it was not done; an error unless only the command is wanted."""
    reason = target.unfinished(path)
    if reason is None:
        return
    script = target.commands(path)
    say(script.read_text().rstrip())
    if not dry_run:
        raise UserError(
            f"{path} was not built: {reason}. The command is in {script}; run it where the tool is installed "
            "(--dry-run only writes it)"
        )
    say(f"the command is in {script}")


def _refuse(target: Target, faults: Sequence[str]) -> None:
    """Report all faults in one message."""
    if faults:
        raise UserError("; ".join(f"--target {target.name}: {fault}" for fault in faults))


def _onnx_options(options: TargetOptions, target: Target, shape: tuple[int, int]) -> ExportOptions:
    """The export to ONNX from which the target is converted."""
    values: dict[str, Any] = {field.name: getattr(options, field.name) for field in fields(ExportOptions)}
    values.update(end=target.end, shape=shape, opset=options.opset or target.opset, output=None)
    return ExportOptions(**values)


def _data_files(options: TargetOptions, folder: Path, calibrates: bool) -> list[Path]:
    """The images of ``--data-path``, none where it is not given."""
    if options.data_path is None and calibrates:
        raise UserError("int8 needs images to measure the ranges of activations: give --data-path DIR")
    return calibration_files(options.data_path, folder / "data") if options.data_path else []


def _calibration(files: list[Path], wanted: int | None, usual: int) -> list[np.ndarray]:
    """``wanted`` images, or as many as the target uses."""
    return read_images(spread(files, wanted or usual))


def _verified(
    target: Target,
    path: Path,
    description: dict[str, Any],
    place: Path,
    detector: Detector,
    options: ExportOptions,
    images: Sequence[np.ndarray],
    say: Callable[[str], None],
) -> tuple[list[Blob], str | None]:
    """Compare the maps of the artefact with PyTorch's on images, and print the result.

    Returns:
        the differences, and what is out of its limit, or None.
    """
    rule = read_rule(place)
    inputs = [rule.prepare(image)[None] for image in images]
    graph = build_graph(detector.model, graph_spec(options, (rule.height, rule.width)))
    session = target.open(path, description)
    theirs = [answer(graph, image) for image in inputs]
    ours = [session.run(image) for image in inputs]
    limits = target.limits[description["precision"]]
    blobs = compare_maps(description, ours, theirs, limits)
    for line in table(blobs):
        say(line)
    fault = next((f"{blob.name}: {blob.fault}" for blob in blobs if blob.fault), None)
    if fault is None:
        shared, own, torchs = _detections(session, description, ours, theirs)
        how = "of the same class with an IoU of at least 0.5" if description["precision"] == "int8" else "in common"
        say(f"detections: {shared} {how}, of {own} and PyTorch's {torchs}")
    return blobs, fault


class _Recorded(Session):
    """Returns maps that were computed before."""

    def __init__(self, session: Session, maps: Sequence[np.ndarray]) -> None:
        self.path, self.outputs, self.batch = session.path, session.outputs, 1
        self.height, self.width, self._maps = session.height, session.width, list(maps)

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """The maps."""
        return self._maps


def _detections(
    session: Session, description: dict[str, Any], ours: Sequence[Sequence], theirs: Sequence[Sequence]
) -> tuple[int, int, int]:
    """Number of detections in common, of the artefact and of PyTorch, both decoded alike."""
    total = np.zeros(3, int)
    for maps in zip(ours, theirs, strict=True):
        (dets, labels), (other, names) = (
            FinishedSession(_Recorded(session, part), description).run(np.zeros(0)) for part in maps
        )
        if description["precision"] == "int8":
            total += overlapping(dets, labels, other, names)
        else:
            total += agreement(dets, labels, other, names, description["precision"] != "fp32")
    return int(total[0]), int(total[1]), int(total[2])


def _named(
    target: Target,
    written: Path,
    path: Path,
    place: Path,
    blobs: Sequence[Blob],
    fault: str | None,
    say: Callable[[str], None],
) -> Converted:
    """Move the files to their names, or to ``*.failed.*``."""
    stem, old = path.name.removesuffix(target.suffix), written.name.removesuffix(target.suffix)
    new = f"{stem}.failed" if fault else stem
    moved = []
    for file in (*target.files(written), place):
        end = path.with_name(new + file.name.removeprefix(old))
        if end.is_dir():
            shutil.rmtree(end)
        shutil.move(file, end)
        moved.append(end)
    if fault:
        raise NotTheSame(f"the maps of the {target.name} model differ from PyTorch's ({fault}); kept as {moved[0]}")
    sizes = ", ".join(f"{file.name} ({_size(file) / 1e6:.1f} MB)" for file in moved[:-1])
    say(f"Successfully exported {target.name} model: {sizes}  (description: {moved[-1].name})")
    for line in target.next_steps(moved[0]):
        say(line)
    return Converted(moved[0], tuple(moved[:-1]), moved[-1], tuple(blobs))


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size
