"""Who is named when ranks cannot go on, and that no question to a store that was stopped waits without end."""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
from torch.distributed import HashStore, PrefixStore, TCPStore

from mmcv_overrides import rendezvous, stalls
from mmcv_overrides.deadline import answer_within
from mmcv_overrides.errors import Stalled, UserError
from mmcv_overrides.stalls import Place, Watch, describe, of_group

SERVER = """
import sys, time
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
time.sleep(300)
"""


@pytest.fixture(scope="module")
def server():
    """A store in a process of its own, and its port."""
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    yield process, int(process.stdout.readline())
    process.kill()
    process.wait()


SAVING = Place(6, 3, "saving epoch_1.pth")


@pytest.mark.parametrize(
    ("places", "silent", "failed", "said"),
    [
        (
            [Place(7, 2), Place(7, 0)],
            set(),
            {},
            "while waiting for rank 1 (step 7 before the forward pass); the others are at step 7 in the backward pass",
        ),
        (
            [Place(7, 1), Place(7, 2), Place(6, 2)],
            {0},
            {},
            "while waiting for rank 0 (step 7 in the forward pass; it does not answer); the others are at step 7 in "
            "the backward pass",
        ),
        (
            [SAVING, Place(6, 3, "saving epoch_1.pth", True)],
            set(),
            {},
            "while waiting for rank 0 (saving epoch_1.pth, after step 6); the others are at saving epoch_1.pth, after "
            "step 6",
        ),
        (
            [Place(7, 0), Place(6, 3, "a validation")],
            {1},
            {},
            "while waiting for rank 1 (a validation, after step 6; it does not answer); the others are at step 7 "
            "before the forward pass",
        ),
        ([Place(7, 2), Place(7, 2)], set(), {}, "after 15 s: all ranks are at step 7 in the backward pass"),
        (
            [Place(7, 2), Place(7, 1)],
            {1},
            {1: "ValueError: no boxes"},
            ": rank 1 failed at step 7 in the forward pass (ValueError: no boxes)",
        ),
        (
            [Place(), Place(0, 3, "preparing the data")],
            {1},
            {},
            "while waiting for rank 1 (preparing the data; it does",
        ),
    ],
)
def test_who_is_named(places, silent, failed, said) -> None:
    text = describe(places, silent, failed, 15)
    assert text.startswith("training stopped") and said in text


def test_a_rank_that_answers_gives_its_stack_and_a_stopped_one_is_named(capsys) -> None:
    store = HashStore()
    mine, other, stopped = (Watch(store, rank, 3, 1) for rank in range(3))
    mine.note(Place(4, 2))
    stopped.note(Place(4, 0))
    other.start()
    other.note(Place(4, 2))
    logged = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stalls, "print_log", lambda text, *_: logged.append(text))
        said = mine.report(RuntimeError("Timed out"))
    other.stop()
    assert "waiting for rank 2 (step 4 before the forward pass; it does not answer)" in said
    assert [text.splitlines()[0] for text in logged] == ["stack of rank 0:", "stack of rank 1:"]
    assert "test_a_rank_that_answers_gives_its_stack" in logged[1]  # both watches look at the thread of this test


@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        ("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation", True),
        ("Connection closed by peer [127.0.0.1]:1", True),
        ("NCCL error: remote process exited", True),
        ("The size of tensor a (3) must match the size of tensor b (4)", False),
    ],
)
def test_errors_of_what_connects_the_ranks(text, theirs) -> None:
    assert of_group(RuntimeError(text)) == theirs


