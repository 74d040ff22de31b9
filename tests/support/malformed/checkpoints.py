"""Checkpoints that are damaged, of another training, or made by a stranger, given to every command that reads them."""

from __future__ import annotations

import gzip
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.support.malformed import CONFIG, Case, Room
from tests.support.malicious import FORMATS

NAME = "case.pth"


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path, Room], Any]:
    return lambda path, room: path.write_bytes(change(room.trained.read_bytes()))


def _content(change: Callable[[dict], Any]) -> Callable[[Path, Room], Any]:
    """A sound checkpoint with a change of its content; what the change returns, if anything, replaces it."""

    def write(path: Path, room: Room) -> None:
        content = torch.load(room.trained, weights_only=True)
        content["message_hub"] = dict(content["message_hub"])
        changed = change(content)
        torch.save(content if changed is None else changed, path)

    return write


def _zip(path: Path, room: Room) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")


def _flipped(data: bytes) -> bytes:
    at = data.index(b"/data/0") + 4096
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _weights(change: Callable[[torch.Tensor], Any]) -> Callable[[dict], Any]:
    def apply(content: dict) -> None:
        state = content["state_dict"]
        content["state_dict"] = {k: change(v) if v.is_floating_point() else v for k, v in state.items()}

    return apply


def _meta(**values: Any) -> Callable[[dict], Any]:
    return lambda content: content["meta"].update(values)


def _momentum(content: dict) -> None:
    state = content["optimizer"]["state"]
    first = next(iter(state))
    state[first] = {"momentum_buffer": torch.zeros(3)}


def _adam(content: dict) -> None:
    weights = [torch.nn.Parameter(v) for v in content["state_dict"].values() if v.is_floating_point()]
    content["optimizer"] = torch.optim.Adam(weights).state_dict()


def _one_group(content: dict) -> None:
    content["optimizer"]["param_groups"] = content["optimizer"]["param_groups"][:1]
    content["optimizer"]["param_groups"][0]["params"] = [0]


