"""``--batch-size auto``: what is available, what fits, and the training that follows."""

import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from fcos_train.cli import train as verb
from fcos_train.config.options import TrainOptions
from fcos_train.engine.run import train
from fcos_train.launch import available, batch_size
from fcos_train.launch.batch_size import Measured, Measurements, largest_on_cpu
from fcos_train.launch.measure import image_shape, measure
from mmcv_overrides.errors import UserError

GIB = 2**30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 9437184 kB\nMemAvailable:    8388608 kB\n"}
V2 = {"proc/self/cgroup": "0::/job/task\n"}
V1 = {"proc/self/cgroup": "9:cpu,memory:/docker/abc\n1:name=systemd:/x\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MACHINE, 8 * GIB),
        ({**MACHINE, **V2, "sys/fs/cgroup/job/memory.max": "max", "sys/fs/cgroup/job/memory.current": "5"}, 8 * GIB),
        (  # the parent's limit holds; its cache can be given back
            {
                **MACHINE,
                **V2,
                "sys/fs/cgroup/job/memory.max": f"{4 * GIB}\n",
                "sys/fs/cgroup/job/memory.current": f"{3 * GIB}\n",
                "sys/fs/cgroup/job/memory.stat": f"anon 5\ninactive_file {GIB}\n",
            },
            2 * GIB,
        ),
        (  # a container sees its own group as the root
            {
                **MACHINE,
                **V1,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2 * GIB),
                "sys/fs/cgroup/memory/memory.usage_in_bytes": str(GIB // 2),
            },
            3 * GIB // 2,
        ),
        ({}, available.UNLIMITED),
    ],
)
def test_available_memory(files, expected, tmp_path) -> None:
    assert available.cpu_memory(write(tmp_path, files)) == expected


def test_the_limit_of_the_user(monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert available.virtual_memory_limit() is None
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (GIB, 2 * GIB))
    assert available.virtual_memory_limit() == GIB


def measured(*rows: tuple[int, float], workers: int = 0) -> Measurements:
    found = tuple(Measured(size, int(gib * GIB), int(gib * GIB) + 2 * GIB) for size, gib in rows)
    return Measurements("cpu", (512, 1024), workers, 0, found)


@pytest.mark.parametrize(
    ("found", "gib", "limit", "expected"),
    [
        # 1 GiB + 0.5 GiB an image, 80 % of what is available
        (measured((1, 1.5), (2, 2.0), (4, 3.0)), 10, None, 12),  # 12: 7 GiB <= 8; 16: 9 GiB
        (measured((1, 1.5), (2, 2.0), (4, 3.0)), 2.6, None, 2),  # 2: 2.0 <= 2.08
        (measured((1, 1.5), (2, 2.0), (4, 3.0)), 1.8, None, None),
        (measured((1, 1.5), (2, 2.0), (4, 3.0)), 1000, None, 64),
        (measured((1, 1.5), (2, 2.0), (4, 3.0)), 1000, 10 * GIB, 8),  # 8: 5 + 2 GiB of address space <= 8
        # each loader process holds two batches: 2 x 1.5 MiB an image, 256 of them 0.75 GiB
        (measured((1, 1.5), (2, 2.0), (4, 3.0), workers=256), 10, None, 4),  # 4: 6 GiB <= 8; 6: 8.5
    ],
)
def test_the_largest_that_fits(found, gib, limit, expected) -> None:
    assert largest_on_cpu(found, int(gib * GIB), limit) == expected


