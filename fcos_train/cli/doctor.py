"""``fcos-train doctor``: look at the installation, name each problem with the command that repairs it.

With ``--nnodes`` it looks at the machines of a training instead (:mod:`fcos_train.launch.machines`).

Nothing is imported at the top that may be broken: this verb has to run when torch, mmcv or OpenCV do not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from fcos_train import progress
from fcos_train.config.endurance import deadline_fault, seconds
from fcos_train.config.fields import Option, Options
from fcos_train.doctor.checks import Check, run_checks
from fcos_train.doctor.opencv import fix_opencv
from mmcv_overrides.errors import UserError

if TYPE_CHECKING:
    from fcos_train.config.options import TrainOptions

MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}
STYLES = {"ok": "green", "note": "yellow", "PROBLEM": "bold red"}


@dataclass(frozen=True)
class DoctorOptions(Options):
    """Whether to repair, how to print, and the machines of a training."""

    fix: Annotated[
        bool, Option("repair OpenCV: of two builds installed over each other, keep the one that needs no libGL")
    ] = False
    json: Annotated[bool, Option("print one JSON object")] = False
    nnodes: Annotated[
        int | None,
        Option(
            "check the N machines of a training instead: start it on each of them, as the training",
            metavar="N",
            default="the installation is checked",
            least=2,
        ),
    ] = None
    node_rank: Annotated[int, Option("number of this machine", metavar="R", least=0)] = 0
    master_addr: Annotated[
        str | None, Option("address of node 0 that all machines reach", metavar="ADDR", default="none")
    ] = None
    master_port: Annotated[int, Option("port of node 0", metavar="PORT", least=1, most=65535)] = 23333
    local_addr: Annotated[
        str | None,
        Option("address of this machine", metavar="ADDR", default="the one from which the route to the master leaves"),
    ] = None
    nproc: Annotated[int, Option("ranks of each machine", metavar="N", least=1)] = 1
    rendezvous_timeout: Annotated[
        str,
        Option("longest time that the machines wait for each other", metavar="S", check=deadline_fault),
    ] = "10m"
    training: Annotated[
        tuple[str, ...],
        Option(
            "after --: config and flags of the training, as fcos-train train takes them; they are compared, and the "
            "data set too",
            positional=True,
        ),
    ] = ()

    def conflicts(self) -> list[str]:
        """Flags that belong together."""
        given = [f"--{name.replace('_', '-')}" for name in ("master_addr", "local_addr") if getattr(self, name)]
        if self.nnodes is None:
            given += ["the flags of a training"] * bool(self.training)
            return [f"{', '.join(given)}: give --nnodes too"] if given else []
        faults = []
        if self.master_addr is None:
            faults.append("--nnodes needs --master-addr: an address of node 0 that all machines reach")
        if self.node_rank >= self.nnodes:
            faults.append(f"--node-rank {self.node_rank}: the ranks of {self.nnodes} nodes are 0 to {self.nnodes - 1}")
        return faults


def run(options: DoctorOptions) -> int:
    """Check the installation, or with --nnodes the machines of a training.

    Exit status 0: healthy; 1: problems, each with the command that repairs it; 2: the machines cannot train together.
    Every machine gets the same answer, and none waits longer than --rendezvous-timeout:

      fcos-train doctor --nnodes 2 --node-rank 0 --master-addr 10.0.0.1 --nproc 8 -- CONFIG --data-path DIR --seed 0
    """
    if options.nnodes is not None:
        return _check_machines(options, options.nnodes, options.master_addr or "")
    # With --json only the object goes to stdout.
    log = _to_stderr if options.json else print
    fixed = fix_opencv(log) if options.fix else True
    found = run_checks()
    healthy = fixed and all(one.status != "problem" for one in found)
    if options.json:
        print(json.dumps({"healthy": healthy, "checks": [asdict(one) for one in found]}, indent=2))
    else:
        _print(found, healthy)
    return 0 if healthy else 1


def _check_machines(options: DoctorOptions, nodes: int, master: str) -> int:
    from fcos_train.launch.exchange import Place
    from fcos_train.launch.machines import check_machines, report
    from mmcv_overrides.network import route_address

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    address = options.local_addr or route_address(master) or "of unknown address"
    timeout = seconds(options.rendezvous_timeout)
    assert timeout is not None  # checked by the options
    place = Place(nodes, options.node_rank, address, master, options.master_port, timeout)
    training, faults = _training(options.training)
    verdict = check_machines(place, options.nproc, training, faults, say)
    if options.json:
        print(json.dumps({"healthy": not verdict.faults, **asdict(verdict)}, indent=2))
    else:
        report(verdict, place, bool(options.training), say)
    return 2 if verdict.faults else 0


def _training(words: Sequence[str]) -> tuple[TrainOptions | None, list[str]]:
    """The options of the training, or what is wrong with its flags, which the other machines are told too."""
    from fcos_train.cli import train
    from fcos_train.cli.generate import command

    if not words:
        return None, []
    alone = []
    for at, word in enumerate(words):  # the ranks are not started yet, so no launcher has started this process
        if not (word.startswith("--launcher=") or "--launcher" in (word, words[at - 1] if at else "")):
            alone.append(word)
    try:
        return command(train.run, "fcos-train train").parse(alone), []
    except UserError as error:
        return None, [str(error)]


def _rows(one: Check) -> list[tuple[str, str, str]]:
    """Mark, name and detail of a check; and what repairs it."""
    return [(MARKS[one.status], one.name, one.detail), *([("", "", f"fix: {one.fix}")] if one.fix else [])]


def _print_table(rows: list[tuple[str, str, str]]) -> bool:
    """Print the rows for a terminal, long details folded in their column; False where rich does not import."""
    try:
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table.grid(padding=(0, 2))
    for mark, name, text in rows:
        table.add_row(Text(mark, STYLES.get(mark, "")), name, Text(text))
    progress.console(sys.stdout).print(table)
    return True


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _print(found: list[Check], healthy: bool) -> None:
    rows = [row for one in found for row in _rows(one)]
    if not (progress.shows(sys.stdout) and _print_table(rows)):
        width = max(len(one.name) for one in found)
        for mark, name, text in rows:
            print(f"{mark:8}{name:{width}}  {text}")
    problems = sum(one.status == "problem" for one in found)
    print("healthy" if healthy else f"{problems} problem{'s' * (problems != 1)}")
