"""Small heads, feature maps and object scenes: what the tests of the fixed-shape heads share."""

import copy
from unittest import mock

import torch
from mmdet.models.dense_heads import FCOSHead, FSAFHead
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from fcos_train.geometry.padded import PaddedObjects
from fcos_train.models import FixedShapeFCOSHead, FixedShapeFSAFHead

STRIDES = (8, 16, 32, 64, 128)


def _random(generator, n, size, least=4.0, most=None):
    height, width = size
    most = most or max(height, width)
    corner = torch.rand(n, 2, generator=generator) * torch.tensor([width, height])
    sides = least + torch.rand(n, 2, generator=generator) ** 2 * (most - least)
    boxes = torch.cat((corner - sides / 2, corner + sides / 2), dim=1)
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    return boxes


def _objects(name, generator, size):
    """Boxes of one image; ``size`` = (height, width)."""
    height, width = size
    if name == "none":
        return torch.zeros(0, 4)
    if name == "one":
        return torch.tensor([[13.0, 21.0, 101.5, 90.25]])
    if name == "some":
        return _random(generator, 6, size)
    if name == "many":
        return _random(generator, 300, size)
    if name == "tiny":
        return _random(generator, 20, size, least=0.2, most=6.0)
    if name == "ties":  # equal areas that overlap, the same box twice, and edges exactly on points
        shift = torch.arange(4.0)[:, None] * 8
        row = torch.tensor([[20.0, 28.0, 84.0, 92.0]]) + shift * torch.tensor([1.0, 0.0, 1.0, 0.0])
        return torch.cat((row, row[1:2], row[1:2], torch.tensor([[32.0, 0.0, 96.0, 64.0]])))
    if name == "outside":  # too small for the first range of the tests, or far too large for the last
        return torch.tensor([[30.0, 30.0, 36.0, 36.0], [-4000.0, -4000.0, 5000.0, 5000.0]])
    raise KeyError(name)


SCENES = {
    "none": ["none", "none"],
    "one": ["one"],
    "some": ["some", "some"],
    "many": ["many"],
    "tiny": ["tiny", "some"],
    "ties": ["ties", "one"],
    "outside": ["outside", "outside"],
    "mixed": ["none", "many", "one", "some"],
}


