"""Every recorded case of the compiled mmcv operators, through the public functions of ``mmcv.ops``."""

import json

import numpy as np
import pytest
import torch

NMS_CASES = [f"nms{i}" for i in range(12)] + ["nms_ties"]
SOFT_CASES = [f"softnms{i}" for i in range(3)]
ROI_CASES = [f"roi_align{i}" for i in range(8)]
DEFORM_CASES = [f"deform_conv{i}" for i in range(4)]
MODULATED_CASES = [f"modulated_deform_conv{i}" for i in range(4)]
ALL_CASES = [*NMS_CASES, *SOFT_CASES, "batched_nms0", *ROI_CASES, *DEFORM_CASES, *MODULATED_CASES]


@pytest.fixture(scope="module")
def reference(shared_data):
    path = shared_data / "mmcv_ops_reference.npz"
    if not path.is_file():
        pytest.skip(f"needs the recorded operators in {path}, which is absent")
    with np.load(path) as arrays:
        cases = {case["case"]: case for case in json.loads(str(arrays["meta"]))}
        for case in cases.values():
            case["arrays"] = {name: torch.from_numpy(arrays[f"{case['case']}/{name}"]) for name in case["arrays"]}
    return cases


def check_gradients(output, case, inputs):
    arrays = case["arrays"]
    torch.testing.assert_close(output, arrays["output"], rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad(output, list(inputs.values()), arrays["grad_output"])
    for name, gradient in zip(inputs, gradients, strict=True):
        torch.testing.assert_close(gradient, arrays[f"grad_{name}"], rtol=1e-4, atol=1e-4)


def leaves(case, *names):
    return {name: case["arrays"][name].clone().requires_grad_() for name in names}


def test_every_recorded_case_is_tested_here(reference):
    assert sorted(reference) == sorted(ALL_CASES)


@pytest.mark.parametrize("name", NMS_CASES)
def test_nms(reference, name):
    from mmcv.ops import nms

    arrays, attrs = reference[name]["arrays"], reference[name]["attrs"]
    dets, keep = nms(arrays["boxes"], arrays["scores"], attrs["iou_threshold"], attrs["offset"])
    assert keep.tolist() == arrays["keep"].tolist()
    torch.testing.assert_close(dets, arrays["dets"], rtol=0, atol=0)


@pytest.mark.parametrize("name", SOFT_CASES)
def test_soft_nms(reference, name):
    from mmcv.ops import soft_nms

    arrays = reference[name]["arrays"]
    dets, keep = soft_nms(arrays["boxes"], arrays["scores"], **reference[name]["attrs"])
    assert keep.tolist() == arrays["keep"].tolist()
    torch.testing.assert_close(dets, arrays["dets"], rtol=1e-4, atol=1e-4)


def test_batched_nms(reference):
    from mmcv.ops import batched_nms

    arrays, attrs = reference["batched_nms0"]["arrays"], reference["batched_nms0"]["attrs"]
    dets, keep = batched_nms(arrays["boxes"], arrays["scores"], arrays["labels"], {"type": "nms", **attrs})
    assert keep.tolist() == arrays["keep"].tolist()
    torch.testing.assert_close(dets, arrays["dets"], rtol=0, atol=0)


@pytest.mark.parametrize("name", ROI_CASES)
def test_roi_align(reference, name):
    from mmcv.ops import RoIAlign

    case = reference[name]
    inputs = leaves(case, "input")
    attrs = {**case["attrs"], "output_size": tuple(case["attrs"]["output_size"])}
    check_gradients(RoIAlign(**attrs)(inputs["input"], case["arrays"]["rois"]), case, inputs)


@pytest.mark.parametrize("name", DEFORM_CASES)
def test_deform_conv2d(reference, name):
    from mmcv.ops import deform_conv2d

    case = reference[name]
    inputs = leaves(case, "input", "offset", "weight")
    check_gradients(deform_conv2d(*inputs.values(), *case["attrs"].values()), case, inputs)


@pytest.mark.parametrize("name", MODULATED_CASES)
def test_modulated_deform_conv2d(reference, name):
    from mmcv.ops import modulated_deform_conv2d

    case = reference[name]
    inputs = leaves(case, "input", "offset", "mask", "weight", "bias")
    check_gradients(modulated_deform_conv2d(*inputs.values(), *case["attrs"].values()), case, inputs)
