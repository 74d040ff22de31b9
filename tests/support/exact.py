# The tiny model, SGD, frozen batch norms: what two ranks compute is then what one computes on twice the batch.
_base_ = "../../configs/fcos/fcos_tiny_shapes.py"
custom_imports = dict(imports=["tests.support.exact_losses"])
custom_hooks = [dict(type="PrintExactLosses")]
model = dict(backbone=dict(norm_cfg=dict(requires_grad=False), norm_eval=True))
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.0001),
    clip_grad=dict(max_norm=35, norm_type=2),
)
