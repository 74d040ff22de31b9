"""What the real torch_npu registers, casts and refuses. Run by ``test_front_end.py`` in a separate process."""

import json
import warnings
from pathlib import Path

import npu_front_end
import pytest
import torch
import torch.nn.functional as F
import torch_npu

from tests.support.npu import WAITING

ROOT = Path(__file__).resolve().parents[3]
TIER_1 = ROOT / "tests" / "npu_sim"
LISTS = json.loads((ROOT / "fcos_train" / "audit" / "native_operators.json").read_text())
SCHEMAS = {f"{schema.name}.{schema.overload_name}".rstrip(".") for schema in torch._C._jit_get_all_schemas()}


@pytest.fixture(autouse=True)
def device():
    torch.npu.set_device(0)
    torch.npu.set_compile_mode(jit_compile=False)
    yield
    npu_front_end.forbid_waits(False)


def listed(namespace: str, key: str) -> set[str]:
    return {f"{namespace}::{name}" for name in LISTS[key]} & SCHEMAS


def registered(namespace: str) -> set[str]:
    """Operators with a schema; names of torch_npu's own operators in PyTorch's namespace have none."""
    return {name for name in npu_front_end.REGISTERED if name.startswith(f"{namespace}::")} & SCHEMAS


def test_the_release_is_the_lists():
    assert LISTS["source"] == f"torch_npu {torch_npu.__version__}"


def test_the_native_list_is_what_is_registered():
    live, native = registered("aten"), listed("aten", "native")
    assert len(live) > 1000
    assert live - native == set()
    assert native - live == {"aten::_coalesce"}  # of sparse tensors: registered under their key
    # listed among PyTorch's operators in the wheel's file, but they are torch_npu's own
    assert {name for name in LISTS["native"] if f"aten::{name}" not in SCHEMAS} == {"copy_memory_", "empty_with_format"}


def test_the_list_of_its_own_operators():
    live, own = registered("npu"), listed("npu", "npu")
    # no tensor argument to dispatch on, so these are not registered under the device's key
    factories = (
        "empty_with_format",
        "empty_with_swapped_memory",
        "npu_dropout_gen_mask",
        "obfuscation_initialize",
        "unsafe_empty_with_format",
    )
    assert own - live == {f"npu::{name}" for name in factories}
    assert all(name.startswith(("npu::print_", "npu::save_", "npu::set_", "npu::super_kernel_")) for name in live - own)


def test_every_operator_on_memory_is_native():
    assert set((TIER_1 / "memory_operators.txt").read_text().split()) <= set(LISTS["native"])


def test_autocast_is_cudas_but_for_the_named_ones():
    cuda, npu = (
        set(torch._C._dispatch_get_registrations_for_dispatch_key(f"Autocast{key}")) for key in ("CUDA", "PrivateUse1")
    )
    named = {f"aten::{name}" for name in (TIER_1 / "not_autocast.txt").read_text().split()}
    aten = {name for name in cuda if name.startswith("aten::")}
    assert aten - npu == named and npu - cuda == set()


def test_autocast_leaves_upsampling_in_half():
    with torch.autocast("npu", dtype=torch.float16):
        y = F.conv2d(torch.ones(1, 1, 4, 4, device="npu"), torch.ones(1, 1, 1, 1, device="npu"))
        assert y.dtype == torch.float16 and F.interpolate(y, scale_factor=2).dtype == torch.float16
        assert torch.softmax(y, 1).dtype == torch.float32


