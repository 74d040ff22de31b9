"""Detects and draws the objects of one image, as the vendor's program for FCOS does."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from ...decoder import Boxes
from .drawing import draw
from .maps import Head, MapDecoder
from .names import class_names
from .nv12 import BoardError, require_even, to_nv12
from .placing import STRETCH, TOP_LEFT, place
from .runtimes import Emulated, Runtime, on_board, size_in_name

CLASSES, STRIDES = 80, (8, 16, 32, 64, 128)
Open = Callable[["Settings", dict], Runtime]


@dataclass(frozen=True)
class Settings:
    """What to run on what; the names and values are those of the vendor's program.

    Attributes:
        model_path: `.bin` on a board, or `.onnx`.
        test_img: image to read. img_save_path: image to write.
        classes_num, is_stride, strides, resize_type: None: as the description of the model says, else 80 classes,
            distances in strides, strides 8 to 128, and stretched images.
        iou_thres, conf_thres: thresholds on overlap and score.
        label_file: names of the classes, one a line; None: of the description, else COCO's.
        priority, bpu_cores: of the tasks on the board.
    """

    model_path: str = "models/fcos_512x512_nv12.bin"
    test_img: str = "../../../datasets/coco/assets/bus.jpg"
    img_save_path: str = "jupyter_result.jpg"
    classes_num: int | None = None
    iou_thres: float = 0.6
    conf_thres: float = 0.5
    is_stride: bool | None = None
    strides: tuple[int, ...] | None = None
    resize_type: int | None = None
    label_file: str | None = None
    priority: int = 0
    bpu_cores: tuple[int, ...] = ()


@dataclass(frozen=True)
class Found:
    """One detection: class name, score, and x1 y1 x2 y2 in pixels of the image."""

    label: int
    name: str
    score: float
    box: tuple[int, int, int, int]


def run(settings: Settings, open_model: Open | None = None) -> list[Found]:
    """Detect, print one line per object, and write the drawing.

    Args:
        open_model: opens the model; None: on a board by its own runtime, a file `.onnx` by onnxruntime.

    Raises:
        BoardError: a file that cannot be read or written, a model that does not fit, or a size that NV12 cannot have.
    """
    log = _logger()
    description = read_description(settings.model_path)
    head = _head(settings, description)
    names = class_names(head.classes, description, settings.label_file)
    image = cv2.imread(settings.test_img) if Path(settings.test_img).is_file() else None
    if image is None:
        raise BoardError(f"--test-img {settings.test_img}: no such file, or not an image that OpenCV reads")
    _require_writable(settings.img_save_path)
    clock = _Clock(log)
    runtime = (open_model or open_usual)(settings, description)
    try:
        clock.say("Load D-Robotics Quantize model time = %.2f ms")
        require_even(runtime.height, runtime.width)
        decoder = MapDecoder(head, runtime.outputs, runtime.height, runtime.width)
        clock.restart()
        how, fill, nearest = _placing(settings, description)
        placed = place(image, runtime.height, runtime.width, how, fill, nearest)
        packed = to_nv12(placed.image)
        clock.say("bgr8 to nv12 time = %.2f ms")
        maps = runtime.run(packed)
        clock.say("forward time = %.2f ms")
        maps = [np.asarray(values) for values in maps]
        clock.say("c to numpy time = %.2f ms")
        boxes = decoder(maps)
        found = _named(boxes, placed.restored(boxes.boxes), names)
        clock.say("Post Process time = %.2f ms")
    finally:
        runtime.close()
    for one in found:
        log.info("(%d, %d, %d, %d) -> %s: %.2f", *one.box, one.name, one.score)
        draw(image, one.box, one.label, one.name, one.score)
    if not cv2.imwrite(settings.img_save_path, image):
        raise BoardError(f"--img-save-path {settings.img_save_path}: cannot be written")
    log.info('saved in path: "./%s"', settings.img_save_path)
    return found


def open_usual(settings: Settings, description: dict[str, Any]) -> Runtime:
    """A `.onnx` in onnxruntime, anything else on the board."""
    path = settings.model_path
    if path.endswith(".onnx"):
        if not description:
            raise BoardError(f"{path} has no description ({Path(path).name}.json) beside it")
        return Emulated(path, description)
    size = description["input"]["example_shape"] if description else size_in_name(path)
    return on_board(path, None if size is None else (size[0], size[1]), settings.priority, settings.bpu_cores or None)


def read_description(model: str) -> dict[str, Any]:
    """The description that ``fcos-train export`` wrote beside a model; empty where there is none.

    Raises:
        BoardError: it is damaged.
    """
    path = Path(model)
    stem = path.name.rpartition(".")[0].removesuffix("_quantized_model")
    names = (f"{path.name}.json", f"{stem}.bin.json", f"{stem}.yaml.json", f"{stem}.json")
    for beside in (path.with_name(name) for name in names):
        if beside.is_file():
            try:
                content = json.loads(beside.read_text(encoding="utf-8"))
                content["input"]["example_shape"], content["test_cfg"], content["classes"], content["decode"]  # noqa: B018
            except (ValueError, KeyError, TypeError) as error:
                raise BoardError(f"{beside} does not describe a model: {error!r}") from error
            return content
    return {}


def _head(settings: Settings, description: dict[str, Any]) -> Head:
    """What the maps mean: as asked, else as described, else as of the published models.

    Raises:
        BoardError: what was asked for contradicts the description.
    """
    decode = description.get("decode", {})
    own: dict[str, Any] = {
        "classes_num": len(description["classes"]) if description else None,
        "is_stride": decode.get("stride_units", False) if description else None,
        "strides": tuple(int(s[0] if isinstance(s, list) else s) for s in decode["strides"]) if description else None,
    }
    usual = {"classes_num": CLASSES, "is_stride": True, "strides": STRIDES}
    values: dict[str, Any] = {}
    for name, known in own.items():
        asked = getattr(settings, name)
        if asked is not None and known is not None and asked != known:
            flag = f"--{name.replace('_', '-')}"
            raise BoardError(f"{flag} {_text(asked)}: the description of {settings.model_path} says {_text(known)}")
        values[name] = next(value for value in (asked, known, usual[name]) if value is not None)
    order = {"cls": 0, "box": 1, "ctr": 2}
    maps = sorted(description.get("outputs", ()), key=lambda entry: (order[entry["part"]], entry["level"]))
    return Head(
        values["classes_num"],
        values["strides"],
        values["is_stride"],
        settings.conf_thres,
        settings.iou_thres,
        tuple(entry["name"] for entry in maps),
    )


def _placing(settings: Settings, description: dict[str, Any]) -> tuple[int, tuple[float, ...], bool]:
    """How the image is resized, the value of the border (BGR), and whether nearest pixels are taken."""
    if settings.resize_type is not None or not description:
        return settings.resize_type or STRETCH, (127, 127, 127), True
    mean = tuple(description["mean"])
    if description["bgr_to_rgb"]:
        mean = mean[::-1]
    return (TOP_LEFT if description["resize"].get("keep_ratio", True) else STRETCH), mean, False


def _named(boxes: Boxes, rows: np.ndarray, names: Any) -> list[Found]:
    columns = zip(boxes.labels.tolist(), boxes.scores.tolist(), rows.tolist())
    return [Found(label, names[label], score, tuple(row)) for label, score, row in columns]


def _require_writable(path: str) -> None:
    """Refuse a picture that cannot be written, before the model is run."""
    if not Path(path).parent.is_dir():
        raise BoardError(f"--img-save-path {path}: there is no folder {Path(path).parent}")
    if not cv2.haveImageWriter(path):
        raise BoardError(f"--img-save-path {path}: OpenCV writes no such files; name it .jpg or .png")


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class _Clock:
    """Logs the milliseconds since its last line."""

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._start = log, perf_counter()

    def restart(self) -> None:
        self._start = perf_counter()

    def say(self, text: str) -> None:
        self._log.debug(text, 1000 * (perf_counter() - self._start))
        self.restart()


def _logger() -> logging.Logger:
    """`[RDK_YOLO] [HH:MM:SS.mmm] [LEVEL] message` on stdout."""
    log = logging.getLogger("RDK_YOLO")
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for old in list(log.handlers):
        log.removeHandler(old)
    handler = logging.StreamHandler(sys.stdout)
    line = "[%(name)s] [%(asctime)s.%(msecs)03d] [%(levelname)s] %(message)s"
    handler.setFormatter(logging.Formatter(line, "%H:%M:%S"))
    log.addHandler(handler)
    return log
