"""Writes what the vendor's compiler reads: its YAML file and the calibration set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fcos_train.deploy.parts.description import rule_of

OPTIMIZE_LEVELS = ("O0", "O1", "O2", "O3")


@dataclass(frozen=True)
class Board:
    """A kind of board.

    Attributes:
        name: for messages. march: how the compiler calls its BPU.
        integer_outputs: outputs are left as int32; else a node on the CPU of the board makes floats of them.
    """

    name: str
    march: str
    integer_outputs: bool


X5 = Board("RDK X5", "bayes-e", True)
X3 = Board("RDK X3", "bernoulli2", False)


def mapper_config(
    board: Board, description: Mapping[str, Any], stem: str, calibration: str, optimize_level: str
) -> dict[str, Any]:
    """The content of the YAML file; paths are relative to its folder.

    Args:
        description: of the ONNX file `<stem>.onnx`. calibration: folder of :func:`write_calibration`.
        optimize_level: O0 (the compiler's default, fast to compile) to O3 (fast on the board).
    """
    height, width = description["input"]["example_shape"]
    model: dict[str, Any] = {
        "onnx_model": f"./{stem}.onnx",
        "march": board.march,
        "working_dir": f"./{stem}_model_output",
        "output_model_file_prefix": stem,
        "layer_out_dump": False,
    }
    if board.integer_outputs:
        model["remove_node_type"] = "Dequantize"
    return {
        "model_parameters": model,
        "input_parameters": {
            "input_name": description["input"]["name"],
            "input_shape": f"1x3x{height}x{width}",
            "input_type_rt": "nv12",
            # OpenCV's conversion to NV12 gives luma 16 to 235; "regular" would expect 0 to 255.
            "input_space_and_range": "bt601_video",
            "input_type_train": train_colour(description),
            "input_layout_train": "NCHW",
            "norm_type": "data_mean_and_scale",
            "mean_value": _numbers(description["mean"]),
            "scale_value": _numbers(1 / np.asarray(description["std"], np.float64)),
        },
        "calibration_parameters": {
            "cal_data_dir": f"./{calibration}",
            "cal_data_type": "float32",
            "calibration_type": "default",
        },
        "compiler_parameters": {
            "compile_mode": "latency",
            "optimize_level": optimize_level,
            "core_num": 1,
        },
    }


def train_colour(description: Mapping[str, Any]) -> str:
    """Order of the colours that the network was trained with: rgb or bgr."""
    return "rgb" if description["bgr_to_rgb"] else "bgr"


def write_config(path: Path, content: Mapping[str, Any]) -> None:
    """Write the YAML file."""
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")


def write_calibration(folder: Path, description: Mapping[str, Any], images: Sequence[np.ndarray]) -> int:
    """Write one raw file per image: f32 [3, H, W] in the order of training, 0 to 255, without mean and scale.

    Args:
        images: u8 [h, w, 3] BGR.

    Returns:
        the number of files.
    """
    folder.mkdir()
    rule, suffix = rule_of(description), f"{train_colour(description)}chw"
    for index, image in enumerate(images):
        pixels(rule.prepare(image), description).astype("<f4").tofile(folder / f"{index:04d}.{suffix}")
    return len(images)


def pixels(prepared: np.ndarray, description: Mapping[str, Any]) -> np.ndarray:
    """Undo the normalisation of an input [3, H, W]: whole numbers from 0 to 255, in the order of training."""
    mean, std = (np.asarray(description[key], np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
    return np.clip(np.rint(prepared * std + mean), 0, 255)


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    """Numbers as the compiler reads them: with spaces in between."""
    return " ".join(f"{float(value):.10g}" for value in values)
