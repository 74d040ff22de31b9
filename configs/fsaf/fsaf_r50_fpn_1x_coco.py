# FSAF, ResNet-50 + FPN, 1x: the anchor-free branch on RetinaNet's backbone and neck. The model of the Ascend recipe.
# Paper      Zhu et al., "Feature Selective Anchor-Free Module for Single-Shot Object Detection", CVPR 2019
#            (arXiv 1903.00621)
# Command    bash test/train_full_8p.sh --data_path=/data/coco --config=configs/fsaf/fsaf_r50_fpn_1x_coco.py
# Hardware   8 devices x 2 images, 4 GB each (mmdet: 3.2 GB on 8 Titan XP)
# Published  37.4 mAP after 12 epochs (mmdet; the Ascend recipe: 37.4 as a checkpoint, 37.1 as an .om)
# Measured   not measured here
_base_ = "../retinanet/retinanet_r50_fpn_1x_coco.py"
model = dict(
    type="FSAF",
    bbox_head=dict(
        type="FSAFHead",
        reg_decoded_bbox=True,
        # The anchors are the points of the maps: squares as large as a level's stride.
        anchor_generator=dict(octave_base_scale=1, scales_per_octave=1, ratios=[1.0]),
        bbox_coder=dict(_delete_=True, type="TBLRBBoxCoder", normalizer=4.0),
        loss_cls=dict(reduction="none"),
        loss_bbox=dict(_delete_=True, type="IoULoss", eps=1e-6, loss_weight=1.0, reduction="none"),
    ),
    train_cfg=dict(
        assigner=dict(_delete_=True, type="CenterRegionAssigner", pos_scale=0.2, neg_scale=0.2, min_pos_iof=0.01)
    ),
)
optim_wrapper = dict(clip_grad=dict(max_norm=10, norm_type=2))
