"""The measuring process of :mod:`fcos_train.launch.batch_size`: ``python -m fcos_train.launch.measure FOLDER``."""

from __future__ import annotations

import json
import math
import pickle
import re
import resource
import sys
from dataclasses import asdict
from itertools import count
from pathlib import Path

from fcos_train.audit.step import Trained, build_step, made_up_batch
from fcos_train.config.dataset import checked_data
from fcos_train.config.load import configured, fill, walk
from fcos_train.config.needs import make_buildable
from fcos_train.config.options import TrainOptions
from fcos_train.engine.memory import is_out_of_memory
from fcos_train.launch.batch_size import MARGIN, MOST, Measured, Measurements
from fcos_train.start import start
from mmcv_overrides.errors import UserError

STRIDE = 32  # px that images are padded to
ON_CPU = (1, 2, 4)


def image_shape(options: TrainOptions) -> tuple[int, int] | None:
    """Height and width in px of the largest images that the training pipeline makes; None if it does not say."""
    cfg, _, _ = configured(options.config, options.cfg_options, options.safe_config)
    steps = list(walk(cfg.get("train_dataloader") or {}))
    scales = [scale for step in steps for scale in (step.get("scale"), *(step.get("scales") or ()))]
    pairs = [scale for scale in scales if isinstance(scale, (list, tuple)) and all(isinstance(s, int) for s in scale)]
    pairs = [pair for pair in pairs if len(pair) == 2]
    if not pairs:
        return None
    height, width = sorted(max(pairs, key=lambda pair: pair[0] * pair[1]))
    return math.ceil(height / STRIDE) * STRIDE, math.ceil(width / STRIDE) * STRIDE


def loader_processes(options: TrainOptions) -> int:
    """Loader processes of the training."""
    cfg, _, _ = configured(options.config, options.cfg_options, options.safe_config)
    return options.workers if options.workers is not None else cfg.train_dataloader.get("num_workers", 0)


def training_images(options: TrainOptions, folder: Path) -> int | None:
    """Images of the training set; None for a data set that is not checked.

    Args:
        folder: where corrected annotations may be written.

    Raises:
        UserError: the data cannot be used.
    """
    cfg, special, _ = configured(options.config, options.cfg_options, options.safe_config)
    make_buildable(cfg)
    spec = checked_data(cfg, fill(options, special), folder)
    return None if spec is None else spec.report.counts[spec.train.name]["images"]


def measure(options: TrainOptions, folder: Path) -> Measurements:
    """Run the step with more and more images.

    Args:
        folder: for files that nobody needs afterwards.

    Raises:
        UserError: the config or the data cannot be used.
    """
    start()
    images = training_images(options, folder)
    trained = build_step(options, image_shape(options))
    kind, module = trained.accelerator.name, trained.accelerator.module
    free = 0 if module is None else module.mem_get_info()[0] + module.memory_reserved()
    rows = [_on_cpu(trained, size) for size in ON_CPU] if module is None else _until_full(trained, MARGIN[kind] * free)
    return Measurements(kind, trained.shape, loader_processes(options), free, tuple(rows), images)


def _steps(trained: Trained, size: int) -> None:
    """Two steps for the first size, so that the optimizer has its state; one for each later size."""
    for step in range(2 if size == 1 else 1):
        trained.model.train_step(made_up_batch(trained, size, step), trained.wrapper)


def _on_cpu(trained: Trained, size: int) -> Measured:
    _steps(trained, size)
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    status = Path("/proc/self/status")
    match = re.search(r"^VmPeak:\s+(\d+) kB", status.read_text() if status.is_file() else "", re.MULTILINE)
    return Measured(size, resident, int(match[1]) * 1024 if match else 0)


def _until_full(trained: Trained, usable: float) -> list[Measured]:
    """Powers of two until one does not fit, then the size halfway to it."""
    rows: list[Measured] = []
    for power in count():
        if 2**power > MOST or not _fits(trained, 2**power, usable, rows):
            break
    if rows and 1 < rows[-1].batch < MOST:
        _fits(trained, rows[-1].batch * 3 // 2, usable, rows)
    return rows


def _fits(trained: Trained, size: int, usable: float, rows: list[Measured]) -> bool:
    module = trained.accelerator.module
    assert module is not None
    module.empty_cache()
    module.reset_peak_memory_stats()
    try:
        _steps(trained, size)
        trained.accelerator.synchronize()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        trained.wrapper.zero_grad()
        return False
    peak = module.max_memory_reserved()
    if peak > usable:
        return False
    rows.append(Measured(size, peak))
    return True


def main(folder: Path) -> None:
    """Read the options from the folder; leave a report, or the text of a user error."""
    try:
        found = measure(pickle.loads((folder / "options").read_bytes()), folder)
    except UserError as error:
        (folder / "error").write_text(str(error), encoding="utf-8")
        return
    (folder / "report").write_text(json.dumps(asdict(found)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
