"""Config -> runner; the step; hooks. Nothing else builds a runner."""

import mmcv_overrides.auto  # noqa: F401  the overrides come before mmdet
