"""``--batch-size auto``: the largest batch whose training step fits into the memory of a device.

A process of its own runs the step on generated images of the config's size, with one image, two, four and so on, and
reports the peak memory. On an accelerator it goes on until memory runs out. On a CPU, where that would end other
programs, a straight line through three measurements is compared with what is available.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcos_train.config.options import TrainOptions
from fcos_train.launch.available import cpu_memory, virtual_memory_limit
from mmcv_overrides.errors import UserError

MOST = 64  # images: beyond that a detector's learning rate no longer scales with the batch
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
STEPS = 10  # that an epoch keeps at least: with fewer the weights hardly change
MARGIN = {"cpu": 0.8, "cuda": 0.9, "npu": 0.9}  # of the available memory
PREFETCHED = 2  # batches that each loader process holds
GIB = 2**30


@dataclass(frozen=True)
class Measured:
    """Peak memory of a step.

    Attributes:
        batch: images. resident: bytes on the device; on a CPU of the process. virtual: bytes of address space (CPU).
    """

    batch: int
    resident: int
    virtual: int = 0


@dataclass(frozen=True)
class Measurements:
    """What the measuring process reports.

    Attributes:
        kind: of the device. shape: height and width of the images in px. workers: loader processes of a rank.
        free: bytes of the device that were free before; 0 on a CPU. rows: what fitted, smallest batch first.
        images: for training; None where the config's data set does not tell.
    """

    kind: str
    shape: tuple[int, int]
    workers: int
    free: int
    rows: tuple[Measured, ...]
    images: int | None = None


def fitting_batch_size(options: TrainOptions, ranks: int = 1) -> tuple[int, str]:
    """The batch size for a training with these options.

    Args:
        ranks: that share the memory of this machine if they run on its CPU.

    Returns:
        images per device, and the line for the log.

    Raises:
        UserError: not even one image fits, or the config cannot be trained.
    """
    found = _measure(options)
    if found.kind == "cpu":
        available = cpu_memory() // ranks
        size = largest_on_cpu(found, available, virtual_memory_limit())
    else:
        available = found.free
        size = max((row.batch for row in found.rows), default=None)
    height, width = found.shape
    if size is not None and found.images is not None:
        size = max(one for one in SIZES if one == 1 or one <= min(size, found.images // (STEPS * ranks)))
    if size is None:
        raise UserError(
            f"--batch-size auto: one image of {width} x {height} px does not fit into the {available / GIB:.1f} GiB of "
            f"{found.kind} memory that are available; train on smaller images or with a smaller backbone"
        )
    last = found.rows[-1]
    return size, (
        f"batch size auto: {size} per device; a step with {last.batch} image{'s' if last.batch > 1 else ''} of "
        f"{width} x {height} px took {last.resident / GIB:.1f} GiB, {available / GIB:.1f} GiB are available"
        + (f"; an epoch of {found.images} images keeps {STEPS} steps where it can" if found.images is not None else "")
    )


def largest_on_cpu(found: Measurements, available: int, address_space: int | None) -> int | None:
    """The largest of :data:`SIZES` whose predicted memory stays below the margin; None if one image does not fit.

    Args:
        available: bytes for this rank. address_space: limit on virtual memory in bytes; None: no limit.
    """
    height, width = found.shape
    loaded = found.workers * PREFETCHED * 3 * height * width  # bytes of uint8 images for each image of a batch
    resident, virtual = _line(found.rows, lambda row: row.resident), _line(found.rows, lambda row: row.virtual)
    margin = MARGIN["cpu"]
    fitting = [
        size
        for size in SIZES
        if resident(size) + loaded * size <= margin * available
        and (address_space is None or virtual(size) <= margin * address_space)
    ]
    return max(fitting, default=None)


def _line(rows: Sequence[Measured], value: Callable[[Measured], int]) -> Callable[[int], float]:
    """Memory as a function of the batch: through the last measurement, as steep as the steepest part."""
    steps = zip(rows, rows[1:], strict=False)
    slope = max((value(two) - value(one)) / (two.batch - one.batch) for one, two in steps)
    last = rows[-1]
    return lambda size: value(last) + slope * (size - last.batch)


def _measure(options: TrainOptions) -> Measurements:
    with tempfile.TemporaryDirectory(prefix="fcos-train-") as name:
        file = Path(name) / "options"
        file.write_bytes(pickle.dumps(options))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        command = [sys.executable, "-P", "-m", "fcos_train.launch.measure", name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if (Path(name) / "error").is_file():
            raise UserError((Path(name) / "error").read_text())
        report = Path(name) / "report"
        if not report.is_file():
            reason = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
            raise UserError(f"--batch-size auto: the measurement failed: {reason}; give a number instead")
        content = json.loads(report.read_text())
    rows = tuple(Measured(**row) for row in content.pop("rows"))
    return Measurements(**{**content, "shape": tuple(content["shape"])}, rows=rows)
