# fcos_r18_fpn_shapes with BatchNorm in the head, one per pyramid level (docs/precision.md), for edge devices, whose
# converters fold it into the convolutions. The schedule is that of fcos_r18_fpn_shapes.
# Paper      arXiv 1904.01355, version 3; the paper's head has GroupNorm
# Command    fcos-train make-shapes data/shapes --train 400 --val 80
#            fcos-train train fcos/fcos_r18_fpn_shapes_bn-head --data-path data/shapes --seed 0 --opt-level O0
# Hardware   one device; 2 CPU cores are enough
# Measured   mAP 0.7932, mAP50 0.956 (with GroupNorm 0.8079), exported with --end ascend 0.7934; 45 minutes, 4.8
#            images/s on one thread of a busy AMD EPYC without AVX-512, hence O0; torch 2.13.0
_base_ = "./fcos_r18_fpn_shapes.py"
model = dict(bbox_head=dict(norm_cfg=dict(_delete_=True, type="BN", requires_grad=True)))
