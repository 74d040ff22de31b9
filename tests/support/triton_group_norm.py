"""Errors of the Triton GroupNorm as JSON: on the GPU that is there, otherwise in Triton's interpreter.

A process of its own, because Triton reads ``TRITON_INTERPRET`` when it is imported.
"""

import copy
import json
import os

import torch

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"

import mmcv_overrides

mmcv_overrides.activate()

from mmcv.cnn import ConvModule
from torch.nn import functional as F

from fcos_train.models.fast import (
    group_norm,
    group_norm_triton,
)

DEVICE = "cuda" if CUDA else "cpu"
DENSE = {"memory_format": torch.channels_last}
EVERY = [(d, r) for d in (torch.float32, torch.bfloat16, torch.float16) for r in (False, True)]
# name -> shape, groups, elements that a program holds at a time (large tiles keep the interpreter fast), upper limit of
# slices, dtypes with or without ReLU
MAPS = {
    "slices of several tiles": ((2, 32, 7, 11), 4, 512, 2, EVERY),
    "no power of two": ((3, 36, 13, 9), 3, 2048, 128, EVERY),
    "one slice": ((1, 256, 7, 11), 32, 1 << 16, 128, EVERY[2:4]),
    # not with the ReLU: among so many values one lies so near to zero that float64 decides otherwise
    "P3 of 800x1344": ((1, 256, 100, 168), 32, 1 << 20, 128, EVERY[:1]),
    "channels alone": ((3, 12, 4, 4), 12, 128, 128, EVERY[:2]),
    "one position": ((2, 32, 1, 1), 4, 8192, 128, EVERY[:2]),
}


def outcome(function, x, grad, weight, bias):
    x, weight, bias = (
        t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, weight, bias)
    )
    y = function(x, weight, bias)
    y.backward(grad.to(y.dtype))
    return [y.detach(), x.grad, weight.grad, bias.grad]


def error(found, truth):
    return ((found.double() - truth).norm() / truth.norm()).item()


def errors(shape, groups, tile, slices, dtype, relu):
    """Relative errors of the result and the gradients against float64; whether both maps are channels_last."""
    group_norm_triton.TILE, group_norm_triton.MOST_SLICES = tile, slices
    torch.manual_seed(0)
    x = (torch.randn(shape, device=DEVICE) * 2 + 3).to(dtype).contiguous(**DENSE)
    grad = torch.randn(shape, device=DEVICE).to(dtype).contiguous(**DENSE)
    weight, bias = torch.randn(2, shape[1], device=DEVICE)
    found = outcome(lambda *t: group_norm_triton.group_norm(*t, groups, 1e-5, relu), x, grad, weight, bias)

    def plain(x, weight, bias):
        y = F.group_norm(x, groups, weight, bias, 1e-5)
        return y.relu() if relu else y

    truth = outcome(plain, *(t.double() for t in (x, grad, weight, bias)))
    types = found[0].dtype == found[1].dtype == dtype
    return [*map(error, found, truth)], types and all(t.is_contiguous(**DENSE) for t in found[:2])


def module_errors():
    """A ConvModule with its norm and ReLU in one, against itself before; also what ``activate=False`` gives."""
    group_norm_triton.TILE = 256
    torch.manual_seed(0)
    plain = ConvModule(8, 16, 3, padding=1, norm_cfg={"type": "GN", "num_groups": 4}).to(DEVICE)
    torch.nn.init.normal_(plain.norm.weight)
    quick = copy.deepcopy(plain)
    assert group_norm.quick_group_norm(quick) == 1
    if not CUDA:
        group_norm.QuickGroupNorm._is_for_triton = lambda self, x: True
    calls = []
    run = group_norm_triton.group_norm
    group_norm_triton.group_norm = lambda *arguments: calls.append(arguments[-1]) or run(*arguments)
    x = torch.randn(2, 8, 9, 7, device=DEVICE).contiguous(**DENSE)
    found = {"keys": list(quick.state_dict()) == list(plain.state_dict())}
    for activate in (True, False):
        results = []
        for module in (plain, quick):
            module.to(**DENSE).zero_grad()
            y = module(x, activate=activate)
            y.square().sum().backward()
            results.append([y.detach(), *(p.grad for p in module.parameters())])
        found[f"activate={activate}"] = [error(a, b.double()) for a, b in zip(results[1], results[0], strict=True)]
    return {**found, "relu": calls}


def main():
    found = {}
    for name, (shape, groups, tile, slices, kinds) in MAPS.items():
        for dtype, relu in kinds:
            found[f"{name}, {str(dtype)[6:]}, relu {relu}"] = errors(shape, groups, tile, slices, dtype, relu)
    x = torch.ones(1, 8, 3, 3, device=DEVICE).contiguous(**DENSE)
    x[0, 0, 0, 0] = float("nan")
    y = group_norm_triton.group_norm(x, torch.ones(8, device=DEVICE), torch.zeros(8, device=DEVICE), 2, 1e-5, True)
    nan = y.isnan().sum((0, 2, 3)).tolist()
    print(json.dumps({"errors": found, "module": module_errors(), "nan": nan, "device": DEVICE}))


if __name__ == "__main__":
    main()