def test_errors_are_turned_into_the_cause_and_those_of_this_rank_are_left_for_the_others() -> None:
    store = HashStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stalls, "_watch", Watch(store, 0, 2, 1))
        with pytest.raises(ZeroDivisionError), stalls.stalls_named():
            raise ZeroDivisionError("of the model")
        assert store.get("mmcv_overrides/failed/0") == b"ZeroDivisionError: of the model"
        patch.setattr(stalls._watch, "report", lambda error: "training stopped")
        with pytest.raises(Stalled, match="^training stopped$"), stalls.stalls_named():
            raise RuntimeError("gloo: Connection closed by peer")
        with stalls.place("a validation"), stalls.waiting_for_master():
            assert stalls._watch.place == Place(0, 3, "a validation", True)
        assert stalls._watch.place == Place()


def test_questions_to_a_stopped_store_end_in_time(server) -> None:
    """The process that serves it gets SIGSTOP: its socket takes what is sent and answers nothing."""
    process, port = server
    store = TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
    watch = Watch(store, 1, 2, 2, "10.0.0.1")
    watch.note(Place(3, 1))
    os.kill(process.pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        said = watch.report(RuntimeError("Timed out"))
        assert time.monotonic() - start < 4 * watch.beat + 6
        assert said.startswith("training stopped: the first machine (10.0.0.1), which has the store")
        assert said.endswith("This rank was at step 3 in the forward pass")
        ended = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stalls, "GRACE_S", 0.5)
            patch.setattr(stalls.os, "_exit", lambda status: (ended.append(status), watch.stop()))
            watch.timeout = 0.5
            watch._thread.start()
            watch._thread.join(20)
        assert ended == [1] and not watch._thread.is_alive()
    finally:
        os.kill(process.pid, signal.SIGCONT)


def test_a_deadline() -> None:
    assert answer_within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        answer_within(5, lambda: 1 // 0)
    with pytest.raises(TimeoutError, match=r"no answer within 0.1 s"):
        answer_within(0.1, lambda: time.sleep(2))


def meet_all(store, world: int, seconds: float = 20) -> list:
    """What ``agree`` returns or raises for each rank, all of them in threads."""
    outcome: list = [None] * world

    def join(rank: int) -> None:
        try:
            outcome[rank] = rendezvous.agree(store, rank, world, time.monotonic() + seconds)
        except UserError as error:
            outcome[rank] = error

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return outcome


def test_every_start_of_a_job_has_a_part_of_the_store_of_its_own() -> None:
    """What the ranks before a restart have left, also questions that nobody has answered, does not disturb."""
    store = HashStore()
    first = meet_all(store, 3)
    first[0].set("address", "of the first start")
    assert first[2].get("address") == b"of the first start"
    store.set("mmcv_overrides/join/2", "a rank that was killed while it waited")
    second = meet_all(store, 3)
    assert all(isinstance(part, PrefixStore) for part in first + second)
    assert not any(part.check(["address"]) for part in second)
    second[1].set("address", "of the second")
    assert second[0].get("address") == b"of the second" and first[1].get("address") == b"of the first start"


def test_ranks_that_do_not_come_are_named() -> None:
    store = HashStore()
    with pytest.raises(UserError, match="^ranks 1, 2, 3 did not come in time"):
        rendezvous.agree(store, 0, 4, time.monotonic() + 0.2)
    with pytest.raises(UserError, match="^rank 0 did not come in time"):
        rendezvous.agree(store, 3, 4, time.monotonic() + 0.2)


def test_a_master_that_never_comes(monkeypatch, server) -> None:
    """Port 1 refuses the connection at once; the rank tries until the timeout."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"the first machine does not answer at 127\.0\.0\.1:1 .*Start node 0"):
        rendezvous.meet(1.0)
    assert time.monotonic() - start < 10


def test_what_a_job_remembers(monkeypatch) -> None:
    assert rendezvous.remembered("work_dir") is None
    rendezvous.remember("work_dir", "w")  # nothing restarts this process
    assert rendezvous.remembered("work_dir") is None
    monkeypatch.setattr(rendezvous, "_job_store", HashStore())
    assert rendezvous.remembered("work_dir") is None
    rendezvous.remember("work_dir", "w")
    assert rendezvous.remembered("work_dir") == "w"
