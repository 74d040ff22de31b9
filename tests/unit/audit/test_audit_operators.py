"""torch_npu's list of native operators, and how operators outside it would run."""

import pytest
import torch  # noqa: F401  registers the operators

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
    "torchvision::nms": "none",
    "npu::npu_multiclass_nms": "none",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_kind_of_an_operator(name):
    assert classify(name) == EXPECTED[name]


def test_the_list_names_its_release():
    assert source() == "torch_npu 2.13.0"
