"""Which sizes of the input a neck takes."""

from types import SimpleNamespace

import pytest

from fcos_train.deploy.parts.sides import side_faults, side_multiple


def model(neck: str, strides: list) -> SimpleNamespace:
    head = SimpleNamespace(prior_generator=SimpleNamespace(strides=strides))
    return SimpleNamespace(neck=type(neck, (), {})(), bbox_head=head)


LEVELS = [(8, 8), (16, 16), (32, 32), (64, 64), (128, 128)]


@pytest.mark.parametrize(
    ("neck", "strides", "multiple"),
    [
        ("FPN", LEVELS, 32),
        ("FPN", LEVELS[:3], 32),
        ("BiFPN", LEVELS, 128),
        ("NASFPN", LEVELS[:4], 64),
        ("BiFPN", [8, 16], 32),
    ],
)
def test_the_multiple_follows_from_what_the_neck_enlarges(neck, strides, multiple):
    assert side_multiple(model(neck, strides)) == multiple


def test_a_fault_names_the_nearest_sizes():
    fpn, bifpn = model("FPN", LEVELS), model("BiFPN", LEVELS)
    assert side_faults((800, 1088), fpn) == [] and side_faults((512, 896), bifpn) == []
    (fault,) = side_faults((800, 1088), bifpn)
    assert fault.startswith("--shape 800 1088: the sides must be multiples of 128 px")
    assert fault.endswith("the nearest are --shape 768 1024")
    assert side_faults((10, 33), fpn)[0].endswith("--shape 32 32")
