"""The figures of an audit, and those of them that exceed a limit."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from fcos_train.audit.operators import ON_HOST, classify, source
from fcos_train.audit.trace import StepTrace


@dataclass
class Report:
    """Counts of one step in the steady state: the maximum over all steps after the first.

    Attributes:
        launches, syncs, h2d_copies, new_signatures, strided_inputs, float64, host_operators: totals of a step.
        first_signatures: distinct operators with shapes in the first step.
        varying_launches: whether the number of launches differs between steps.
        why: for each total, the operators or reasons with their counts, in the step with the largest total.
        graph_breaks: None if not requested or not known. break_reasons: why.
        composite, branch: operators of these kinds, see :func:`fcos_train.audit.operators.classify`.
    """

    launches: int
    syncs: int
    h2d_copies: int
    new_signatures: int
    first_signatures: int
    strided_inputs: int
    float64: int
    host_operators: int
    varying_launches: bool
    graph_breaks: int | None = None
    why: dict[str, dict[str, int]] = field(default_factory=dict)
    composite: list[str] = field(default_factory=list)
    branch: list[str] = field(default_factory=list)
    break_reasons: list[str] = field(default_factory=list)

    def over(self, limits: dict[str, int | None]) -> list[str]:
        """One line for every figure above its limit (None: no figure is allowed); an unknown figure counts as above."""
        lines = []
        for name, limit in limits.items():
            value = getattr(self, name)
            if limit is None or (value is not None and value <= limit):
                continue
            lines.append(f"{name.replace('_', ' ')}: {'not known' if value is None else value}, the limit is {limit}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """All attributes, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """A table for the terminal, one line per figure."""
        rows: list[tuple[str, int | str, str]] = [
            (
                "launches",
                self.launches,
                "differ from step to step" if self.varying_launches else "the same in every step",
            ),
            ("new operator + shape", self.new_signatures, f"the first step has {self.first_signatures}"),
            ("host waits for the device", self.syncs, self._reasons("syncs")),
            ("copies to the device", self.h2d_copies, self._reasons("h2d_copies")),
            ("strided inputs of conv, matmul, norm", self.strided_inputs, self._reasons("strided_inputs")),
            ("float64 operators", self.float64, self._reasons("float64")),
            ("operators Ascend runs on the host", self.host_operators, self._reasons("host_operators")),
        ]
        if self.graph_breaks is not None or self.break_reasons:
            breaks = "?" if self.graph_breaks is None else self.graph_breaks
            rows.append(("graph breaks of torch.compile", breaks, "; ".join(self.break_reasons[:3])))
        out = [f"  {name:38s} {value!s:>6s}  {note}".rstrip() for name, value, note in rows]
        if self.composite:
            out.append(f"  decomposed on Ascend: {', '.join(self.composite)}")
        if self.branch:
            out.append(f"  on the host for some arguments: {', '.join(self.branch)}")
        return [*out, f"  (native operators: {source()})"]

    def _reasons(self, name: str) -> str:
        found = self.why.get(name, {})
        shown = [f"{count} x {reason}" for reason, count in list(found.items())[:4]]
        return ", ".join(shown) + (", ..." if len(found) > 4 else "")


def _largest(counters: list[Counter[str]]) -> dict[str, int]:
    """The counter with the largest total, largest count first."""
    return dict(max(counters, key=lambda c: c.total()).most_common()) if counters else {}


def summarise(traces: list[StepTrace]) -> Report:
    """The report of a sequence of steps, the first of which is the warm-up.

    Raises:
        ValueError: fewer than two steps.
    """
    if len(traces) < 2:
        raise ValueError("an audit needs a first step and at least one more")
    first, later = traces[0], traces[1:]
    seen = set(first.signatures)
    fresh = []
    for trace in later:
        fresh.append(len(set(trace.signatures) - seen))
        seen |= set(trace.signatures)
    to_device = [Counter({k: n for k, n in t.copies.items() if k.startswith("cpu to ")}) for t in later]
    strided = [+t.strided for t in later]
    kinds = {name: classify(name) for trace in traces for name in trace.launches}
    host = [Counter({k: n for k, n in t.launches.items() if kinds[k] in ON_HOST}) for t in later]
    groups = {
        "syncs": [t.syncs for t in later],
        "h2d_copies": to_device,
        "strided_inputs": strided,
        "float64": [t.float64 for t in later],
        "host_operators": host,
    }
    launches = [t.launches.total() for t in later]
    totals = {name: max(c.total() for c in counters) for name, counters in groups.items()}
    return Report(
        launches=max(launches),
        syncs=totals["syncs"],
        h2d_copies=totals["h2d_copies"],
        new_signatures=max(fresh),
        first_signatures=len(first.signatures),
        strided_inputs=totals["strided_inputs"],
        float64=totals["float64"],
        host_operators=totals["host_operators"],
        varying_launches=len(set(launches)) > 1,
        why={name: _largest(counters) for name, counters in groups.items()},
        composite=sorted(k for k, kind in kinds.items() if kind == "composite"),
        branch=sorted(k for k, kind in kinds.items() if kind == "branch"),
    )
