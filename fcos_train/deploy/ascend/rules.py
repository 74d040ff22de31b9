"""The vendor's table: how each published model wants its input prepared."""

from __future__ import annotations

from fcos_train.deploy.parts.input_rule import InputRule

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CAFFE_MEAN, CAFFE_STD = (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0)

RULES = {
    "fsaf": InputRule("fsaf", 800, 1216, IMAGENET_MEAN, IMAGENET_STD, to_rgb=True, centred=False, half_up=False),
    "fcos": InputRule("fcos", 800, 1333, CAFFE_MEAN, CAFFE_STD, to_rgb=False, centred=True, half_up=False),
    "cascade": InputRule(
        "cascade", 1216, 1216, IMAGENET_MEAN, IMAGENET_STD, to_rgb=True, centred=True, half_up=True, prob_thres=0.05
    ),
}
