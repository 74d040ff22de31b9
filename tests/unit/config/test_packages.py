"""Optional packages are named before anything is built, with the line that installs them."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from mmengine import registry as of_mmengine

from fcos_train.config import packages
from fcos_train.config.load import load_config
from fcos_train.config.packages import (
    NEEDS,
    install_line,
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
        (
            "instaboost/mask-rcnn_r50_fpn_instaboost-4x_coco",
            "InstaBoost needs .*: pip install --no-deps instaboostfast$",
        ),
        ("panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco", r"panopticapi.*: pip install git\+https://.*/panopticapi.git"),
    ],
)
def test_configs_of_mmdet(config, message):
    with pytest.raises(UserError, match=message):
        require_packages_of_run(load_config(f"mmdet::{config}"))


def test_several_packages_are_one_line():
    with pytest.raises(
        UserError,
        match="Albu needs albumentations, PAA needs sklearn, .*: pip install 'albumentations>=2' scikit-learn$",
    ):
        require_packages([{"type": "Albu"}], {"type": "PAA"})


def test_variables_of_the_file_do_not_count():
    """An evaluation does not build the training pipeline, which is also a variable of the file."""
    require_packages_of_run({"model": {"type": "FCOS"}, "train_pipeline": [{"type": "Albu"}], "train_dataloader": None})


LINES = {
    "nothing special": (("sklearn", "lvis"), "pip install scikit-learn lvis"),
    "what keeps torch": (("mmpretrain",), "pip install onedl-mmpretrain 'torchvision==0.28.*'"),
    "named once": (("timm", "torchvision"), "pip install timm 'torchvision==0.28.*'"),
    "flags of pip": (
        ("transformers", "instaboostfast"),
        "pip install 'transformers<4.54' && pip install --no-deps instaboostfast",
    ),
}


@pytest.mark.parametrize("row", LINES)
def test_install_lines_leave_torch_and_opencv_as_they_are(row, monkeypatch):
    monkeypatch.setattr(packages, "version", lambda name: {"torch": "2.13.0+cpu"}[name])
    modules, line = LINES[row]
    assert install_line(*modules) == line


UNFIT = {
    "too new": (
        {"type": "BertModel"},
        "5.24.0",
        "BertModel needs transformers<4.54 .5.24.0 is installed.: pip install",
    ),
    "too old": (
        {"type": "Albu", "transforms": [{"type": "Blur"}]},
        "1.3.1",
        "Albu needs albumentations>=2 .1.3.1 is installed.: pip install 'albumentations>=2'$",
    ),
    "no such transform": (
        {"type": "Albu", "transforms": [{"type": "Blur"}, {"type": "OneOf", "transforms": [{"type": "Jpeg"}]}]},
        "2.0.8",
        "Albu needs Jpeg, which albumentations 2.0.8 lacks: pip install 'albumentations>=2'$",
    ),
}


@pytest.mark.parametrize("row", UNFIT)
def test_a_version_that_mmdet_does_not_work_with(row, monkeypatch):
    part, found, message = UNFIT[row]
    monkeypatch.setattr(packages, "is_installed", lambda module: True)
    monkeypatch.setattr(packages, "version", lambda name: found)
    monkeypatch.setitem(sys.modules, "albumentations", SimpleNamespace(Blur=int, OneOf=int))
    with pytest.raises(UserError, match=message):
        require_packages(part)


def test_transforms_that_another_version_has_too(monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda module: True)
    monkeypatch.setattr(packages, "version", lambda name: "2.0.8")
    monkeypatch.setitem(sys.modules, "albumentations", SimpleNamespace(Blur=int))
    require_packages({"type": "Albu", "transforms": [{"type": "Blur"}]})


def test_torchvision_of_another_torch(monkeypatch):
    monkeypatch.setattr(packages, "version", lambda name: {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}[name])
    broken = RuntimeError("operator torchvision::nms does not exist")
    message = r"torchvision 0.28.0 is not built for torch 2.13.0\+cpu .*--index-url: pip install 'torchvision==0.28"
    with pytest.raises(UserError, match=message), missing_packages_named():
        raise broken


SAID = {
    "import": (ModuleNotFoundError("No module named 'sklearn'", name="sklearn"), "pip install scikit-learn$"),
    "runtime": (RuntimeError("albumentations is not installed"), "pip install 'albumentations>=2'$"),
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
