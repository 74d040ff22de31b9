"""The image loader of the training pipeline: mmcv's, with limits and an error that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS
from mmengine.fileio import LocalBackend, get_file_backend, register_backend

from fcos_train.data.images import UnreadableImage, image_bytes, require_limits
from mmcv_overrides.fetching import leave_out

# Every worker process has one core; further threads of OpenCV would slow each other down.
cv2.setNumThreads(0)

LIMITED = "fcos_train_images"


class LimitedImages(LocalBackend):
    """A file backend for images that are regular files and, by their headers, small enough to decode.

    Args:
        remote: `backend_args` of their storage (Petrel, LMDB, HTTP); None for local files.
    """

    def __init__(self, remote: dict[str, Any] | None = None) -> None:
        self._remote = remote

    def get(self, filepath: str | Path) -> bytes:
        """The content of an image file.

        Raises:
            UnreadableImage: see :func:`fcos_train.data.images.image_bytes`.
        """
        if self._remote is None and "://" not in str(filepath):
            return image_bytes(filepath)
        backend = get_file_backend(filepath, backend_args=self._remote, enable_singleton=True)
        data = backend.get(filepath)
        require_limits(data, filepath)
        return data


register_backend(LIMITED, LimitedImages)


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's `LoadImageFromFile`, whose failure is a UserError that names the file and what to do.

    Options and results are the same but for `skip_unreadable`: an image that cannot be read is noted, and the result is
    None, so that the data set takes another image. Which one depends on the generators of the sample alone
    (:mod:`mmcv_overrides.loop`): all ranks and workers go on with as many samples as before. mmcv's fails with an
    assertion or an OpenCV error, waits forever for a named pipe, and decodes images of any size.
    """

    file_client_args: dict | None
    backend_args: dict | None

    def __init__(self, *args: Any, skip_unreadable: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skip_unreadable = skip_unreadable
        if (self.file_client_args or {}).get("backend") == "disk":  # mmengine's old name of local files
            self.file_client_args = None
        if self.file_client_args is None:
            remote = None if (self.backend_args or {}).get("backend", "local") == "local" else self.backend_args
            self.backend_args = {"backend": LIMITED, "remote": remote}

    def transform(self, results: dict) -> dict | None:
        """Load ``results["img_path"]``.

        Raises:
            UnreadableImage: the file cannot be read; the message names it.
        """
        path = results["img_path"]
        try:
            return super().transform(results)
        except UnreadableImage as error:
            fault = error
        except (AssertionError, OSError, cv2.error):
            fault = UnreadableImage.of(path, "it cannot be decoded")
        if self.skip_unreadable:
            leave_out(str(fault))
            return None
        raise UnreadableImage(
            f"{fault}. Replace the file, or take its entry out of the annotations; "
            "`fcos-train check-data PATH --decode` finds all such files"
        ) from fault
