# The head with BatchNorm, one per pyramid level as in AdelaiDet (docs/precision.md): it folds into the convolutions, which
# edge chips (ncnn, RDK, om) like better than GroupNorm. Not trained on COCO: no result, no time.
#   bash test/train_full_1p.sh --data_path=PATH --config=configs/fcos/fcos_r50_caffe_fpn_bn-head_4x4_1x_coco.py
_base_ = "./fcos_r50_caffe_fpn_4x4_1x_coco.py"
model = dict(bbox_head=dict(norm_cfg=dict(_delete_=True, type="BN", requires_grad=True)))
