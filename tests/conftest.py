"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import mmcv_overrides

mmcv_overrides.activate()

from mmengine.registry import init_default_scope
from torch.utils.data import _utils

# A loader that is only destroyed by the garbage collector waits so many seconds for each of its persistent workers.
_utils.MP_STATUS_CHECK_INTERVAL = 0.2

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def _scope_of_mmdet() -> None:
    """A runner leaves its default scope behind; each module begins with mmdet's, whatever ran before it."""
    init_default_scope("mmdet")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; the test skips visibly where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data set in {folder}, which is absent")
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A small generated data set in COCO layout: drawn shapes on textured backgrounds."""
    from fcos_train.data.shapes import make_shapes

    return make_shapes(tmp_path_factory.mktemp("shapes"), train=24, val=8, size=(160, 128), seed=0)
