"""How the ranks of a process group meet, also again after torchrun has restarted them.

torchrun's agent keeps one store for a whole job, and torch puts the addresses of a process group into it without a
prefix: after a restart the ranks would read those of processes that are gone. The number of the restart
(``TORCHELASTIC_RESTART_COUNT``) does not tell the starts apart either, because an agent that only follows another one
does not count. Therefore the ranks agree on a part of the store that no start before has used. The store of the job is
also where a training notes what its next start has to know.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
import uuid

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from mmcv_overrides.deadline import answer_within
from mmcv_overrides.errors import UserError

TIMEOUT_S = 600  # for all ranks to come; the environment variable FCOS_RENDEZVOUS_TIMEOUT overrides it
POLL_S = 0.05
TELL_S = 10  # between two lines that tell who is missing
_JOIN, _NOTE = "mmcv_overrides/join/", "mmcv_overrides/job/"

_job_store: dist.Store | None = None


def meet(timeout: float) -> tuple[dist.Store, int, int]:
    """Wait for the ranks that the environment describes.

    Args:
        timeout: s.

    Returns:
        a store that only the ranks of this start use, the number of this rank, and that of all ranks.

    Raises:
        UserError: the first rank does not answer, or ranks are missing, after ``timeout``.
    """
    global _job_store
    master = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    deadline = time.monotonic() + timeout
    try:
        store, rank, world = next(rendezvous("env://", timeout=datetime.timedelta(seconds=timeout)))
        # A little later than the deadline, so that agree() can say who is missing.
        shared = answer_within(timeout + 2 * POLL_S + 1, lambda: agree(store, rank, world, deadline))
    except (dist.DistError, TimeoutError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if "in use" in reason:
            raise UserError(f"rank 0 cannot listen on {master}: {reason}; give another port") from error
        raise UserError(
            f"the first machine does not answer at {master} ({reason}). Start node 0, and check that its address and "
            f"port can be reached from here; ranks wait {timeout:g} s for each other (--rendezvous-timeout)"
        ) from error
    _job_store = store
    return shared, rank, world


def agree(store: dist.Store, rank: int, world: int, deadline: float) -> dist.Store:
    """The part of the store that belongs to this start of the ranks.

    Rank 0 draws its name. Each other rank asks under a name of its own, so that no answer of an earlier start is taken
    for one to this question, and confirms the answer, so that rank 0 counts no rank of an earlier start.

    Args:
        deadline: by ``time.monotonic()``.

    Raises:
        UserError: ranks are missing at the deadline.
    """
    name, patience = uuid.uuid4().hex, _Patience(deadline)
    if rank == 0:
        _answer_all(store, list(range(1, world)), name, patience)
        return dist.PrefixStore(name, store)
    store.set(f"{_JOIN}{rank}", name)
    answer = f"{_JOIN}answer/{name}"
    while not store.check([answer]):
        patience.wait_for([0])
    name = store.get(answer).decode()
    store.set(f"{_JOIN}{name}/{rank}", "here")
    return dist.PrefixStore(name, store)


def _answer_all(store: dist.Store, missing: list[int], name: str, patience: _Patience) -> None:
    """Answer every question of the missing ranks, until each has confirmed."""
    answered: dict[int, bytes] = {}
    while missing:
        for rank in missing:
            asked = store.get(f"{_JOIN}{rank}") if store.check([f"{_JOIN}{rank}"]) else None
            if asked is not None and answered.get(rank) != asked:
                answered[rank] = asked
                store.set(f"{_JOIN}answer/{asked.decode()}", name)
        missing = [rank for rank in missing if not store.check([f"{_JOIN}{name}/{rank}"])]
        if missing:
            patience.wait_for(missing)


class _Patience:
    """Waits a moment, tells every few seconds who is missing, and gives up at the deadline (``time.monotonic()``)."""

    def __init__(self, deadline: float) -> None:
        self.deadline, self.next_line = deadline, time.monotonic() + TELL_S

    def wait_for(self, ranks: list[int]) -> None:
        """Sleep, unless the deadline has passed.

        Raises:
            UserError: it has.
        """
        now = time.monotonic()
        shown = ", ".join(map(str, ranks[:8])) + (" and more" if len(ranks) > 8 else "")
        who = f"rank{'s' if len(ranks) > 1 else ''} {shown}"
        if now > self.deadline:
            raise UserError(
                f"{who} did not come in time (--rendezvous-timeout, FCOS_RENDEZVOUS_TIMEOUT); the output of those "
                "ranks says why, and every machine needs the same --nnodes and --nproc"
            )
        if now > self.next_line:
            print(f"waiting for {who}, for another {self.deadline - now:.0f} s", file=sys.stderr, flush=True)
            self.next_line = now + TELL_S
        time.sleep(POLL_S)


def remember(key: str, value: str) -> None:
    """Note something for the next start of this job; no effect where nothing restarts it."""
    if _job_store is not None:
        _job_store.set(_NOTE + key, value)


def remembered(key: str) -> str | None:
    """What an earlier start of this job has noted; None if this is its first start."""
    if _job_store is None or not _job_store.check([_NOTE + key]):
        return None
    return _job_store.get(_NOTE + key).decode()


def forget_job() -> None:
    """Let go of the store when the process group has ended."""
    global _job_store
    _job_store = None
