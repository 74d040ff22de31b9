"""``fcos-train rdk-demo``: the board's program on a board, or on a PC with what stands for one."""

from __future__ import annotations

import importlib.util
from dataclasses import fields
from pathlib import Path
from typing import Any

from fcos_train.deploy.decoder import DecoderError
from fcos_train.deploy.rdk.board.demo import Found, Settings, open_usual, run
from fcos_train.deploy.rdk.board.nv12 import BoardError
from fcos_train.deploy.rdk.board.runtimes import Emulated, Runtime
from fcos_train.deploy.rdk.mapper_session import QUANTISED, QuantisedRuntime
from fcos_train.deploy.rdk.options import RdkDemoOptions
from fcos_train.deploy.rdk.toolchain import require_toolchain
from mmcv_overrides.errors import UserError

BOARD_PACKAGES = ("hobot_dnn", "hobot_dnn_rdkx5", "bpu_infer_lib")


def demo(options: RdkDemoOptions) -> list[Found]:
    """Detect and draw the objects of one image.

    Raises:
        UserError: a file that cannot be read or written, or a model that does not fit.
    """
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    try:
        return run(settings, open_runtime)
    except (BoardError, DecoderError) as error:
        raise UserError(str(error)) from error


def open_runtime(settings: Settings, description: dict[str, Any]) -> Runtime:
    """On a board its own runtime; on a PC the quantised ONNX file, or the float one with emulated outputs.

    Raises:
        BoardError, UserError: no such file, or nothing here runs it.
    """
    path = Path(settings.model_path)
    on_board = any(importlib.util.find_spec(name) for name in BOARD_PACKAGES)
    if not path.is_file() or path.suffix == ".bin" and on_board:
        if not path.is_file():
            raise UserError(f"--model-path {path}: there is no such file")
        return open_usual(settings, description)
    stem = path.name.rpartition(".")[0]
    quantised = path if path.name.endswith(QUANTISED) else path.with_name(stem + QUANTISED)
    if path == quantised or path.suffix == ".bin" and quantised.is_file():
        if not description:
            raise UserError(f"{path} has no description (.bin.json) beside it")
        return QuantisedRuntime(quantised, description, require_toolchain(f"{quantised} runs on a PC, which"))
    if path.suffix == ".yaml" and description:
        return Emulated(path.with_name(f"{stem}.onnx"), description)
    return open_usual(settings, description)
