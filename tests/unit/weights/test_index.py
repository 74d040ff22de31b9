"""Names of weights: mmdet's own index, and an index with the irregularities that it has."""

import pytest

from fcos_train.weights import all_weights, index, named, weights_fault
from fcos_train.weights.index import Weights
from mmcv_overrides.errors import UserError

METAFILE = """
Models:
  - Name: net_r50_1x
    Config: configs/g%2Bw/net_r50_1x.py
    Alias: [net]
    Results:
      - {Task: Object Detection, Dataset: COCO, Metrics: {box AP: 36.6}}
      - {Task: Instance Segmentation, Dataset: COCO, Metrics: {mask AP: 30.0}}
    Weights: https://host.example/v2.0/net/old_net_r50_1x_20200130_123456-047c8118.pth
  - Name: tracker
    Weights: [https://host.example/a.pth, https://host.example/b.pth]
  - Name: net_r50_2x
    Config: net_r50_2x.py
    Results: []
    Weights: https://host.example/old_net_r50_2x.pth
  - Name: net_r50_3x
    Alias: net
    Weights: https://host.example/net-0123456789abcdef.pth
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    (tmp_path / "g+w").mkdir()
    (tmp_path / "g+w" / "metafile.yml").write_text(METAFILE)
    (tmp_path / "g+w" / "net_r50_1x.py").write_text("")
    monkeypatch.setattr(index, "index_folder", lambda: tmp_path)


def test_the_index_of_the_installed_mmdet():
    """All FCOS of mmdet's own metafile; COCO's box AP as published."""
    fcos = {one.name: (one.box_ap, one.digest) for one in all_weights() if one.config.startswith("mmdet::fcos/")}
    assert fcos == {
        "fcos_r50-caffe_fpn_gn-head_1x_coco": (36.6, "821213aa"),
        "fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco": (38.7, "0a0d75a8"),
        "fcos_r50-dcn-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco": (42.3, "ae4d8b3d"),
        "fcos_r101-caffe_fpn_gn-head-1x_coco": (39.1, "0e37b982"),
        "fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco": (38.5, "d92ceeea"),
        "fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco": (40.8, "511424d6"),
        "fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco": (42.6, "ede514a8"),
    }
    assert len(all_weights()) > 500


@pytest.mark.parametrize(
    "name",
    [
        "fcos_r50-caffe_fpn_gn-head_1x_coco",  # of the index
        "fcos_r50_caffe_fpn_gn-head_1x_coco",  # of mmdet 2.x
        "fcos_r50_caffe_fpn_gn-head_1x_coco-821213aa.pth",  # of the file
    ],
)
def test_names_of_one_file(name):
    assert named(name).file == "fcos_r50_caffe_fpn_gn-head_1x_coco-821213aa.pth"


def test_entries(small, tmp_path):
    first, second, third = all_weights()
    assert first == Weights(
        "net_r50_1x",
        "https://host.example/v2.0/net/old_net_r50_1x_20200130_123456-047c8118.pth",
        "mmdet::g+w/net_r50_1x",
        "COCO",
        36.6,
        ("net", "old_net_r50_1x"),
    )
    assert (first.file, first.digest) == ("old_net_r50_1x_20200130_123456-047c8118.pth", "047c8118")
    assert first.licence.startswith("licence of the weights: Apache-2.0") and "trained on COCO" in first.licence
    assert (second.config, second.data, second.box_ap, second.digest) == ("", "", None, None)
    assert third.digest == "0123456789abcdef" and "trained on" not in third.licence


def test_unknown_and_ambiguous_names(small):
    with pytest.raises(UserError, match=r"no weights are called net_r50_1y; did you mean net_r50_1x, "):
        named("net_r50_1y")
    with pytest.raises(UserError, match="several weights are called net: give one of net_r50_1x, net_r50_3x"):
        named("net")


def test_the_check_of_an_option(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco").mkdir()  # a folder of data of that name does not hide the weights
    (tmp_path / "w.pth").write_bytes(b"x")
    assert [weights_fault(text) for text in ("coco", "w.pth", "s3://bucket/w.pth", "net_r50_1x")] == [None] * 4
    assert weights_fault("g+w") == "it is a folder"
    assert weights_fault("lost.pth") == weights_fault("work_dirs/lost") == "no such file"
    assert "no such file, and no weights are called net_r50_1y; did you mean net_r50_1x" in weights_fault("net_r50_1y")
