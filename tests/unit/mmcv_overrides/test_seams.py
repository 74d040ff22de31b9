"""The table of overrides: complete, unique, checked against upstream."""

import pytest

import mmcv_overrides
from mmcv_overrides import seams
from mmcv_overrides.seams import Override, SeamError


def test_activate_is_done_once_and_returns_the_table():
    first = mmcv_overrides.activate()
    assert first is mmcv_overrides.activate()
    assert len({o.seam for o in first}) == len(first)
    for override in first:
        assert override.why and override.new_name.startswith("mmcv_overrides.")


def test_every_override_is_in_place():
    import mmengine.dist.utils
    from mmengine.registry import HOOKS, LOOPS, MODEL_WRAPPERS, OPTIM_WRAPPERS

    from mmcv_overrides import loop, optimizer, parallel, timer

    assert OPTIM_WRAPPERS.get("OptimWrapper") is optimizer.StepOptimWrapper
    assert OPTIM_WRAPPERS.get("AmpOptimWrapper") is optimizer.AmpStepOptimWrapper
    assert MODEL_WRAPPERS.get("MMDistributedDataParallel") is parallel.DeviceDistributedDataParallel
    assert HOOKS.get("IterTimerHook") is timer.ClockHook
    assert LOOPS.get("EpochBasedTrainLoop") is loop.ResumableEpochLoop
    assert mmengine.dist.utils._init_dist_pytorch is parallel.init_dist_pytorch


def test_table_has_one_line_per_override_after_the_operators():
    lines = mmcv_overrides.table()
    assert len(lines) == 1 + len(mmcv_overrides.activate())
    assert "operators" in lines[0]
    assert any(line.startswith("HOOKS:IterTimerHook -> mmcv_overrides.timer.ClockHook: ") for line in lines)


def old(a, b=1, *, c=2):
    return a, b, c


def takes_less(a, b=1):
    return a, b


def takes_more(a, d, b=1, c=2):
    return a, b, c, d


def takes_any(a, **kwargs):
    return a, kwargs


def takes_all(msg, **kwargs):
    return msg, kwargs


def test_signature_check_names_the_difference():
    with pytest.raises(SeamError, match=r"ours lacks \['c'\]"):
        seams.check_signature(old, takes_less, "m:f")
    with pytest.raises(SeamError, match=r"demands \['d'\]"):
        seams.check_signature(old, takes_more, "m:f")
    seams.check_signature(old, takes_any, "m:f")


def test_nothing_is_patched_when_one_seam_is_gone(monkeypatch):
    import mmengine.logging

    before = mmengine.logging.print_log
    with pytest.raises(SeamError, match="mmengine.logging:no_such"):
        seams.apply(
            [Override("mmengine.logging:print_log", takes_all, "x"), Override("mmengine.logging:no_such", old, "x")]
        )
    assert mmengine.logging.print_log is before


def test_two_overrides_of_one_seam_are_refused():
    with pytest.raises(SeamError, match="more than one"):
        seams.apply([Override("mmengine.logging:print_log", old, "x")] * 2)


def test_importing_mmdet_prints_nothing(tmp_path):
    import subprocess
    import sys

    code = "import mmcv_overrides.auto, mmdet.datasets, mmdet.models"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_a_method_of_a_class_can_be_a_seam(monkeypatch):
    import importlib
    import types

    class Upstream:
        def act(self, a, b=1):
            return "theirs"

    module = types.ModuleType("upstream_of_a_test")
    module.Upstream = Upstream
    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: module if name == module.__name__ else real(name))
    seams.apply([Override("upstream_of_a_test:Upstream.act", lambda self, a, b=1: "ours", "test")])
    assert Upstream().act(1) == "ours"
    with pytest.raises(SeamError, match="no longer has this part"):
        seams.apply([Override("upstream_of_a_test:Missing.act", lambda self: None, "test")])
