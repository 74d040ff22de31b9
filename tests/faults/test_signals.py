"""Signals to a training: what it saves, how it ends, what it leaves, and that a resume goes on with the same losses."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.commands import EXACT, ROOT, exact, ok, run, run_ranks
from tests.support.faults import Process

TERM, INT, USR1, HUP, KILL = (getattr(signal, f"SIG{name}") for name in ("TERM", "INT", "USR1", "HUP", "KILL"))
COMMON = ["--opt-level", "O0", "--seed", "0", "--no-report", "--no-check", "--no-validate", "--device", "cpu"]
COMMON += ["--pretrained", "none"]
BATCH = 4  # images of a step, of all ranks
STEPS = 24  # of the undisturbed run; an epoch has 6
DEVICE_ID = 90 + os.getpid() % 9000  # names the folder of a launcher
OUTPUT = ROOT / "test" / "output" / str(DEVICE_ID)
EPOCH = 6  # steps: 24 images
AT = 3  # step after which the signal is sent: nothing is on the disk yet


@dataclass(frozen=True)
class Row:
    """A signal to one of the processes of a training.

    Attributes:
        target: what gets it; ``group``: all processes of a terminal. launch: how the training was started.
        status: of what was started. workers: of the loader. quick: runs with the suite.
    """

    target: str
    number: signal.Signals
    launch: str
    status: int
    workers: int = 0
    quick: bool = False

    @property
    def ranks(self) -> int:
        return 1 if self.launch in ("one rank", "test/train_full_1p.sh") else 2

    def mark(self) -> object:
        name = f"{self.number.name} to {self.target} of {self.launch}"
        name += f" with {self.workers} workers" if self.workers else ""
        return pytest.param(self, id=name, marks=() if self.quick else pytest.mark.slow_fault)


ONE, TORCHRUN, DEVICES, SCRIPT = "one rank", "torchrun", "--devices 2", "test/train_performance_8p.sh"
FULL, PLAIN = "test/train_full_1p.sh", "scripts/train_8p.sh"
TABLE = [
    Row("the process", TERM, ONE, 143),
    Row("the process", INT, ONE, 130),
    Row("the process", USR1, ONE, 0),
    Row("the process", HUP, ONE, 129),
    Row("the group", TERM, ONE, 143, workers=2),
    Row("the group", INT, ONE, 130, workers=2, quick=True),
    Row("torchrun", TERM, TORCHRUN, 1),  # of torchrun itself, with its own traceback
    Row("torchrun", INT, TORCHRUN, 1),
    Row("torchrun", USR1, TORCHRUN, -10),  # torchrun dies; its ranks save
    Row("torchrun", HUP, TORCHRUN, 1),
    Row("torchrun", KILL, TORCHRUN, -9),
    Row("rank 1", USR1, TORCHRUN, 0),
    Row("both ranks", TERM, TORCHRUN, 1),
    Row("both ranks", INT, TORCHRUN, 1),
    Row("both ranks", USR1, TORCHRUN, 0),
    Row("rank 1", TERM, DEVICES, 143, workers=1),
    Row("the command", TERM, DEVICES, 143),
    Row("the group", INT, DEVICES, 130),
    Row("the command", USR1, DEVICES, 0),
    Row("the command", KILL, DEVICES, -9),
    Row("the script", TERM, SCRIPT, 143),
    Row("the script", INT, SCRIPT, 130),
    Row("the script", USR1, SCRIPT, 0, quick=True),
    Row("the script", HUP, SCRIPT, 129),
    Row("the script", KILL, SCRIPT, -9),
    Row("the script", TERM, FULL, 143),
    Row("the script", INT, FULL, 130),
    Row("the script", TERM, PLAIN, 143),
    Row("the script", INT, PLAIN, 130),
]


@pytest.fixture(scope="module")
def undisturbed(shapes, tmp_path_factory):
    """(rank, step) -> loss with all its bits and images, of one rank and of two; made when a row asks for it."""
    known: dict[int, dict] = {}

    def of(ranks: int) -> dict:
        if ranks not in known:
            known[ranks] = trained(ranks, shapes, tmp_path_factory.mktemp("straight"), STEPS)
        return known[ranks]

    return of


def trained(ranks: int, data: Path, work_dir: Path, steps: int, *more: str) -> dict:
    words = ["train", EXACT, *options(ranks, data, work_dir), "--max-iters", steps, *more]
    return exact(ok(run(*words) if ranks == 1 else run_ranks(ranks, *words)))


def options(ranks: int, data: Path, work_dir: Path, workers: int = 0) -> list[str]:
    own = ["--data-path", str(data), "--work-dir", str(work_dir), "--batch-size", str(BATCH // ranks)]
    return [*COMMON, *own, "--workers", str(workers)]


def started(row: Row, data: Path, folder: Path) -> Process:
    """The training of a row, of 36 epochs, in which each step is printed."""
    work_dir = folder / "run"
    train = ["-m", "fcos_train", "train", EXACT, *options(row.ranks, data, work_dir, row.workers)]
    command: list[str | Path] = [sys.executable, *train]
    if row.launch == DEVICES:
        command += ["--devices", "2"]
    elif row.launch == TORCHRUN:
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command = [sys.executable, *words, *train, "--launcher", "pytorch"]
    elif row.launch.endswith(".sh"):
        flags = [f"--data_path={data}", f"--config={EXACT}", f"--work_dir={work_dir}", f"--nproc={row.ranks}"]
        flags += [f"--batch_size={BATCH // row.ranks}", "--device=cpu", "--opt_level=O0", "--pretrained=none"]
        flags += ["--max_epochs=36", f"--device_id={DEVICE_ID}"]
        more = ["--workers", "0", "--no-report", "--no-check", "--no-validate"]
        if row.launch == SCRIPT:
            more.remove("--no-validate")  # its own
        command = ["bash", ROOT / row.launch, *flags, "--", *more]
    killed = row.launch == SCRIPT and row.number == KILL  # nobody reads its output then, other than the log file
    training = Process(command, folder / "out.txt", PYTHON=sys.executable, FCOS_FOLLOW="0" if killed else "1")
    if killed:
        training.wait_for("training log: ")
        training.log = OUTPUT / "performance" / f"train_{DEVICE_ID}.log"
        while not training.log.exists():
            time.sleep(0.05)
    return training


def processes(training: Process) -> dict[int, str]:
    """The processes that it has started, with their command lines; ranks are in sessions of their own."""
    from mmcv_overrides.signals import descendants

    found = {}
    for pid in [training.popen.pid, *descendants(training.popen.pid)]:
        found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return found


def targets(row: Row, training: Process) -> list[int]:
    if row.target not in ("rank 1", "both ranks"):
        return [training.popen.pid]
    ranks = {}
    for pid in processes(training):
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        rank = next((int(one[5:]) for one in environ if one.startswith(b"RANK=")), None)
        if rank is not None and b"multiprocessing" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            ranks.setdefault(rank, pid)  # its workers come after it
    return [ranks[1]] if row.target == "rank 1" else list(ranks.values())


def living(pids: Iterator[int] | dict[int, str]) -> list[int]:
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        found += [pid] if state not in "ZX" else []
    return found


@pytest.mark.parametrize("row", [row.mark() for row in TABLE])
def test_a_signal_saves_and_a_resume_goes_on(row: Row, shapes, undisturbed, tmp_path) -> None:
    training = started(row, shapes, tmp_path)
    try:
        training.wait_for(rf"(?m)^exact 0 {AT} ")
        family = processes(training)
        begin = time.monotonic()
        for pid in targets(row, training):
            (os.killpg if row.target == "the group" else os.kill)(pid, row.number)
        status = training.status(timeout=30)
        while living(family) and time.monotonic() - begin < 30:
            time.sleep(0.05)
        assert living(family) == [], training.text[-3000:]
    finally:
        training.end()
        text = training.text
        shutil.rmtree(OUTPUT, ignore_errors=True)
    assert status == row.status, text[-3000:]
    if row.launch != TORCHRUN:  # it prints its own
        assert "Traceback" not in text, text[-3000:]
    else:
        assert text.count("Traceback") <= 1, text[-3000:]
    before = {key: value for key, value in losses_of(text).items()}
    done = max(step for _, step in before)
    name = "SIGTERM" if row.number == KILL or (row.target, row.number) == ("torchrun", USR1) else row.number.name
    assert f"stopped by {name} after iteration {done} of " in text
    saved = f"iter_{done}.pth" if done % EPOCH else f"epoch_{done // EPOCH}.pth"  # that of the epoch has the state too
    assert (tmp_path / "run" / "latest.pth").resolve().name == saved
    straight = undisturbed(row.ranks)
    assert before == {key: value for key, value in straight.items() if key[1] <= done}
    after = trained(row.ranks, shapes, tmp_path / "run", done + 2, "--resume")
    assert sorted(after) == sorted((rank, done + step) for rank in range(row.ranks) for step in (1, 2))
    assert after == {key: straight[key] for key in after}


def losses_of(text: str) -> dict:
    from types import SimpleNamespace

    return exact(SimpleNamespace(stdout=text))


@pytest.mark.slow_fault
def test_a_validation_of_two_ranks_ends_at_its_next_batch(shapes, tmp_path) -> None:
    """Batches of 6 s; the rank that gets no signal learns of it from the other one."""
    config = tmp_path / "slow.py"
    config.write_text(
        f"_base_ = {str(EXACT)!r}\n"
        "custom_hooks = [dict(type='PrintExactLosses'), dict(type='SlowValidation', seconds=6)]\n"
        "train_cfg = dict(val_interval=1)\n"
        "default_hooks = dict(checkpoint=dict(interval=9))\n"
    )
    words = [word for word in options(2, shapes, tmp_path / "run") if word != "--no-validate"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "fcos_train", "train"]
    training = Process(
        [
            sys.executable,
            *launch,
            config,
            *words,
            "--launcher",
            "pytorch",
            "--cfg-options",
            "val_dataloader.batch_size=1",
        ],
        tmp_path / "out.txt",
    )
    try:
        training.wait_for(r"(?m)^validating 0 0")
        family = processes(training)
        begin = time.monotonic()
        os.kill(targets(Row("rank 1", USR1, TORCHRUN, 0), training)[0], USR1)
        assert training.status(timeout=30) == 0, training.text[-3000:]
        assert living(family) == [] and time.monotonic() - begin < 30
    finally:
        training.end()
    assert "Traceback" not in training.text and "validating 0 2" not in training.text
    assert "stopped by SIGUSR1 after iteration 6 of " in training.text and "bbox_mAP:" not in training.text
    assert (tmp_path / "run" / "iter_6.pth").is_file()
