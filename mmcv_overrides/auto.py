"""Import this from any mmdet config to activate the overrides: ``custom_imports = dict(imports=["mmcv_overrides.auto"])``."""

from mmcv_overrides import activate

activate()
