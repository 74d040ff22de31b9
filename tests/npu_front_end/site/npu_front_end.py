"""CPU kernels for the real torch_npu: the last line of its ``__init__`` calls :func:`install`.

``REGISTERED`` is what torch_npu had registered for the NPU before any of it was replaced.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from tests.support.npu import hccl_over_gloo, load_extension

REGISTERED: frozenset[str] = frozenset()
ADAPTER = None
_LIBRARIES = []
_MEMORY = Path(__file__).resolve().parents[2] / "npu_sim" / "memory_operators.txt"
# torch_npu's own versions of these launch operators if memory has to be rearranged.
_LAUNCHES = {"clone", "contiguous", "copy_", "isnan"}


def forbid_waits(on: bool) -> None:
    """Raise if the host waits for the device: by torch_npu's own check, and in the operators with replaced kernels."""
    import torch

    torch.npu.set_sync_debug_mode("error" if on else "default")
    ADAPTER.forbid_syncs(on)


def install() -> None:
    import torch
    from torch_npu._init.registry import distributed

    global REGISTERED, ADAPTER
    REGISTERED = frozenset(torch._C._dispatch_get_registrations_for_dispatch_key("PrivateUse1"))
    ADAPTER = load_extension("NPU_FRONT_END_ADAPTER")
    distributed._new_process_group_hccl_helper = hccl_over_gloo(ADAPTER)
    torch.npu.get_device_name = lambda device=None: "Simulated NPU"  # the stub reports the name of a real SoC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these replace registrations
        ADAPTER.replace(_kernels(torch, REGISTERED) + _own_kernels(torch))
        _composites(torch)


def _kernels(torch, registered: frozenset[str]) -> list[str]:
    """The registered aten operators, without those on memory and shapes, which remain torch_npu's own."""
    memory = set(_MEMORY.read_text().split()) - _LAUNCHES
    found = []
    for schema in torch._C._jit_get_all_schemas():
        name = f"{schema.name}.{schema.overload_name}".rstrip(".")
        view = any(result.alias_info is not None and not result.alias_info.is_write for result in schema.returns)
        kept = view and schema.name != "aten::contiguous" or name.removeprefix("aten::") in memory
        if name.startswith("aten::") and name in registered and not kept:
            found.append(name)
    return found


def _own_kernels(torch) -> list[str]:
    """Register CPU kernels for the operators of torch_npu that its autograd and its casts use. Returns their names."""
    aten = torch.ops.aten

    def convolution(x, weight, bias, stride, padding, dilation, groups):
        return aten.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)

    def convolution_backward(x, grad, weight, stride, padding, dilation, groups, mask):
        bias = [weight.shape[0]]
        return aten.convolution_backward(
            grad, x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups, mask
        )

    def cast(x, dtype):
        return x.to(dtype)

    kernels = {"npu_convolution": convolution, "npu_convolution_backward": convolution_backward}
    kernels |= dict.fromkeys(
        ("npu_dtype_cast", "_npu_dtype_cast", "npu_dtype_cast_backward", "_npu_dtype_cast_backward"), cast
    )
    library = torch.library.Library("npu", "IMPL")
    for name, kernel in kernels.items():
        library.impl(name, kernel, "CPU")
    _LIBRARIES.append(library)
    return [f"npu::{name}" for name in kernels]


def _composites(torch) -> None:
    """Kernels for operators that torch_npu implements together with their derivative, above the replaced kernels."""
    aten = torch.ops.aten
    device = torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1)

    def one_hot(labels, classes=-1):
        return aten.one_hot.default.redispatch(device, labels, classes)

    def binary_cross_entropy_with_logits(*args, **kwargs):
        from torch._decomp import decomposition_table  # slow to import

        return decomposition_table[aten.binary_cross_entropy_with_logits.default](*args, **kwargs)

    def matmul_backward(grad, a, b, mask):
        rows, columns = a.unsqueeze(0) if a.dim() == 1 else a, b.unsqueeze(1) if b.dim() == 1 else b
        batch = torch.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
        grad = grad.reshape(*batch, rows.shape[-2], columns.shape[-1])
        of_a, of_b = (grad @ columns.mT).sum_to_size(rows.shape), (rows.mT @ grad).sum_to_size(columns.shape)
        return of_a.reshape(a.shape), of_b.reshape(b.shape)

    library = torch.library.Library("aten", "IMPL")
    library.impl("one_hot", one_hot, "AutogradPrivateUse1")
    library.impl("binary_cross_entropy_with_logits", binary_cross_entropy_with_logits, "AutogradPrivateUse1")
    for name in ("l1_loss", "kl_div"):
        library.impl(name, getattr(aten, name).default.decompose, "AutogradPrivateUse1")
    library.impl("matmul_backward", matmul_backward, "CPU")  # the CPU has no kernel of its own
    _LIBRARIES.append(library)
