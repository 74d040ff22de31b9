# FCOS R-50 with AdelaiDet's head: BatchNorm per level, distances as ReLU(scale * convolution) in strides, centerness on
# the box tower, score sqrt(class x centerness). Weights of AdelaiDet's FCOS load into it by name, and exports for ncnn,
# caffe and the RDK boards have its contract. (fcos_r50_caffe_fpn_bn-head_4x4_1x_coco predicts exp(x) px instead.)
# Paper      arXiv 1904.01355, version 3; the paper's head has GroupNorm
# Command    bash test/train_full_8p.sh --data_path=/data/coco \
#                --config=configs/fcos/fcos_r50_caffe_fpn_bn-head_adelaidet_1x_coco.py
# Hardware   8 devices x 2 images, 4 GB each
# Measured   not measured here
_base_ = "./fcos_r50_caffe_fpn_bn-head_4x4_1x_coco.py"
model = dict(
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675]),  # BGR, of detectron2's conversion of the same weights
    backbone=dict(init_cfg=dict(checkpoint="open-mmlab://detectron2/resnet50_caffe")),
    bbox_head=dict(
        type="SqrtScoreFCOSHead",
        threshold_on="cls",
        conv_bias=True,
        centerness_on_reg=True,
        norm_on_bbox=True,
        center_sampling=True,
        loss_bbox=dict(type="GIoULoss"),
    ),
    test_cfg=dict(nms=dict(iou_threshold=0.6)),
)
