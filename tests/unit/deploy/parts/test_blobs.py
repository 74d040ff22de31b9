"""Differences of maps, in numbers worked out by hand."""

import math

import numpy as np
import pytest

from fcos_train.deploy.parts.blobs import INT8, Limits, compare_maps, table


def _map(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


def _described(unit: str) -> dict:
    parts = ("cls", "box", "ctr")
    return {
        "decode": {"unit": unit},
        "outputs": [{"name": f"{part}_0", "part": part, "level": 0, "stride": 8} for part in parts],
    }


LOGITS, EVEN = _map(math.log(3), -math.log(3)), _map(0, 0)  # probabilities 3/4 and 1/4; 1/2 and 1/2
COSINE = 0.5 / math.sqrt(0.5 * 0.625)


@pytest.mark.parametrize("unit, largest", [("px", 1 / 8), ("stride", 1.0)])
def test_distances_count_in_strides_and_logits_as_probabilities(unit, largest):
    ours, theirs = [LOGITS, _map(3, 4), EVEN], [EVEN, _map(4, 3), EVEN]
    cls, box, ctr = compare_maps(_described(unit), [ours], [theirs], Limits(1.0, 0.5, 0.9))
    assert (cls.largest, cls.cosine) == pytest.approx((math.log(3), COSINE))  # 0.894
    assert (box.largest, box.cosine) == pytest.approx((largest, 24 / 25))
    assert (ctr.largest, ctr.cosine) == (0, pytest.approx(1))
    assert cls.fault == "difference 1.10e+00, limit 1"
    assert box.fault == (None if unit == "px" else "difference 1.00e+00, limit 0.5") and ctr.fault is None


def test_int8_is_judged_by_direction_alone():
    ours, theirs = [LOGITS, _map(-4, 3), _map(0.3, -0.3)], [EVEN, _map(3, 4), _map(-0.3, 0.3)]
    cls, box, ctr = compare_maps(_described("stride"), [ours], [theirs], INT8)
    assert cls.fault is None and ctr.fault is None  # logits of opposite sign near 0 are nearly the same probability
    assert box.cosine == 0 and box.fault == "cosine similarity 0.0000, limit 0.8"
    assert "FAILED" in table([cls, box, ctr])[1]


def test_the_worst_image_counts_and_nan_and_shapes_are_faults():
    good, far = [EVEN] * 3, [_map(2, 0), EVEN, EVEN]
    assert compare_maps(_described("px"), [good, far, good], [good] * 3, Limits())[0].largest == 2
    lost = [_map(math.nan, 0), _map(0, 0, 0), EVEN]
    cls, box, _ = compare_maps(_described("px"), [lost], [good], Limits())
    assert cls.fault == "it has values that are not finite"
    assert box.fault == "its shape is (1, 1, 1, 3), PyTorch's (1, 1, 1, 2)"
