"""Activates the overrides on import, for any mmdet config:

``custom_imports = dict(imports=["mmcv_overrides.auto"])``
"""

from mmcv_overrides import activate

activate()
