# FSAF's head as shipped, as wide as the tiny model, with the backbone, data and optimizer of exact.py.
_base_ = "./exact.py"

from fcos_train.config.load import load_config

_shipped = load_config("fsaf/fsaf_r50_fpn_1x_coco").model
_narrow = dict(num_classes=3, in_channels=32, feat_channels=32, stacked_convs=1)
model = dict(type="FSAF", bbox_head=dict(_shipped.bbox_head, _delete_=True, **_narrow), train_cfg=_shipped.train_cfg)
del _shipped, _narrow
