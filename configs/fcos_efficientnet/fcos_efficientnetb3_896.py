# FCOS-EfficientNet B3 at 896 x 896 (RDK X5: 38.2 FPS published): see fcos_efficientnetb0_512 for what is published and
# what is inferred. There is no EfficientNet-Lite3; the backbone starts from random weights.
# Inferred   everything of this size but the input: channels 48, 136, 384 (width 1.2 of EfficientNet), BiFPN with 160
#            channels and 6 repeats (EfficientDet-D3)
# Paper      arXiv 1904.01355, 1905.11946, 1911.09070
# Command    bash test/train_full_8p.sh --data_path=/data/coco \
#                --config=configs/fcos_efficientnet/fcos_efficientnetb3_896.py
# Hardware   8 devices x 8 images
# Measured   not measured here
_base_ = "./fcos_efficientnetb0_512.py"
image_size = (896, 896)
model = dict(
    backbone=dict(arch="b3", init_cfg=None),
    neck=dict(in_channels=[48, 136, 384], out_channels=160, num_repeats=6),
    bbox_head=dict(in_channels=160, feat_channels=160),
)
train_pipeline = (
    _base_.train_pipeline[:2] + [dict(type="Resize", scale=image_size, keep_ratio=True)] + _base_.train_pipeline[3:]
)
test_pipeline = (
    _base_.test_pipeline[:1] + [dict(type="Resize", scale=image_size, keep_ratio=True)] + _base_.test_pipeline[2:]
)
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=4, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
