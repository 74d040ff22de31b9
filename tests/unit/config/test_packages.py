"""Optional packages are named before anything is built, with the line that installs them."""

from __future__ import annotations

import pytest
from mmengine import registry as of_mmengine

from fcos_train.config import packages
from fcos_train.config.load import load_config
from fcos_train.config.packages import (
    NEEDS,
    missing_packages_named,
    needed_by,
    require_packages,
    require_packages_of_run,
)
from fcos_train.start import start
from mmcv_overrides.errors import UserError


@pytest.fixture(autouse=True)
def _nothing_optional(monkeypatch):
    """As on a machine without any of the optional packages."""
    monkeypatch.setattr(packages, "is_installed", lambda module: False)


PARTS = {
    "transform": ({"type": "Albu"}, "albumentations"),
    "with a scope": ({"type": "mmdet.InstaBoost"}, "instaboostfast"),
    "another package's part": ({"type": "mmpretrain.ConvNeXt"}, "mmpretrain"),
    "scope of a base": ({"type": "TIMMBackbone", "_scope_": "mmpretrain"}, "mmpretrain"),
    "activation checkpointing": ({"num_cp": 6, "num_layers": 6}, "fairscale"),
    "RoIAlign of torchvision, which ours replaces": ({"type": "RoIAlign", "use_torchvision": True}, None),
    "no checkpointing": ({"num_cp": 0}, None),
    "nothing optional": ({"type": "FCOS"}, None),
}


@pytest.mark.parametrize("row", PARTS)
def test_what_a_part_needs(row):
    part, module = PARTS[row]
    assert needed_by(part) == module


def test_every_part_of_the_table_exists():
    """A name that no registry has would never be found in a config."""
    start()
    registries = [getattr(of_mmengine, name) for name in ("MODELS", "DATASETS", "TRANSFORMS", "METRICS", "HOOKS")]
    known = {name for r in registries for level in (r, *r.children.values()) for name in level.module_dict}
    known |= set(of_mmengine.VISBACKENDS.module_dict)
    assert set(NEEDS) - known == set()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("paa/paa_r50_fpn_1x_coco", "PAA needs sklearn, which is not installed: pip install scikit-learn"),
        ("instaboost/mask-rcnn_r50_fpn_instaboost-4x_coco", "InstaBoost needs .*: pip install instaboostfast"),
        ("panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco", r"panopticapi.*: pip install git\+https://.*/panopticapi.git"),
    ],
)
def test_configs_of_mmdet(config, message):
    with pytest.raises(UserError, match=message):
        require_packages_of_run(load_config(f"mmdet::{config}"))


def test_several_packages_are_one_line():
    with pytest.raises(
        UserError, match="Albu needs albumentations, PAA needs sklearn, .*: pip install albumentations sci"
    ):
        require_packages([{"type": "Albu"}], {"type": "PAA"})


def test_variables_of_the_file_do_not_count():
    """An evaluation does not build the training pipeline, which is also a variable of the file."""
    require_packages_of_run({"model": {"type": "FCOS"}, "train_pipeline": [{"type": "Albu"}], "train_dataloader": None})


SAID = {
    "import": (ModuleNotFoundError("No module named 'sklearn'", name="sklearn"), "pip install scikit-learn$"),
    "runtime": (RuntimeError("albumentations is not installed"), "pip install albumentations$"),
    "quoted": (ImportError('Please run "pip install wandb" to install wandb'), 'Please run "pip install wandb"'),
    "assertion": (AssertionError("skimage is not installed"), "pip install scikit-image$"),
    "of a function": (
        NotImplementedError("please install fairscale by the\n   following command: pip install fairscale."),
        "by the following command: pip install fairscale$",
    ),
}


@pytest.mark.parametrize("row", SAID)
def test_a_late_import_ends_in_one_line(row):
    error, message = SAID[row]
    with pytest.raises(UserError, match=message), missing_packages_named():
        raise error


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), KeyError("mask"), ValueError("not a number")])
def test_other_exceptions_pass(error):
    with pytest.raises(type(error)), missing_packages_named():
        raise error
