"""``torch.npu.amp``."""

import functools

import torch

GradScaler = functools.partial(torch.amp.GradScaler, "npu")
autocast = functools.partial(torch.autocast, "npu")
