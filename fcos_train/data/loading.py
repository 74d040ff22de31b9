"""The image loader of the training pipeline: mmcv's, with an error that names the file."""

from __future__ import annotations

import cv2
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS

from mmcv_overrides.errors import UserError

# Every worker is one process for one core; OpenCV's own threads on top of that slow each other down.
cv2.setNumThreads(0)


class UnreadableImage(UserError):
    """An image that cannot be decoded.

    torch hands an exception of a worker on as `type(text of the whole traceback)`; only its end is for users.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rsplit("UnreadableImage: ", 1)[-1].strip())


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """`LoadImageFromFile` whose failure is a UserError that names the file and the way out.

    Same options and results as mmcv's, which fails with an assertion or an OpenCV error.
    """

    def transform(self, results: dict) -> dict | None:
        try:
            return super().transform(results)
        except (AssertionError, OSError, cv2.error) as error:
            reason = "the file is absent" if isinstance(error, FileNotFoundError) else "it cannot be decoded"
            raise UnreadableImage(
                f"cannot read image {results['img_path']}: {reason}. Replace or delete it (images without a "
                "file are left out); `fcos-train check-data PATH --decode` finds all such files"
            ) from error
