"""Compares the mAP of a checkpoint with that of its export: all steps of the offline inference pipeline in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcos_train.data.images import read_image
from fcos_train.deploy.ascend.infer import inputs_of, run_files
from fcos_train.deploy.ascend.info import bin_info, read_info, write_rows
from fcos_train.deploy.ascend.options import EvaluateOptions, InferOptions
from fcos_train.deploy.ascend.perf import write_benchmark
from fcos_train.deploy.ascend.postprocess import postprocess
from fcos_train.deploy.ascend.preprocess import preprocess
from fcos_train.deploy.ascend.runs import ais_bench, infer
from fcos_train.deploy.ascend.txt_to_json import txt_to_json
from fcos_train.deploy.onnx.opening import open_onnx
from fcos_train.deploy.parts.accuracy import Comparison, tolerance_of
from fcos_train.deploy.parts.classes import read_truth
from fcos_train.deploy.parts.coco_numbers import CocoNumbers, coco_eval
from fcos_train.deploy.parts.description import beside, read_description, read_rule
from fcos_train.deploy.parts.files import some, stem
from fcos_train.deploy.parts.input_rule import InputRule
from fcos_train.deploy.parts.reference_sessions import finished
from fcos_train.deploy.parts.session import Session
from fcos_train.deploy.parts.validation import validation_set
from mmcv_overrides import run_folder
from mmcv_overrides.errors import UserError

if TYPE_CHECKING:
    from fcos_train.infer.detector import Detector

OpenModel = Callable[[Path, dict[str, Any]], Session]


def evaluate(
    options: EvaluateOptions, say: Callable[[str], None] = print, open_model: OpenModel = open_onnx
) -> Comparison:
    """Prepare the validation images, run the export and the checkpoint on them, and compute the mAP of both.

    Args:
        say: prints a line.
        open_model: opens a model by its file and description; the default knows ONNX only.

    Raises:
        UserError: a fault in the options, the data, the checkpoint or the model; the work dir is in use.
    """
    work = Path(options.work_dir)
    with run_folder.held(work):
        return _evaluate(options, work, say, open_model)


def _evaluate(options: EvaluateOptions, work: Path, say: Callable[[str], None], open_model: OpenModel) -> Comparison:
    from fcos_train.infer.detector import Detector

    if options.model and options.model.endswith(".om"):
        ais_bench(options.model)  # refuse before computing anything
    detector = Detector.from_checkpoint(
        options.checkpoint, options.config, options.device, options.trust_checkpoint, safe=options.safe_config
    )
    images, annotations = validation_set(
        options.data_path, detector.classes, work / "data", options.limit, options.allow_outside, say
    )
    model = Path(options.model) if options.model else _exported(options, work, say)
    place = options.description or beside(model)
    description, rule = read_description(place), read_rule(place)
    _same_classes(detector.classes, description["classes"], options, model)
    _prepare(images, rule, work)
    session = None if model.suffix == ".om" else finished(open_model(model, description), description)
    dumps = _run_om(options, model, work) if session is None else _run(session, work, work / "result", say)
    exported = _count(dumps, annotations, rule, description, work, "exported")
    torch_session = _torch_session(options, detector, description)
    reference = _run(torch_session, work, work / "checkpoint", say)
    pth = _count(reference, annotations, rule, description, work, "pth")
    tolerance = options.tolerance
    if tolerance is None:
        tolerance = tolerance_of(description, session is None)
    return Comparison(pth, exported, tolerance, len(images))


def _exported(options: EvaluateOptions, work: Path, say: Callable[[str], None]) -> Path:
    """Export the checkpoint into the work dir."""
    from fcos_train.deploy.onnx.export import ExportOptions, export

    path = work / f"{Path(options.checkpoint).stem}_{options.end}.onnx"
    wanted = ExportOptions(
        checkpoint=options.checkpoint,
        config=options.config,
        end=options.end,
        output=str(path),
        shape=options.shape,
        trust_checkpoint=options.trust_checkpoint,
        safe_config=options.safe_config,
    )
    return export(wanted, say).path


def _same_classes(checkpoint: Sequence[str], model: Sequence[str], options: EvaluateOptions, path: Path) -> None:
    """Refuse a model with other classes than the checkpoint's."""
    if list(checkpoint) != list(model):
        raise UserError(
            f"{options.checkpoint} and {path} are of different models: "
            f"{len(checkpoint)} classes ({some(checkpoint, 3)}) and {len(model)} ({some(model, 3)})"
        )


def _prepare(images: list[Path], rule: InputRule, work: Path) -> None:
    """Write `bin/`, `bin.info` and `images.info`."""
    bins = work / "bin"
    preprocess(images, bins, rule)
    _only(bins, {f"{stem(path)}.bin" for path in images})
    bin_info(str(bins), work / "bin.info", rule.width, rule.height)
    sizes = [(path, read_image(path).shape) for path in images]
    write_rows(work / "images.info", [(str(path), shape[1], shape[0]) for path, shape in sizes])


def _only(folder: Path, names: set[str]) -> None:
    """Remove other files, which an earlier run on other images left."""
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def _torch_session(options: EvaluateOptions, detector: Detector, description: dict[str, Any]) -> Session:
    from fcos_train.deploy.parts.reference_sessions import TorchSession

    return TorchSession(options.checkpoint, detector, description)


def _run(session: Session, work: Path, output: Path, say: Callable[[str], None]) -> Path:
    """Run a session on `bin/` and dump its results below ``output``; returns their folder."""
    files = inputs_of(str(work / "bin.info"))
    folder = output / "dumpOutput_device0"
    outcome = run_files(session, files, folder, first=1)
    _only(folder, {Path(path).name for _, written in outcome.calls for path in written})
    write_benchmark(outcome, session.batch, 0)
    seconds = sum(outcome.clocks.computing)
    say(f"{session.path}: {len(files)} images, {len(files) / max(seconds, 1e-9):.2f} images/s in the model")
    return outcome.folder


def _run_om(options: EvaluateOptions, model: Path, work: Path) -> Path:
    """Run an `.om` on `bin/` with ais_bench; returns the folder of its results."""
    where = InferOptions(
        str(model), str(work / "bin.info"), str(work / "result"), "ais", options.device_id, dirname="om"
    )
    folder = infer(where)[0]
    stems = {stem(row.path) for row in read_info(work / "bin.info")}
    _only(folder, {path.name for path in folder.iterdir() if path.name.rpartition("_")[0] in stems})
    return folder


def _count(
    dumps: Path, annotations: Path, rule: InputRule, description: dict[str, Any], work: Path, name: str
) -> CocoNumbers:
    """Convert dumps to text, text to JSON and JSON to COCO numbers; all scores count, as in training's evaluation."""
    texts = work / f"detection-results-{name}"
    postprocess(dumps, work / "images.info", texts, rule, description["classes"])
    _only(texts, {f"{stem(row.path)}.txt" for row in read_info(work / "images.info")})
    path, _ = txt_to_json(texts, work / f"coco_detection_result_{name}", read_truth(annotations), smallest=0.0)
    return coco_eval(annotations, path, work / f"coco_detection_result_{name}.txt")