def test_the_training_gets_the_number(monkeypatch, capsys) -> None:
    options = TrainOptions("c.py", batch_size="auto")
    monkeypatch.setattr(batch_size, "_measure", lambda _: measured((1, 1.5), (2, 2.0), (4, 3.0)))
    monkeypatch.setattr(batch_size, "cpu_memory", lambda: 20 * GIB)
    monkeypatch.setattr(batch_size, "virtual_memory_limit", lambda: None)
    seen = []
    monkeypatch.setattr(
        "fcos_train.engine.run.train", lambda given: seen.append(given) or SimpleNamespace(work_dir="w")
    )
    assert verb.run(options) == 0 and seen[0].batch_size == 24
    monkeypatch.setattr("fcos_train.launch.ranks.run_ranks", lambda *given: seen.append(given[1]) or 0)
    assert verb.run(TrainOptions("c.py", batch_size="auto", devices=2)) == 0 and seen[1].batch_size == 12
    assert capsys.readouterr().out.splitlines() == [
        "batch size auto: 24 per device; a step with 4 images of 1024 x 512 px took 3.0 GiB, 20.0 GiB are available",
        "batch size auto: 12 per device; a step with 4 images of 1024 x 512 px took 3.0 GiB, 10.0 GiB are available",
    ]
    monkeypatch.setattr(batch_size, "cpu_memory", lambda: GIB)
    with pytest.raises(UserError, match=r"one image of 1024 x 512 px does not fit into the 1.0 GiB of cpu memory"):
        verb.run(options)


def test_on_an_accelerator_what_has_fitted_counts(monkeypatch) -> None:
    rows = tuple(Measured(size, size * GIB) for size in (1, 2, 4, 6))
    monkeypatch.setattr(batch_size, "_measure", lambda _: Measurements("cuda", (800, 1344), 2, 8 * GIB, rows))
    size, line = batch_size.fitting_batch_size(TrainOptions("c.py", batch_size="auto"), 8)
    assert size == 6 and line.endswith("a step with 6 images of 1344 x 800 px took 6.0 GiB, 8.0 GiB are available")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(batch_size="most"), "--batch-size most: must be a whole number, or auto"),
        (dict(batch_size=0), "--batch-size 0: must be at least 1"),
        (dict(batch_size="auto", resume="auto"), "--batch-size auto contradicts --resume"),
    ],
)
def test_what_is_refused(flags, message, monkeypatch) -> None:
    with pytest.raises(UserError, match=message):
        TrainOptions("c.py", **flags)
    with pytest.raises(UserError, match="batch_size='auto': fcos_train.launch.batch_size.fitting_batch_size"):
        train(TrainOptions("c.py", batch_size="auto"))
    for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(key, "2")
    with pytest.raises(UserError, match="--batch-size auto measures on one device"):
        TrainOptions("c.py", batch_size="auto")


@pytest.mark.parametrize(("images", "ranks", "expected"), [(1000, 1, 24), (200, 1, 16), (200, 2, 8), (5, 1, 1)])
def test_an_epoch_keeps_ten_steps(images, ranks, expected, monkeypatch) -> None:
    found = Measurements("cpu", (512, 1024), 0, 0, measured((1, 1.5), (2, 2.0), (4, 3.0)).rows, images)
    monkeypatch.setattr(batch_size, "_measure", lambda _: found)
    monkeypatch.setattr(batch_size, "cpu_memory", lambda: 20 * ranks * GIB)
    size, line = batch_size.fitting_batch_size(TrainOptions("c.py", batch_size="auto"), ranks)
    assert size == expected and line.endswith(f"; an epoch of {images} images keeps 10 steps where it can")


def test_the_measuring_process_runs_the_step_of_the_config(shapes, tmp_path) -> None:
    options = TrainOptions(
        "fcos/fcos_tiny_shapes", str(shapes), device="cpu", batch_size="auto", opt_level="O0", workers=3
    )
    assert image_shape(options) == (96, 96)
    found = measure(options, tmp_path)
    assert found.images == 24
    assert (found.kind, found.shape, found.workers, found.free) == ("cpu", (96, 96), 3, 0)
    assert [row.batch for row in found.rows] == [1, 2, 4]
    peaks = [row.resident for row in found.rows]
    assert peaks == sorted(peaks) and 2**26 < peaks[0] < 2**36
