"""The data set class that ``--data-path`` uses."""

from __future__ import annotations

import contextlib
import io

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS


@DATASETS.register_module()
class BoxDataset(CocoDataset):
    """mmdet's CocoDataset, without what pycocotools prints while it reads."""

    def load_data_list(self) -> list[dict]:
        with contextlib.redirect_stdout(io.StringIO()):
            return super().load_data_list()
