"""Heads that take objects of fixed shape beside mmdet's list of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fcos_train.geometry.level_canvas import canvas_grid, canvas_of
from fcos_train.geometry.padded import PaddedObjects
from fcos_train.geometry.points import PointGrid, merge_levels
from fcos_train.models.fast import towers_as_rows as small_levels
from fcos_train.models.fast.cpu_conv import SMALL_MAP, is_quick_map, shared_casts
from fcos_train.models.fast.towers_on_canvas import obstacle, run_towers

Convolve = Callable[[nn.Module, Tensor], Tensor]


class TakesPaddedObjects:
    """A head whose ``loss`` takes :class:`PaddedObjects` beside mmdet's list of samples.

    The head has the towers ``cls_convs`` and ``reg_convs``, ``grid``, ``loss_of_objects`` and ``predictions(level,
    convolve, cls_feat, reg_feat)``: what its ``forward`` does behind the towers, for N points whose levels are ``level``
    [N], as [B, K, N] each; ``convolve(layer, feature)`` runs a prediction layer.

    Attributes:
        merge_levels: run the towers over all levels at once in training, where :meth:`canvas_obstacle` is None.
    """

    merge_levels = False

    def loss(self, x, batch_data_samples):
        if not isinstance(batch_data_samples, PaddedObjects):
            return super().loss(x, batch_data_samples)
        if self.merge_levels and self.training:
            grid, outs = self.points_of_canvas(x)
        else:
            with shared_casts():
                grid, outs = self.points_of_features(x, self._first_small(x))
        with torch.autocast(x[0].device.type, enabled=False):
            return self.loss_of_objects(grid, outs, batch_data_samples)

    def canvas_obstacle(self) -> str | None:
        """Why the levels cannot be merged; None when they can."""
        return obstacle(self.cls_convs, self.reg_convs)

    def points_of_levels(self, outs: Sequence[Sequence[Tensor]]) -> tuple[PointGrid, tuple[Tensor, ...]]:
        """Maps of each level of each prediction, as :meth:`forward` gives them -> their points, predictions [B, K, P]."""
        grid = self.grid([level.shape[-2:] for level in outs[0]], outs[0][0].device)
        return grid, tuple(merge_levels(maps) for maps in outs)

    def points_of_features(self, x: Sequence[Tensor], first: int | None) -> tuple[PointGrid, tuple[Tensor, ...]]:
        """Maps [B, C, H, W] of each level -> their points, predictions [B, K, P]; levels from ``first`` on as rows."""
        if first is None:
            return self.points_of_levels(self(x))
        grid = self.grid([level.shape[-2:] for level in x], x[0].device)
        rows, features = small_levels.run_towers(x[first:], self.cls_convs, self.reg_convs, first)
        small = self.predictions(grid.level[grid.first[first] :], rows.predict, *features)
        large = self(x[:first]) if first else [()] * len(small)
        return grid, tuple(merge_levels([*maps, part.unsqueeze(3)]) for maps, part in zip(large, small, strict=True))

    def _first_small(self, x: Sequence[Tensor]) -> int | None:
        """From which level on :mod:`small_levels` is quicker; None where it is for none."""
        small = [level.shape[2] * level.shape[3] <= SMALL_MAP for level in x]
        if not (self.training and small[-1] and is_quick_map(x[0])) or self.canvas_obstacle() is not None:
            return None
        return max((index + 1 for index, fits in enumerate(small) if not fits), default=0)

    def points_of_canvas(self, x: Sequence[Tensor]) -> tuple[PointGrid, tuple[Tensor, ...]]:
        """Maps [B, C, H, W] of each level -> the points of their canvas and the predictions there, [B, K, N] each."""
        canvas = canvas_of(tuple((int(level.shape[2]), int(level.shape[3])) for level in x))
        grid = canvas_grid(canvas, self._level_spec, x[0].device)
        features = run_towers(canvas, x, self.cls_convs, self.reg_convs)
        return grid, self.predictions(grid.level, lambda layer, feature: layer(feature).flatten(2), *features)
