"""Search of a large image in overlapping slices, by supervision's InferenceSlicer, for objects that are small in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fcos_train.infer.detections import Detections
from mmcv_overrides.errors import UserError

if TYPE_CHECKING:
    import supervision as sv

SLICE = 640
OVERLAP = 0.2
# Of two boxes of a class, the one with the lower score goes if this fraction of the smaller one lies in the other. The
# intersection over union would keep the parts of objects that a border has cut and another slice has as a whole.
SHARED = 0.5


def in_slices(
    detect: Callable[[Sequence[np.ndarray], int], list[Detections]],
    image: np.ndarray,
    slice_wh: tuple[int, int],
    overlap: float = OVERLAP,
    batch_size: int = 1,
) -> Detections:
    """Detections in the slices of an image and in the image as a whole, merged by non-maximum suppression.

    Args:
        detect: of a detector: images u8 [H, W, 3] BGR and the batch size.
        image: u8 [H, W, 3] BGR.
        slice_wh: width and height of a slice, px. overlap: of neighbouring slices, as a fraction of their size.

    Raises:
        UserError: a slice without pixels, or an overlap that leaves no step between slices.
    """
    import supervision as sv

    width, height = slice_wh
    if min(width, height) < 1 or not 0 <= overlap <= 0.9:
        raise UserError(f"slices of {width} x {height} px, overlap {overlap}: give at least 1 px, and 0 to 0.9")
    whole = detect([image], 1)[0]
    if image.shape[1] <= width and image.shape[0] <= height:
        return whole

    def one(tile: np.ndarray) -> sv.Detections:
        return detect([tile], 1)[0].to_supervision()

    def several(tiles: list[np.ndarray]) -> list[sv.Detections]:
        return [found.to_supervision() for found in detect(tiles, batch_size)]

    slicer = sv.InferenceSlicer(
        several if batch_size > 1 else one,
        slice_wh=(width, height),
        overlap_wh=(int(width * overlap), int(height * overlap)),
        overlap_filter=sv.OverlapFilter.NONE,
        batch_size=batch_size,
    )
    both = sv.Detections.merge([slicer(image), whole.to_supervision()])
    merged = both.with_nms(SHARED, overlap_metric=sv.OverlapMetric.IOS)
    assert merged.confidence is not None and merged.class_id is not None
    order = np.argsort(-merged.confidence, kind="stable")
    return Detections(
        merged.xyxy.astype(np.float32),
        merged.confidence.astype(np.float32),
        merged.class_id.astype(np.int64),
        whole.classes,
    ).select(order)
