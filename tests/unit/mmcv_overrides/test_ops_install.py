"""Where the portable operators go, what they say, and that mmdet's detectors build and train on them."""

import importlib
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType

import pytest
import torch

from mmcv_overrides import ops
from mmcv_overrides.errors import UserError
from mmcv_overrides.ops import ext


def fresh(script):
    """Output of a script in an interpreter of its own, in which nothing has been imported."""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture
def nothing_installed(monkeypatch):
    """The state before `ops.install`, put back afterwards."""
    import mmcv

    monkeypatch.setattr(mmcv, "_ext", None, raising=False)
    for name in [name for name in sys.modules if name == ops.NAME or name.startswith("mmcv.ops")]:
        monkeypatch.delitem(sys.modules, name)
    yield
    sys.modules.pop(ops.NAME, None)


def refuse(monkeypatch, error):
    real = importlib.import_module

    def import_module(name):
        if name == ops.NAME:
            raise error
        return real(name)

    monkeypatch.setattr(importlib, "import_module", import_module)


def test_in_a_fresh_interpreter_without_mmdet():
    out = fresh(
        "import sys; from mmcv_overrides import ops\n"
        "print(ops.install()); print(ops.install())\n"
        "print('mmdet' in sys.modules, 'mmcv.ops' in sys.modules)\n"
        "import mmcv.ops, mmcv; print(mmcv._ext is sys.modules['mmcv._ext'])"
    )
    first, second, loaded, same = out.splitlines()
    if "compiled (" in first:
        pytest.skip("a compiled mmcv is installed")
    assert first == second
    assert first.startswith("mmcv operators: portable, in torch (mmcv was installed without compiled operators; ")
    assert loaded == "False False"
    assert same == "True"


def test_a_failed_import_of_mmcv_ops_is_mended():
    out = fresh(
        "try:\n    import mmcv.ops\n    print('compiled')\nexcept ModuleNotFoundError as error:\n    print(error)\n"
        "from mmcv_overrides import ops; print(ops.install()); import mmcv.ops; print(mmcv.ops.nms.__name__)"
    )
    error, line, works = out.splitlines()
    if error == "compiled":
        pytest.skip("a compiled mmcv is installed")
    assert error == "No module named 'mmcv._ext'"
    assert line.startswith("mmcv operators: portable")
    assert works == "nms"


def test_a_compiled_module_is_kept(monkeypatch, nothing_installed):
    compiled = ModuleType(ops.NAME)
    compiled.__file__ = "/site-packages/mmcv/_ext" + EXTENSION_SUFFIXES[0]
    monkeypatch.setitem(sys.modules, ops.NAME, compiled)
    assert ops.install() == f"mmcv operators: compiled ({compiled.__file__})"
    assert sys.modules[ops.NAME] is compiled


def test_a_compiled_module_that_does_not_load_is_replaced_and_the_reason_told(monkeypatch, nothing_installed):
    refuse(monkeypatch, ImportError("_ext.so: undefined symbol: _ZN2at4_ops\nmore"))
    line = ops.install()
    assert "portable" in line
    assert "the compiled operators do not load: _ext.so: undefined symbol: _ZN2at4_ops;" in line
    assert sys.modules[ops.NAME] is ext


def test_a_stub_that_mmcv_ops_already_uses_is_reported(monkeypatch, nothing_installed):
    monkeypatch.setitem(sys.modules, ops.NAME, ModuleType(ops.NAME))
    monkeypatch.setitem(sys.modules, "mmcv.ops", ModuleType("mmcv.ops"))
    assert ops.install().endswith("still uses it: call activate() before that import")
    assert sys.modules[ops.NAME] is ext


def test_an_operator_without_portable_form_names_itself_its_user_and_the_way_out():
    from mmcv.ops import Correlation

    with pytest.raises(UserError) as error:
        Correlation()(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    message = str(error.value)
    assert "'correlation_forward' needs a compiled mmcv" in message
    assert "called by mmcv.ops.correlation.forward" in message
    assert "Install an mmcv that was compiled" in message and "use another layer" in message
    assert isinstance(error.value, NotImplementedError)


def test_the_module_answers_like_a_module():
    with pytest.raises(AttributeError):
        ext.__path__  # noqa: B018
    for name in ext.__all__:
        assert callable(getattr(ext, name))
        assert name in vars(ext)
    from mmcv.ops import get_compiler_version, get_compiling_cuda_version

    assert get_compiler_version().startswith("none")
    assert get_compiling_cuda_version() == "not available"


CONFIGS = {
    "FCOS": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "FSAF": "fsaf/fsaf_r50_fpn_1x_coco.py",
    "RetinaNet": "retinanet/retinanet_r50_fpn_1x_coco.py",
    "FasterRCNN": "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "CascadeRCNN": "dcn/cascade-rcnn_r101-dconv-c3-c5_fpn_1x_coco.py",
}


def build(path):
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.hub.hub import get_config

    register_all_modules()
    config = get_config(f"mmdet::{path}")
    config.model.backbone.init_cfg = None
    return MODELS.build(config.model)


@pytest.mark.parametrize("name", CONFIGS)
def test_detector_builds(name):
    assert type(build(CONFIGS[name])).__name__ == name


def test_a_deformable_detector_takes_a_training_step_and_predicts():
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    torch.manual_seed(0)
    model = build("dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py")
    model.train()
    sample = DetDataSample(
        metainfo={"img_shape": (64, 96), "pad_shape": (64, 96), "ori_shape": (64, 96), "scale_factor": (1, 1)}
    )
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 56]]), labels=torch.tensor([3]))
    images = torch.randn(1, 3, 64, 96)
    losses, _ = model.parse_losses(model.loss(images, [sample]))
    losses.backward()
    deformable = model.backbone.layer4[0].conv2
    assert losses.isfinite()
    for parameter in (
        deformable.weight,
        deformable.conv_offset.weight,
        model.roi_head.bbox_head.fc_cls.weight,
    ):
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        found = model.predict(images, [sample])[0].pred_instances
    assert found.bboxes.shape == (len(found.scores), 4)
