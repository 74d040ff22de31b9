"""``--step-mode graph``: forward, losses, backward, unscaling, clip, check and update as one CUDA graph per shape.

A graph repeats launches on fixed addresses. A batch is therefore copied into permanent tensors, the learning rates are
device tensors that are set from ``param_groups`` before each step, and the values that hooks read are copied out
afterwards. Loss scale, momentum and the decision to skip a step are on the device in every mode
(``mmcv_overrides.optimizer``). The first steps of a shape run uncaptured: they are ordinary training steps, and the
warm-up that torch's documentation requires. A capture executes nothing, so a run has the same steps as ``eager``, and
the same losses up to rounding.

See "CUDA Graphs" in torch's documentation, and MLPerf's RetinaNet for a whole step in one graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MethodType
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from fcos_train.config.step_mode import WARM_UP
from fcos_train.engine.compiled import MOST_GRAPHS
from fcos_train.geometry.padded import PaddedObjects
from mmcv_overrides.errors import UserError
from mmcv_overrides.optimizer import StepOptimWrapper

Outputs = tuple[Tensor, Tensor]


class Capture(Protocol):
    """How a function is recorded and repeated; the rest of this module is independent of the device."""

    def warm(self, function: Callable[[], Outputs]) -> Outputs:
        """Run the function uncaptured, on the stream of the captures."""

    def capture(self, function: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        """Record the function without running it. Returns its output tensors, and a callable that fills them anew."""


class CudaGraphs:
    """Captures on one side stream, with one memory pool.

    Graphs may share the pool because nothing in it outlives a step: results are copied out before the next step.
    """

    def __init__(self) -> None:
        self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def warm(self, function: Callable[[], Outputs]) -> Outputs:
        """See :class:`Capture`."""
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            outputs = function()
        here.wait_stream(self.stream)
        return outputs

    def capture(self, function: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        """See :class:`Capture`."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: the loader's thread may pin memory meanwhile, which is an error during a global capture
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            outputs = function()
        return outputs, graph.replay


@dataclass
class Recording:
    """The steps of one batch shape with one set of optimizer settings.

    Attributes:
        steps: uncaptured steps so far.
        names: names of the losses.
        replay: runs the graph; None before the capture. outputs: the tensors that it fills.
        fixed: state that must not change after the capture.
    """

    steps: int = 0
    names: tuple[str, ...] = ()
    outputs: Outputs | None = None
    replay: Callable[[], None] | None = None
    fixed: tuple = ()

    def run(self) -> Outputs:
        """Run the graph; the next run overwrites the outputs."""
        assert self.replay is not None and self.outputs is not None
        self.replay()
        return self.outputs


