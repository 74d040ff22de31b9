"""What one training step of a config asks of an accelerator, in counts: launches, syncs, shapes, operators."""

import mmcv_overrides.auto  # noqa: F401  the overrides come before mmdet
