"""The families of mmdet's ``configs/``: the config that represents each, and those that are left out.

A family is one folder. Its representative is the lightest config for the plain task; where the name does not tell, the
table says.
"""

from __future__ import annotations

from pathlib import Path

NO_MODEL = "parts for other configs, without a model"
TRACKING = "video or tracking"
LEFT_OUT = {
    "_base_": NO_MODEL,
    "common": NO_MODEL,
    "bytetrack": TRACKING,
    "deepsort": TRACKING,
    "mask2former_vis": TRACKING,
    "masktrack_rcnn": TRACKING,
    "ocsort": TRACKING,
    "qdtrack": TRACKING,
    "sort": TRACKING,
    "strongsort": TRACKING,
    "reid": "re-identification of persons, not detection",
    "clrnet": "lane lines, not boxes",
}
# Families that need an extra with which they were not tried, and why.
UNTRIED_EXTRA = {
    "convnext": "not tried with it: the package index had no torchvision that is built for a torch without CUDA",
    "timm_example": "not tried with it: the package index had no torchvision that is built for a torch without CUDA",
    "misc": "not tried with it; the line was checked with a copy of the repository: it compiles and installs",
}
# Folders in which the rule below would take an untypical or a heavy config.
REPRESENTATIVES = {
    "cascade_rpn": "cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco",
    "centernet": "centernet_r18_8xb16-crop512-140e_coco",
    "dcn": "faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco",
    "dcnv2": "faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco",
    "detectors": "detectors_cascade-rcnn_r50_1x_coco",
    "dsdl": "coco",
    "faster_rcnn": "faster-rcnn_r50_fpn_1x_coco",
    "fcos": "fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco",
    "fpg": "faster-rcnn_r50_fpg-chn128_crop640-50e_coco",
    "gcnet": "mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco",
    "glip": "glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune_coco",
    "grounding_dino": "grounding_dino_r50_scratch_8xb2_1x_coco",
    "guided_anchoring": "ga-retinanet_r50-caffe_fpn_1x_coco",
    "htc": "htc-without-semantic_r50_fpn_1x_coco",
    "ld": "ld_r18-gflv1-r101_fpn_1x_coco",
    "legacy_1.x": "retinanet_r50_fpn_1x_coco_v1",
    "libra_rcnn": "libra-retinanet_r50_fpn_1x_coco",
    "mask2former": "mask2former_r50_8xb2-lsj-50e_coco",
    "maskformer": "maskformer_r50_ms-16xb1-75e_coco",
    "misc": "d2_faster-rcnn_r50-caffe_fpn_ms-90k_coco",
    "mm_grounding_dino": "grounding_dino_swin-t_finetune_8xb4_20e_cat",
    "nas_fpn": "retinanet_r50_nasfpn_crop640-50e_coco",
    "openimages": "faster-rcnn_r50_fpn_32xb2-1x_openimages",
    "pascal_voc": "faster-rcnn_r50_fpn_1x_voc0712",
    "pisa": "retinanet-r50_fpn_pisa_1x_coco",
    "pvt": "retinanet_pvt-t_fpn_1x_coco",
    "regnet": "retinanet_regnetx-800MF_fpn_1x_coco",
    "res2net": "faster-rcnn_res2net-101_fpn_2x_coco",
    "rtmdet": "rtmdet_tiny_8xb32-300e_coco",
    "seesaw_loss": "mask-rcnn_r50_fpn_seesaw-loss_sample1e-3-ms-2x_lvis-v1",
    "solov2": "solov2_r50_fpn_1x_coco",
    "swin": "retinanet_swin-t-p4-w7_fpn_1x_coco",
    "timm_example": "retinanet_timm-tv-resnet50_fpn_1x_coco",
    "v3det": "cascade_rcnn_r50_fpn_8x4_sample1e-3_mstrain_v3det_2x",
    "yolo": "yolov3_mobilenetv2_8xb24-320-300e_coco",
    "yolox": "yolox_tiny_8xb8-300e_coco",
}
# What makes a config heavier, or less typical, than its neighbours.
UNTYPICAL = ("r101", "x101", "x50", "s101", "-101", "swin", "caffe", "mask", "amp", "lsj", "ms-", "2x", "3x", "crop")
UNTYPICAL += ("dconv", "mdconv", "htc", "cascade", "tta", "pretrain", "_v1", "lvis")


def representative(folder: Path) -> str:
    """Name of the config of a family that is tried: the plainest, then the one with the shortest name."""
    if folder.name in REPRESENTATIVES:
        return REPRESENTATIVES[folder.name]
    names = sorted(path.stem for path in folder.glob("*.py"))
    return min(names, key=lambda name: (sum(word in name for word in UNTYPICAL), len(name), name))


def families(configs: Path) -> dict[str, str]:
    """Family -> name of its config, for every folder in mmdet's ``configs/`` that is not left out."""
    folders = sorted(path for path in configs.iterdir() if path.is_dir() and any(path.glob("*.py")))
    return {path.name: representative(path) for path in folders if path.name not in LEFT_OUT}
