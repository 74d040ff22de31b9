"""The first validation images of a configuration."""

import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from fcos_train.infer.validation_images import validation_images


@pytest.fixture
def data(tmp_path):
    """`a.png` without objects, `b.png` without a file, `c.png` and `d.png`; the objects of `d.png` come first."""
    (tmp_path / "val").mkdir()
    for name in "acd":
        cv2.imwrite(str(tmp_path / "val" / f"{name}.png"), np.zeros((8, 8, 3), np.uint8))
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate("abcd")]
    annotations = [{"image_id": number} for number in (3, 1, 2, 3)]
    (tmp_path / "val.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return tmp_path


def config(data, **changes) -> Config:
    dataset = {"data_root": str(data), "ann_file": "val.json", "data_prefix": {"img": "val/"}, **changes}
    return Config({"test_dataloader": {"dataset": dataset}})


def test_images_in_the_order_of_the_file_or_of_the_annotations(data):
    assert [path.name for path in validation_images(config(data))] == ["a.png", "c.png", "d.png"]
    assert [path.name for path in validation_images(config(data), annotated=True)] == ["d.png", "c.png", "d.png"]


def test_the_validation_set_comes_before_the_test_set(data):
    both = config(data, data_prefix={"img": "absent/"})
    both.val_dataloader = config(data).test_dataloader
    assert validation_images(both)[0] == data / "val" / "a.png"


@pytest.mark.parametrize(
    "changes", [{"ann_file": "absent.json"}, {"ann_file": None}, {"data_prefix": {"img": "absent"}}]
)
@pytest.mark.parametrize("annotated", [False, True])
def test_a_faulty_set_has_none(data, changes, annotated):
    assert validation_images(config(data, **changes), annotated) == []
    assert validation_images(Config({}), annotated) == []
