"""Whole configurations of mmdet 2.x -> mmdet 3.x: the model, its pipelines and data, the schedule.

``translate`` puts the parts together: ``model``, ``pipeline``, ``data`` and ``schedule`` translate one section each and
write a line of text for each thing that they change. A single key in ``--cfg-options`` is a matter of
:mod:`fcos_train.config.keys.v2`.
"""

from fcos_train.config.mmdet2.translate import is_v2, modern

__all__ = ["is_v2", "modern"]
