"""Every gradient has the strides of its weight: autograd then copies none, and DDP's buckets fit without a warning."""

import pytest
import torch

from fcos_train.engine.fixed_step import make_ready
from fcos_train.models.fast.cpu_conv import laid_out_as
from tests.support import small_detectors
from tests.support.steps import batch, sgd, small_model


def bottlenecks(name: str, fixed_shape: bool = False):
    """The small configuration with ResNet-50, whose blocks have 1x1 convolutions and folded norms."""
    config = small_detectors.small_config(name, fixed_shape)
    config.model.backbone.update(depth=50, norm_cfg=dict(type="BN", requires_grad=False), norm_eval=True)
    config.model.neck.in_channels = [32, 64, 128, 256]
    return config


@pytest.mark.parametrize(
    ("name", "depth", "level", "channels_last", "merge_levels"),
    [
        ("fcos-gn", 18, "O0", True, False),
        ("fcos-gn", 50, "O1", True, False),
        ("fcos-dcn", 50, "O2", True, False),
        ("fcos-gn", 18, "O1", False, True),
        ("fcos-bn", 18, "O1", False, True),
        ("fsaf", 50, "O0", True, False),
    ],
)
def test_gradients_are_laid_out_as_their_weights(monkeypatch, name, depth, level, channels_last, merge_levels) -> None:
    if depth == 50 and name != "fcos-dcn":
        monkeypatch.setattr("tests.support.steps.small_config", bottlenecks)
    model = small_model(name)
    wrapper = sgd(model, opt_level=level, **({} if level == "O0" else {"amp_dtype": "bf16"}))
    wrapper.lower(model)
    make_ready(model, wrapper, lambda line: None, channels_last, merge_levels=merge_levels)
    seen: dict[str, bool] = {}
    for path, weight in model.named_parameters():
        if weight.requires_grad:
            weight.register_hook(
                lambda grad, path=path, weight=weight: seen.update(
                    {path: seen.get(path, True) and grad.stride() == weight.stride()}
                )
            )
    for size in ((64, 96), (160, 192)):  # small maps and larger ones take different paths
        model.train_step(batch(0, size), wrapper)
    assert len(seen) > 20 and [path for path, same in seen.items() if not same] == []


def test_a_gradient_is_copied_only_where_its_memory_differs() -> None:
    weight = torch.empty_strided((4, 8, 1, 1), (8, 1, 8, 8))  # what module.to(memory_format=channels_last) gives
    grad = torch.arange(32.0).view(4, 8, 1, 1)
    found = laid_out_as(grad, weight)
    assert found.stride() == (8, 1, 8, 8)
    assert found.data_ptr() == grad.data_ptr() and torch.equal(found, grad)
    weight = torch.empty(4, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(3, 3, 4, 8, dtype=torch.bfloat16).permute(2, 3, 0, 1)
    found = laid_out_as(grad, weight)
    assert found.stride() == weight.stride() and found.dtype == torch.bfloat16 and torch.equal(found, grad)
