"""The curves of a training over its steps, from the records of the log."""

from __future__ import annotations

from dataclasses import dataclass, field

from fcos_train.report.records import Record, number

Points = tuple[list[float], list[float]]  # steps, values
MAP = ("mAP", "mAP_50", "mAP_75")
PLACE = ("mode", "epoch", "iter", "step")


@dataclass
class Curves:
    """Values over optimizer steps, by name.

    Attributes:
        losses: of training, the total first. val_losses: of evaluations. lr: learning rates of the parameter groups.
        accuracy: mAP, mAP_50, mAP_75 of evaluations. speed: images per second.
    """

    losses: dict[str, Points] = field(default_factory=dict)
    val_losses: dict[str, Points] = field(default_factory=dict)
    lr: dict[str, Points] = field(default_factory=dict)
    accuracy: dict[str, Points] = field(default_factory=dict)
    speed: dict[str, Points] = field(default_factory=dict)


def curves(records: list[Record]) -> Curves:
    """The curves; an evaluation stands at the last step before it."""
    found, step = Curves(), 0.0
    for record in records:
        train = record.get("mode") == "train"
        if train:
            step = number(record.get("step")) or step
        for name, raw in record.items():
            value = number(raw)
            if value is not None and name not in PLACE:
                curve = _curve(found, train, name)
                if curve is not None:
                    x, y = curve.setdefault(name, ([], []))
                    x.append(step)
                    y.append(value)
    found.losses = dict(sorted(found.losses.items(), key=lambda entry: entry[0] != "loss"))
    return found


def _curve(curves: Curves, train: bool, name: str) -> dict[str, Points] | None:
    """Where a number of a record belongs."""
    if "loss" in name and name != "loss_scale":
        return curves.losses if train else curves.val_losses
    if not train:
        return curves.accuracy if name.endswith(MAP) else None
    if name.split("/")[0] in ("lr", "base_lr") and name != "base_lr":
        return curves.lr
    return curves.speed if name == "images_per_s" else None
