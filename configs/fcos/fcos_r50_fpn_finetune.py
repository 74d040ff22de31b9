# FCOS R-50 from COCO weights, for own data of some hundred to some thousand images. The model of mmdet's best R-50
# weights without deformable convolutions (box AP 38.7 on COCO): GroupNorm in the head, centre sampling, box targets in
# strides, centerness beside the boxes, GIoU loss. BatchNorm and the first stage of the backbone keep their values.
# AdamW with a tenth of the learning rate of fcos_r18_fpn_small, which starts from scratch; cosine decay.
# Paper      arXiv 1904.01355, version 3
# Command    fcos-train train fcos/fcos_r50_fpn_finetune --data-path DIR
# Hardware   one device with 6 GB; on a CPU give smaller images (docs/fine-tuning.md)
# Schedule   24 epochs of batches of 4: 1,800 steps for 300 images, 18,000 for 3,000
# Measured   accuracy not measured here
_base_ = "./fcos_r50_caffe_fpn_gn-head_4x4_1x_coco.py"
load_from = "coco"
image_size = (1000, 600)
model = dict(
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675]),
    backbone=dict(init_cfg=dict(checkpoint="open-mmlab://detectron2/resnet50_caffe")),
    bbox_head=dict(
        conv_bias=True,
        center_sampling=True,
        centerness_on_reg=True,
        norm_on_bbox=True,
        loss_bbox=dict(type="GIoULoss"),
    ),
    test_cfg=dict(nms=dict(iou_threshold=0.6)),
)
train_pipeline = (
    _base_.train_pipeline[:2] + [dict(type="Resize", scale=image_size, keep_ratio=True)] + _base_.train_pipeline[3:]
)
test_pipeline = (
    _base_.test_pipeline[:1] + [dict(type="Resize", scale=image_size, keep_ratio=True)] + _base_.test_pipeline[2:]
)
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=4, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
max_epochs = 24
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.0001, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(
        type="CosineAnnealingLR", by_epoch=True, begin=0, end=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True
    ),
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(logger=dict(interval=10))
