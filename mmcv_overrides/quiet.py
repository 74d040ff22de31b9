"""Suppresses noise and explains failures when the mm packages are imported."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import mmengine.logging

from mmcv_overrides.errors import UserError
from mmcv_overrides.seams import Override

_print_log = mmengine.logging.print_log


def print_log(msg: Any, logger: logging.Logger | str | None = None, level: int = logging.INFO) -> None:
    """As upstream's, but a DEBUG message without a logger is not printed.

    An import of mmdet reports twice, at DEBUG level and without a logger, that an optional commercial package is
    absent; upstream prints all messages without a logger.
    """
    if logger is None and level <= logging.DEBUG:
        return
    _print_log(msg, logger, level)


def check_opencv() -> None:
    """Import OpenCV, or say how to repair it.

    The dependencies of mmdet install ``opencv-python`` (which needs libGL, absent on servers) over
    ``opencv-python-headless`` (which does not).

    Raises:
        UserError: ``import cv2`` fails.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"OpenCV cannot be imported ({error}). The GUI build was installed over the headless one; run `pip "
            "uninstall -y opencv-python opencv-python-headless && pip install --no-deps 'opencv-python-headless<5'`"
        ) from error
    # Loader processes x OpenCV threads oversubscribe the cores (mmdetection issues 3306 and 6867).
    cv2.setNumThreads(0)


# mmdet's point generators call torch.meshgrid without `indexing`, about which torch has warned since 1.10.
warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)

# mmengine sets the start method of the config and warns that it differs from the default.
warnings.filterwarnings("ignore", message="Multi-processing start method", category=UserWarning)

OVERRIDES = [
    Override("mmengine.logging:print_log", print_log, "upstream prints DEBUG messages that have no logger"),
]
