"""``fcos-train audit``: what a training step of a config asks of an accelerator, in counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from fcos_train.audit.options import AuditOptions
from fcos_train.config.fields import Option


def _limit(meaning: str) -> Option:
    return Option(f"limit of {meaning}", metavar="N", default="no limit", least=0)


@dataclass(frozen=True)
class Limits:
    """The most that is allowed of each count; None: as many as there are."""

    max_launches: Annotated[int | None, _limit("operators launched per step")] = None
    max_syncs: Annotated[int | None, _limit("waits of the host for the device")] = None
    max_new_signatures: Annotated[int | None, _limit("operators with shapes not seen in the steps before")] = None
    max_h2d_copies: Annotated[int | None, _limit("copies from the host to the device")] = None
    max_strided_inputs: Annotated[int | None, _limit("strided inputs of convolutions, matrix products and norms")] = (
        None
    )
    max_float64: Annotated[int | None, _limit("operators on float64 tensors")] = None
    max_host_operators: Annotated[int | None, _limit("operators that an Ascend NPU runs on the host")] = None
    max_graph_breaks: Annotated[int | None, _limit("places where torch.compile leaves the graph")] = None


@dataclass(frozen=True)
class AuditArguments(AuditOptions):
    """The options of an audit, with what only the command needs."""

    json: Annotated[Path | None, Option("also write the counts as JSON", metavar="FILE", default="not written")] = None
    limits: Limits = Limits()


def run(options: AuditArguments) -> int:
    """Run a few training steps on generated images and count what they ask of an accelerator.

    Counted are launches, host syncs, new shapes, copies, and operators that an Ascend NPU would run on the host. Needs
    no data and no accelerator; copies show on an accelerator only. Exit status 1 if a count is above its --max-...
    limit.
    """
    from fcos_train.audit.step import build, graph_breaks, trace_steps
    from fcos_train.audit.summary import summarise
    from mmcv_overrides.files import write_json

    trained = build(options)
    report = summarise(trace_steps(trained, options))
    if options.graph_breaks or options.limits.max_graph_breaks is not None:
        report.graph_breaks, report.break_reasons = graph_breaks(trained, options)
    height, width = trained.shape
    title = f"one training step, {options.batch_size} x {height}x{width}, on {trained.accelerator.name}"
    print("\n".join([*trained.notes, f"{title}, after the first:", *report.lines()]))
    if options.json:
        write_json(options.json, report.to_dict())
    above = report.over({name.removeprefix("max_"): limit for name, limit in asdict(options.limits).items()})
    for line in above:
        print(f"above the limit: {line}")
    return 1 if above else 0
