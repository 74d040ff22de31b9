# The head with GroupNorm, as in the paper (table 3): published 36.6 mAP against 36.2 without norm.
_base_ = "./fcos_r50_caffe_fpn_4x4_1x_coco.py"
model = dict(bbox_head=dict(norm_cfg=dict(_delete_=True, type="GN", num_groups=32, requires_grad=True)))
