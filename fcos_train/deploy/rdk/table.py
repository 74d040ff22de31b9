"""The table of a compiled model: predicted and measured speed, and what the quantisation costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fcos_train.deploy.rdk.board_log import BoardTensor, Measured
from fcos_train.deploy.rdk.mapper_log import MapperReport

LEAST_SIMILAR, ON_CPU = 5, 10  # nodes that are shown


def as_record(report: MapperReport) -> dict[str, Any]:
    """What the compiler printed, as values of JSON."""
    return {
        "predicted": vars(report.predicted) if report.predicted else None,
        "versions": dict(report.versions),
        "nodes": [vars(node) for node in report.nodes],
        "outputs": [vars(output) for output in report.outputs],
        "removed_nodes": list(report.removed),
    }


def report_lines(record: Mapping[str, Any], measured: Sequence[Measured] = (), all_nodes: bool = False) -> list[str]:
    """The lines of the table.

    Args:
        record: entry `rdk` of a description. measured: on a board.
        all_nodes: print every node, else those that are least similar and those that run on the CPU.
    """
    lines = [f"{record['board']} ({record['march']}), optimize_level {record['optimize_level']}"]
    lines += _speed(record.get("predicted"), measured)
    outputs = record.get("outputs", ())
    if outputs:
        width = max(len(row["name"]) for row in outputs)
        lines.append("output, quantised against float on a calibration image:")
        lines += [
            f"  {row['name']:<{width}}  cosine {row['cosine']:.6f}  largest difference {row['chebyshev']:.4f}"
            for row in outputs
        ]
    nodes = record.get("nodes", ())
    if nodes:
        lines += _nodes(nodes, all_nodes)
    return lines


def tensor_faults(description: Mapping[str, Any], tensors: Sequence[BoardTensor]) -> list[str]:
    """Where the tensors that a board reports contradict the description of the export."""
    outputs = {tensor.name: tensor for tensor in tensors if tensor.kind == "output"}
    wanted = "HB_DNN_TENSOR_TYPE_S32" if description["rdk"]["integer_outputs"] else "HB_DNN_TENSOR_TYPE_F32"
    faults = []
    for entry in description["outputs"]:
        tensor = outputs.get(entry["name"])
        if tensor is None:
            faults.append(f"the board reports no output {entry['name']}")
        elif list(tensor.valid_shape) != list(entry["shape"]):
            faults.append(f"{tensor.name}: shape {tensor.valid_shape} on the board, {tuple(entry['shape'])} exported")
        elif tensor.tensor_type != wanted:
            faults.append(f"{tensor.name}: {tensor.tensor_type} on the board, {wanted} exported")
    return faults


def _speed(predicted: Mapping[str, Any] | None, measured: Sequence[Measured]) -> list[str]:
    lines = []
    if predicted:
        work = f", {predicted['operations'] / 1e9:.2f} G operations" if predicted.get("operations") else ""
        lines.append(
            f"  predicted, 1 core   {predicted['fps']:8.2f} FPS  {predicted['latency']:8.3f} ms  "
            f"{predicted['ddr'] / 1e6:.2f} MB of memory traffic an image{work}"
        )
    for row in measured:
        lines.append(
            f"  measured, {row.threads} thread{'s' if row.threads > 1 else ' '} {row.fps:8.2f} FPS  "
            f"{row.latency:8.3f} ms  {row.frames} images"
        )
    return lines


def _nodes(nodes: Sequence[Mapping[str, Any]], everything: bool) -> list[str]:
    on_cpu = [node for node in nodes if node["on"] != "BPU"]
    lines = [f"nodes: {len(nodes) - len(on_cpu)} on the BPU, {len(on_cpu)} on the CPU"]
    if everything:
        shown = list(nodes)
    else:
        known = [node for node in nodes if node["cosine"] is not None]
        least = sorted(known, key=lambda node: node["cosine"])[:LEAST_SIMILAR]
        shown = least + [node for node in on_cpu if node not in least][:ON_CPU]
        lines[0] += "; the least similar ones and up to 10 on the CPU:"
    if on_cpu:
        lines.insert(0, f"note: the predicted speed leaves out {len(on_cpu)} nodes on the CPU")
    width = max(len(node["name"]) for node in shown)
    for node in shown:
        cosine = "" if node["cosine"] is None else f"cosine {node['cosine']:.6f}"
        lines.append(f"  {node['name']:<{width}}  {node['on']}  {node['kind']:<24}  {cosine}".rstrip())
    return lines
