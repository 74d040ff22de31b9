"""``torch.npu`` of the simulated device: the functions that torch_npu has under these names."""

from __future__ import annotations

import torch

from .. import _C
from . import amp, utils  # noqa: F401

default_generators = [_C.default_generator(index) for index in range(_C.device_count())]
Stream, Event = torch.Stream, torch.Event


def _index(device=None) -> int:
    if isinstance(device, int):
        return device
    index = None if device is None else torch.device(device).index
    return _C.current_device() if index is None else index


def is_available() -> bool:
    return True


def is_initialized() -> bool:
    return True


def _is_in_bad_fork() -> bool:
    return False


def _lazy_init() -> None:
    pass


init = _lazy_init


def device_count() -> int:
    return _C.device_count()


def current_device() -> int:
    return _C.current_device()


def set_device(device) -> None:
    _C.exchange_device(_index(device))


def _exchange_device(index: int) -> int:
    return _C.exchange_device(index)


_maybe_exchange_device = _exchange_device


class device:  # noqa: N801  torch's name
    def __init__(self, target):
        self.index, self.before = _index(target), -1

    def __enter__(self):
        self.before = _C.exchange_device(self.index)

    def __exit__(self, *_):
        _C.exchange_device(self.before)


def synchronize(device=None) -> None:
    _C.synchronize()


def get_device_name(device=None) -> str:
    return "Simulated NPU"


def empty_cache() -> None:
    pass


def memory_allocated(device=None) -> int:
    return _C.live_bytes(_index(device))


def max_memory_allocated(device=None) -> int:
    return _C.peak_bytes(_index(device))


def reset_peak_memory_stats(device=None) -> None:
    _C.reset_peak(_index(device))


def manual_seed(seed: int) -> None:
    default_generators[_C.current_device()].manual_seed(int(seed))


def manual_seed_all(seed: int) -> None:
    for generator in default_generators:
        generator.manual_seed(int(seed))


def initial_seed() -> int:
    return default_generators[_C.current_device()].initial_seed()


def get_rng_state(device=None) -> torch.Tensor:
    return default_generators[_index(device)].get_state()


def set_rng_state(state: torch.Tensor, device=None) -> None:
    default_generators[_index(device)].set_state(state)


def get_rng_state_all() -> list[torch.Tensor]:
    return [generator.get_state() for generator in default_generators]


def set_rng_state_all(states) -> None:
    for generator, state in zip(default_generators, states):
        generator.set_state(state)


def current_stream(device=None) -> torch.Stream:
    return torch.Stream(device=torch.device("npu", _index(device)))


default_stream = current_stream


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16, torch.bfloat16]


def is_bf16_supported(including_emulation: bool = False) -> bool:
    return True


def set_compile_mode(jit_compile: bool = False) -> None:
    pass


class _TensorType(type):
    dtype: torch.dtype

    def __instancecheck__(cls, value) -> bool:
        return isinstance(value, torch.Tensor) and value.device.type == "npu" and value.dtype == cls.dtype


class BoolTensor(metaclass=_TensorType):
    dtype = torch.bool


class LongTensor(metaclass=_TensorType):
    dtype = torch.int64
