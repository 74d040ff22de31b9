"""Choice of the device: says why, refuses what is not there, shows a broken import."""

import sys

import pytest
import torch

from mmcv_overrides import device, precision
from mmcv_overrides.errors import UserError

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


@no_cuda
def test_auto_on_a_cpu_machine_says_why():
    accelerator, reason = device.pick("auto")
    assert accelerator.name == "cpu" and accelerator.backend == "gloo"
    assert "no npu: torch_npu is not installed" in reason and "no cuda:" in reason


@no_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "gpu"])
def test_missing_cuda_is_an_error(name):
    with pytest.raises(UserError, match="device 'auto' takes what is available"):
        device.pick(name)


def test_broken_torch_npu_is_shown_not_swallowed(tmp_path, monkeypatch):
    (tmp_path / "torch_npu.py").write_text("raise ImportError('libhccl.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    with pytest.raises(UserError, match="libhccl.so: cannot open shared object file"):
        device.pick("npu")


def test_cores_where_the_system_does_not_tell_which_may_be_used(monkeypatch):
    assert device.cores() >= 1
    monkeypatch.delattr(device.os, "sched_getaffinity")  # macOS, Windows
    monkeypatch.setattr(device.os, "cpu_count", lambda: 6)
    assert device.cores() == 6
    monkeypatch.setattr(device.os, "cpu_count", lambda: None)
    assert device.cores() == 1


def test_unknown_name():
    with pytest.raises(UserError, match="unknown device 'tpu'"):
        device.pick("tpu")


def test_use_tells_mmengine():
    import mmengine.device

    device.use(device.ACCELERATORS["cpu"])
    assert mmengine.device.get_device() == "cpu"


def test_data_preprocessor_moves_to_any_device_name():
    import mmcv_overrides

    mmcv_overrides.activate()
    from mmengine.model import ImgDataPreprocessor

    made = ImgDataPreprocessor(mean=[0.0] * 3, std=[1.0] * 3)
    assert made.to(torch.device("meta")).device.type == "meta"
    assert made.mean.device.type == "meta"
    assert made.to(torch.float16).device.type == "meta"  # a type is no device


@pytest.mark.parametrize("supported", [True, False])
def test_a_processor_that_emulates_bf16_is_told(monkeypatch, supported):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    cpu, _ = device.pick("cpu")
    advice = "opt level O0 (fp32) is several times faster here"
    for level in ("O1", "O2", "bf16"):
        line = precision.describe(level, cpu, precision.half_dtype(level, cpu))
        assert line.startswith(f"precision {level}: bfloat16") and (advice in line) != supported
    assert advice not in precision.describe("O1", cpu, torch.float16) + precision.describe("O0", cpu, None)
