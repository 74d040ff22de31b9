# Cascade R-CNN, ResNet-101 + FPN with deformable convolutions in stages c3 to c5, 1x. The model of the Ascend recipe.
# Paper      Cai and Vasconcelos, "Cascade R-CNN", CVPR 2018 (arXiv 1712.00726); Dai et al., "Deformable Convolutional
#            Networks", ICCV 2017 (arXiv 1703.06211)
# Command    bash test/train_full_8p.sh --data_path=/data/coco \
#                --config=configs/cascade_rcnn/cascade_rcnn_r101_fpn_dconv_c3-c5_1x_coco.py
# Hardware   8 devices x 2 images, 7 GB each (mmdet on V100: 6.4 GB). There is no fixed-shape step for it, so it is slow
#            on an NPU.
# Published  45.0 mAP after 12 epochs (mmdet; the Ascend recipe: 45 as a checkpoint, 45.2 as an .om)
# Measured   not measured here
_base_ = [
    "mmdet::_base_/models/cascade-rcnn_r50_fpn.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "../_base_/coco_detection.py",
    "../_base_/runtime.py",
]
model = dict(
    backbone=dict(
        depth=101,
        dcn=dict(type="DCN", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet101"),
    ),
)
