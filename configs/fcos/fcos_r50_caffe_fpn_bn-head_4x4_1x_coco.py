# The head with BatchNorm, one per pyramid level as in AdelaiDet (docs/precision.md): it folds into the convolutions, which
# edge chips (ncnn, RDK, om) like better than GroupNorm. Not trained on COCO here; AdelaiDet publishes no figure for it
# beside GroupNorm's.
_base_ = "./fcos_r50_caffe_fpn_4x4_1x_coco.py"
model = dict(bbox_head=dict(norm_cfg=dict(_delete_=True, type="BN", requires_grad=True)))
