"""Compiles the GroupNorm kernels for a Hopper GPU, which needs no GPU, and counts their 16-byte accesses, as JSON.

The interpreter forgives what the compiler refuses, and would not show a kernel that loads element by element.
"""

import json
import re

import mmcv_overrides

mmcv_overrides.activate()

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fcos_train.models.fast import group_norm_triton as kernels

CONSTANTS = {"RELU": True, "STEP": 32, "SLICES": 64, "G": 32, "K": 8, "PG": 32, "PK": 8}
MAPS = {"x_ptr", "y_ptr", "grad_ptr", "out_ptr"}


def accesses(kernel) -> dict[str, int]:
    """16-byte loads and stores in the PTX of a kernel on bf16 maps."""
    constants = {name: value for name, value in CONSTANTS.items() if name in kernel.arg_names}
    signature, attrs = {}, {}
    for index, name in enumerate(kernel.arg_names):
        pointer = "*bf16" if name in MAPS else "*fp32"
        number = "fp32" if name == "eps" else "i32"
        signature[name] = "constexpr" if name in constants else pointer if name.endswith("_ptr") else number
        if name.endswith("_ptr"):
            attrs[(index,)] = [["tt.divisibility", 16]]
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=attrs)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": kernels.WARPS}).asm["ptx"]
    return {kind: len(re.findall(rf"{kind}\.global[\w.:]*\.v4\.b32", ptx)) for kind in ("ld", "st")}


names = ("_moments", "_normalise", "_gradient_sums", "_input_gradient")
print(json.dumps({name: accesses(getattr(kernels, name)) for name in names}))
