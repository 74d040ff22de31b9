"""Which sizes of the input a feature pyramid takes when its maps are enlarged by exactly 2."""

from __future__ import annotations

from typing import Any

# Necks that also enlarge the coarsest levels; the others begin at the coarsest map of the backbone, of stride 32.
FROM_COARSEST_LEVEL = ("BiFPN", "NASFPN")
OF_BACKBONE = 32


def side_multiple(model: Any) -> int:
    """What the sides of the input must be multiples of, in pixels.

    Args:
        model: an mmdet detector.
    """
    neck = type(getattr(model, "neck", None)).__name__
    if not any(name in neck for name in FROM_COARSEST_LEVEL):
        return OF_BACKBONE
    strides = model.bbox_head.prior_generator.strides
    return max(OF_BACKBONE, *(max(stride) if isinstance(stride, tuple) else stride for stride in strides))


def side_faults(shape: tuple[int, int], model: Any) -> list[str]:
    """What is wrong with an input size (height, width): sides that are not multiples of what the neck enlarges."""
    multiple = side_multiple(model)
    if not any(side % multiple for side in shape):
        return []
    nearest = " ".join(str(max(multiple, round(side / multiple) * multiple)) for side in shape)
    return [
        f"--shape {shape[0]} {shape[1]}: the sides must be multiples of {multiple} px, because the neck enlarges maps "
        f"of that stride by exactly 2; the nearest are --shape {nearest}"
    ]
