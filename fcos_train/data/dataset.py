"""The data set class for ``--data-path``."""

from __future__ import annotations

import contextlib
import io

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS


@DATASETS.register_module()
class BoxDataset(CocoDataset):
    """mmdet's CocoDataset without the output of pycocotools."""

    def load_data_list(self) -> list[dict]:
        """The records of all images, as from CocoDataset."""
        with contextlib.redirect_stdout(io.StringIO()):
            return super().load_data_list()