DIFFERENTIABLE = {  # of x, t [5, 4] and w [4]; includes all that torch_npu implements together with their derivative
    "binary_cross_entropy_with_logits": lambda x, t, w: F.binary_cross_entropy_with_logits(x, t, t * 2, pos_weight=w),
    "l1_loss": lambda x, t, w: F.l1_loss(x, t),
    "smooth_l1_loss": lambda x, t, w: F.smooth_l1_loss(x, t, reduction="sum"),
    "kl_div": lambda x, t, w: F.kl_div(x.log_softmax(1), t, reduction="batchmean"),
    "one_hot": lambda x, t, w: x * F.one_hot(t.argmax(1), 4),
    "cross_entropy": lambda x, t, w: F.cross_entropy(x, t.argmax(1), weight=w),
    "linear": lambda x, t, w: F.linear(x, t),
    "matmul": lambda x, t, w: (x[None] @ t.t()).pow(2),
    "matrix by vector": lambda x, t, w: (x @ w).pow(2),
    "softmax": lambda x, t, w: x.softmax(1) * t,
    "where": lambda x, t, w: torch.where(t > 0.5, x, t),
    "gather": lambda x, t, w: x.gather(1, t.argsort(1)).pow(2),
    "index": lambda x, t, w: x[torch.tensor([0, 2, 0], device=x.device)].pow(2),
    "topk": lambda x, t, w: x.topk(2)[0],
    "logsigmoid": lambda x, t, w: F.logsigmoid(x),
    "repeat_interleave": lambda x, t, w: x.repeat_interleave(2, 0).pow(2),
    "cumsum": lambda x, t, w: x.cumsum(0) * t,
    "norm": lambda x, t, w: x.norm(dim=1),
    "layer_norm": lambda x, t, w: F.layer_norm(x, (4,), w) * t,
    "pad": lambda x, t, w: F.pad(x, (1, 1)).pow(2),
    "bilinear": lambda x, t, w: F.interpolate(x[None, None], scale_factor=2.0, mode="bilinear").pow(2),
    "grid_sample": lambda x, t, w: F.grid_sample(x[None, None], t.reshape(1, 5, 2, 2), align_corners=False),
    "adaptive_avg_pool2d": lambda x, t, w: F.adaptive_avg_pool2d(x[None, None], 2).pow(2),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_values_and_gradients_are_the_cpus(name):
    generator = torch.Generator().manual_seed(0)
    x, t, w = (
        torch.randn(5, 4, generator=generator),
        torch.rand(5, 4, generator=generator),
        torch.rand(4, generator=generator),
    )
    found = []
    for kind in ("npu", "cpu"):
        start = x.to(kind).detach().requires_grad_()
        value = DIFFERENTIABLE[name](start, t.to(kind), w.to(kind)).sum()
        value.backward()
        assert value.device.type == kind
        found.append((value.detach().cpu(), start.grad.cpu()))
    torch.testing.assert_close(*found)


REFUSED = {
    "aten::huber_loss.*FALLBACK_CPU_DISABLE": lambda: F.huber_loss(torch.ones(3).npu(), torch.ones(3).npu()),
    "aten::nonzero_static.*FALLBACK_CPU_DISABLE": lambda: torch.nonzero_static(torch.ones(3).npu(), size=2),
    "aten::lgamma.*FALLBACK_CPU_DISABLE": lambda: torch.ones(3).npu().lgamma(),
    "Only contiguous_format": lambda: torch.ones(1, 2, 3, 4).npu().to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_by_torch_npu(message):
    with pytest.raises(RuntimeError, match=message):
        REFUSED[message]()


def test_double_becomes_float():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.ones(3).npu().double().dtype == torch.float32


@pytest.mark.parametrize("name", WAITING)
def test_waits_are_refused(name):
    t = torch.randn(4, device="npu")
    npu_front_end.forbid_waits(True)
    with pytest.raises(RuntimeError, match="synchronizing NPU operation|the host waits for the npu"):
        WAITING[name](t)


def test_generators_are_torch_npus():
    torch.manual_seed(3)
    state = torch.npu.get_rng_state()
    host, first = torch.get_rng_state(), torch.rand(5, device="npu")
    second = torch.rand(5, device="npu")
    assert torch.equal(host, torch.get_rng_state()) and not torch.equal(first.cpu(), second.cpu())
    torch.npu.set_rng_state(state)
    assert torch.equal(torch.rand(5, device="npu").cpu(), first.cpu())


def test_what_mmengine_and_the_overrides_ask_of_torch_npu():
    from mmengine.device import get_device, is_npu_available
    from mmengine.model import BaseDataPreprocessor

    from mmcv_overrides import device

    assert is_npu_available() and get_device() == "npu"
    assert BaseDataPreprocessor().to("npu").device.type == "npu"
    npu, reason = device.pick("npu")
    assert npu.count() == 2 and npu.set_device(1) == torch.device("npu", 1) and reason == "device npu: asked for"
    assert torch.npu.current_device() == 1 and npu.speed_fault() is not None
    torch.empty(1 << 20, device="npu")
    npu.synchronize()
    assert npu.memory_mb() >= 4
