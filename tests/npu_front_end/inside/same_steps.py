"""The same training steps on the real torch_npu and on the CPU: forward, losses, backward, clip, fused SGD.

usage: same_steps.py HEAD STEPS

The model, the batches and the step are Tier 1's (``tests/npu_sim/inside/steps.py``). From the second step on
waiting for the device is an error. Prints one JSON line: losses of each step on both devices,
and by how much the weights differ at the end.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "npu_sim" / "inside"))

import npu_front_end
import steps  # activates the overrides
import torch
from mmdet.utils import register_all_modules
from mmengine.optim import build_optim_wrapper

from mmcv_overrides import device

OBJECTS = [5, 8, 1]


def wrapped(model, seen: list):
    """The optimizer step of the trainer; appends the losses of each step to ``seen``, as tensors on the device."""
    parse = model.parse_losses

    def noted(losses):
        total, log = parse(losses)
        seen.append({name: value.detach() for name, value in log.items()})
        return total, log

    model.parse_losses = noted
    optimizer = dict(type="SGD", lr=0.001, momentum=0.9, weight_decay=1e-4)
    cfg = dict(
        type="OptimWrapper",
        optimizer=optimizer,
        clip_grad=dict(max_norm=35, norm_type=2),
        opt_level="O0",
        loss_scale=1.0,
    )
    return build_optim_wrapper(model, cfg)


def on_cpu(batch: tuple) -> tuple:
    images, objects = batch
    return images.cpu(), objects.moved(lambda table: table.cpu())


def main(head: str, count: str) -> None:
    torch.manual_seed(0)
    device.use(device.pick("npu")[0])
    register_all_modules(init_default_scope=True)
    npu = steps.build(head)
    cpu = copy.deepcopy(npu).cpu()
    losses: dict[str, list] = {"npu": [], "cpu": []}
    step = {name: wrapped(model, losses[name]) for name, model in (("npu", npu), ("cpu", cpu))}
    for index, (images, found) in enumerate(steps.batches(OBJECTS[: int(count)])):
        batch = steps.prepared("padded", images, found)
        steps.step_of_padded(cpu, step["cpu"], *on_cpu(batch))
        npu_front_end.forbid_waits(index > 0)
        steps.step_of_padded(npu, step["npu"], *batch)
        npu_front_end.forbid_waits(False)
    read = {name: [{key: value.item() for key, value in one.items()} for one in made] for name, made in losses.items()}
    pairs = [(a.detach().cpu(), b.detach()) for a, b in zip(npu.parameters(), cpu.parameters())]
    differ = max(((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item() for a, b in pairs)
    print(
        json.dumps(
            {**read, "weights": differ, "devices": sorted({p.device.type for m in (npu, cpu) for p in m.parameters()})}
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