class GraphedStep:
    """The ``train_step`` of a detector as graphs; installed by :func:`graph_step`.

    A change of the address of a weight, of ``requires_grad``, of ``training`` of a module or of an optimizer setting
    other than the learning rate causes a new capture. Other changes of the model during a run are not detected, such
    as code that a hook replaces.

    Args:
        model: a detector.
        wrapper: its optimizer wrapper, with a fused optimizer.
        log: receives a line for every capture.
        capture: how to record; CUDA graphs by default.

    Raises:
        UserError: an optimizer that decides on the host whether to skip a step.
    """

    def __init__(
        self, model: nn.Module, wrapper: StepOptimWrapper, log: Callable[[str], None], capture: Capture | None = None
    ) -> None:
        if not wrapper.fused:
            raise UserError(
                f"--step-mode graph needs a fused optimizer, not {type(wrapper.optimizer).__name__}: the decision to "
                "skip a step must be made on the device. Use fused=True (SGD, Adam, AdamW); --step-mode eager runs the "
                "same step without a graph"
            )
        self.model, self.wrapper, self.log = model, wrapper, log
        self._capture = capture or CudaGraphs()
        groups = wrapper.optimizer.param_groups
        self._rates = [torch.full((), float(group["lr"]), device=wrapper.device) for group in groups]
        self._rates_on_device = [float(group["lr"]) for group in groups]
        self._batches: dict[tuple, dict] = {}
        self._recordings: dict[tuple, Recording] = {}

    def __call__(self, data: dict, optim_wrapper: StepOptimWrapper) -> dict[str, Tensor]:
        """One training step.

        Args:
            data: a batch from the loader.
        Returns:
            losses for the log, 0-d on the device.
        Raises:
            UserError: a batch without a fixed shape, too many shapes, or a step that cannot be captured.
        """
        shape, batch = self._take(data)
        recording = self._recording(shape)
        self._follow_rates()
        self.wrapper.follow_weights()  # a replay runs none of this code on the host
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
            outputs = recording.run()
        self.wrapper._inner_count = before + 1
        return self._copied_out(recording.names, outputs)

    def __deepcopy__(self, memo: dict) -> MethodType:
        """A copy of the model runs its steps uncaptured."""
        return MethodType(type(cast(Any, self.model)).train_step, copy.deepcopy(self.model, memo))

    def _take(self, data: dict) -> tuple[tuple, dict]:
        """Copy a batch into the tensors that the graph of its shape reads. Returns the shape and the copy."""
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
                f"--step-mode graph: more than {MOST_GRAPHS} combinations of batch shapes and optimizer settings (does "
                "a schedule change a setting other than the learning rate?); --step-mode eager runs the same step "
                "without a graph"
            )
        return self._recordings.setdefault(key, Recording())

    def _follow_rates(self) -> None:
        """Copy the learning rates that schedules set in ``param_groups``; a launch is needed only when they change."""
        for place, group in enumerate(self.wrapper.optimizer.param_groups):
            if group["lr"] != self._rates_on_device[place]:
                self._rates_on_device[place] = float(group["lr"])
                self._rates[place].fill_(self._rates_on_device[place])

    def _fixed(self) -> tuple:
        """The state that a capture depends on: addresses of permanent tensors, and flags."""
        modules = list(self.model.modules())
        tensors = [t for m in modules for table in (m._parameters, m._buffers) for t in table.values() if t is not None]
        state = self.wrapper.optimizer.state.values()
        kept = [value.data_ptr() for values in state for value in values.values() if isinstance(value, Tensor)]
        return tuple((t.data_ptr(), t.requires_grad) for t in tensors), tuple(kept), tuple(m.training for m in modules)

    def _step(self, batch: dict, recording: Recording, capturing: bool = False) -> Outputs:
        """The ordinary step. Returns [losses..., bad, loss_bad, grad_norm] and the norms of all gradients, 1-d each."""
        wrapper, model = self.wrapper, cast(Any, self.model)
        with device_rates(wrapper.optimizer, self._rates, capturing):
            losses = type(model).train_step(model, batch, wrapper)
        recording.names = tuple(losses)
        row = [*losses.values(), wrapper.last_bad, wrapper.last_loss_bad, wrapper.last_grad_norm]
        return torch.stack([value.detach().float().reshape(()) for value in row]), wrapper.last_norms

    def _record(self, batch: dict, recording: Recording, fixed: tuple) -> None:
        step = partial(self._step, batch, recording, capturing=True)
        try:
            recording.outputs, recording.replay = self._capture.capture(step)
        except RuntimeError as error:
            cause = error.__context__ or error  # ending a failed capture raises a second error
            first = f"{type(cause).__name__}: {cause}".splitlines()[0]
            raise UserError(
                f"--step-mode graph: the step cannot be captured ({first}); "
                "--step-mode eager runs the same step without a graph"
            ) from error
        recording.fixed = fixed
        count, _, height, width = batch["inputs"].shape
        places = batch["data_samples"].table.shape[1] - 1
        self.log(f"captured as one graph: {count} x {height}x{width}, {places} places for objects")

    def _copied_out(self, names: tuple[str, ...], outputs: Outputs) -> dict[str, Tensor]:
        """Copies of the results: hooks keep them until the next log line, while graphs overwrite their outputs."""
        row, norms = (tensor.clone() for tensor in outputs)
        *losses, bad, loss_bad, grad_norm = row.unbind()
        wrapper = self.wrapper
        wrapper.last_bad, wrapper.last_loss_bad, wrapper.last_grad_norm = bad, loss_bad, grad_norm
        wrapper.last_norms = norms
        return dict(zip(names, losses, strict=True))


@contextmanager
def device_rates(optimizer: torch.optim.Optimizer, rates: list[Tensor], capturing: bool = False) -> Iterator[None]:
    """Let the optimizer read its learning rates from 0-d tensors; schedules and checkpoints still see numbers."""
    kept: list[dict[str, Any]] = []
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        kept.append({name: group[name] for name in ("lr", "capturable") if name in group})
        group["lr"] = rate
        if capturing and "capturable" in group:  # Adam refuses a capture without it; its fused form does not need it
            group["capturable"] = True
    try:
        yield
    finally:
        for group, values in zip(optimizer.param_groups, kept, strict=True):
            group.update(values)


def graph_step(
    model: nn.Module, wrapper: StepOptimWrapper, log: Callable[[str], None], capture: Capture | None = None
) -> GraphedStep:
    """Make ``model.train_step`` run as graphs from now on. The instance attribute hides the method of the class;
    ``state_dict``, prediction and checkpoints are not affected. A compiled ``loss`` is captured as it is."""
    step = GraphedStep(model, wrapper, log, capture)
    cast(Any, model).train_step = step
    return step
