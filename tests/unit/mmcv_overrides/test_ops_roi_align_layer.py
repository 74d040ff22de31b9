"""RoIAlign with ``use_torchvision=True``: torchvision's operator where there is one, otherwise mmcv's average form."""

from types import SimpleNamespace

import pytest
import torch

from mmcv_overrides.ops import roi_align_layer, vision

INPUT = torch.arange(48.0).view(1, 1, 6, 8)
ROIS = torch.tensor([[0.0, 2, 2, 12, 9]])


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_without_torchvision_it_averages_as_torchvision_does(monkeypatch, mode, aligned):
    from mmcv.ops import RoIAlign, roi_align

    monkeypatch.setattr(vision, "ops", None)
    layer = RoIAlign((2, 3), 0.5, 2, mode, aligned, use_torchvision=True)
    assert torch.equal(layer(INPUT, ROIS), roi_align(INPUT, ROIS, (2, 3), 0.5, 2, "avg", aligned))
    plain = RoIAlign((2, 3), 0.5, 2, mode, aligned)
    assert torch.equal(plain(INPUT, ROIS), roi_align(INPUT, ROIS, (2, 3), 0.5, 2, mode, aligned))


def test_with_torchvision_its_operator_is_used(monkeypatch):
    from mmcv.ops import RoIAlign

    asked = []
    monkeypatch.setattr(vision, "ops", SimpleNamespace())
    monkeypatch.setattr(roi_align_layer, "_forward", lambda self, *arguments: asked.append((self, *arguments)))
    layer = RoIAlign(2, use_torchvision=True)
    layer(INPUT, ROIS)
    assert len(asked) == 1 and asked[0][0] is layer and asked[0][1] is INPUT and asked[0][2] is ROIS
    monkeypatch.setattr(roi_align_layer, "roi_align", lambda input, rois, *rest: rest)
    assert layer(INPUT.to("meta"), ROIS.to("meta")) == ((2, 2), 1.0, 0, "avg", True)  # torchvision has no kernel for it
    assert len(asked) == 1
