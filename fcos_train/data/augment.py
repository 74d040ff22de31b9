"""Random changes of training images that leave their size as it is, so that batches keep their few shapes.

mmdet's affine transform scales about the corner of the image, and its Mosaic doubles the sides; both are subclassed
here for the difference alone. Everything is drawn from the generators of the sample (see :mod:`mmcv_overrides.loop`):
mmdet's cached Mosaic and MixUp are not used, because their images depend on what a worker has loaded before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.datasets.transforms import MixUp, Mosaic, RandomAffine, RandomCrop
from mmdet.registry import TRANSFORMS

PARTNERS = 3  # images that a mosaic adds


@TRANSFORMS.register_module()
class CentredAffine(RandomAffine):
    """mmdet's RandomAffine about the centre of the image, instead of its top left corner.

    Args:
        scaling_ratio_range: smallest and largest factor; drawn uniformly.
        max_translate_ratio: largest shift, as a share of the sides.
        max_rotate_degree, max_shear_degree: 0 by default. The box of a turned box is larger than the object in it.
        border_val: colour of what comes from outside the image.
    """

    def __init__(
        self,
        scaling_ratio_range: tuple[float, float] = (0.8, 1.25),
        max_translate_ratio: float = 0.05,
        max_rotate_degree: float = 0.0,
        max_shear_degree: float = 0.0,
        border_val: tuple[int, int, int] = (114, 114, 114),
    ) -> None:
        super().__init__(
            max_rotate_degree, max_translate_ratio, tuple(scaling_ratio_range), max_shear_degree, border_val=border_val
        )

    def _get_random_homography_matrix(self, height: int, width: int) -> np.ndarray:
        """Matrix f32 [3, 3] from the pixels of the image to those of the result."""
        drawn = super()._get_random_homography_matrix(height, width)
        to_corner = self._get_translation_matrix(-width / 2, -height / 2)
        back = self._get_translation_matrix(width / 2, height / 2)
        return np.asarray(back @ drawn @ to_corner)


@TRANSFORMS.register_module()
class SameSizeMosaic(Mosaic):
    """A window of four images side by side: as large as the first image, which the three others are resized to fit.

    Within a MultiImageMixDataset, which loads the other images. Objects keep their size; those at a seam are cut, as at
    the border of an image.

    Args:
        prob: share of the images that become a mosaic.
        pad_val: grey value where an image of another aspect ratio does not reach.
    """

    def __init__(self, prob: float = 1.0, pad_val: float = 114.0) -> None:
        # With the centre in the middle, the four images fill the canvas; the window is drawn instead.
        super().__init__(img_scale=(1, 1), center_ratio_range=(1.0, 1.0), pad_val=pad_val)
        self.chance = prob

    def get_indexes(self, dataset: Sequence[Any]) -> list[int]:
        """The images to add; none for an image that stays alone. (mmdet's draws one too many.)"""
        return _drawn(dataset, PARTNERS) if random.random() < self.chance else []

    def transform(self, results: dict) -> dict:
        """The window of the mosaic, or ``results`` as they are if there are no ``mix_results``."""
        if not results["mix_results"]:
            return results
        rows, columns = results["img"].shape[:2]
        self.img_scale = (columns, rows)
        return RandomCrop((columns, rows), allow_negative_crop=True)(super().transform(results))


@TRANSFORMS.register_module()
class SameSizeMixUp(MixUp):
    """mmdet's MixUp, the mean of two images with the objects of both, in the size of the first one.

    Within a MultiImageMixDataset, which loads the second image.

    Args:
        prob: share of the images that are mixed.
        ratio_range: smallest and largest factor of the second image.
        pad_val: grey value where the second image does not reach.
    """

    def __init__(
        self, prob: float = 1.0, ratio_range: tuple[float, float] = (0.5, 1.5), pad_val: float = 114.0
    ) -> None:
        super().__init__(img_scale=(1, 1), ratio_range=tuple(ratio_range), pad_val=pad_val)
        self.chance = prob

    def get_indexes(self, dataset: Sequence[Any]) -> list[int]:
        """The image to mix in; none for an image that stays alone. (mmdet's draws one too many.)"""
        return _drawn(dataset, 1) if random.random() < self.chance else []

    def transform(self, results: dict) -> dict:
        """Both images in one, or ``results`` as they are if there are no ``mix_results``."""
        if not results["mix_results"]:
            return results
        rows, columns = results["img"].shape[:2]
        self.dynamic_scale = (columns, rows)
        return super().transform(results)


def _drawn(dataset: Sequence[Any], count: int) -> list[int]:
    return [random.randrange(len(dataset)) for _ in range(count)]
