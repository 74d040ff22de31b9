_base_ = "./fcos_r18_fpn_shapes.py"
model = dict(bbox_head=dict(norm_cfg=dict(_delete_=True, type="BN", requires_grad=True)))
