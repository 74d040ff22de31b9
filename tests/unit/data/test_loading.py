"""The image loader: mmcv's result, and an error that names the file, from worker processes too."""

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS

from fcos_train.data.loading import LoadImage
from mmcv_overrides.errors import UserError


def test_same_result_as_mmcv(shapes):
    path = str(shapes / "train2017" / "shapes_000001.jpg")
    ours = TRANSFORMS.build(dict(type="LoadImage"))(dict(img_path=path))
    theirs = LoadImageFromFile()(dict(img_path=path))
    assert np.array_equal(ours.pop("img"), theirs.pop("img")) and ours == theirs
    assert ours["img_shape"] == (128, 160)
    assert cv2.getNumThreads() == 1


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "absent"), (b"", "cannot be decoded"), (b"text", "cannot be decoded")]
)
def test_failure_names_file_and_way_out(tmp_path, content, reason):
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"broken.jpg: .*{reason}.*check-data PATH --decode"):
        LoadImage()(dict(img_path=str(path)))


class _Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return LoadImage()(dict(img_path="/nowhere/broken.jpg"))


def test_a_worker_hands_on_the_message_alone():
    loader = torch.utils.data.DataLoader(_Broken(), num_workers=1)
    with pytest.raises(UserError) as caught:
        next(iter(loader))
    assert str(caught.value).startswith("cannot read image /nowhere/broken.jpg: the file is absent")
    assert "Traceback" not in str(caught.value)
