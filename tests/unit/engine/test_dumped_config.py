"""``config.py`` of a work dir: it imports the modules of its parts, so that other programs can build it."""

import pytest
from mmengine.config import Config

from fcos_train.engine.runner import DetectionRunner
from fcos_train.start import MODULES

OURS = ["mmcv_overrides.auto", *MODULES]


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (None, OURS),
        (dict(imports=["mmdet.models", "mmcv_overrides.auto"]), [*OURS, "mmdet.models"]),
        (dict(imports="mmdet.models", allow_failed_imports=True), [*OURS, "mmdet.models"]),
    ],
)
def test_the_file_imports_the_modules_of_its_parts(tmp_path, given, written):
    settings = dict(train_cfg=dict(max_epochs=1), pipeline=[dict(type="LoadImage")])
    if given is not None:
        settings["custom_imports"] = given
    runner = DetectionRunner.__new__(DetectionRunner)
    runner.cfg, runner._work_dir = Config(settings, cfg_text=" ", filename="config.py"), str(tmp_path)
    before = runner.cfg.to_dict()
    runner.dump_config()
    found = Config.fromfile(tmp_path / "config.py")
    assert found.custom_imports.imports == written
    assert found.custom_imports.allow_failed_imports == bool(given and given.get("allow_failed_imports"))
    assert runner.cfg.to_dict() == before  # what checkpoints embed


def test_the_config_of_an_evaluation_is_not_written(tmp_path):
    runner = DetectionRunner.__new__(DetectionRunner)
    runner.cfg, runner._work_dir = Config(dict(train_cfg=None), cfg_text=" ", filename="config.py"), str(tmp_path)
    runner.dump_config()
    assert not list(tmp_path.iterdir())
