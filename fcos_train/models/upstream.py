"""Faults of mmdet that would end a training, an evaluation or a demo; mended where mmdet itself reads the wrong thing.

Every entry says what fails and is idle once mmdet has mended it.
"""

from __future__ import annotations

from typing import Any

from mmdet.models import SSDHead

# Class, attribute, value, why. The attribute is set only where the class lacks it.
ABSENT: tuple[tuple[type, str, Any, str], ...] = (
    (
        SSDHead,
        "loss_cls",
        None,
        "BaseDenseHead.predict_by_feat asks every head for the channels of loss_cls; SSDHead computes its loss itself",
    ),
)


def mend() -> list[str]:
    """Add what classes of mmdet lack. Returns one line per attribute that was added."""
    added = []
    for owner, name, value, why in ABSENT:
        if not hasattr(owner, name):
            setattr(owner, name, value)
            added.append(f"{owner.__name__}.{name}: {why}")
    return added
