"""Every shipped config and some of mmdet's are trained for three iterations by ``fcos-train train``; minutes."""

import itertools
import math
import re

import pytest

from fcos_train.config.load import load_config
from tests.support.commands import QUICK_LEVEL, ROOT, log_records, ok, run

SMALL = [
    f"{loader}_dataloader.dataset.pipeline.{i}.scale=(128,96)" for loader, i in (("train", 2), ("val", 1), ("test", 1))
]
FEW_REGIONS = [f"model.train_cfg.rcnn.{stage}.sampler.num=64" for stage in range(3)]
# BiFPN pads to 256x256, whose last map is 2x2.
SQUARE = [option.replace("(128,96)", "(256,192)") for option in SMALL]

TABLE = [
    ("mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco", SMALL),
    ("mmdet::fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco", SMALL),
    ("fcos/fcos_r50_caffe_fpn_4x4_1x_coco", SMALL),
    ("fcos/fcos_r50_caffe_fpn_gn-head_4x4_1x_coco", SMALL),
    ("fcos/fcos_r50_caffe_fpn_bn-head_4x4_1x_coco", SMALL),
    ("fcos/fcos_r50_caffe_fpn_bn-head_adelaidet_1x_coco", SMALL),
    ("fcos/fcos_rt_r50_fpn_bn", ["train_dataloader.dataset.pipeline.2.scales=[(128,96)]"]),
    ("fcos_efficientnet/fcos_efficientnetb0_512", SQUARE),
    ("fcos_efficientnet/fcos_efficientnetb0_small", SQUARE),
    ("fcos_efficientnet/fcos_efficientnetb2_768", SQUARE),
    ("fcos_efficientnet/fcos_efficientnetb3_896", SQUARE),
    ("fcos/fcos_r18_fpn_small", SMALL),
    ("fcos/fcos_r18_fpn_shapes", SMALL),
    ("fcos/fcos_r18_fpn_shapes_bn-head", SMALL),
    ("fcos/fcos_r18_fpn_shapes_bn-head_levels", SMALL),
    ("fcos/fcos_r50_fpn_finetune", SMALL),
    ("fcos/fcos_r18_fpn_quickstart", []),
    ("fcos/fcos_tiny_shapes", []),
    ("fsaf/fsaf_r50_fpn_1x_coco", SMALL),
    ("retinanet/retinanet_r50_fpn_1x_coco", SMALL),
    ("cascade_rcnn/cascade_rcnn_r101_fpn_dconv_c3-c5_1x_coco", [*SMALL, *FEW_REGIONS]),
]


@pytest.mark.parametrize(("config", "options"), TABLE, ids=[config for config, _ in TABLE])
def test_three_iterations(config, options, shapes, tmp_path) -> None:
    extra = ["--cfg-options", *options] if options else []
    ok(
        run(
            "train", config, "--data-path", shapes, "--work-dir", tmp_path, "--max-iters", 3, "--batch-size", 1,
            "--workers", 0, "--no-validate", "--seed", 0, "--pretrained", "none", "--opt-level", QUICK_LEVEL,
            "--cfg-options", "default_hooks.logger.interval=1", *extra,
        )
    )  # fmt: skip
    records = log_records(tmp_path)
    assert len(records) == 3
    assert all(math.isfinite(r["loss"]) and r["loss"] > 0 and r["grad_norm"] > 0 for r in records)
    assert (tmp_path / "latest.pth").resolve().name == "iter_3.pth"


SHIPPED = {
    str(path.relative_to(ROOT / "configs").with_suffix("")): path
    for path in sorted((ROOT / "configs").rglob("*.py"))
    if "_base_" not in path.parts
}


def test_the_table_has_every_shipped_config() -> None:
    assert set(SHIPPED) == {config for config, _ in TABLE if not config.startswith("mmdet::")}
    assert len(SHIPPED) == 19


@pytest.mark.parametrize("config", SHIPPED)
def test_a_config_begins_with_its_lab_note(config) -> None:
    """What it is, then paper, command, hardware and a measured result or "not measured here"."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), SHIPPED[config].read_text().splitlines())
    note = "\n".join(lines)
    topics = re.findall(r"^# (Paper|Command|Hardware|Published|Measured) +\S", note, re.MULTILINE)
    assert [topic for topic in topics if topic != "Published"] == ["Paper", "Command", "Hardware", "Measured"]
    measured = note.partition("# Measured")[2]
    assert "not measured here" in measured or re.search(r"mAP 0\.\d+.* minutes.*torch \d", measured, re.DOTALL)


@pytest.mark.parametrize(
    ("ours", "mmdets"),
    [
        ("fsaf/fsaf_r50_fpn_1x_coco", "fsaf/fsaf_r50_fpn_1x_coco"),
        ("retinanet/retinanet_r50_fpn_1x_coco", "retinanet/retinanet_r50_fpn_1x_coco"),
        (
            "cascade_rcnn/cascade_rcnn_r101_fpn_dconv_c3-c5_1x_coco",
            "dcn/cascade-rcnn_r101-dconv-c3-c5_fpn_1x_coco",
        ),
    ],
)
def test_model_and_schedule_are_mmdets(ours, mmdets) -> None:
    """So the row of ours in the table is the row of mmdet's."""
    found, expected = load_config(ours), load_config(f"mmdet::{mmdets}")
    for key in ("model", "optim_wrapper", "param_scheduler", "train_cfg"):
        values = found[key]
        for part in values if isinstance(values, list) else [values]:
            part.pop("_scope_", None)  # mmengine notes that the base comes from mmdet
        assert values == expected[key]
