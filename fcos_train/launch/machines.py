"""The check before a training on several machines: each is sound, all are there, and all are to train the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcos_train.config.agreement import CONFIG, REMEDIES, disagreements
from fcos_train.config.options import TrainOptions
from fcos_train.launch.exchange import Place, Said, Say, Verdict, ask_node_0
from fcos_train.launch.exchange_server import serve_nodes
from fcos_train.launch.network import port_is_free
from fcos_train.launch.node_facts import CODE, DEVICE, SOFTWARE, marked, node_facts
from mmcv_overrides.printable import printable

MIB = 1 << 20
LEAST, LITTLE = 100 * MIB, 2048 * MIB  # bytes free for checkpoints: refused below, said below
CLOCKS_S = 5.0
WHAT_TO_DO = {
    **REMEDIES,
    SOFTWARE: "install the same versions on all nodes",
    CODE: "bring all nodes to the same commit, without local changes",
    DEVICE: "train on devices of one kind (--device)",
}


def check_machines(place: Place, nproc: int, options: TrainOptions | None, faults: list[str], say: Say) -> Verdict:
    """Compare this machine with the others of the training. All of them get the same verdict.

    Args:
        nproc: ranks of each machine. options: of the training; None: machines and software alone are compared.
        faults: what is wrong with this machine already. say: prints a line.
    """
    say(f"checking {place.nodes} machines: this is node {place.node} ({place.address}), the master is {place}")
    with marked(place.node, node_facts(place, nproc, options, faults)) as mine:
        for fault in mine["faults"]:
            say(f"{fault}; telling the other nodes")
        if place.node > 0:
            return ask_node_0(place, mine, say)
        if not port_is_free(place.port):
            return Verdict(tuple(mine["faults"]))
        return serve_nodes(place, mine, judged, say)


def judged(known: Mapping[int, Said]) -> Verdict:
    """What is wrong among the machines that have told their facts; node 0, which judges, is one of them."""
    mine, faults, notes = known[0], [], []
    for node, said in known.items():
        who = f"node {node} ({printable(said.get('address'))})"
        parts = [Verdict(tuple(map(printable, _list(said.get("faults"))))), _space(said, who, writes=node == 0)]
        if node > 0:
            parts += [_differences(mine, said, who), _clock(said, who), _disk(mine, said, who)]
        faults += [fault for part in parts for fault in part.faults]
        notes += [note for part in parts for note in part.notes]
    return Verdict(tuple(faults), tuple(dict.fromkeys(notes)))


def _differences(mine: Said, said: Said, who: str) -> Verdict:
    """Sections that both have; a machine that has faults of its own may lack some."""
    ours, theirs = _sections(mine), _sections(said)
    if (CONFIG in ours) != (CONFIG in theirs) and not mine.get("faults") and not said.get("faults"):
        asked = "node 0" if CONFIG in ours else who
        return Verdict((f"{who}: only {asked} was given the flags of a training, after --: give all nodes the same",))
    both = [section for section in ours if section in theirs]
    ours, theirs = {name: ours[name] for name in both}, {name: theirs[name] for name in both}
    return Verdict(tuple(disagreements(ours, theirs, who, "node 0", WHAT_TO_DO)))


def _space(said: Said, who: str, writes: bool) -> Verdict:
    """Free space for checkpoints, which node 0 writes."""
    free = _number(said, "free")
    if "free" not in said or free >= LITTLE:
        return Verdict()
    where = printable(said.get("folder"))
    text = f"{who}: {free / MIB:.0f} MiB are free for {where}: make room, or give another --work-dir"
    return Verdict((text,)) if writes and free < LEAST else Verdict(notes=(text,))


def _clock(said: Said, who: str) -> Verdict:
    """A training does not depend on the clocks of other machines, but its logs are hard to compare."""
    ahead = _number(said, "ahead")
    if abs(ahead) <= CLOCKS_S:
        return Verdict()
    way = "ahead of" if ahead > 0 else "behind"
    text = (
        f"{who}: its clock is {abs(ahead):.0f} s {way} that of node 0, so times in logs differ: synchronise them (NTP)"
    )
    return Verdict(notes=(text,))


def _disk(mine: Said, said: Said, who: str) -> Verdict:
    """Whether a machine has the work dir of node 0, which looks for the file that the other one has made in its own."""
    if "folder" not in mine or "marker" not in said:
        return Verdict()
    if Path(str(said["marker"])).exists():
        return Verdict(notes=(f"work dir {mine['folder']}: node 0 and {who} share it",))
    if mine.get("resume") and _number(mine, "checkpoints") > 0 and _number(said, "checkpoints") == 0:
        where = printable(said.get("folder"))
        return Verdict(
            (f"{who}: {where} has no checkpoint for --resume: share the work dir of node 0, or copy it there",)
        )
    return Verdict(notes=(f"work dir {mine['folder']}: not shared with {who}; checkpoints and logs are on node 0",))


def _sections(said: Said) -> dict[str, dict[str, str]]:
    """The facts, whatever another machine has sent."""
    facts = said.get("facts")
    sections = facts.items() if isinstance(facts, dict) else ()
    return {str(name): {str(k): str(v) for k, v in part.items()} for name, part in sections if isinstance(part, dict)}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(said: Said, key: str) -> float:
    value = said.get(key, 0)
    return float(value) if isinstance(value, (int, float)) else 0.0


def report(verdict: Verdict, place: Place, trained: bool, say: Say) -> None:
    """Print the verdict, one line for each fault and note.

    Args:
        trained: the flags of a training were given, and compared.
    """
    for note in verdict.notes:
        say(f"note: {note}")
    for fault in verdict.faults:
        say(f"error: {fault}")
    if not verdict.faults:
        compared = "software, code, device, config, data set, flags" if trained else "software, code, number of ranks"
        say(f"{place.nodes} machines agree: {compared}")
