# FCOS R-50 with BatchNorm in the head, one per pyramid level as in AdelaiDet (docs/precision.md). It folds into the
# convolutions, which converters for edge devices (ncnn, RDK, om) handle better than GroupNorm.
# Paper      arXiv 1904.01355; the paper's head has GroupNorm
# Command    bash test/train_full_8p.sh --data_path=/data/coco \
#                --config=configs/fcos/fcos_r50_caffe_fpn_bn-head_4x4_1x_coco.py
# Hardware   8 devices x 2 images, 4 GB each
# Measured   not measured here
_base_ = "./fcos_r50_caffe_fpn_4x4_1x_coco.py"
model = dict(bbox_head=dict(norm_cfg=dict(_delete_=True, type="BN", requires_grad=True)))
