"""Packages that mmdet imports at the start and hardly ever uses are imported when they are used."""

import subprocess
import sys

import pytest

from mmcv_overrides.deferred_imports import PACKAGES, Deferred


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_the_trainer_starts_without_them_and_mmdet_uses_them():
    """An assigner of mmdet calls scipy, its visualizer matplotlib, a transform is a subclass of its own base."""
    assert "matplotlib" in PACKAGES and "scipy" in PACKAGES
    code = """
import sys
from fcos_train.start import start
start()
print([name for name in ("imagecorruptions", "imgaug", "matplotlib", "scipy") if name in sys.modules])
import torch
from mmdet.models.task_modules.assigners.hungarian_assigner import linear_sum_assignment
rows, columns = linear_sum_assignment(torch.tensor([[4.0, 1.0], [2.0, 0.0]]).numpy())
print(columns.tolist(), "scipy" in sys.modules)
from mmdet.visualization.palette import get_palette
from mmdet.visualization import DetLocalVisualizer
import numpy as np
print(DetLocalVisualizer(name="d", image=np.zeros((8, 8, 3), np.uint8)).get_image().shape)
"""
    assert run(code).splitlines() == ["[]", "[1, 0] True", "(8, 8, 3)"]


def test_a_deferred_object_is_the_object_when_used():
    assert Deferred("os").path.join("a", "b") == "a/b"
    assert isinstance("text", Deferred("builtins", ("str",)))
    assert issubclass(bool, Deferred("builtins", ("int",)))
    assert "PATH" in Deferred("os", ("environ",)) and len(Deferred("sys", ("path",))) == len(sys.path)
    assert Deferred("os", ("environ",))["PATH"] and list(Deferred("sys", ("argv",))) == sys.argv
    assert Deferred("os.path").__name__ == "posixpath"

    class Sub(Deferred("collections", ("OrderedDict",))):
        pass

    assert Sub(a=1) == {"a": 1}


def test_a_submodule_that_its_package_does_not_import():
    code = """
import sys
from mmcv_overrides.deferred_imports import Deferred
assert "xml.dom.minidom" not in sys.modules
print(Deferred("xml").dom.minidom.parseString("<a/>").documentElement.tagName)
"""
    assert run(code) == "a"


def test_errors_are_those_of_the_import():
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        Deferred("no_such_package").anything()
    with pytest.raises(ImportError, match="no_such_name"):
        len(Deferred("os.path", ("no_such_name",)))
