"""What a run changes in its process is put back at its end, so that several runs of one process do not differ from
runs of several processes.

mmengine keeps loggers, message hubs, visualizers and default scopes by name, without end; the latest one is "current".
A run left behind would receive the log lines that the next one writes before it has a logger of its own, and would keep
its weights, files and loader processes alive.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import torch
from mmengine.runner import Runner
from mmengine.utils import ManagerMixin

from mmcv_overrides.checkpoint import rng

Named = dict[type[ManagerMixin], frozenset[str]]


@contextmanager
def process_state_kept(device: torch.device) -> Iterator[None]:
    """Put back, after a run or its failure, what it has set in this process.

    Those are random states, switches of cuDNN and of deterministic kernels, environment variables, the start method of
    processes, OpenCV's threads, and mmengine's instances that are kept by name.

    Args:
        device: of the run; its random state is kept too.
    """
    random_states, environment, named = rng.capture(device), dict(os.environ), _named()
    switches = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    deterministic = _deterministic()
    start_method, threads = multiprocessing.get_start_method(allow_none=True), cv2.getNumThreads()
    try:
        yield
    finally:
        _forget_new(named)
        cv2.setNumThreads(threads)
        multiprocessing.set_start_method(start_method, force=True)
        if _deterministic() != deterministic:  # to set it loads torch's compiler
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = switches
        _restore_environment(environment)
        rng.restore(random_states, device)


def _deterministic() -> tuple[bool, bool]:
    """Whether only deterministic kernels may run, and whether another one only warns."""
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


@contextmanager
def loaders_closed(runner: Runner) -> Iterator[None]:
    """End the processes of the runner's data loaders after the run.

    A loader that is left to the garbage collector waits five seconds for each of its persistent workers.
    """
    try:
        yield
    finally:
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            loader: Any = getattr(loop, "dataloader", None)
            iterator: Any = getattr(loader, "_iterator", None)  # there with persistent workers only
            if iterator is not None and hasattr(iterator, "_shutdown_workers"):
                iterator._shutdown_workers()
                loader._iterator = None


def _kinds(kind: type[ManagerMixin] = ManagerMixin) -> Iterator[type[ManagerMixin]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def _instances(kind: type[ManagerMixin]) -> dict[str, ManagerMixin]:
    return vars(kind)["_instance_dict"]


def _named() -> Named:
    """The names of the instances that there are of each class."""
    return {kind: frozenset(_instances(kind)) for kind in _kinds()}


def _forget_new(before: Named) -> None:
    """Remove instances that are newer; close the files of loggers among them."""
    for kind in _kinds():
        instances = _instances(kind)
        for name in instances.keys() - before.get(kind, frozenset()):
            for handler in getattr(instances.pop(name), "handlers", ()):
                handler.close()  # what a caller writes through the runner's logger from now on is only printed


def _restore_environment(before: dict[str, str]) -> None:
    for key in os.environ.keys() - before.keys():
        del os.environ[key]
    for key, value in before.items():
        if os.environ.get(key) != value:
            os.environ[key] = value
