"""Configs of mmdet and of ours, each trained for three iterations through the command."""

import math

import pytest

from tests.support.commands import QUICK_LEVEL, ROOT, log_records, ok, run

SMALL = [
    f"{loader}_dataloader.dataset.pipeline.{i}.scale=(128,96)" for loader, i in (("train", 2), ("val", 1), ("test", 1))
]

TABLE = [
    ("mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco", SMALL),
    ("mmdet::fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco", SMALL),
    ("mmdet::fsaf/fsaf_r50_fpn_1x_coco", SMALL),
    ("mmdet::retinanet/retinanet_r50_fpn_1x_coco", SMALL),
    ("mmdet::dcn/cascade-rcnn_r101-dconv-c3-c5_fpn_1x_coco", SMALL),
    ("fcos/fcos_r50_caffe_fpn_4x4_1x_coco", SMALL),
    ("fcos/fcos_r50_caffe_fpn_gn-head_4x4_1x_coco", SMALL),
    ("fcos/fcos_r50_caffe_fpn_bn-head_4x4_1x_coco", SMALL),
    ("fcos/fcos_r18_fpn_small", SMALL),
    ("fcos/fcos_r18_fpn_shapes", SMALL),
    ("fcos/fcos_r18_fpn_shapes_bn-head", SMALL),
    ("fcos/fcos_tiny_shapes", []),
]


@pytest.mark.parametrize(("config", "options"), TABLE, ids=[config for config, _ in TABLE])
def test_three_iterations(config, options, shapes, tmp_path):
    extra = ["--cfg-options", *options] if options else []
    ok(
        run(
            "train", config, "--data-path", shapes, "--work-dir", tmp_path, "--max-iters", 3, "--batch-size", 1, "--workers", 0,
            "--no-validate", "--seed", 0, "--pretrained", "none", "--opt-level", QUICK_LEVEL,
            "--cfg-options", "default_hooks.logger.interval=1", *extra,
        )
    )  # fmt: skip
    records = log_records(tmp_path)
    assert len(records) == 3
    assert all(math.isfinite(r["loss"]) and r["loss"] > 0 and r["grad_norm"] > 0 for r in records)
    assert (tmp_path / "latest.pth").resolve().name == "iter_3.pth"


def test_the_table_has_every_shipped_config():
    shipped = {
        str(p.relative_to(ROOT / "configs").with_suffix(""))
        for p in (ROOT / "configs").rglob("*.py")
        if "_base_" not in p.parts
    }
    assert shipped == {config for config, _ in TABLE if not config.startswith("mmdet::")}
