"""Packages that mmdet imports at the start and hardly ever uses are imported when they are used."""

import subprocess
import sys
import typing

import pytest
import torch

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
import torch
try:
    import torchvision  # from 0.29 it imports torch.distributed.fsdp itself
except ImportError:
    pass
before = set(sys.modules)
from fcos_train.start import start
start()
from mmcv_overrides.deferred_imports import PACKAGES
print([name for name in PACKAGES if name in sys.modules and name not in before])
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
    assert Deferred("os") and not Deferred("sys", ("flags", "inspect"))
    assert Deferred("os.path").__file__.endswith("posixpath.py")


def test_a_subclass_gets_its_base_with_its_first_object():
    class Sub(Deferred("torch.nn", ("Linear",))):
        def __init__(self, size: int):
            super().__init__(size, size)

    class SubOfSub(Sub):
        pass

    assert not issubclass(Sub, torch.nn.Module)
    one = SubOfSub(2)
    assert one(torch.ones(1, 2)).shape == (1, 2) and isinstance(one, Sub) and issubclass(Sub, torch.nn.Linear)
    assert Sub(3).weight.shape == (3, 3)


def test_other_bases_are_imported_at_once():
    class Sub(Deferred("collections", ("OrderedDict",))):
        pass

    assert issubclass(Sub, dict) and Sub(a=1) == {"a": 1}


def test_names_and_annotations_need_no_import():
    deferred = Deferred("no_such_package", ("Thing",))
    assert deferred.__name__ == "Thing" and Deferred("no_such_package").__name__ == "no_such_package"
    assert typing.Union[str, deferred] and typing.Optional[deferred]  # noqa: UP007, UP045  as mmengine writes it


def test_classes_of_mmengine_whose_base_is_deferred():
    """mmengine's sharded optimizer on one rank: w - lr x gradient = 1 - 0.1 x 1."""
    code = """
import sys
from fcos_train.start import start
start()
import torch
from mmengine.registry import OPTIMIZERS
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
weight = torch.nn.Parameter(torch.ones(2))
print("torch.distributed.optim" in sys.modules)
optimizer = OPTIMIZERS.build(dict(type="ZeroRedundancyOptimizer", params=[weight], optimizer_type="SGD", lr=0.1))
weight.grad = torch.ones(2)
optimizer.step()
print([round(value, 6) for value in weight.tolist()], isinstance(optimizer, torch.optim.Optimizer))
"""
    assert run(code).splitlines() == ["False", "[0.9, 0.9] True"]


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
