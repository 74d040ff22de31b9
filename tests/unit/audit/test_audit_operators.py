"""torch_npu's list of native operators, and how operators outside it would run."""

import pytest
import torch

from fcos_train.audit.operators import classify, source

EXPECTED = {
    "aten::nonzero": "native",
    "aten::index_put_": "native",
    "aten::native_group_norm": "native",
    "aten::native_group_norm_backward": "native",
    "aten::convolution": "native",
    "aten::binary_cross_entropy_with_logits": "native",
    "aten::_fused_sgd_": "native",
    "aten::_foreach_norm.Scalar": "native",
    "aten::_amp_foreach_non_finite_check_and_unscale_": "native",
    "npu::npu_nms_v4": "native",
    "npu::npu_roi_align": "native",
    "aten::logit": "branch",
    "aten::_fused_adam_": "branch",
    "aten::_foreach_mul_.Tensor": "composite",
    "aten::select_backward": "composite",
    "aten::maximum": "native",
    "aten::huber_loss": "host",
    "aten::nonzero_static": "host",
    "aten::lgamma": "host",
    "aten::mode": "host",
    "npu::npu_multiclass_nms": "none",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_kind_of_an_operator(name):
    assert classify(name) == EXPECTED[name]


def test_the_list_names_its_release():
    assert source() == "torch_npu 2.13.0"


@pytest.fixture
def with_torchvision_nms():
    """The state with torchvision: its NMS has a kernel for the CPU. Real where it is installed, otherwise declared."""
    from mmcv_overrides.ops import vision  # imports torchvision where it is installed

    if vision.ops is not None:
        yield
        return
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", lambda dets, scores, iou_threshold: scores, "CPU")
    yield
    library._destroy()


def test_an_operator_of_torchvision_runs_on_the_host(with_torchvision_nms):
    assert classify.__wrapped__("torchvision::nms") == "host"


def test_an_operator_that_this_process_does_not_have_has_no_kernel():
    assert classify("absent_package::nms") == "none"
