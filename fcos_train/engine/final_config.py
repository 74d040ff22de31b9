"""The config that a training would use, without training."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope

from fcos_train.config.keys.check import check_keys
from fcos_train.config.load import configured, fill, stem
from fcos_train.config.needs import TRAINING, require_sections
from fcos_train.config.options import TrainOptions
from fcos_train.config.prepare import prepare
from fcos_train.engine.runner import imports_of
from fcos_train.start import start
from mmcv_overrides import device
from mmcv_overrides.errors import UserError


def final_config(options: TrainOptions) -> tuple[str, list[str]]:
    """The text of ``config.py`` as a training with these options would write it; nothing is written.

    A data set that ``--data-path`` or the config names is checked; if the config's is absent, its section stays as it
    is. Paths are those of the work dir that the training would have.

    Returns:
        the text, which is a config itself, and the lines that tell what was decided.

    Raises:
        UserError: whatever a training would refuse before its first step, except for missing pretrained weights.
    """
    if options.resume or options.overwrite:
        raise UserError("print-config trains nothing: leave out --resume and --overwrite")
    start()
    init_default_scope("mmdet")
    options = replace(options, launcher=options.launcher or "none")
    accelerator, reason = device.pick(options.device)
    cfg, special, notes = configured(options.config, options.cfg_options, options.safe_config)
    require_sections(cfg, options.config, TRAINING)
    options = fill(options, special)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    work_dir = options.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / stem(options.config))
    with tempfile.TemporaryDirectory() as folder:
        notes = [reason, *notes, *prepare(cfg, options, accelerator, Path(folder), None, shown=True)]
        check_keys(cfg)
        cfg["custom_imports"] = imports_of(cfg)
        text = Config(cfg.to_dict()).pretty_text.replace(folder, work_dir)
    return text, [note.replace(folder, work_dir) for note in notes]
