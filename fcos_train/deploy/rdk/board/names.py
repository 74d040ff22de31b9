"""The names of the classes of a model: from its description, a file of labels, or COCO's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .nv12 import BoardError

COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip


def class_names(count: int, description: Mapping[str, Any], label_file: str | None) -> Sequence[str]:
    """``count`` names, by label.

    Args:
        description: of the model; empty where there is none. label_file: one name a line; it goes before the others.

    Raises:
        BoardError: a file that cannot be read, or with another number of names.
    """
    if label_file is not None:
        try:
            lines = Path(label_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BoardError(f"--label-file {label_file}: cannot be read ({error})") from error
        names = [line.strip() for line in lines if line.strip()]
        if len(names) != count:
            raise BoardError(f"--label-file {label_file} has {len(names)} names for {count} classes")
        return names
    own = description.get("classes", ())
    if len(own) == count:
        return [str(name) for name in own]
    return COCO if count == len(COCO) else [f"class {label}" for label in range(count)]