class Scene:
    """Feature maps and objects of a small batch, as lists (mmdet) and padded (ours)."""

    def __init__(self, name, channels=16, classes=3, size=(128, 192), seed=0, outputs=None):
        generator = torch.Generator().manual_seed(seed)
        self.size = size
        names = SCENES[name]
        self.boxes = [_objects(item, generator, size) for item in names]
        self.labels = [torch.randint(0, classes, (len(item),), generator=generator) for item in self.boxes]
        self.feats = [
            torch.randn(len(names), channels, -(-size[0] // s), -(-size[1] // s), generator=generator) for s in STRIDES
        ]
        self.metas = [{"img_shape": size, "pad_shape": size} for _ in names]
        self.ignored = None

    @property
    def instances(self):
        pairs = zip(self.boxes, self.labels, strict=True)
        return [InstanceData(bboxes=boxes.clone(), labels=labels.clone()) for boxes, labels in pairs]

    def inputs(self):
        return tuple(feat.clone().requires_grad_() for feat in self.feats)


def padded(scene):
    """The objects of a scene as training batches have them."""
    return PaddedObjects.gather(scene.boxes, scene.labels, [], [scene.size] * len(scene.boxes))


def losses_and_gradients(head, scene):
    """Loss values (0-d) and gradients of all parameters and feature maps by name."""
    head.zero_grad(set_to_none=True)
    feats = scene.inputs()
    losses = head.loss_by_feat(*head(feats), scene.instances, scene.metas, scene.ignored)
    values = {name: sum(value) if isinstance(value, list) else value for name, value in losses.items()}
    sum(value for name, value in values.items() if "loss" in name).backward()
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    gradients.update({f"feature {level}": feat.grad for level, feat in enumerate(feats)})
    return {name: value.detach().reshape(()) for name, value in values.items()}, gradients


def losses_and_gradients_of_padded(head, scene):
    """The same through ``head.loss``, as training calls it."""
    head.zero_grad(set_to_none=True)
    feats = scene.inputs()
    values = head.loss(feats, padded(scene))
    sum(value for name, value in values.items() if "loss" in name).backward()
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    gradients.update({f"feature {level}": feat.grad for level, feat in enumerate(feats)})
    return {name: value.detach().reshape(()) for name, value in values.items()}, gradients


def in_float64(head, scene):
    """:func:`losses_and_gradients` of a copy of the head in double precision."""
    head, scene = copy.deepcopy(head).double(), copy.copy(scene)
    scene.feats = [feat.double() for feat in scene.feats]
    scene.boxes = [boxes.double() for boxes in scene.boxes]
    with mock.patch.object(torch.Tensor, "float", lambda self: self):  # mmdet casts box predictions to float32
        return losses_and_gradients(head, scene)


def assert_equal(
    ours, theirs, scene, exact=False, loss_tolerance=1e-5, gradient_tolerance=1e-4, run=losses_and_gradients
):
    """Losses within 1e-5 relative, gradients within 1e-4 of the largest entry of the reference.

    The reference is mmdet's head in float32, with ``exact`` in float64.
    """
    values, gradients = run(ours, scene)
    expected, reference = in_float64(theirs, scene) if exact else losses_and_gradients(theirs, scene)
    assert set(values) == set(expected)
    for name, value in expected.items():
        close = torch.isclose(values[name], value.float(), rtol=loss_tolerance, atol=1e-7)
        assert close, f"{name}: {values[name].item()} instead of {value.item()}"
    assert set(gradients) == set(reference)
    for name, gradient in reference.items():
        assert gradients[name] is not None, f"no gradient for {name}"
        gradient = torch.zeros_like(gradients[name]) if gradient is None else gradient
        limit = gradient_tolerance * gradient.abs().max().item() + 1e-6
        difference = (gradients[name] - gradient).abs().max().item()
        assert difference <= limit, f"{name}: difference {difference:.3g} over {limit:.3g}"
    return expected


def livelier(head, seed=1):
    """Random weights that give logits, distances and scores of useful spread, distances mostly positive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if "scales" in name:
                parameter.copy_(1 + 0.2 * torch.rand(parameter.shape, generator=generator))
            elif name.endswith("weight") and parameter.dim() > 1:
                parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
            elif name.endswith("weight"):
                parameter.copy_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
                if name.endswith(("conv_reg.bias", "retina_reg.bias")):
                    parameter.add_(2.5)
    return head


GN = {"type": "GN", "num_groups": 4, "requires_grad": True}
FCOS_TRICKS = {
    "center_sampling": True,
    "norm_on_bbox": True,
    "centerness_on_reg": True,
    "conv_bias": True,
    "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
}
MERGED_FCOS = {  # options of heads whose levels can run together
    "group norm": {},
    "no norm": {"norm_cfg": None},
    "group norm and bias": {"conv_bias": True},
    "all tricks": FCOS_TRICKS,
    "three layers": {"stacked_convs": 3},
    "three layers, no norm": {"stacked_convs": 3, "norm_cfg": None},
}
REGIONS = {"type": "CenterRegionAssigner", "pos_scale": 0.2, "neg_scale": 0.2, "min_pos_iof": 0.01}
WIDE_REGIONS = {**REGIONS, "pos_scale": 0.5, "neg_scale": 0.8}  # they overlap on every level


def fcos_pair(classes=3, **options):
    """FixedShapeFCOSHead and mmdet's FCOSHead with the same lively weights."""
    arguments = {
        "num_classes": classes,
        "in_channels": 16,
        "feat_channels": 16,
        "stacked_convs": 1,
        "strides": list(STRIDES),
        "norm_cfg": GN,
        **options,
    }
    return _pair(FixedShapeFCOSHead, FCOSHead, arguments)


def fsaf_pair(classes=3, assigner=REGIONS, pos_weight=-1, **options):
    """FixedShapeFSAFHead and mmdet's FSAFHead with the same lively weights."""
    arguments = {
        "num_classes": classes,
        "in_channels": 16,
        "feat_channels": 16,
        "stacked_convs": 1,
        "reg_decoded_bbox": True,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "octave_base_scale": 1,
            "scales_per_octave": 1,
            "ratios": [1.0],
            "strides": list(STRIDES),
        },
        "bbox_coder": {"type": "TBLRBBoxCoder", "normalizer": 4.0},
        "loss_cls": {
            "type": "FocalLoss",
            "use_sigmoid": True,
            "gamma": 2.0,
            "alpha": 0.25,
            "loss_weight": 1.0,
            "reduction": "none",
        },
        "loss_bbox": {"type": "IoULoss", "eps": 1e-6, "loss_weight": 1.0, "reduction": "none"},
        "train_cfg": ConfigDict(assigner=assigner, allowed_border=-1, pos_weight=pos_weight, debug=False),
        **options,
    }
    return _pair(FixedShapeFSAFHead, FSAFHead, arguments)


def _pair(ours, theirs, arguments):
    theirs = livelier(theirs(**arguments))
    ours = ours(**arguments)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs
