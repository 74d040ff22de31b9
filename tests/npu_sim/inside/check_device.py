"""The simulated device against the CPU. Run by ``test_device.py`` in a separate process."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torch_npu
from torch import nn

from tests.support.npu import WAITING

COUNTER = torch_npu._C


@pytest.fixture(autouse=True)
def fresh():
    COUNTER.set_strict(True)
    COUNTER.clear()
    yield
    COUNTER.forbid_syncs(False)


def events() -> dict:
    return COUNTER.counts()["events"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32)
        self.out = nn.Linear(32, 5)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)
        x = F.relu(self.norm2(self.conv2(x)))
        x = F.max_pool2d(F.interpolate(x, scale_factor=2, mode="nearest"), 2)
        return self.out(x.mean((2, 3)))


def test_it_says_what_it_is():
    assert torch.npu.get_device_name() == "Simulated NPU"
    assert torch.accelerator.current_accelerator().type == "npu"


OPERATORS = {
    "add": lambda t: t + 1,
    "slice": lambda t: t[1:3],
    "permute": lambda t: t.permute(2, 0, 1).contiguous(),
    "sum": lambda t: t.sum((0, 1)),
    "mask": lambda t: t[t > 0],
    "topk": lambda t: t.topk(2)[0],
    "sort": lambda t: t.sort()[0],
    "nonzero": lambda t: (t > 0).nonzero(),
    "max": lambda t: t.max(1)[1],
    "cat": lambda t: torch.cat([t, t]),
    "stack": lambda t: torch.stack([t, t]),
    "where": lambda t: torch.where(t > 0, t, 0.0),
    "half": lambda t: t.to(torch.half),
    "masked_fill": lambda t: t.masked_fill(t > 0, 1),
    "cumsum": lambda t: t.cumsum(0),
    "in place on a view": lambda t: t.clone().narrow(0, 1, 2).add_(1),
    "scatter": lambda t: t.scatter(0, torch.zeros(1, 5, 6, dtype=torch.long, device=t.device), 1.0),
    "one_hot": lambda t: F.one_hot(t.abs().long()),
    "index by a list": lambda t: t[[0, 2]],
    "gather": lambda t: t.gather(0, torch.zeros(1, 5, 6, dtype=torch.long, device=t.device)),
    "pad": lambda t: F.pad(t, (1, 1)),
    "arange": lambda t: torch.arange(5, device=t.device),
    "einsum": lambda t: torch.einsum("ijk,ijk->i", t, t),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_as_on_the_cpu(name):
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    expected, got = OPERATORS[name](x), OPERATORS[name](x.npu())
    assert got.device.type == "npu" and got.stride() == expected.stride()
    torch.testing.assert_close(got.cpu(), expected)


def test_views_share_memory_and_out_is_resized():
    y = torch.zeros(4, 4, device="npu")
    y[1].fill_(3)
    y.t()[0, 2] = 5
    assert y.sum().item() == 17 and y[2, 0].item() == 5
    out = torch.empty(0, device="npu")
    torch.add(y, 1, out=out)
    assert out.shape == (4, 4) and out.sum().item() == 33


def test_gradients_as_on_the_cpu():
    torch.manual_seed(0)
    cpu = Net()
    npu = copy.deepcopy(cpu).npu()
    x, target = torch.randn(2, 3, 16, 16), torch.tensor([1, 2])
    F.cross_entropy(cpu(x), target).backward()
    F.cross_entropy(npu(x.npu()), target.npu()).backward()
    for (name, a), b in zip(cpu.named_parameters(), npu.parameters()):
        torch.testing.assert_close(b.grad.cpu(), a.grad, atol=1e-5, rtol=1e-4, msg=name)
    torch.testing.assert_close(npu.norm2.running_mean.cpu(), cpu.norm2.running_mean)


def test_autocast_leaves_upsampling_in_half():
    with torch.autocast("npu", dtype=torch.float16):
        y = F.conv2d(torch.ones(1, 1, 4, 4, device="npu"), torch.ones(1, 1, 1, 1, device="npu"))
        assert y.dtype == torch.float16 and F.interpolate(y, scale_factor=2).dtype == torch.float16
        assert torch.softmax(y, 1).dtype == torch.float32


REFUSED = {
    "native operators": lambda: F.huber_loss(torch.ones(3).npu(), torch.ones(3).npu()),
    "float64": lambda: torch.ones(3, dtype=torch.float64).npu(),
    "preserve_format": lambda: torch.ones(1, 2, 3, 4).npu().to(memory_format=torch.channels_last),
    "one on the host": lambda: torch.ones(3).npu() + torch.ones(3),
    "npu:0 and npu:1": lambda: torch.ones(3, device="npu:0") + torch.ones(3, device="npu:1"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    with pytest.raises(RuntimeError, match=message):
        REFUSED[message]()


SEEN = {
    **WAITING,
    "synchronize": lambda t: torch.npu.synchronize(),
    "unique": lambda t: t.unique(),
}


@pytest.mark.parametrize("name", SEEN)
def test_waits_are_seen(name):
    t = torch.randn(4, device="npu")
    COUNTER.forbid_syncs(True)
    with pytest.raises(RuntimeError, match="the host waits for the npu"):
        SEEN[name](t)


def test_what_does_not_wait_is_not_counted():
    t, index = torch.randn(4, device="npu"), torch.tensor([0, 2], device="npu")
    COUNTER.forbid_syncs(True)
    t[index], t.index_put_((index,), t[:2].clone()), t.masked_fill_(t > 0, 0.0), torch.where(t > 0, t, 0.0)


def test_copies_are_told_apart():
    torch.ones(3).npu()
    torch.ones(3).pin_memory().to("npu", non_blocking=True)
    assert (events()["h2d:blocking"], events()["h2d:async"]) == (1, 1)


def test_random_numbers_leave_the_hosts_alone():
    torch.manual_seed(3)
    first, state = torch.rand(3, device="npu"), torch.get_rng_state()
    F.dropout(first, 0.5), torch.randperm(5, device="npu"), first.clone().normal_()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(3)
    assert torch.equal(first.cpu(), torch.rand(3, device="npu").cpu())


def test_save_and_load(tmp_path):
    torch.save({"a": torch.arange(3).npu(1)}, tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", map_location="cpu")["a"].device.type == "cpu"
    assert torch.load(tmp_path / "a.pt")["a"].device == torch.device("npu:1")
    assert torch.load(tmp_path / "a.pt", map_location="npu:0")["a"].tolist() == [0, 1, 2]


def test_data_preprocessor_takes_the_device():
    from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor

    for made in (BaseDataPreprocessor(), ImgDataPreprocessor(mean=[0.0] * 3, std=[1.0] * 3)):
        assert made.to("npu").device.type == "npu"
        assert made.to(device=torch.device("npu:1")).device == torch.device("npu:1")


def test_memory_is_accounted():
    before = torch.npu.memory_allocated()
    block = torch.empty(1024, device="npu")
    assert torch.npu.memory_allocated() == before + 4096
    del block
    assert torch.npu.memory_allocated() == before and torch.npu.max_memory_allocated() >= before + 4096
