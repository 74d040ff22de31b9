"""Random faults on one training in one work dir, resumed after each of them; see soak.sh.

The training has 36 steps, a checkpoint every three and a validation every eight. A round starts it with
``--resume``, causes one fault drawn from KINDS at a drawn moment, and looks at the files: whether a checkpoint can be
read, and how many steps are lost. When the training has reached its end within the rounds, it is compared with the
undisturbed run and begun anew in another folder. The last one is resumed to its end.

Printed as JSON: rounds, faults by kind, unreadable states (0), most steps lost beyond the last checkpoint (0),
trainings compared and those whose state differed (0).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fcos_train.data.shapes import make_shapes  # noqa: E402
from mmcv_overrides.checkpoint import load, newest_readable  # noqa: E402
from mmcv_overrides.device import current  # noqa: E402
from mmcv_overrides.errors import UserError  # noqa: E402
from tests.support import forked  # noqa: E402
from tests.support.command_server import CommandServer  # noqa: E402
from tests.support.commands import environment  # noqa: E402
from tests.support.same_state import differs  # noqa: E402

EVERY = 3  # steps from one checkpoint to the next
EPOCHS, LENGTH = 18, 2  # epochs of a training, steps of one
SAVING = (
    "default_hooks.checkpoint.by_epoch=False",
    f"default_hooks.checkpoint.interval={EVERY}",
    f"train_cfg.max_epochs={EPOCHS}",
    "train_cfg.val_interval=4",
)
TIMEOUT_S = 120
Fault = Callable[["Soak"], None]


@dataclass
class Soak:
    """The state of a soak.

    Attributes:
        server: forks trainings. root: of everything. disk: a small file system for the work dirs, where there is one.
        seed: of the faults.
    """

    server: CommandServer
    root: Path
    disk: Path
    drawn: random.Random
    number: int = 0
    kinds: Counter = field(default_factory=Counter)
    unreadable: int = 0
    lost: int = 0
    compared: int = 0
    different: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The work dir at present."""
        return self.disk / f"run-{self.number}"

    @property
    def data(self) -> Path:
        """The data set."""
        return self.root / "shapes"

    def start(self, folder: Path, fault: str = "") -> forked.Forked:
        """Start or resume a training."""
        words = ["--resume"] if newest_readable(folder) is not None else ["--overwrite"]
        return forked.train(self.server, self.data, folder, *words, "--cfg-options", *SAVING, fault=fault)

    def iterations(self) -> int:
        """Finished steps of the newest readable checkpoint; 0 if there is none."""
        newest = newest_readable(self.folder)
        return 0 if newest is None else int(load(newest)["meta"]["iter"])

    def step(self) -> int:
        """A step that the next training will take, counted over the whole training."""
        return self.iterations() + self.drawn.randint(1, 2 * EVERY)

    def ends(self, fault: str, *allowed: int) -> None:
        """Run with a fault from within; note an end with another status."""
        run = self.start(self.folder, fault)
        status = run.status(TIMEOUT_S)
        if status not in (0, *allowed):
            self.unexpected.append(f"{fault}: ended with {status}: {run.text[-400:]}")

    def newest(self) -> Path | None:
        """The file to be damaged."""
        return newest_readable(self.folder)


def _signal(name: str, *statuses: int) -> Fault:
    def cause(soak: Soak) -> None:
        soak.ends(f"step {soak.step()} {name}", *statuses)

    return cause


def _call(function: str) -> Fault:
    def cause(soak: Soak) -> None:
        soak.ends(f"{function} {soak.drawn.randint(1, 20)} KILL", -9)

    return cause


def _refused(name: str) -> Fault:
    def cause(soak: Soak) -> None:
        soak.ends(f"replace {soak.drawn.randint(2, 12)} {name}; step {soak.iterations() + 20} KILL", 2, -9)

    return cause


def _while_saving(soak: Soak) -> None:
    run = soak.start(soak.folder)
    end = time.monotonic() + TIMEOUT_S
    while run.popen.poll() is None and time.monotonic() < end and not list(soak.folder.glob(".*.saving")):
        time.sleep(0.001)
    if run.popen.poll() is None:
        run.send(signal.SIGKILL)
    run.status(TIMEOUT_S)


def _any_moment(soak: Soak) -> None:
    run = soak.start(soak.folder)
    time.sleep(soak.drawn.uniform(0.2, 6.0))
    if run.popen.poll() is None:
        run.send(signal.SIGKILL)
    run.status(TIMEOUT_S)


def _stopped(soak: Soak) -> None:
    run = soak.start(soak.folder, f"step {soak.step() + 3} KILL")
    time.sleep(soak.drawn.uniform(0.5, 3.0))
    if run.popen.poll() is None:
        run.send(signal.SIGSTOP)
        time.sleep(0.5)
        run.send(signal.SIGCONT)
    run.status(TIMEOUT_S)


def _damage(change: Callable[[bytes, random.Random], bytes]) -> Fault:
    def cause(soak: Soak) -> None:
        soak.ends(f"step {soak.step() + EVERY} KILL", -9)
        if (newest := soak.newest()) is not None:
            newest.write_bytes(change(newest.read_bytes(), soak.drawn))

    return cause


