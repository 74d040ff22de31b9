"""Rounding noise of the fixed-shape heads in half precision: no more than that of mmdet's heads.

The truth is mmdet's head in float32. An error is relative: of a loss to that loss, of a gradient by the norms of the
difference and of the true gradient. Single draws depend on luck, so root mean squares over scenes are compared.
"""

import copy
import math

import pytest
import torch

from mmcv_overrides.precision import cast_weights, keep_losses_fp32
from tests.support.heads import (
    FCOS_TRICKS,
    WIDE_REGIONS,
    Scene,
    fcos_pair,
    fsaf_pair,
    losses_and_gradients,
    losses_and_gradients_of_padded,
)

UNIT = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}  # half the spacing of numbers at 1
HEADS = {
    "fcos": fcos_pair,
    "fcos with all tricks": lambda: fcos_pair(**FCOS_TRICKS),
    "fcos, shared batch norm": lambda: fcos_pair(norm_cfg={"type": "SharedBN"}),
    "fsaf": fsaf_pair,
    "fsaf, wide regions": lambda: fsaf_pair(assigner=WIDE_REGIONS),
}
SCENES = [(name, seed) for name in ("some", "many", "mixed") for seed in (0, 1)]


def autocast(head, scene, dtype):
    """O1 and bf16: convolutions in half precision, weights in float32."""
    run = losses_and_gradients_of_padded if getattr(head, "merge_levels", False) else losses_and_gradients
    with torch.autocast("cpu", dtype=dtype):
        return run(head, scene)


def half_weights(head, scene, dtype):
    """O2: the weights in half precision too, losses in float32."""
    scene = copy.copy(scene)
    scene.feats = [feat.to(dtype) for feat in scene.feats]
    return losses_and_gradients(cast_weights(keep_losses_fp32(copy.deepcopy(head)), dtype), scene)


WAYS = {
    "bf16 autocast": (autocast, torch.bfloat16),
    "fp16 autocast": (autocast, torch.float16),
    "bf16 weights": (half_weights, torch.bfloat16),
}


def distances(found, truth):
    """Name of each loss, and "gradients" for all of them together -> relative distance."""
    values, gradients = found
    expected, reference = truth
    result = {k: (abs(values[k] - v) / v.clamp(min=1e-6)).item() for k, v in expected.items() if "loss" in k}
    square = [
        ((gradients[k].float() - g).square().sum(), g.square().sum()) for k, g in reference.items() if g is not None
    ]
    result["gradients"] = math.sqrt(sum(d for d, _ in square) / sum(s for _, s in square))
    return result


def root_mean_square(rows):
    return {k: math.sqrt(sum(row[k] ** 2 for row in rows) / len(rows)) for k in rows[0]}


def check(name, way, merge_levels=False):
    run, dtype = WAYS[way]
    ours, theirs, between = [], [], []
    for scene in (Scene(kind, seed=seed) for kind, seed in SCENES):
        head, stock = HEADS[name]()
        head.merge_levels = merge_levels
        truth = losses_and_gradients(stock, scene)
        rounded, reference = run(head, scene, dtype), run(stock, scene, dtype)
        assert all(rounded[0][k].dtype == torch.float32 for k in truth[0] if "loss" in k)
        ours.append(distances(rounded, truth))
        theirs.append(distances(reference, truth))
        between.append(distances(rounded, reference))
    ours, theirs, between = map(root_mean_square, (ours, theirs, between))
    slack = UNIT[dtype] / 2
    for key, noise in theirs.items():
        assert ours[key] <= 1.5 * noise + slack, key
        assert between[key] <= 1.5 * noise + slack, key
        # the comparison is meaningful: rounding is measurable, but smaller than the result
        assert ours[key] < 16 * UNIT[dtype], key
    assert theirs["gradients"] > UNIT[dtype] / 4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", HEADS)
def test_noise_is_that_of_mmdets_head(name, way):
    check(name, way)


@pytest.mark.parametrize("way", ["bf16 autocast", "fp16 autocast"])
@pytest.mark.parametrize("name", ["fcos", "fcos with all tricks", "fsaf", "fsaf, wide regions"])
def test_noise_with_merged_levels_is_that_of_mmdets_head(name, way):
    check(name, way, merge_levels=True)
