# The quickstart's model with BatchNorm in its head, one per pyramid level (docs/precision.md): for edge chips, whose
# converters fold it into the convolutions. All else as fcos_r18_fpn_shapes, the schedule included.
#   fcos-train make-shapes data/shapes --train 400 --val 80
#   fcos-train train configs/fcos/fcos_r18_fpn_shapes_bn-head.py --data-path data/shapes --seed 0 --opt-level O0
# Result: mAP 0.7932, AP50 0.956 (GroupNorm: 0.8079); the exported graph (--end ascend) 0.7934. 45 minutes at 4.8 images/s on
# one thread of a busy AMD EPYC without AVX-512, hence O0.
_base_ = "./fcos_r18_fpn_shapes.py"
model = dict(bbox_head=dict(norm_cfg=dict(_delete_=True, type="BN", requires_grad=True)))
