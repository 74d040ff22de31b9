"""``--step-mode graph``: forward, losses, backward, unscaling, clip, check and update as one CUDA graph for each shape.

A graph repeats launches on fixed addresses. So a batch is copied into tensors that stay, the learning rates are
tensors on the device that follow ``param_groups`` before each step, and what hooks read is copied out afterwards. Loss
scale, momentum and the decision to skip a step are on the device anyway (``mmcv_overrides.optimizer``). The first steps of
a shape run uncaptured: they are ordinary training steps, and the warm-up that torch's documentation asks for. A
capture executes nothing, so a run has the steps, and up to rounding the losses, of ``eager``.

See "CUDA Graphs" in torch's documentation, and MLPerf's RetinaNet for a whole step in one graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fcos_train.config.step_mode import WARM_UP
from fcos_train.engine.compiled import MOST_GRAPHS
from fcos_train.geometry.padded import PaddedObjects
from mmcv_overrides.errors import UserError
from mmcv_overrides.optimizer import StepOptimWrapper

Outputs = tuple[Tensor, Tensor]


class Capture(Protocol):
    """How a function becomes something that can be repeated; the rest of this module knows no device."""

    def warm(self, function: Callable[[], Outputs]) -> Outputs:
        """Run it uncaptured, where captures will run."""

    def capture(self, function: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        """Record it without running it. Returns the tensors that hold its results after each call of the second."""


class CudaGraphs:
    """Captures on one side stream and in one memory pool.

    Graphs may share a pool because nothing in it outlives a step: the results are copied out before the next.
    """

    def __init__(self) -> None:
        self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def warm(self, function: Callable[[], Outputs]) -> Outputs:
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            outputs = function()
        here.wait_stream(self.stream)
        return outputs

    def capture(self, function: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: the loader's thread may pin memory meanwhile, which a global capture would take as a fault
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            outputs = function()
        return outputs, graph.replay


@dataclass
class Recording:
    """One shape of batches with one set of optimizer settings. names: of the losses; fixed: what must not change."""

    steps: int = 0
    names: tuple[str, ...] = ()
    outputs: Outputs | None = None
    replay: Callable[[], None] | None = None
    fixed: tuple = ()


class GraphedStep:
    """A detector's ``train_step`` as graphs; put it there with :func:`graph_step`.

    A change of weights' addresses, of ``requires_grad``, of a module's ``training`` or of an optimizer setting other
    than the learning rate makes a new capture. Other changes of the model in mid-run (code that hooks swap, say) are
    not seen.

    Args:
        model: a detector. wrapper: its optimizer wrapper, with a fused optimizer.
        log: gets a line for every capture.
        capture: how to record; CUDA graphs.

    Raises:
        UserError: an optimizer that decides on the host.
    """

    def __init__(
        self, model: nn.Module, wrapper: StepOptimWrapper, log: Callable[[str], None], capture: Capture | None = None
    ):
        if not wrapper.fused:
            raise UserError(
                f"--step-mode graph needs a fused optimizer (SGD, Adam, AdamW with fused=True), not "
                f"{type(wrapper.optimizer).__name__} without: a host cannot decide on a step within a graph; --step-mode eager runs the same step without a graph"
            )
        self.model, self.wrapper, self.log = model, wrapper, log
        self._capture = capture or CudaGraphs()
        groups = wrapper.optimizer.param_groups
        self._rates = [torch.full((), float(group["lr"]), device=wrapper.device) for group in groups]
        self._rates_on_device = [float(group["lr"]) for group in groups]
        self._batches: dict[tuple, dict] = {}
        self._recordings: dict[tuple, Recording] = {}

    def __call__(self, data: dict, optim_wrapper: StepOptimWrapper) -> dict[str, Tensor]:
        """One training step of a batch as the loader gives it. Returns losses for the log, 0-d on the device.

        Raises:
            UserError: a batch without fixed shape, too many shapes, or a step that cannot be captured.
        """
        shape, batch = self._take(data)
        recording = self._recording(shape)
        self._follow_rates()
        self.wrapper.follow_weights()  # a replay runs nothing of this on the host
        before = self.wrapper.inner_count
        fixed = self._fixed()
        if recording.replay is not None and recording.fixed != fixed:
            self.log("the model changed in mid-run: capturing anew")
            recording.steps, recording.replay, recording.outputs = 0, None, None
        if recording.steps < WARM_UP:
            outputs = self._capture.warm(partial(self._step, batch, recording))
            recording.steps += 1
        else:
            if recording.replay is None:
                self._record(batch, recording, fixed)
            recording.replay()
            outputs = recording.outputs
        self.wrapper._inner_count = before + 1
        return self._copied_out(recording.names, outputs)

    def __deepcopy__(self, memo: dict) -> MethodType:
        """A copy of the model takes its steps uncaptured."""
        return MethodType(type(self.model).train_step, copy.deepcopy(self.model, memo))

    def _take(self, data: dict) -> tuple[tuple, dict]:
        """Copy a batch to where the graph of its shape reads it."""
        images, objects = data["inputs"], data["data_samples"]
        if not isinstance(objects, PaddedObjects):
            raise UserError(f"--step-mode graph needs batches of fixed shape, got {type(objects).__name__}; use eager")
        shape = (tuple(images.shape), images.stride(), images.dtype, tuple(objects.table.shape), objects.places)
        if shape not in self._batches:
            place = partial(torch.empty_like, device=self.wrapper.device)
            self._batches[shape] = {"inputs": place(images), "data_samples": replace(objects.moved(place), samples=())}
        batch = self._batches[shape]
        batch["inputs"].copy_(images, non_blocking=True)
        batch["data_samples"].table.copy_(objects.table, non_blocking=True)
        return shape, batch

    def _recording(self, shape: tuple) -> Recording:
        groups = self.wrapper.optimizer.param_groups
        settings = tuple(
            str(value) for group in groups for name, value in group.items() if name not in ("params", "lr")
        )
        key = (shape, settings)
        if key not in self._recordings and len(self._recordings) == MOST_GRAPHS:
            raise UserError(
                f"--step-mode graph: more than {MOST_GRAPHS} shapes of batches and settings of the optimizer (does a schedule "
                f"change another one than the learning rate?); --step-mode eager runs the same step without a graph"
            )
        return self._recordings.setdefault(key, Recording())

    def _follow_rates(self) -> None:
        """Schedules set numbers in ``param_groups``; a launch is needed only when they change."""
        for place, group in enumerate(self.wrapper.optimizer.param_groups):
            if group["lr"] != self._rates_on_device[place]:
                self._rates_on_device[place] = float(group["lr"])
                self._rates[place].fill_(self._rates_on_device[place])

    def _fixed(self) -> tuple:
        """What a capture relies on: addresses of all that lasts from step to step, and switches."""
        modules = list(self.model.modules())
        tensors = [t for m in modules for table in (m._parameters, m._buffers) for t in table.values() if t is not None]
        state = self.wrapper.optimizer.state.values()
        kept = [value.data_ptr() for values in state for value in values.values() if isinstance(value, Tensor)]
        return tuple((t.data_ptr(), t.requires_grad) for t in tensors), tuple(kept), tuple(m.training for m in modules)

    def _step(self, batch: dict, recording: Recording, capturing: bool = False) -> Outputs:
        """The ordinary step. Returns [losses..., bad, loss_bad, grad_norm] and the norms of all gradients."""
        wrapper = self.wrapper
        with device_rates(wrapper.optimizer, self._rates, capturing):
            losses = type(self.model).train_step(self.model, batch, wrapper)
        recording.names = tuple(losses)
        row = [*losses.values(), wrapper.last_bad, wrapper.last_loss_bad, wrapper.last_grad_norm]
        return torch.stack([value.detach().float().reshape(()) for value in row]), wrapper.last_norms

    def _record(self, batch: dict, recording: Recording, fixed: tuple) -> None:
        step = partial(self._step, batch, recording, capturing=True)
        try:
            recording.outputs, recording.replay = self._capture.capture(step)
        except RuntimeError as error:
            cause = error.__context__ or error  # ending a capture that went wrong fails once more
            first = f"{type(cause).__name__}: {cause}".splitlines()[0]
            raise UserError(
                f"--step-mode graph: the step cannot be captured ({first}); --step-mode eager runs the same step without a graph"
            ) from error
        recording.fixed = fixed
        count, _, height, width = batch["inputs"].shape
        places = batch["data_samples"].table.shape[1] - 1
        self.log(f"captured as one graph: {count} x {height}x{width}, {places} places for objects")

    def _copied_out(self, names: tuple[str, ...], outputs: Outputs) -> dict[str, Tensor]:
        """Results in memory of their own: hooks keep them until the next log line, graphs overwrite theirs."""
        row, norms = (tensor.clone() for tensor in outputs)
        *losses, bad, loss_bad, grad_norm = row.unbind()
        wrapper = self.wrapper
        wrapper.last_bad, wrapper.last_loss_bad, wrapper.last_grad_norm = bad, loss_bad, grad_norm
        wrapper.last_norms = norms
        return dict(zip(names, losses, strict=True))


@contextmanager
def device_rates(optimizer: torch.optim.Optimizer, rates: list[Tensor], capturing: bool = False) -> Iterator[None]:
    """Within it the optimizer takes its learning rates from 0-d tensors; schedules and checkpoints see numbers."""
    kept: list[dict[str, Any]] = []
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        kept.append({name: group[name] for name in ("lr", "capturable") if name in group})
        group["lr"] = rate
        if capturing and "capturable" in group:  # Adam refuses a capture without; its fused form has what it takes
            group["capturable"] = True
    try:
        yield
    finally:
        for group, values in zip(optimizer.param_groups, kept, strict=True):
            group.update(values)


def graph_step(
    model: nn.Module, wrapper: StepOptimWrapper, log: Callable[[str], None], capture: Capture | None = None
) -> GraphedStep:
    """Let ``model.train_step`` run as graphs from now on. An attribute of the instance stands before the method:
    ``state_dict``, prediction and checkpoints know nothing of it. A ``loss`` that was compiled before is captured so."""
    model.train_step = GraphedStep(model, wrapper, log, capture)
    return model.train_step