def _flipped(data: bytes, drawn: random.Random) -> bytes:
    place = drawn.randrange(len(data) // 10, len(data) * 9 // 10)
    return data[:place] + bytes([data[place] ^ 1 << drawn.randrange(8)]) + data[place + 1 :]


def _deleted(soak: Soak) -> None:
    soak.ends(f"step {soak.step() + EVERY} KILL", -9)
    if (newest := soak.newest()) is not None:
        newest.unlink()


def _without(name: str) -> Fault:
    def cause(soak: Soak) -> None:
        soak.ends(f"step {soak.step()} KILL", -9)
        (soak.folder / name).unlink(missing_ok=True)
        if name == "latest.pth":
            (soak.folder / name).symlink_to("iter_999999.pth")

    return cause


def _stale_file(soak: Soak) -> None:
    soak.ends(f"step {soak.step()} KILL", -9)
    (soak.folder / ".iter_3.pth.0123456789abcdef.fedcba9876543210.saving").write_bytes(b"half")


def _full_disk(soak: Soak) -> None:
    soak.ends(f"step {soak.step()} FILL", 2)
    (soak.folder.parent / "filler").unlink(missing_ok=True)


KINDS: dict[str, Fault] = {
    "killed at a step": _signal("KILL", -9),
    "killed at any moment": _any_moment,
    "killed while a temporary file is there": _while_saving,
    "killed in a validation": lambda soak: soak.ends(f"validation {soak.drawn.randint(1, 2)} KILL", -9),
    "killed in fsync": _call("fsync"),
    "killed in rename": _call("replace"),
    "killed in symlink": _call("symlink"),
    "killed in unlink": _call("remove"),
    "SIGTERM": _signal("TERM", -15, 143),
    "SIGINT": _signal("INT", -2, 130),
    "SIGSTOP and SIGCONT": _stopped,
    "EIO": _refused("EIO"),
    "ENOSPC": _refused("ENOSPC"),
    "newest cut to a half": _damage(lambda data, drawn: data[: len(data) // 2]),
    "one bit of the newest flipped": _damage(_flipped),
    "newest deleted": _deleted,
    "dangling latest.pth": _without("latest.pth"),
    "last_checkpoint deleted": _without("last_checkpoint"),
    "stale temporary file": _stale_file,
    "disk full, then room": _full_disk,
}
DAMAGES = ("newest cut to a half", "one bit of the newest flipped", "newest deleted")  # cost one checkpoint more


def one_round(soak: Soak, kind: str, before: int) -> int:
    """Cause one fault. Returns the finished steps of the newest checkpoint that is readable then.

    Args:
        before: those of the round before.
    """
    KINDS[kind](soak)
    soak.kinds[kind] += 1
    (soak.folder.parent / "filler").unlink(missing_ok=True)
    try:
        now = soak.iterations()
    except UserError as error:
        soak.unreadable += 1
        soak.unexpected.append(f"{kind}: {error}")
        return 0
    if now < before and kind not in DAMAGES:
        soak.lost = max(soak.lost, before - now)
    if before and not now:
        soak.unreadable += 1
    return now


def finish(soak: Soak, whole: Path) -> None:
    """Resume to the end, and compare."""
    run = soak.start(soak.folder)
    if run.status(TIMEOUT_S) != 0:
        soak.unexpected.append(f"undisturbed resume: {run.text[-400:]}")
    name = f"iter_{EPOCHS * LENGTH}.pth"
    try:
        found = differs(soak.folder / name, whole / name)
    except UserError as error:
        found = str(error)
    soak.compared += 1
    soak.different += [found] if found else []


def run(rounds: int, seed: int, root: Path, disk: Path) -> dict:
    """The result of a soak."""
    server = CommandServer(environment())
    soak = Soak(server, root, disk, random.Random(seed))
    make_shapes(soak.data, train=8, val=2, size=(96, 80), seed=0)
    whole = root / "whole"
    undisturbed = soak.start(whole)
    if undisturbed.status(600) != 0:
        raise SystemExit(undisturbed.text)
    begin, reached, order = time.monotonic(), 0, []
    for number in range(rounds):
        order = order or soak.drawn.sample(sorted(KINDS), len(KINDS))
        kind = order.pop()
        reached = one_round(soak, kind, reached)
        print(f"{number + 1}/{rounds} {kind}: iteration {reached}", file=sys.stderr, flush=True)
        if reached >= EPOCHS * LENGTH - 2 * EVERY:
            finish(soak, whole)
            soak.number, reached = soak.number + 1, 0
    finish(soak, whole)
    seconds = time.monotonic() - begin
    server.close()
    return {
        "rounds": rounds,
        "seed": seed,
        "kinds": len(soak.kinds),
        "faults": dict(sorted(soak.kinds.items())),
        "unreadable_states": soak.unreadable,
        "most_steps_lost_beyond_the_last_checkpoint": soak.lost,
        "trainings_compared": soak.compared,
        "trainings_that_differ": soak.different,
        "unexpected": soak.unexpected,
        "seconds_per_round": round(seconds / max(rounds, 1), 1),
        "device": current().title(),
    }


def main() -> int:
    """Soak; 1 if anything was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the result")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        root, disk = Path(scratch), Path(scratch) / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "none", str(disk)]
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
        if not mounted:
            print("no tmpfs can be mounted here: without a full disk", file=sys.stderr)
            del KINDS["disk full, then room"]
        try:
            result = run(args.rounds, args.seed, root, disk)
        finally:
            if mounted:
                subprocess.run(["umount", "-l", str(disk)], check=False)
    text = json.dumps(result, indent=1)
    print(text)
    if args.out is not None:
        (args.out / f"{date.today()}-soak-{os.uname().machine}.json").write_text(text + "\n", encoding="utf-8")
    lost = result["most_steps_lost_beyond_the_last_checkpoint"]
    return int(bool(result["unreadable_states"] or lost or result["trainings_that_differ"] or result["unexpected"]))


if __name__ == "__main__":
    sys.exit(main())