WRITERS: dict[str, Callable[[Path, Room], Any]] = {
    "is absent": lambda path, room: None,
    "is empty": lambda path, room: path.write_bytes(b""),
    "is all zeros": lambda path, room: path.write_bytes(b"\0" * 9999),
    "is cut by half": _bytes(lambda data: data[: len(data) // 2]),
    "is cut by one byte": _bytes(lambda data: data[:-1]),
    "has one flipped bit": _bytes(_flipped),
    "is text": lambda path, room: path.write_text("weights"),
    "is a web page": lambda path, room: path.write_text("<!DOCTYPE html><html></html>"),
    "is a Git LFS pointer": lambda path, room: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
    "is a folder": lambda path, room: path.mkdir(),
    "is compressed": _bytes(gzip.compress),
    "is another zip file": _zip,
    "is a tensor": _content(lambda content: torch.ones(3)),
    "is a list": _content(lambda content: [content["state_dict"]]),
}
RUNS: dict[str, Callable[[Path, Room], Any]] = {
    f"is a program ({kind})": (lambda path, room, write=FORMATS[kind]: write(room.marker, path))
    for kind in ("zip", "legacy", "pickle", "tar", "nested", "STACK_GLOBAL_zip")
}
# What --resume needs and lacks: name -> (change, what the message must have besides the name of the file)
STATES: dict[str, tuple[Callable[[dict], Any], str]] = {
    "no meta": (lambda c: c.pop("meta") and None, "training state"),
    "a list as meta": (lambda c: c.update(meta=[1]), "training state"),
    "no meta.iter": (lambda c: c["meta"].pop("iter") and None, "iter"),
    "a negative meta.iter": (_meta(iter=-1), "iter"),
    "a text as meta.iter": (_meta(iter="three"), "iter"),
    "a huge meta.iter": (_meta(iter=10**30), "iter"),
    "NaN as meta.epoch": (_meta(epoch=math.nan), "epoch"),
    "a list as meta.epoch": (_meta(epoch=[1]), "epoch"),
    "no message_hub": (lambda c: c.pop("message_hub") and None, "message_hub"),
    "a list as message_hub": (lambda c: c.update(message_hub=[1]), "message_hub"),
    "an empty message_hub": (lambda c: c.update(message_hub={}), "message_hub"),
    "a number as message_hub.log_scalars": (lambda c: c["message_hub"].update(log_scalars=3), "message_hub"),
    "a list as optimizer": (lambda c: c.update(optimizer=[1]), "optimizer"),
    "an empty optimizer": (lambda c: c.update(optimizer={}), "optimizer"),
    "the optimizer Adam": (_adam, "optimizer"),
    "an optimizer of one parameter": (_one_group, "optimizer"),
    "momentum of another shape": (_momentum, "optimizer"),
    "a number as optimizer.state": (lambda c: c["optimizer"].update(state=5), "optimizer"),
    "a number as param_schedulers": (lambda c: c.update(param_schedulers=5), "param_schedulers"),
    "a list of numbers as param_schedulers": (lambda c: c.update(param_schedulers=[1, 2]), "param_schedulers"),
    "param_schedulers of no values": (lambda c: c.update(param_schedulers=[{}, {}]), "param_schedulers"),
    "a program as meta.config": (_meta(config="import os"), "configuration"),
    "a number as meta.config": (_meta(config=5), "configuration"),
}
# What every reader needs and lacks
WEIGHTS: dict[str, tuple[Callable[[dict], Any], str]] = {
    "an empty state_dict": (lambda c: c.update(state_dict={}), NAME),
    "a list as state_dict": (lambda c: c.update(state_dict=[1]), NAME),
    "numbers as weights": (lambda c: c.update(state_dict=dict.fromkeys(c["state_dict"], 3)), NAME),
    "NaN in all weights": (_weights(lambda v: torch.full_like(v, math.nan)), NAME),
    "complex weights": (_weights(lambda v: torch.complex(v, v)), NAME),
    "weights of another shape": (_weights(lambda v: torch.zeros(3, 5, 7)), NAME),
    "weights of other names": (lambda c: c.update(state_dict={f"x.{k}": v for k, v in c["state_dict"].items()}), NAME),
}
EARLY = ("an empty state_dict", "a list as state_dict", "numbers as weights")  # what --resume finds at once
BUILT = ("has the optimizer Adam", "has an optimizer of one parameter")


def _command(verb: str, room: Room, path: Path) -> list[str]:
    if verb in ("resume", "load-from"):
        return room.train(f"--{verb}", path)
    if verb == "eval":
        place = ("--data-path", room.shapes, "--work-dir", room.folder / "w", "--device", "cpu", "--no-report")
        return [str(word) for word in ("eval", CONFIG, path, *place, "--workers", "0")]
    if verb == "export":
        return ["export", str(path)]
    return ["demo", str(path), "--device", "cpu"]


def _case(verb: str, name: str, write: Callable[[Path, Room], Any], says: str) -> Case:
    def command(room: Room) -> list[str]:
        write(room.folder / NAME, room)
        return _command(verb, room, room.folder / NAME)

    slow = name in BUILT or (verb == "eval" and name.removeprefix("has ") in EARLY)
    return Case(f"{verb} of a checkpoint that {name}", command, (NAME, says), slow=slow)


CASES = [
    *(_case("resume", name, write, NAME) for name, write in {**WRITERS, **RUNS}.items()),
    *(_case("resume", f"has {name}", _content(change), says) for name, (change, says) in STATES.items()),
    *(
        _case("resume", f"has {name}", _content(WEIGHTS[name][0]), NAME)
        for name in (*EARLY, "NaN in all weights", "complex weights")
    ),
    *(_case("eval", f"has {name}", _content(change), says) for name, (change, says) in WEIGHTS.items()),
    *(
        _case(verb, name, {**WRITERS, **RUNS}[name], NAME)
        for verb in ("load-from", "eval", "export", "demo")
        for name in ("is empty", "is cut by half", "is a list", "is a program (zip)")
    ),
]
