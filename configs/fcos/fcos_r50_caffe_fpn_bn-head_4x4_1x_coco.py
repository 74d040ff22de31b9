# The head with BatchNorm: it folds into the convolutions, which edge chips (ncnn, RDK, om) like better than GroupNorm.
_base_ = "./fcos_r50_caffe_fpn_4x4_1x_coco.py"
model = dict(bbox_head=dict(norm_cfg=dict(_delete_=True, type="BN", requires_grad=True)))
