"""Replaces ``torch_npu`` in tests: importing it registers the simulated device as ``npu`` and ``hccl``.

The environment says how: ``NPU_SIM_LIBRARY`` (the built extension), ``NPU_SIM_STRICT`` (refuse what a real NPU
would run on the host or change), ``NPU_SIM_REPORT`` (a file for the counts of the process, JSON, written at exit).
It must be imported before the first backward pass of a process, and cannot be taken back.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import warnings
from pathlib import Path

import torch

from tests.support.npu import hccl_over_gloo, load_extension

__version__ = "2.13.0+simulated"
OPERATORS = Path(__file__).resolve().parents[4] / "fcos_train" / "audit" / "native_operators.json"
# Native on the NPU, but storage, views and copies, for which the simulated device keeps PyTorch's own.
MEMORY = Path(__file__).resolve().parents[2] / "memory_operators.txt"
# Unlike CUDA's, torch_npu's autocast does not convert the inputs of these.
NOT_AUTOCAST = MEMORY.with_name("not_autocast.txt")


def _write_report() -> None:
    path = os.environ.get("NPU_SIM_REPORT")
    if path:
        Path(f"{path}.{os.environ.get('RANK', 0)}").write_text(json.dumps(_C.counts()))


_C = load_extension("NPU_SIM_LIBRARY")
torch.utils.rename_privateuse1_backend("npu")

from . import npu  # needs the library

torch._register_device_module("npu", npu)
sys.modules["torch.npu"], sys.modules["torch.npu.amp"] = npu, npu.amp
torch.utils.generate_methods_for_privateuse1_backend(
    unsupported_dtype=[torch.quint8, torch.quint4x2, torch.quint2x4, torch.qint32, torch.qint8]
)
_autocast = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # these replace registrations
    for _name in NOT_AUTOCAST.read_text().split():
        _autocast.impl(_name, torch.library.fallthrough_kernel)
torch.distributed.Backend.register_backend("hccl", hccl_over_gloo(_C), extended_api=True, devices=["npu"])
_C.install_native(json.loads(OPERATORS.read_text())["native"], set(MEMORY.read_text().split()))
atexit.register(_write_report)
